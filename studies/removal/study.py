"""Removal to a budget: learned, greedy, at one shot and at random, on eight networks of five fields; and a control.

``python -m studies.removal --preset smoke|cpu --seeds 3 --data DIR [--workers 2] [--only "VDSR*"]``

Every method gets the same sites, budgets (the share of the sites that stay) and number of training steps. Beside that:
ways to learn a switch, going on or starting again from the original weights; and which cheap score tells beforehand
what a removal costs after tuning. DIR: studies/guides/studies.md. cpu took 185 core-minutes of cores with AMX, two
hours with two workers beside other work. Everything resumes. Found: learning is not worse than greedy removal in 14 of
16 pairs of network and budget by the paired interval; scoring once is best most often (7).
Output: ``reports/removal/<preset>/``.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_model, save_model
from torch import nn

import archlab as al
from archlab.experiments import OutOfTime, Scratch
from archlab.removal import Removal, learn_to_remove, remove_at_random, remove_greedily
from archlab.training import Task, cosine, fit

from .networks import NETWORKS, Effort, Made, Network, Request
from .report import report

__all__ = ["NAME", "PRESETS", "ROWS", "cell_for", "depends", "needs", "report"]

NAME = "removal"
PRESETS = ("smoke", "cpu")
BUDGETS = (0.67, 0.34)  # of the sites, the share that may stay
GATED = ("word network", "language model", "ResNet-20")  # where every way to learn a switch is tried
GATES = ("straight-through", "hard-concrete", "annealed")
TRAVEL = 3.0  # lr_ω · soft steps: Adam moves ω by about lr_ω a step, so it can cross [0, 1] three times


def rows_of(name: str, network: Network) -> list[dict[str, Any]]:
    """All rows of one network; what a row says is what its results are known by."""
    rows: list[dict[str, Any]] = []
    if network.lr_training is not None:
        rows.append({"name": f"{name} training", "what": "training", "network": name})
    rows.append({"name": f"{name} original", "what": "original", "network": name, "method": "original", "budget": 1.0})
    rows.append({"name": f"{name} control", "what": "control", "network": name, "method": "control", "budget": 1.0})
    rows += [
        {"name": f"{name} {method} {budget}", "what": "removal", "network": name, "method": method, "budget": budget}
        for budget in BUDGETS
        for method in METHODS
    ]
    # The plain blend is the learned removal among the methods. Switches that are driven to 0 or 1 are tried beside it
    # everywhere, the other ways on some networks, at the strictest budget, which their names do not say.
    ways = [("polarized", budget, f" {budget}") for budget in BUDGETS]
    ways += [(gate, min(BUDGETS), "") for gate in GATES] if name in GATED else []
    rows += [
        {"name": f"{name} {gate}{', rewind' * rewind}{told}", "what": "gate", "network": name, "gate": gate,
         "rewind": rewind, "budget": budget}
        for gate, budget, told in ways
        for rewind in (False, True)
    ]  # fmt: skip
    return [*rows, {"name": f"{name} scores", "what": "scores", "network": name}]


def needs(row: dict[str, Any]) -> list[str]:
    trained_here = NETWORKS[row["network"]].lr_training is not None
    return [f"{row['network']} training"] if trained_here and row["what"] != "training" else []


def depends(row: dict[str, Any]) -> list[str]:
    """The gradient that every ω is learned by lies in a room that is not followed."""
    return ["archlab.rewrite.blend"] if row["what"] in ("removal", "gate") else []


def cell_for(row: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    makers: dict[str, Callable[..., dict[str, Any]]] = {
        "training": train, "original": evaluate_original, "control": train_on, "removal": remove, "gate": learn_by_gate,
        "scores": try_scores,
    }  # fmt: skip
    return makers[row["what"]]


@dataclass(frozen=True)
class Start:
    """What a row begins with: the trained network, its task, and how much is spent."""

    net: nn.Module
    task: Task
    where: Any
    network: Network
    effort: Effort
    seed: int
    scratch: Scratch

    @property
    def sites(self) -> dict[str, Any]:
        """Which sites may go."""
        return {"kinds": self.network.kind, "where": self.where}

    @property
    def running(self) -> dict[str, Any]:
        """What every training of the row is run with."""
        folder, left = self.scratch.folder, self.scratch.time_left_s()
        return {"folder": folder, "time_limit_s": left, "progress": False, "lr": self.network.lr,
                "precision": self.network.precision}  # fmt: skip

    @property
    def in_one_piece(self) -> dict[str, Any]:
        """Tuning for as long as a learned removal trains, its rate falling as there."""
        return {"schedule": cosine(self.effort.steps, hold=self.effort.soft + self.effort.push)}


def made(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> tuple[Made, Network, Effort]:
    network = NETWORKS[row["network"]]
    effort = network.effort(preset)
    return network.make(Request(effort, seed, scratch.data, scratch)), network, effort


def start(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> Start:
    """The trained network of a row."""
    (net, task, where), network, effort = made(row, preset, seed, scratch)
    for needed in needs(row):
        load_model(net, str(scratch.needed[needed].folder / "net.safetensors"))
    return Start(net.eval(), task, where, network, effort, seed, scratch)


def outcome(net: nn.Module, begun: Start) -> dict[str, Any]:
    """What every row says of the network that it ends with."""
    costs, found = al.cost(net, begun.task.example), begun.task.quality(net)
    return {"params": costs.params, "macs": costs.macs, "quality": found["quality"], "held_out_loss": found["loss"]}


def train(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Train a network that has no weights; they lie in the cell's folder as net.safetensors."""
    (net, task, _), network, effort = made(row, preset, seed, scratch)
    assert network.lr_training is not None
    schedule = cosine(effort.training, warmup=effort.training // 10)
    went = fit(net, task, steps=effort.training, lr=network.lr_training, schedule=schedule, clip_norm=1.0,
               precision=network.precision, folder=scratch.folder, time_limit_s=scratch.time_left_s(),
               progress=False)  # fmt: skip
    if not went.finished:
        raise OutOfTime
    save_model(net, str(scratch.folder / "net.safetensors"))
    return {"steps": went.steps_done, "batch": effort.batch, "training_s": went.seconds}


def evaluate_original(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The network as it is."""
    begun = start(row, preset, seed, scratch)
    sites = len(al.sites(begun.net, begun.task.example, **begun.sites))
    return {"steps": 0, "sites": 0, "of": sites, "removed": [], **outcome(begun.net, begun)}


def train_on(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The control: nothing removed, trained as long as every method trains."""
    begun = start(row, preset, seed, scratch)
    went = fit(begun.net, begun.task, steps=begun.effort.steps, **begun.running, **begun.in_one_piece)
    if not went.finished:
        raise OutOfTime
    return {"steps": went.steps_done, "sites": 0, "removed": [], "removal_s": went.seconds, **outcome(begun.net, begun)}


def learned(begun: Start, budget: float, *, rewind: bool = False, **options: Any) -> Removal:
    effort = begun.effort
    tuning = effort.tune + (effort.push if rewind else 0)  # which has the steps of the push then
    return learn_to_remove(
        begun.net, begun.task, budget={"sites": budget}, lr_omega=TRAVEL / effort.soft, soft_steps=effort.soft,
        push_steps=effort.push, tune_steps=effort.tune, tune_schedule=cosine(tuning), seed=begun.seed,
        calibration=effort.scored, rewind=rewind, **begun.sites, **begun.running, **options,
    )  # fmt: skip


def greedy(begun: Start, budget: float, *, rescore: bool = True) -> Removal:
    return remove_greedily(
        begun.net, begun.task, budget={"sites": budget}, rescore=rescore, calibration=begun.effort.scored,
        tune_steps=begun.effort.steps, **begun.sites, **begun.running, **begun.in_one_piece,
    )  # fmt: skip


def one_shot(begun: Start, budget: float) -> Removal:
    return greedy(begun, budget, rescore=False)


def at_random(begun: Start, budget: float) -> Removal:
    return remove_at_random(
        begun.net, begun.task, budget={"sites": budget}, seed=begun.seed, tune_steps=begun.effort.steps,
        **begun.sites, **begun.running, **begun.in_one_piece,
    )  # fmt: skip


def rewound(begun: Start, budget: float) -> Removal:
    return learned(begun, budget, rewind=True)


METHODS: dict[str, Callable[[Start, float], Removal]] = {
    "learned": learned, "learned, rewind": rewound, "greedy": greedy, "one shot": one_shot, "random": at_random,
}  # fmt: skip


def remove(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Sites removed to a budget by one of the methods."""
    begun = start(row, preset, seed, scratch)
    return removed(begun, lambda: METHODS[row["method"]](begun, row["budget"]))


def learn_by_gate(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """A learned removal whose ω is learned another way, or that ends from the original weights."""
    begun = start(row, preset, seed, scratch)
    return removed(begun, lambda: learned(begun, row["budget"], gate=row["gate"], rewind=row["rewind"]))


def removed(begun: Start, call: Callable[[], Removal]) -> dict[str, Any]:
    """Carry out a removal: what went, and what is left."""
    since = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "learn_to_remove: (all|none) of")  # the budget decides how many
        removal = call()
    if not removal.finished:
        raise OutOfTime
    gone = list(removal.decisions.loc[removal.decisions["removed"], "site"])
    took = {"removal_s": time.perf_counter() - since, "training_s": removal.seconds}  # with choosing, and without
    about = {"steps": begun.effort.steps, "sites": len(gone), "of": len(removal.decisions), "removed": gone}
    return about | took | outcome(removal.model, begun)


def try_scores(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """What each score says of each site, and what random thirds of the sites cost after a short tuning."""
    begun = start(row, preset, seed, scratch)
    net, task, effort = begun.net, begun.task, begun.effort
    frame = al.scores(net, task, batches=effort.scored, folder=scratch.folder, progress=False, **begun.sites)
    draw, sites, subsets = np.random.default_rng(seed), sorted(frame["site"]), []
    for _ in range(effort.subsets):
        if scratch.time_left_s() == 0:
            raise OutOfTime
        gone = {str(site) for site in draw.choice(sites, max(1, round(len(sites) / 3)), replace=False)}
        thin = al.remove(net, task.example, kinds=begun.network.kind, where=lambda site, gone=gone: site.id in gone)
        before = task.quality(thin)["loss"]
        fit(thin, task, steps=effort.short, lr=begun.network.lr, precision=begun.network.precision, progress=False)
        subsets.append({"sites": sorted(gone), "before": before, "after": task.quality(thin)["loss"]})
    return {"steps": effort.short, "scores": scores_of(frame), "subsets": subsets}


SCORES = {  # columns of `al.scores`; each is the higher, the worse the removal should be
    "loss without it": "delta_task_loss",
    "quality without it": "delta_loss",
    "Taylor": "taylor",
    "block influence": "influence",
    "parameters": "params",
    "MACs": "macs",
}


def scores_of(frame: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """By score and site its value; None where the score says nothing."""
    return {
        name: {
            site: None if pd.isna(value) else float(value)
            for site, value in zip(frame["site"], frame[column], strict=True)
        }
        for name, column in SCORES.items()
    }


ROWS: list[dict[str, Any]] = [row for name, network in NETWORKS.items() for row in rows_of(name, network)]
