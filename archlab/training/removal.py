"""Learn which sites the task can do without (paper, section 4.3, eq. 3-5), remove them, fine-tune.

The four phases are in `removal_phases`.
"""

import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ..arguments import flag
from ..discovery.select import Where
from ..passes.switch import switch
from ..passes.switch_state import omegas, set_omegas_, switches_of
from .fit import GROUPS
from .options import check_names, names_of, pick
from .phases import Evaluations, Phases
from .removal_phases import DECIDED, NEAR, RemovalPhases, RemovalSettings
from .task import Task, check_task

PER_PHASE = {"steps", "groups", "penalty", "penalty_weight", "after_step", "title", "describe"}  # options of `fit`
LEAST_TRAVEL = 3.0  # lr_ω · steps, below which a site may not get across [0, 1] whatever the task says


@dataclass(frozen=True)
class Removal:
    """What `learn_to_remove` found, and how it went.

    Attributes:
        model: The thin model; before `.finished`, the model of the phase that was cut.
        history: One row an update: phase, step, lr, loss (the task's), penalty (not yet times λ).
        omegas: Tidy: phase, step, site, omega; about 500 points a site.
        decisions: One row a site: site, kind, omega (as learned, before the push), removed, near_tau.
        qualities: One row an evaluated phase: original, soft, pushed, discarded, tuned.
        settings: lam, sites (the paper's K), lam_per_site, p, tau, keep, steps, rates.
        finished: False where the time limit came first; the same call with the same folder goes on.
        seconds: Time of training, all calls together.
    """

    model: nn.Module
    history: pd.DataFrame
    omegas: pd.DataFrame
    decisions: pd.DataFrame
    qualities: pd.DataFrame
    settings: dict[str, Any]
    finished: bool
    seconds: float


def learn_to_remove(
    model: nn.Module,
    task: Task,
    *,
    kinds: str | Iterable[str],
    where: Where = None,
    lam: float = 0.05,
    p: float = 1.0,
    tau: float = 0.5,
    keep: str = "restore",
    folder: str | Path | None = None,
    time_limit_s: float | None = None,
    evaluate: bool = False,
    progress: bool = True,
    **options: Any,
) -> Removal:
    """Learn which of the chosen sites the task can do without, remove them, fine-tune; `model` is left untouched.

    Args:
        model: Any module; it is copied.
        task: `task.batches` sees one running step through all phases.
        kinds: The kinds of site, as for `switch`.
        where: Which of these, as for `switch`: a glob, a list of globs, or a function of the Site.
        lam: Weight λ of the penalty mean(1 - ω^p) (paper, eq. 5; it gives neither λ nor p). Each site feels λ/K, so λ
            and K are printed together.
        p: Exponent of the penalty. With 1 every site feels the same pull wherever it is; for another p, ω starts at
            0.01 and stays above it, as the gradient at 0 is none or infinite.
        tau: A site with ω > τ is removed.
        keep: What becomes of the others: "restore" (the original) or "freeze" (the blend at their ω).
        folder: Where the checkpoints lie, one a phase, and the qualities.
        time_limit_s: Seconds after which to stop cleanly, in any phase, with `.finished` False.
        evaluate: Also measure `task.quality` after each phase (five evaluations, not one).
        progress: Show a bar a phase.
        **options: As keywords, too:
            soft_steps, push_steps, tune_steps: Updates of each phase (600, 150, 200). `push_steps` 0 thresholds at
                once, as the paper did.
            lr: Rate of the weights (5e-5): half of what a baseline is trained with, as they only adapt.
            lr_omega: Rate of ω (5e-3), without weight decay. Adam moves ω by about its rate a step, so with 600 steps
                it can cross [0, 1] three times; less is warned about.
            lr_tune: Rate of the weights in the last phase; default `lr`.
            schedule, tune_schedule: Factors on the rates of phase 1 and 4, each counting its steps from 0.
            and those of `archlab.training.fit`, in every phase, but for what makes a phase (`penalty`, `groups`,
                `after_step`): among them `optimizer` (Adam, for weights and ω), `clip_norm` (none), `save_every_s`
                (60), `settings`.

    Returns:
        The thin model, what was decided, and the histories.

    Raises:
        ValueError: for an option out of range, and what `switch` raises: where no site is chosen, say.
        TypeError: for an unknown option.
        CheckpointMismatch: for a folder of another removal, naming what differs.
        TrainingFailed: where the loss or the weights become NaN or infinite, or the loss diverges.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> linear = Task(
    ...     torch.zeros(1, 1),
    ...     batches=lambda step: torch.linspace(-1, 1, 9)[:, None],
    ...     loss=lambda net, x: (net(x) - 2 * x).square().mean(),
    ...     quality=lambda net: {},
    ... )
    >>> removal = learn_to_remove(net, linear, kinds="activation", lr=1e-2, progress=False)
    >>> removal.decisions[["site", "kind", "removed"]]
               site        kind  removed
    0  activation.0  activation     True
    >>> removal.model
    Sequential(
      (0): Linear(in_features=1, out_features=8, bias=True)
      (1): Identity()
      (2): Linear(in_features=8, out_features=1, bias=True)
    )
    """
    if "judge" in options:
        warnings.warn(
            "learn_to_remove: judge= is evaluate= now; the old word goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        evaluate = options.pop("judge")
    check_task(task)
    flag("evaluate", evaluate)
    check_names("learn_to_remove", options, RemovalSettings, *GROUPS)
    if own := sorted(PER_PHASE & options.keys()):
        raise TypeError(f"learn_to_remove has no option {own[0]!r}, which its phases set themselves; leave it out")
    chosen = RemovalSettings(lam=lam, p=p, tau=tau, keep=keep, **pick(RemovalSettings, options))
    of_fit = {name: value for name, value in options.items() if name not in names_of(RemovalSettings)}
    # Checked before any phase, as `fit` will: an option is not to end an evaluation that took its time.
    first = {"steps": chosen.soft_steps, "lr": chosen.lr, "schedule": chosen.schedule, "folder": folder}
    first |= {"precision": "fp32", "clip_norm": None, "time_limit_s": time_limit_s, "progress": progress}
    for group in GROUPS:
        group(**pick(group, first | of_fit))
    if chosen.travel < LEAST_TRAVEL:
        warnings.warn(
            f"lr_omega × soft_steps is {chosen.travel:.3g}, below {LEAST_TRAVEL:g}: Adam moves ω by about lr_omega a "
            "step, so sites may stay whatever the task says; raise lr_omega or soft_steps",
            stacklevel=2,
        )
    soft = switch(model, task.example, kinds=kinds, where=where)
    set_omegas_(soft, chosen.omega_start)
    sites = list(omegas(soft)["site"])
    if progress:
        print(_headline(chosen, len(sites)), file=sys.stderr)
    ops = {site.id: site.op for site in switches_of(soft)[1].sites if site.id in sites}
    settings = _with_own(of_fit.pop("settings", None) or {}, {"p": p, "sites": ops})
    trainings = Phases(task, folder, time_limit_s, settings, of_fit | {"progress": progress})
    run = RemovalPhases(model, soft, chosen, trainings, Evaluations(model, task, folder, wanted=evaluate))
    run.evaluations.evaluate("original", model)
    finished = run.soft() and run.push() and run.discard() and run.tune()
    history, track = trainings.history(set(sites))
    return Removal(
        model=run.now,
        history=history,
        omegas=track,
        decisions=run.decisions,
        qualities=run.evaluations.frame(),
        settings=chosen.facts(len(sites)),
        finished=finished,
        seconds=trainings.seconds(),
    )


def _with_own(settings: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The user's settings and the removal's `own`, by which the checkpoints of its phases are known."""
    for name in (*own, *DECIDED):
        if name in settings:
            raise ValueError(
                f"settings: {name!r} is one of learn_to_remove's own ({', '.join((*own, *DECIDED))}); rename it"
            )
    return {**settings, **own}


def _headline(settings: RemovalSettings, sites: int) -> str:
    return (
        f"λ = {settings.lam:g}, K = {sites} sites, λ/K = {settings.lam / sites:.3g}, p = {settings.p:g}, "
        f"τ = {settings.tau:g} (near: ±{NEAR:g}), ω starts at {settings.omega_start:g}"
    )
