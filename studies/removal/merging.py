"""What merging buys: activations removed where layers can then be one, against learning and folding, and whole blocks.

``python -m studies.removal.merging --preset smoke|cpu --seeds 2 --data DIR [--only "VDSR*"] [--time-limit MINUTES]``

Every way has the same training steps and weights to begin with; what could be merged is, at the end (`al.fold`, after
`al.hoist_padding`). DIR: studies/guides/studies.md. cpu took an hour of wall time with two seeds, beside other work.
Output: ``reports/merging/<preset>/``.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from torch import nn

import archlab as al
from archlab.experiments import OutOfTime, Scratch, command
from archlab.removal import Removal
from archlab.report import Picture, Table, plots, table, with_sd, write_report
from archlab.training import cosine, fit

from . import study
from .networks import NETWORKS, Effort, Network, Request

NAME = "merging"
PRESETS = ("smoke", "cpu")
SITES, MACS = (0.67, 0.34), (0.8, 0.6, 0.4)  # what may stay of the activations, and of the multiply-adds
CONTROL = "control"
EFFORTS = {
    "VDSR": Effort(150, 20, 130, 4, 10, scored=2),
    "magnification": Effort(24, 4, 22, 2, 12, scored=1),
    "ResNet-56": Effort(20, 4, 18, 16, 400, scored=1),
}
OF: dict[str, Network] = {
    name: replace(NETWORKS[name], cpu=effort, precision="fp32") for name, effort in EFFORTS.items()
}
# What merging alone cannot bring so far down, whatever goes: one row says so.
REFUSING = ("magnification", "ResNet-56")


Removed = tuple[nn.Module, list[str]]  # the thin network, and which sites went


def of(removal: Removal) -> Removed:
    """What a finished removal gave."""
    if not removal.finished:
        raise OutOfTime
    return removal.model, list(removal.decisions.loc[removal.decisions["removed"], "site"])


def tuned(begun: study.Start, net: nn.Module, steps: int, schedule: Callable[[int], float]) -> nn.Module:
    """`net` after so many steps, at the network's rate."""
    folder = begun.scratch.folder / "tuning"
    if not fit(net, begun.task, steps=steps, schedule=schedule, **{**begun.running, "folder": folder}).finished:
        raise OutOfTime
    return net.eval()


def tuned_and_folded(begun: study.Start, removed: Removed, steps: int, schedule: Callable[[int], float]) -> Removed:
    """As `al.remove_to_merge` ends: padding where it lets layers merge, tuning, and then the merge, which is exact."""
    net, gone = removed
    net = tuned(begun, where_any(al.hoist_padding, net, begun.task.example), steps, schedule)
    return where_any(al.fold, net, begun.task.example), gone


def where_any(merge: Callable[..., nn.Module], net: nn.Module, example: Any) -> nn.Module:
    """`net` after a pass that refuses what has nothing for it."""
    try:
        return merge(net, example)
    except ValueError:
        return net


def merge(begun: study.Start, budget: float) -> Removed:
    """Activations that stand between layers which are cheaper as one; tuned, then merged."""
    removal = al.remove_to_merge(
        begun.net, begun.task, budget={"macs": budget}, calibration=begun.effort.scored,
        tune_steps=begun.effort.steps, **begun.running, **begun.in_one_piece,
    )  # fmt: skip
    return of(removal)


def learn_and_fold(begun: study.Start, budget: float) -> Removed:
    """Learned, whatever can be merged afterwards; then as `merge`."""
    effort = begun.effort
    removal = al.learn_to_remove(
        begun.net, begun.task, budget={"sites": budget}, lr_omega=study.TRAVEL / effort.soft, soft_steps=effort.soft,
        push_steps=effort.push, tune_steps=0, seed=begun.seed, calibration=effort.scored, **begun.sites,
        **begun.running,
    )  # fmt: skip
    return tuned_and_folded(begun, of(removal), effort.tune, cosine(effort.tune))


def choose_and_fold(begun: study.Start, budget: float) -> Removed:
    """Greedily, whatever can be merged afterwards; then as `merge`."""
    removal = al.remove_greedily(
        begun.net, begun.task, budget={"sites": budget}, calibration=begun.effort.scored, tune_steps=0,
        **begun.sites, **begun.running,
    )  # fmt: skip
    return tuned_and_folded(begun, of(removal), begun.effort.steps, begun.in_one_piece["schedule"])


def blocks(begun: study.Start, budget: float) -> Removed:
    """Whole blocks, those first whose loss costs least for the multiply-adds that it saves."""
    removal = al.remove_greedily(
        begun.net, begun.task, budget={"macs": budget}, rescore=False, calibration=begun.effort.scored,
        tune_steps=begun.effort.steps, **begun.sites, **begun.running, **begun.in_one_piece,
    )  # fmt: skip
    return of(removal)


WAYS: dict[str, tuple[str, tuple[float, ...], Callable[[study.Start, float], Removed]]] = {
    "merge": ("activation", MACS, merge),
    "learned, then folded": ("activation", SITES, learn_and_fold),
    "greedy, then folded": ("activation", SITES, choose_and_fold),
    "blocks": ("block", MACS, blocks),
}


def _rows_of(name: str) -> list[dict[str, Any]]:
    if name in REFUSING:
        return [{"name": f"{name} merge {MACS[0]}", "network": name, "method": "merge", "asked": MACS[0]}]
    removals = [
        {"name": f"{name} {method} {asked}", "network": name, "method": method, "asked": asked}
        for method, (_, budgets, _) in WAYS.items()
        for asked in budgets
    ]
    return [{"name": f"{name} {CONTROL}", "network": name, "method": CONTROL, "asked": 1.0}, *removals]


ROWS = [row for name in OF for row in _rows_of(name)]


def depends(row: dict[str, Any]) -> list[str]:
    """The gradient that every ω is learned by lies in a room that is not followed."""
    return ["archlab.rewrite.blend"] if row["method"].startswith("learned") else []


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """One network without some sites, tuned and merged; or trained as long with all of them."""
    network = OF[row["network"]]
    effort = network.effort(preset)
    net, task, in_blocks = network.make(Request(effort, seed, scratch.data, scratch))
    kind, _, remove = WAYS.get(row["method"], ("activation", (), None))
    where = in_blocks if kind == "block" else None
    begun = study.Start(net.eval(), task, where, replace(network, kind=kind), effort, seed, scratch)
    whole, untrained = al.cost(net, task.example).macs, task.quality(net)["quality"]
    if remove is None:
        thin, gone = tuned(begun, net, effort.steps, begun.in_one_piece["schedule"]), []
    else:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "learn_to_remove: (all|none) of")  # the budget decides how many
                thin, gone = remove(begun, row["asked"])
        except ValueError as error:
            return {"refused": str(error)}
    macs = al.cost(thin, task.example).macs
    about = {"steps": effort.steps, "sites": len(gone), "removed": gone, "macs": macs, "left": macs / whole}
    return {**about, "untrained": untrained, **task.quality(thin)}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write report.md: a table and a front a network, how much each way covers, and what was refused."""
    columns = ["refused", "quality", "left", "sites"]
    rows = rows.reindex(columns=[*rows.columns, *(name for name in columns if name not in rows)])
    done, refused = rows[rows["refused"].isna()], rows[rows["refused"].notna()]
    parts: list[Any] = []
    for name, part in done.groupby("network", sort=False):
        parts += [f"## {name}", shown(part)]
    tables = {}
    if len(done):
        draw(done, folder / "fronts.png")
        tables["table"] = covers = covered(done)
        parts += [
            "## How much each way covers", COVERS, covers,
            Picture("fronts.png", "Quality against the multiply-adds that are left; each point a mean over the seeds"),
        ]  # fmt: skip
    said = [f"**{row}**: {reason}" for row, reason in zip(refused["row"], refused["refused"], strict=True)]
    write_report(
        rows, folder, "Removal so that layers can be merged", METHOD, *parts, "## Refused", said or ["nothing"],
        command="python -m studies.removal.merging", tables=tables,
    )  # fmt: skip


METHOD = (
    "*merge*: `al.remove_to_merge`, to a budget of multiply-adds. *learned* and *greedy, then folded*: activations go "
    "to a budget of their number, whatever that lets `al.fold` merge. *blocks*: whole blocks, to a budget of "
    "multiply-adds. All have the same weights to begin with and the same number of training steps in all; what merges "
    "is tuned before it is merged. The control is trained as long, with nothing removed."
)
COVERS = (
    "Hypervolume (`al.hypervolume`) of the means of a way: how much of the multiply-adds it saves at how much better a "
    "quality than the worst of all ways. Larger is better; nothing where no multiply-adds are saved."
)


def shown(rows: pd.DataFrame) -> Table:
    """What each way left, and the quality; means over the seeds."""
    network = OF[str(rows["network"].iloc[0])]
    found = []
    for (method, asked), part in rows.groupby(["method", "asked"], sort=False):
        way, told = str(method), "MACs" if str(method) in ("merge", "blocks") else "activations"
        found.append(
            {
                "way": way,
                "asked": "" if way == CONTROL else f"{asked:g} of the {told}",
                "MACs left": part["left"].mean(),
                "sites gone": part["sites"].mean(),
                network.measure: with_sd(part["quality"].mean(), part["quality"].std()),
            }
        )
    return table(pd.DataFrame(found), digits={"MACs left": 2, "sites gone": 1})


def covered(rows: pd.DataFrame) -> Table:
    """Ways x networks: the hypervolume of each way's means."""
    found: dict[str, dict[str, Any]] = {}
    for name, part in rows.groupby("network", sort=False):
        network = OF[str(name)]
        better = {"left": "lower", "quality": network.better}
        means = means_of(part)
        worst = means["quality"].min() if network.better == "higher" else means["quality"].max()
        for way, own in means[means["method"] != CONTROL].groupby("method", sort=False):
            volume = al.hypervolume(own, better, {"left": 1.0, "quality": float(worst)})
            found.setdefault(str(way), {"way": way})[f"{name} [{network.measure}]"] = volume
    frame = pd.DataFrame(list(found.values()))
    return table(frame, digits={str(name): 3 for name in frame if name != "way"})


def means_of(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a way and what was asked of it: means over the seeds."""
    return rows.groupby(["method", "asked"], sort=False)[["left", "quality"]].mean().reset_index()


def draw(rows: pd.DataFrame, path: Path) -> None:
    """A panel a network: each way's means against the share of the multiply-adds that is left."""
    names = list(dict.fromkeys(rows["network"]))
    _, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 3.0), layout="constrained", squeeze=False)
    for name, ax in zip(names, axes[0], strict=True):
        x, y = "share of the multiply-adds left", OF[name].measure
        means = (
            rows[rows["network"] == name]
            .groupby(["method", "asked"], sort=False)[["left", "quality"]]
            .mean()
            .reset_index()
        )
        means = means.rename(columns={"left": x, "quality": y})
        control = means[means["method"] == CONTROL]
        for way, own in means[means["method"] != CONTROL].groupby("method", sort=False):
            plots.curve(pd.concat([control, own]).sort_values(x), x=x, y=y, name=str(way), ax=ax)
        ax.set_title(name, fontsize=plots.FONT)
    plots.save(axes[0, 0], path)


if __name__ == "__main__":
    command()
