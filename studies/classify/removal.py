"""What the rows of a classification study compute."""

import math
import warnings
from typing import Any

from scipy.stats import binomtest
from torch import nn

import archlab as al
from archlab.experiments import OutOfTime, Scratch
from archlab.removal import Removal, learn_to_remove, sensitivity
from archlab.training import Task, cosine, fit

from .images import Images
from .training import LR, TAU, Budget, P, count_correct, fine_tuning

POINTS = 60  # of each ω's history that a row keeps


def evaluate(net: nn.Module, example: Any, held_out: Images) -> dict[str, Any]:
    """Accuracy on `held_out` with its 95 % interval (Wilson); multiply-adds for one image, parameters."""
    correct = count_correct(net, held_out)
    interval = binomtest(correct, len(held_out)).proportion_ci(method="wilson")
    costs = al.cost(net, example)
    return {
        "accuracy": correct / len(held_out), "low": interval.low, "high": interval.high, "images": len(held_out),
        "macs": costs.macs, "params": costs.params,
    }  # fmt: skip


def each_alone(net: nn.Module, task: Task, kinds: tuple[str, ...]) -> dict[str, Any]:
    """The change of accuracy with each site alone removed, without training."""
    frame = sensitivity(net, task, kinds=kinds)
    return {
        "steps": 0, "accuracy": frame.attrs["untouched"]["accuracy"],
        "alone": frame.loc[:, ["site", "kind", "delta_accuracy"]].to_dict("records"),
    }  # fmt: skip


def fine_tune_(net: nn.Module, task: Task, budget: Budget, scratch: Scratch) -> dict[str, Any]:
    """Train `net` in place as long and at the same rates as a removal trains, and remove nothing."""
    went = fit(
        net, task, steps=budget.steps, lr=LR, schedule=fine_tuning(budget), title="fine-tuning",
        folder=scratch.folder, time_limit_s=scratch.time_left_s(), settings={"batch": budget.batch},
    )  # fmt: skip
    if not went.finished:
        raise OutOfTime
    return {"steps": went.steps_done}


def thinned(
    net: nn.Module, task: Task, kind: str, lam: float, budget: Budget, scratch: Scratch
) -> tuple[nn.Module, dict[str, Any]]:
    """`net` with the sites of `kind` removed that it learned to do without, and what was found."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "learn_to_remove: (all|none) of")  # a row is how much goes at its λ
        removal = learn_to_remove(
            net, task, kinds=kind, lam=lam, lam_unit="absolute", p=P, tau=TAU, lr=LR, lr_omega=budget.lr_omega,
            soft_steps=budget.soft_steps, push_steps=budget.push_steps, tune_steps=budget.tune_steps,
            tune_schedule=cosine(budget.tune_steps), folder=scratch.folder, time_limit_s=scratch.time_left_s(),
            settings={"batch": budget.batch},
        )  # fmt: skip
    if not removal.finished:
        raise OutOfTime
    decided = removal.decisions
    return removal.model, {
        "steps": budget.steps,
        "sites": len(decided),
        "lam_per_site": removal.settings["lam_per_site"],
        "removed": int(decided["removed"].sum()),
        "near_tau": int(decided["near_tau"].sum()),
        "removed_sites": list(decided.loc[decided["removed"], "site"]),
        "omegas": _history(removal),
    }


def _history(removal: Removal) -> dict[str, Any]:
    """step, phase, omega {site: values}, at about `POINTS` steps and at the last of each phase."""
    track = removal.omegas.pivot(index=["step", "phase"], columns="site", values="omega").reset_index()
    ends = track.groupby("phase")["step"].transform("max") == track["step"]
    track = track[(track.index % math.ceil(len(track) / POINTS) == 0) | ends]
    sites = [name for name in track if name not in ("step", "phase")]
    omegas = {site: [round(value, 4) for value in track[site]] for site in sites}
    return {"step": list(track["step"]), "phase": list(track["phase"]), "omega": omegas}
