"""Learn which sites the task can do without (paper, section 4.3, eq. 3-5).

Each chosen site becomes a switch ω between the original (0) and its removal (1). Four phases:

1. soft: the weights and ω learn L_task + λ · mean(1 - ω^p);
2. push: the sites are decided, ω > τ goes. The weights learn L_task while each ω moves evenly to its side. Without
   it, thresholding sites that ended in between is a jump (a decoder's SSIM fell from .77 to .61 at once);
3. discard: what goes is removed physically;
4. tune: the thin model learns L_task alone.

The proximal step of sparse structure selection is not offered apart: for p = 1 it *is* the projected gradient
step, and ω reaches exactly 1 already.
"""

import copy
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..discovery.select import Where
from ..passes.discard import discard
from ..passes.switch import switch
from ..passes.switch_state import omega_parameters, omegas, penalty, project_, set_omegas_
from .evaluation import Judge
from .fit import constant
from .phases import Phases
from .task import Task

NEAR = 0.1  # a site with |ω - τ| up to this is reported as near τ: another seed may well decide it otherwise
EPSILON = 0.01  # where ω starts, and its lower bound, when the penalty's gradient at 0 is 0 (p > 1) or -inf (p < 1)
LEAST_TRAVEL = 3.0  # lr_ω · steps, below which a site may not get across [0, 1] whatever the task says
POINTS = 500  # of each ω's history


@dataclass(frozen=True)
class Removal:
    """What `learn_to_remove` found, and how it went."""

    model: nn.Module  # thin; before `.finished`, the model of the phase that was cut
    history: pd.DataFrame  # one row an update: phase, step, lr, loss (the task's), penalty (not yet times λ)
    omegas: pd.DataFrame  # tidy: phase, step, site, omega; about 500 points a site
    decisions: pd.DataFrame  # site, kind, omega (as learned, before the push), removed, near_tau
    qualities: pd.DataFrame  # one row a judged phase: original, soft, pushed, discarded, tuned
    settings: dict[str, Any]  # lam, sites (the paper's K), lam_per_site, p, tau, rates, steps
    finished: bool  # False: the time limit came first; the same call with the same folder goes on
    seconds: float  # of training, all calls together


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
    soft_steps: int = 600,
    push_steps: int = 150,
    tune_steps: int = 200,
    lr: float = 5e-5,
    lr_omega: float = 5e-3,
    lr_tune: float | None = None,
    schedule: Callable[[int], float] = constant,
    tune_schedule: Callable[[int], float] = constant,
    folder: str | Path | None = None,
    time_limit_s: float | None = None,
    settings: Mapping[str, Any] | None = None,
    judge: bool = False,
    progress: bool = True,
    **fit_options: Any,
) -> Removal:
    """Learn which of the chosen sites the task can do without, remove them, fine-tune; `model` is left untouched.

    - `kinds`, `where`: the sites, as for `switch`.
    - `lam` 0.05, `p` 1: weight λ and exponent of the penalty mean(1 - ω^p) (paper, eq. 5; it gives neither). Each
      site feels λ/K, so λ and K are printed together. With p = 1 every site feels the same pull wherever it is;
      for another p, ω starts at 0.01 and stays above it, as the gradient at 0 is none or infinite.
    - `tau` 0.5: a site with ω > τ is removed; `keep` says what becomes of the others: "restore" or "freeze".
    - `soft_steps` 600 at `lr_omega` 5e-3: Adam moves ω by about its rate a step, so ω can cross [0, 1] three
      times; less is warned about. ω has no weight decay. `push_steps` 0 thresholds at once, as the paper did.
    - `lr` 5e-5 for the weights: half of what a baseline is trained with, as they only adapt. `lr_tune`: the same.
    - `schedule`, `tune_schedule`: factors on the rates of phase 1 and 4, each counting its steps from 0.
    - `judge`: also measure `task.quality` after each phase (five evaluations, not one).
    - `folder`, `time_limit_s`, `settings` and `fit_options`: as for `archlab.training.fit`, in every phase; among them
      `optimizer` (Adam, for weights and ω), `precision` ("fp32" or "bf16"), `clip_norm` (none), `save_every_s` (60).

    `task.batches` sees one running step through all phases. Raises ValueError for options out of range and what
    `switch` and `fit` raise; warns where ω can hardly cross.

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
    _check(lam, p, tau, keep, {"soft_steps": soft_steps, "push_steps": push_steps, "tune_steps": tune_steps})
    travel = lr_omega * sum(schedule(step) for step in range(soft_steps))
    if travel < LEAST_TRAVEL:
        warnings.warn(
            f"lr_omega × soft_steps is {travel:.3g}, below {LEAST_TRAVEL:g}: Adam moves ω by about lr_omega a step, so "
            "sites may stay whatever the task says; raise lr_omega or soft_steps",
            stacklevel=2,
        )
    soft = switch(model, task.example, kinds=kinds, where=where)
    found = omegas(soft)
    floor = 0.0 if p == 1 else EPSILON
    set_omegas_(soft, floor)
    facts = {"lam": lam, "sites": len(found), "lam_per_site": lam / len(found), "p": p, "tau": tau, "keep": keep}
    facts |= {"soft_steps": soft_steps, "push_steps": push_steps, "tune_steps": tune_steps, "omega_start": floor}
    facts |= {"lr": lr, "lr_omega": lr_omega, "lr_tune": lr if lr_tune is None else lr_tune}
    if progress:
        print(
            f"λ = {lam:g}, K = {len(found)} sites, λ/K = {lam / len(found):.3g}, p = {p:g}, τ = {tau:g} "
            f"(near: ±{NEAR:g}), ω starts at {floor:g}",
            file=sys.stderr,
        )
    run = Phases(task, folder, time_limit_s, {**(settings or {}), "p": p, "sites": list(found["site"])}, fit_options)
    run.options["progress"] = progress
    judged = Judge(task, folder, judge)
    judged("original", model)

    def result(now: nn.Module, decisions: pd.DataFrame, finished: bool) -> Removal:
        history, track = run.history(set(found["site"]))
        return Removal(now, history, track, decisions, judged.frame(), facts, finished, run.seconds)

    def bounded(soft: nn.Module, step: int) -> dict[str, float] | None:
        project_(soft)
        if floor:
            with torch.no_grad():
                for omega in omega_parameters(soft):
                    omega.clamp_(min=floor)
        return _values(soft) if step % math.ceil(soft_steps / POINTS) == 0 or step == soft_steps - 1 else None

    def two_rates(soft: nn.Module) -> list[dict[str, Any]]:
        switches = omega_parameters(soft)
        own = {id(omega) for omega in switches}
        weights = [w for w in soft.parameters() if id(w) not in own and w.requires_grad]
        return [{"params": weights, "lr": lr}, {"params": switches, "lr": lr_omega, "weight_decay": 0.0}]

    went = run(
        "soft",
        soft,
        soft_steps,
        lr=lr,
        schedule=schedule,
        penalty=lambda soft: penalty(soft, p=p),
        penalty_weight=lam,
        groups=two_rates,
        after_step=bounded,
        describe=lambda soft: _spread(_decide(soft, tau)),
    )
    decisions = _decide(soft, tau)
    if not went:
        return result(soft, decisions, False)
    decided = {"tau": tau, "keep": keep, "omegas": _values(soft)}  # which later phases hang on
    run.settings |= decided
    judged("soft", soft, decided)

    if push_steps:
        start = _values(soft)
        for omega in omega_parameters(soft):
            omega.requires_grad_(False)
        ends = {site: float(goes) for site, goes in zip(decisions["site"], decisions["removed"], strict=True)}
        if keep == "freeze":  # those that stay keep their ω
            ends = {site: end or start[site] for site, end in ends.items()}

        def nearer(soft: nn.Module, step: int) -> dict[str, float] | None:
            share = (step + 1) / push_steps
            set_omegas_(soft, {site: start[site] + share * (ends[site] - start[site]) for site in ends})
            return _values(soft) if step % math.ceil(push_steps / POINTS) == 0 or step == push_steps - 1 else None

        went = run("push", soft, push_steps, lr=lr, groups=lambda soft: two_rates(soft)[:1], after_step=nearer)
        if not went:
            return result(soft, decisions, False)
        judged("pushed", soft, decided)

    thin = _thin(model, soft, tau, keep)
    judged("discarded", thin, decided)
    if tune_steps:
        went = run("tune", thin, tune_steps, lr=facts["lr_tune"], schedule=tune_schedule)
        if not went:
            return result(thin, decisions, False)
        judged("tuned", thin, decided)
    return result(thin, decisions, True)


def _check(lam: float, p: float, tau: float, keep: str, steps: Mapping[str, int]) -> None:
    if not 0 <= tau <= 1:
        raise ValueError(f"tau must lie in [0, 1], as ω does; got {tau:g}")
    if not (lam >= 0 and math.isfinite(lam)):
        raise ValueError(f"lam must be a finite number, at least 0; got {lam:g}")
    if not (p > 0 and math.isfinite(p)):
        raise ValueError(f"p must be a finite number above 0; got {p:g}")
    if keep not in ("restore", "freeze"):
        raise ValueError(f"keep must be 'restore' or 'freeze', got {keep!r}")
    for name, count in steps.items():
        least = 1 if name == "soft_steps" else 0
        if count < least:
            raise ValueError(f"{name} must be at least {least}, got {count}")


def _thin(model: nn.Module, soft: nn.Module, tau: float, keep: str) -> nn.Module:
    """`discard`, or where nothing goes, which it refuses, the original with the weights that were learned."""
    values = _values(soft).values()
    if max(values) > tau or (keep == "freeze" and max(values) > 0):
        return discard(soft, tau, keep=keep)  # type: ignore[arg-type]
    whole = copy.deepcopy(model)
    learned = soft.state_dict()
    whole.load_state_dict({name: learned[name] for name in whole.state_dict()})
    return whole


def _values(soft: nn.Module) -> dict[str, float]:
    frame = omegas(soft)
    return dict(zip(frame["site"], frame["omega"].astype(float), strict=True))


def _decide(soft: nn.Module, tau: float) -> pd.DataFrame:
    frame = omegas(soft)
    values = frame["omega"].to_numpy()
    return frame.assign(removed=values > tau, near_tau=abs(values - tau) <= NEAR)


def _spread(decisions: pd.DataFrame) -> str:
    return f"{decisions['removed'].sum()} of {len(decisions)} above τ, {decisions['near_tau'].sum()} near"
