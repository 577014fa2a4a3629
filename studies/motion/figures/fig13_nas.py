"""Figure 13: one-shot architecture search (Guo et al. 2020) against the networks that were designed by hand.

``python -m studies.motion.figures.fig13_nas --preset smoke|cpu|gpu|paper [--data DIR] [--time-limit MINUTES]``

For each of the paper's four sets of bounds a supernet, trained one path a step; an evolution over its architectures
within the bound, each judged with the weights that it inherits, on scenes of the training's photos that it never saw;
the winner, for (b) random architectures within the bound too, and the networks that were designed by hand, each trained
from scratch for as many steps and judged on the same held-out samples. cpu takes about 70 minutes of one core with AMX.
Output: ``reports/fig13_nas/<preset>/``.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_model, save_model
from torch import nn

import archlab as al
from archlab.experiments import OutOfTime, Scratch, command
from studies.device import device

from ..data.sources import find_sources, fingerprint
from ..evaluate.costs import costs
from ..evaluate.quality import COMPARED, HeldOut, evaluate, summary
from ..network.models import LINEAR, QUARTER, Config, scaled
from ..network.searched import BOUNDS, TO_G, allowed_macs, macs_g, supernet
from ..train import training
from .fig13_report import write

__all__ = ["PRESETS", "ROWS", "cell_for", "fingerprint", "needs", "report"]

PRESETS = ("smoke", "cpu", "gpu", "paper")
WEIGHTS = "net.safetensors"  # in the folder of the cell that trained it
# Of every network and every supernet; on a CPU less than Table 1's baseline has, as there are twenty-one of them.
BUDGETS = training.BASELINE | {
    name: replace(training.BASELINE[name], batch=4, steps=4000) for name in ("cpu", "cpu-fp32")
}
COMPARED_SET = "b"  # the set, the paper's best, whose random architectures are trained as well
RANDOM = 8
BINS = 10  # of the multiply-adds from the least to the bound; Guo et al. draw from bins, too
SAMPLINGS: dict[str, int | None] = {"bins": BINS, "uniform": None}
SUPERNETS = {f"supernet {name}": (name, "bins") for name in BOUNDS} | {
    f"supernet {COMPARED_SET}, uniform": (COMPARED_SET, "uniform")
}
# Trials of a search, architectures of a generation, those bred from; of Guo et al. at gpu and paper.
EFFORTS = {"smoke": (6, 3, 2), "cpu": (64, 16, 5), "gpu": (1000, 50, 10), "paper": (1000, 50, 10)}
DRAWS = 2000  # architectures drawn option by option, to see how many are within the bound
WATCHED = {"smoke": 4, "cpu": 16, "gpu": 256, "paper": 1000}  # scenes that a search judges on
TIMED = {"smoke": 1, "cpu": 6, "gpu": 50, "paper": 50}  # steps that a cost is the mean of
JUDGED = {"smoke": 8, "cpu": 128, "gpu": 512, "paper": 5000}  # held-out samples
# The trainings of Fig. 11 that led to the last of them.
BY_HAND = {"baseline": Config(), "quarter": QUARTER, "linear A": LINEAR["A"], "proposed": scaled(LINEAR["A"])}
DESIGNED = {name: BY_HAND[name] for name in ("baseline", "proposed")} | {
    f"width {width}": Config(width=width) for width in (16, 8)
}
TRAINED = {f"NAS {name}": name for name in BOUNDS} | {f"random {i + 1}": COMPARED_SET for i in range(RANDOM)}


def rows_of(name: str) -> list[dict[str, Any]]:
    """Of one set of bounds: supernets, search, trainings, and what these are worth."""
    supernets = [(row, how) for row, (its, how) in SUPERNETS.items() if its == name]
    networks = [row for row, its in TRAINED.items() if its == name]
    return [
        *({"name": row, "what": "supernet", "set": name, "sampling": how} for row, how in supernets),
        {"name": f"search {name}", "what": "search", "set": name},
        *({"name": row, "what": "training", "set": name} for row in networks),
        *({"name": f"quality of {row}", "what": "quality", "set": name, "network": row} for row in networks),
    ]


ROWS: list[dict[str, Any]] = [
    *rows_of(COMPARED_SET),
    *({"name": name, "what": "designed"} for name in DESIGNED),
    *({"name": f"quality of {name}", "what": "quality of a designed network", "network": name} for name in DESIGNED),
    *(row for name in BOUNDS if name != COMPARED_SET for row in rows_of(name)),
    {"name": "costs", "what": "costs"},
]


def needs(row: dict[str, Any]) -> list[str]:
    kind, name = row["what"], row.get("set", "")
    if kind == "quality of a designed network":
        return [row["network"]]
    if kind == "search":
        return [f"supernet {name}"]
    if kind == "training":
        return [f"search {name}"] if row["name"].startswith("NAS") else []
    if kind == "quality":
        return [row["network"], *(one for one, (its, _) in SUPERNETS.items() if its == name)]
    return [f"search {name}" for name in BOUNDS] if kind == "costs" else []


def cell_for(row: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """What makes a row: a training stays valid while how its network is judged is edited."""
    makers = {"supernet": train_supernet, "search": search, "training": train, "quality": quality}
    makers |= {"designed": train_designed, "quality of a designed network": quality_of_designed, "costs": step_costs}
    return makers[row["what"]]


def budget_for(preset: str) -> training.Budget:
    """What every network gets; a supernet as much, of whose weights all are the last ones: no mean is over a path."""
    return BUDGETS[training.on_this_machine(preset)]


def train_supernet(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """All weights of a space, one path a step; they lie in the cell's folder."""
    net, budget = supernet(row["set"], seed=seed), replace(budget_for(preset), average=None)
    task = one_path(training.task_for(scratch, budget, seed=seed), row["set"], row["sampling"], net, seed)
    values = training.train_(net, task, budget, scratch, title=row["name"])  # type: ignore[arg-type]
    save_model(net, str(scratch.folder / WEIGHTS))
    space, generator = al.space(net), random.Random(seed)
    drawn = [space.macs(space.draw(generator)) * TO_G for _ in range(DRAWS)]
    about = {"within": sum(macs <= BOUNDS[row["set"]].macs_g for macs in drawn) / DRAWS}
    least, most = space.macs_range
    return values | about | {"least_g": least * TO_G, "most_g": most * TO_G}


def one_path(task: al.Task, name: str, sampling: str, net: nn.Module, seed: int) -> al.Task:
    """`task` for one path a step: drawn from bins of multiply-adds within the bound, or option by option."""
    bins = SAMPLINGS[sampling]
    return al.one_path(task, seed=seed, bins=bins, macs=None if bins is None else allowed_macs(name, net))


def search(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The best architecture within the bound, each judged with the weights that it inherits."""
    name = row["set"]
    net = trained_supernet(f"supernet {name}", scratch, seed)
    judge, (trials, population, parents) = Judge(scratch, preset), EFFORTS[preset]
    task = training.task_for(scratch, budget_for(preset), seed=seed, quality=lambda net: {"ssim": judge(net)})
    found = al.search(
        net, task, trials=trials, objectives={"ssim": "higher"}, within={"macs": allowed_macs(name, net)[1]},
        population=population, parents=parents, seed=seed, folder=scratch.folder / "search", norm_batches=0,
        time_limit_s=scratch.time_left_s(), progress=False,
    )  # fmt: skip
    if not found.finished:
        raise OutOfTime
    history = found.history
    assert found.best is not None
    return {
        "architecture": found.best,
        "trials": len(history),
        "inherited": float(history["ssim"].max()),
        "macs_g": macs_g(net, found.best),
        "history": [
            [round(macs * TO_G, 4), round(ssim, 5)] for macs, ssim in zip(history["macs"], history["ssim"], strict=True)
        ],
    }


class Judge:
    """The mean SSIM of a network on the scenes of a search: photos of the training, motions that it never saw."""

    def __init__(self, scratch: Scratch, preset: str):
        sources = find_sources(scratch.data, "train")
        self.samples = list(HeldOut(sources, budget_for(preset).size, WATCHED[preset]))

    def __call__(self, net: nn.Module) -> float:
        return float(evaluate(net, self.samples, perceptual=False)["ssim"].mean())


def trained_supernet(row: str, scratch: Scratch, seed: int) -> nn.Module:
    net = supernet(SUPERNETS[row][0], seed=seed)
    load_model(net, str(scratch.needed[row].folder / WEIGHTS))
    return net.eval()


def train(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """One architecture from scratch: the winner of a search, or one drawn within the bound."""
    net = supernet(row["set"], seed=seed)
    if (found := f"search {row['set']}") in scratch.needed:
        architecture = scratch.needed[found].values["architecture"]
    else:
        number = int(row["name"].removeprefix("random "))
        architecture = al.sample_(net, seed, number, macs=allowed_macs(row["set"], net))
    values = trained(plain_network(net, architecture), row["name"], preset, seed, scratch)
    return values | {"architecture": architecture, "macs_g": macs_g(net, architecture)}


def train_designed(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """A network that was designed by hand, from scratch."""
    return trained(training.new_network(DESIGNED[row["name"]], seed=seed), row["name"], preset, seed, scratch)


def trained(net: Any, name: str, preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """`net` trained in place; its weights lie in the cell's folder."""
    budget = budget_for(preset)
    values = training.train_(net, training.task_for(scratch, budget, seed=seed), budget, scratch, title=name)
    save_model(net, str(scratch.folder / WEIGHTS))
    about = {"size": budget.size, "batch": budget.batch, "patch": budget.patch or budget.size}
    return values | about | {"precision": budget.precision}


def plain_network(net: nn.Module, architecture: Mapping[str, Any]) -> Any:
    return al.choose(net, architecture).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def quality(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """What a trained architecture costs, and its quality on held-out samples; its SSIM on the search's scenes, and
    there with the weights that it inherits from each supernet of its space."""
    values, name = scratch.needed[row["network"]].values, row["set"]
    plain, judge = plain_network(supernet(name, seed=seed), values["architecture"]), Judge(scratch, preset)
    found = judged(plain, row["network"], preset, scratch)
    about: dict[str, Any] = {"macs_g": values["macs_g"], "watched": judge(plain)}
    for supernet_row in needs(row)[1:]:
        net = trained_supernet(supernet_row, scratch, seed)
        al.set_architecture_(net, values["architecture"])
        about[f"inherited_{SUPERNETS[supernet_row][1]}"] = judge(net)
    return found | about


def quality_of_designed(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The same of a network that was designed by hand, but for what a supernet says."""
    net = training.new_network(DESIGNED[row["network"]], seed=seed)
    return judged(net, row["network"], preset, scratch) | {"watched": Judge(scratch, preset)(net)}


def judged(net: Any, network: str, preset: str, scratch: Scratch) -> dict[str, Any]:
    """Costs and quality of `net`, with the weights of the row `network`."""
    load_model(net, str(scratch.needed[network].folder / WEIGHTS))
    held_out = find_sources(scratch.data, "val")
    samples = HeldOut(held_out, budget_for(preset).size, JUDGED[preset])
    found = evaluate(net.eval(), samples, data=scratch.data)
    about = {name: scratch.needed[network].values[name] for name in ("steps", "batch", "size", "patch", "precision")}
    about |= {f"each_{column}": found[column].round(5).tolist() for column in COMPARED}
    return costs(net) | summary(found) | about | {"val_data": held_out.fingerprint}


def step_costs(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Seconds of a core (on a GPU, of that) that a training step takes, of each network, path and sampling, and of what
    one trial of each search takes: in turns, so that other work on the machine is on all of them."""
    budget, judge = budget_for(preset), Judge(scratch, preset)
    task = training.task_for(scratch, budget, seed=seed)
    timed: dict[str, tuple[nn.Module, al.Task | None]] = {
        name: (training.new_network(config, seed=seed), task) for name, config in BY_HAND.items()
    }
    for supernet_row, (name, sampling) in SUPERNETS.items():
        net = supernet(name, seed=seed)
        timed[supernet_row] = (net, one_path(task, name, sampling, net, seed))
    for name in BOUNDS:
        net = plain_network(supernet(name, seed=seed), scratch.needed[f"search {name}"].values["architecture"])
        timed[f"NAS {name}"], timed[f"search {name}"] = (net, task), (net, None)
    seconds = dict.fromkeys(timed, 0.0)
    steps = 1 + TIMED[preset]  # the first one warms up
    for step in range(steps):
        for name, (net, its) in timed.items():
            begun = clock()
            if its is None:
                judge(net)
            else:
                its.loss(net, its.batches(step)).backward()
            seconds[name] += (clock() - begun) / TIMED[preset] if step else 0.0
            net.zero_grad()
    return {"seconds_each": {name: round(value, 5) for name, value in seconds.items()}}


def clock() -> float:
    """Seconds of this process on its cores; where it works on a GPU, of the clock, when that has done all."""
    if device().type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, bounds.md, ranks.md, costs.md, tradeoff.png and report.md."""
    write(rows, folder, command=f"python -m {__name__}", compared=COMPARED_SET, by_hand=list(BY_HAND))


if __name__ == "__main__":
    command()
