"""The four phases of a learned removal, each a method of `RemovalPhases`, and what they are set by.

Each chosen site becomes a switch ω between the original (0) and its removal (1) (paper, eq. 3).

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
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..arguments import choice, number, whole
from ..passes.discard import KEEP, discard
from ..passes.switch_state import omega_parameters, omegas, penalty, project_, set_omegas_
from .optimization import MOST_STEPS, Schedule, check_schedule, constant, factor_at
from .phases import Evaluations, Phases

NEAR = 0.1  # a site with |ω - τ| up to this is reported as near τ: another seed may well decide it otherwise
EPSILON = 0.01  # where ω starts, and its lower bound, when the penalty's gradient at 0 is 0 (p > 1) or -inf (p < 1)
POINTS = 500  # of each ω's history
DECIDED = ("tau", "keep", "omegas")  # what the phases after the soft one hang on, in their checkpoints' settings


@dataclass(frozen=True, kw_only=True)
class RemovalSettings:
    """What decides over the sites, and how long and fast each phase learns. `learn_to_remove` describes each option."""

    lam: float
    p: float
    tau: float
    keep: str
    soft_steps: int = 600
    push_steps: int = 150
    tune_steps: int = 200
    lr: float = 5e-5
    lr_omega: float = 5e-3
    lr_tune: float | None = None
    schedule: Schedule = constant
    tune_schedule: Schedule = constant

    def __post_init__(self):
        number("tau", self.tau, low=0, high=1)
        number("lam", self.lam, low=0)
        number("p", self.p, above=0)
        choice("keep", self.keep, KEEP)
        for name, least in (("soft_steps", 1), ("push_steps", 0), ("tune_steps", 0)):
            whole(name, getattr(self, name), least=least, most=MOST_STEPS)
        number("lr", self.lr, above=0, remedy="to learn ω alone, freeze the weights by requires_grad_(False)")
        number("lr_omega", self.lr_omega, above=0, remedy="at 0 no site would be removed")
        number("lr_tune", self.lr_tune, above=0, optional=True)
        check_schedule("schedule", self.schedule)
        check_schedule("tune_schedule", self.tune_schedule)

    @property
    def omega_start(self) -> float:
        """Where every ω starts, and what it stays above in the soft phase."""
        return 0.0 if self.p == 1 else EPSILON

    @property
    def travel(self) -> float:
        """How far ω can move in the soft phase: Adam moves it by about its rate a step."""
        return self.lr_omega * sum(factor_at(self.schedule, step) for step in range(self.soft_steps))

    def facts(self, sites: int) -> dict[str, Any]:
        """The numbers, for reports; λ and K together, as each site feels λ/K."""
        return {
            "lam": self.lam,
            "sites": sites,
            "lam_per_site": self.lam / sites,
            "p": self.p,
            "tau": self.tau,
            "keep": self.keep,
            "soft_steps": self.soft_steps,
            "push_steps": self.push_steps,
            "tune_steps": self.tune_steps,
            "omega_start": self.omega_start,
            "lr": self.lr,
            "lr_omega": self.lr_omega,
            "lr_tune": self.lr if self.lr_tune is None else self.lr_tune,
        }


class RemovalPhases:
    """A removal under way. The methods `soft`, `push`, `discard` and `tune` are its phases, in this order.

    Each says whether it came to its end, and none may follow one that did not. `now` is the model as the latest phase
    has it: first with switches, then thin.
    """

    def __init__(
        self, model: nn.Module, soft: nn.Module, settings: RemovalSettings, trainings: Phases, evaluations: Evaluations
    ):
        self.model, self.now, self.settings = model, soft, settings
        self.trainings, self.evaluations = trainings, evaluations
        self.decisions = decide(soft, settings.tau)
        self.decided: dict[str, Any] | None = None  # what the later phases hang on

    def soft(self) -> bool:
        """Phase 1: weights and ω learn together, and the sites are decided by where ω ends."""
        chosen, p = self.settings, self.settings.p

        def bounded(soft: nn.Module, step: int) -> dict[str, float] | None:
            project_(soft)
            if chosen.omega_start:
                with torch.no_grad():
                    for omega in omega_parameters(soft):
                        omega.clamp_(min=chosen.omega_start)
            return _values(soft) if _is_recorded(step, chosen.soft_steps) else None

        finished = self.trainings.train_(
            "soft",
            self.now,
            chosen.soft_steps,
            lr=chosen.lr,
            schedule=chosen.schedule,
            penalty=lambda soft: penalty(soft, p=p),  # a checkpoint is known by it: of p alone
            penalty_weight=chosen.lam,
            groups=lambda soft: [self._weights(soft), self._omegas(soft)],
            after_step=bounded,
            describe=lambda soft: _counts(decide(soft, chosen.tau)),
        )
        self.decisions = decide(self.now, chosen.tau)
        if finished:
            self.decided = dict(zip(DECIDED, (chosen.tau, chosen.keep, _values(self.now)), strict=True))
            self.trainings.settings |= self.decided
            self.evaluations.evaluate("soft", self.now, self.decided)
        return finished

    def push(self) -> bool:
        """Phase 2: the weights learn on while every ω moves evenly from where it ended to the side it is on."""
        steps = self.settings.push_steps
        if not steps:
            return True
        start = _values(self.now)
        for omega in omega_parameters(self.now):
            omega.requires_grad_(False)
        removed = zip(self.decisions["site"], self.decisions["removed"], strict=True)
        ends = {site: float(goes) for site, goes in removed}
        if self.settings.keep == "freeze":  # those that stay keep their ω
            ends = {site: end or start[site] for site, end in ends.items()}

        def nearer(soft: nn.Module, step: int) -> dict[str, float] | None:
            share = (step + 1) / steps
            set_omegas_(soft, {site: start[site] + share * (ends[site] - start[site]) for site in ends})
            return _values(soft) if _is_recorded(step, steps) else None

        finished = self.trainings.train_(
            "push",
            self.now,
            steps,
            lr=self.settings.lr,
            groups=lambda soft: [self._weights(soft)],
            after_step=nearer,
        )
        if finished:
            self.evaluations.evaluate("pushed", self.now, self.decided)
        return finished

    def discard(self) -> bool:
        """Phase 3: what was decided to go is removed physically; the others are restored or frozen."""
        values, tau, keep = _values(self.now).values(), self.settings.tau, self.settings.keep
        if max(values) > tau or (keep == "freeze" and max(values) > 0):
            self.now = discard(self.now, tau, keep=keep)  # type: ignore[arg-type]
        else:  # nothing goes, which `discard` refuses: the original with the weights that were learned
            whole, learned = copy.deepcopy(self.model), self.now.state_dict()
            whole.load_state_dict({name: learned[name] for name in whole.state_dict()})
            self.now = whole
        self.evaluations.evaluate("discarded", self.now, self.decided)
        return True

    def tune(self) -> bool:
        """Phase 4: the thin model learns the task alone."""
        chosen = self.settings
        if not chosen.tune_steps:
            return True
        lr = chosen.lr if chosen.lr_tune is None else chosen.lr_tune
        finished = self.trainings.train_("tune", self.now, chosen.tune_steps, lr=lr, schedule=chosen.tune_schedule)
        if finished:
            self.evaluations.evaluate("tuned", self.now, self.decided)
        return finished

    def _weights(self, soft: nn.Module) -> dict[str, Any]:
        """The optimizer's group of all that is trained but the switches."""
        own = {id(omega) for omega in omega_parameters(soft)}
        weights = [w for w in soft.parameters() if id(w) not in own and w.requires_grad]
        return {"params": weights, "lr": self.settings.lr}

    def _omegas(self, soft: nn.Module) -> dict[str, Any]:
        """The optimizer's group of the switches."""
        return {"params": omega_parameters(soft), "lr": self.settings.lr_omega, "weight_decay": 0.0}


def _is_recorded(step: int, steps: int) -> bool:
    """Whether ω is recorded after this step: at about `POINTS` steps, and at the last."""
    return step % math.ceil(steps / POINTS) == 0 or step == steps - 1


def _values(soft: nn.Module) -> dict[str, float]:
    """By site id its ω."""
    frame = omegas(soft)
    return dict(zip(frame["site"], frame["omega"].astype(float), strict=True))


def decide(soft: nn.Module, tau: float) -> pd.DataFrame:
    """One row a site: site, kind, omega, removed, near_tau."""
    frame = omegas(soft)
    values = frame["omega"].to_numpy()
    return frame.assign(removed=values > tau, near_tau=abs(values - tau) <= NEAR)


def _counts(decisions: pd.DataFrame) -> str:
    return f"{decisions['removed'].sum()} of {len(decisions)} above τ, {decisions['near_tau'].sum()} near"
