"""Table 1 of the paper: what can be removed from the residual blocks of the magnification network, and at what cost.

``python -m studies.motion.table1 --preset smoke|cpu|gpu|paper [--data DIR] [--weights DIR] [--seeds 3]``

Trains the baseline, or takes it from ``--weights`` (baseline.safetensors with its facts, baseline.json), then for
encoder, manipulator and decoder learns which ReLUs, skips and whole residual blocks can go, removes them physically,
trains on and evaluates. Beside them: removals by hand, which depend on no λ, other values of λ, and a control that is
only trained on. Rows that carry the paper's claim run with up to three seeds, the others with one.
smoke takes about 4 minutes on two CPU cores; cpu four hours of one core with AMX and three seeds, and more where the
baseline is trained, from ``--data`` with real photos and cut-outs; without it, scikit-image's sample photos are used.
Everything resumes.
Output: ``reports/table1/<preset>/``.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

import archlab as al
from archlab.experiments import OutOfTime, Scratch, command
from archlab.removal import learn_to_remove, sensitivity
from archlab.training import Task, cosine, fit
from studies.device import device, resources

from .data.sources import Sources, find_sources, fingerprint
from .evaluate.costs import costs
from .evaluate.quality import COMPARED, HeldOut, copy_b, displacements, evaluate, summary
from .network.fast import pad_as_torch_, pad_in_half_
from .network.models import MagnificationNet, ResidualBlock
from .network.reference import reference
from .table1_report import report, save_samples
from .train import training
from .train.given import fingerprint as fingerprint_of
from .train.given import given as given_weights

__all__ = ["PRESETS", "ROWS", "cell_for", "depends", "fingerprint", "given", "needs", "report", "resources", "seeds"]

PRESETS = ("smoke", "cpu", "gpu", "paper")
TRAINING, BASELINE = "training of the baseline", "baseline"
PARTS, KINDS = ("encoder", "manipulator", "decoder"), ("activation", "skip", "block")
# The same for all nine learned rows; the paper gives none of them. At λ = .05 and a rate of .005, the first values, no
# ω of the encoder's ReLUs came above .21 in 700 steps: gradients of so small batches are mostly noise.
LAM, P, TAU = 0.1, 1.0, 0.5
# Beside LAM, where it left something to see: most ReLUs and skips stay at LAM, and all blocks go.
PATH = {
    (part, kind): (0.01, 0.03) if kind == "block" or part == "manipulator" else (0.3, 1.0)
    for part in PARTS
    for kind in KINDS
}
ROWS: list[dict[str, Any]] = [  # what a row says is what its results are known by: no word here may change
    {"name": TRAINING, "what": "train"},
    {"name": BASELINE, "what": "judge"},
    *({"name": f"{part} {kind}", "what": "learn", "part": part, "kind": kind} for part in PARTS for kind in KINDS),
    {"name": "manipulator outer ReLU", "what": "hand", "where": "manipulator/activation.0"},
    {"name": "encoder every non-linearity", "what": "hand", "where": "encoder*"},
    *(
        {"name": f"{part}, {kind}s by hand", "what": "hand", "part": part, "kind": kind}
        for part in ("encoder", "decoder")
        for kind in ("activation", "block")
    ),
    {"name": "baseline trained on", "what": "control"},
    {"name": "sensitivity", "what": "sensitivity"},
    {"name": "checks of the baseline", "what": "check"},
    *(
        {"name": f"{part} {kind}, λ {lam:g}", "what": "learn", "part": part, "kind": kind, "lam": lam}
        for (part, kind), lams in PATH.items()
        for lam in lams
    ),
]
CLAIM = [(part, kind) for part in ("encoder", "decoder") for kind in ("activation", "block")]

FACTORS = (5.0, 10.0, 20.0, 50.0)
MOST_SEEDS = 3


@dataclass(frozen=True)
class Effort:
    """What a preset spends on one row after the baseline: samples a step, steps, learning rates, held-out samples."""

    batch: int
    soft: int
    push: int
    tune: int
    lr: float
    lr_omega: float
    evaluated: int
    watched: int  # samples for the quality after each phase, and for each site of the sensitivity
    large: int  # pixels of the side of the larger samples, in which motions are longer, that the baseline is checked on

    @property
    def steps(self) -> int:
        return self.soft + self.push + self.tune


EFFORT = {
    "smoke": Effort(batch=2, soft=20, push=5, tune=5, lr=1e-4, lr_omega=0.15, evaluated=8, watched=2, large=64),
    "cpu": Effort(batch=4, soft=700, push=150, tune=650, lr=1e-4, lr_omega=0.01, evaluated=256, watched=48, large=192),
    "gpu": Effort(batch=8, soft=700, push=150, tune=650, lr=1e-4, lr_omega=0.01, evaluated=512, watched=64, large=384),
    "paper": Effort(
        batch=4, soft=100_000, push=10_000, tune=200_000, lr=5e-5, lr_omega=1e-4, evaluated=5000, watched=256, large=384
    ),
}


def needs(row: dict[str, Any]) -> list[str]:
    return [] if row["name"] == TRAINING else [TRAINING]


def seeds(row: dict[str, Any]) -> int:
    """Several for what carries the claim: the baseline, the control, and what is removed of encoder and decoder."""
    claimed = (row.get("part"), row.get("kind")) in CLAIM and "lam" not in row
    return MOST_SEEDS if claimed or row["what"] in ("train", "control") else 1


def given(row: dict[str, Any], weights: Path) -> str | None:
    """The baseline of a folder of weights stands for its training."""
    return fingerprint_of(weights, BASELINE) if row["name"] == TRAINING else None


def depends(row: dict[str, Any]) -> list[str]:
    """The gradient that every ω is learned by lies in a room that is not followed."""
    return ["archlab.rewrite.blend"] if row["what"] == "learn" else []


def cell_for(row: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """What makes a row: a long training stays valid while how it is evaluated is edited."""
    makers: dict[str, Callable[..., dict[str, Any]]] = {
        "train": train, "judge": evaluate_baseline, "learn": learn, "hand": remove_by_hand, "control": train_on,
        "sensitivity": leave_one_out, "check": check,
    }  # fmt: skip
    return makers[row["what"]]


@dataclass(frozen=True)
class Start:
    """What the rows after the baseline's training begin with."""

    net: MagnificationNet
    task: Task
    effort: Effort
    budget: training.Budget
    train_data: Sources
    held_out: Sources


def start(preset: str, seed: int, scratch: Scratch) -> Start:
    """The trained baseline, and samples that its training has not seen."""
    net = training.new_network(seed=seed)
    load_model(net, str(scratch.needed[TRAINING].folder / "baseline.safetensors"))
    net.eval()
    effort = EFFORT[preset]
    budget = replace(training.budget_for(preset), batch=effort.batch)
    train_data, held_out = find_sources(scratch.data, "train"), find_sources(scratch.data, "val")
    watched = list(HeldOut(held_out, budget.size, effort.watched))

    def quality(model: Any) -> dict[str, float]:
        return {"ssim": evaluate(model, watched, perceptual=False)["ssim"].mean()}

    task = training.task_for(scratch, budget, seed=seed, quality=quality, first=budget.steps)
    return Start(net, task, effort, budget, train_data, held_out)


def finish(net: Any, begun: Start, scratch: Scratch) -> dict[str, Any]:
    """Costs and quality of what became of the baseline, and what both were found with."""
    budget = begun.budget
    samples = HeldOut(begun.held_out, budget.size, begun.effort.evaluated)
    about = {"size": budget.size, "batch": budget.batch, "precision": budget.precision}
    about |= {"patch": budget.patch or budget.size, "rendered": budget.rendered}
    about |= {"train_data": begun.train_data.fingerprint, "val_data": begun.held_out.fingerprint}
    found = evaluate(net.eval(), samples, data=scratch.data)
    about |= {f"each_{name}": found[name].round(5).tolist() for name in COMPARED}
    return costs(net) | summary(found) | about


def evaluate_baseline(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The baseline as it is."""
    begun = start(preset, seed, scratch)
    save_samples(begun.train_data, begun.budget.size, scratch.folder / "samples.png")
    return finish(begun.net, begun, scratch)


def learn(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Sites removed that the network learned to do without."""
    begun = start(preset, seed, scratch)
    net, found = learned(begun.net, begun.task, row, begun.effort, begun.budget, scratch)
    return found | finish(net, begun, scratch)


def remove_by_hand(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Sites removed with no learning, and the rest trained on."""
    begun = start(preset, seed, scratch)
    kind, part = row.get("kind", "activation"), row.get("part")
    where = row["where"] if part is None else in_residual_blocks(begun.net, part)
    net = al.remove(begun.net, begun.task.example, kinds=kind, where=where)
    taken = len(al.recipe(net).steps[-1].taken)
    found = {"removed": taken, "sites": taken} | tune(net, begun.task, begun.effort, begun.budget, scratch)
    return found | finish(net, begun, scratch)


def train_on(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The control: trained on as long, and nothing removed."""
    begun = start(preset, seed, scratch)
    return tune(begun.net, begun.task, begun.effort, begun.budget, scratch) | finish(begun.net, begun, scratch)


def leave_one_out(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """SSIM with each site alone removed."""
    begun = start(preset, seed, scratch)
    frame = sensitivity(begun.net, begun.task, kinds=KINDS, where=in_residual_blocks(begun.net, ""))
    about = {"untouched": frame.attrs["untouched"], "watched": begun.effort.watched}
    return about | {"sites": frame.round(5).to_dict("records")}


def train(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Train the baseline, or take it; its weights lie in the cell's folder as baseline.safetensors."""
    budget, file = training.budget_for(preset), scratch.folder / "baseline.safetensors"
    net = training.new_network(seed=seed)
    if (found := given_weights(scratch.weights, BASELINE)) is not None:
        return found.taken(net, file)
    task = training.task_for(scratch, budget, seed=seed)
    values = training.train_(net, task, budget, scratch, title=BASELINE)
    save_model(net, str(file))
    return values


def learned(
    net: MagnificationNet, task: Task, row: dict[str, Any], effort: Effort, budget: training.Budget, scratch: Scratch
) -> tuple[MagnificationNet, dict[str, Any]]:
    """Learn, remove and train on: the thin network and what was decided."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "learn_to_remove: (all|none) of"
        )  # what goes at one λ is what the table tells
        removal = learn_to_remove(
            pad_in_half_(net), task, kinds=row["kind"], where=in_residual_blocks(net, row["part"]),
            lam=row.get("lam", LAM), lam_unit="absolute", p=P, tau=TAU, soft_steps=effort.soft,
            push_steps=effort.push, tune_steps=effort.tune, lr=effort.lr, lr_omega=effort.lr_omega,
            tune_schedule=cosine(effort.tune), folder=scratch.folder, time_limit_s=scratch.time_left_s(),
            evaluate=True, precision=budget.precision, clip_norm=1.0,
            prefetch=training.fit_options(budget)["prefetch"],
        )  # fmt: skip
    if not removal.finished:
        raise OutOfTime
    pad_as_torch_(removal.model)
    decisions, history = removal.decisions, removal.omegas
    steps = sorted(history["step"].unique())
    shown = set(steps[:: max(1, len(steps) // 100)] + steps[-1:])
    history = history[history["step"].isin(shown)]
    return removal.model, {  # type: ignore[return-value]
        **{name: removal.settings[name] for name in ("lam", "lam_per_site", "p", "tau", "lr", "lr_omega")},
        **{name: removal.settings[name] for name in ("soft_steps", "push_steps", "tune_steps")},
        "sites": len(decisions),
        "removed": int(decisions["removed"].sum()),
        "near_tau": int(decisions["near_tau"].sum()),
        "steps": effort.steps,
        "decisions": decisions.round(4).to_dict("records"),
        "omegas": {site: track["omega"].round(4).tolist() for site, track in history.groupby("site", sort=False)},
        "omega_steps": sorted(int(step) for step in shown),
        "phases": removal.qualities.round(5).to_dict("records"),
    }


def tune(net: Any, task: Task, effort: Effort, budget: training.Budget, scratch: Scratch) -> dict[str, Any]:
    """Train on as long as a learned row does, its rate falling as there, in place."""
    went = fit(
        pad_in_half_(net), task, steps=effort.steps, lr=effort.lr, folder=scratch.folder,
        time_limit_s=scratch.time_left_s(), clip_norm=1.0, precision=budget.precision,
        schedule=cosine(effort.steps, hold=effort.soft + effort.push),
        prefetch=training.fit_options(budget)["prefetch"],
    )  # fmt: skip
    pad_as_torch_(net)
    if not went.finished:
        raise OutOfTime
    return {"steps": went.steps_done}


def in_residual_blocks(net: MagnificationNet, part: str) -> Any:
    """Chooses the sites inside the residual blocks of `part`, and the blocks themselves (paper, section 4.3)."""
    inside = {path for path, m in net.named_modules() if isinstance(m, ResidualBlock) and path.startswith(part)}
    return lambda site: site.path in inside or site.module in inside


def check(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Is the baseline any good: SSIM against copying frame B and a public network; displacement against factor."""
    begun = start(preset, seed, scratch)
    samples = HeldOut(begun.held_out, begun.budget.size, begun.effort.evaluated)
    larger = replace(samples, size=begun.effort.large)
    magnifiers: dict[str, Any] = {"ours": begun.net, "copy of B": copy_b}
    yardstick = reference(scratch.data)
    if yardstick is not None:
        magnifiers["public network"] = yardstick.to(device())
    quality, linearity = [], []
    for name, magnify in magnifiers.items():
        for asked in (samples, larger, *(replace(samples, factor=factor) for factor in FACTORS)):
            ssims = evaluate(magnify, asked, perceptual=False)["ssim"]
            mean, low, high = al.interval(ssims, method="bootstrap")
            entry = {"magnifier": name, "size": asked.size, "factor": asked.factor}
            quality.append(entry | {"ssim": mean, "low": low, "high": high})
        if name != "copy of B":
            moved = displacements(magnify, larger.sources, larger.size, factors=FACTORS)
            points = moved.round(4).to_dict("records")
            linearity.append({"magnifier": name, "size": larger.size, "points": points})
    return {"quality": quality, "linearity": linearity}


if __name__ == "__main__":
    command()
