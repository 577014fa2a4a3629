"""The phases of a learned removal, each a method of `RemovalPhases`.

Each chosen site becomes a switch ω between the original (0) and its removal (1) (paper, eq. 3).

1. soft: the weights and ω learn L_task + λ · mean(1 - ω^p), L_task in units of its own size;
2. decide: which sites go. With a fixed λ those with ω > τ; with a goal those of largest ω, until it is met;
3. push: the weights learn L_task while each ω moves evenly to its side. Without it, removing sites that ended in
   between is a jump (a decoder's SSIM fell from .77 to .61 at once);
4. discard: what goes is removed physically;
5. tune: the thin model learns L_task alone.

With `rewind`, the decided sites are removed from the *original* weights, and 3 is left out: its steps go to 5.

The proximal step of sparse structure selection is not offered apart: for p = 1 it *is* the projected gradient
step, and ω reaches exactly 1 already.
"""

import copy
import math
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..passes.discard import discard
from ..passes.switch_state import (
    named_omegas,
    omega_parameters,
    omegas,
    set_omegas_,
    switch_names,
    switch_values,
)
from ..training.checkpoint import copy_state_
from ..training.phases import Evaluations, Phases
from .gates import Gates
from .pressure import Pressure
from .probe.calibration import Calibration, has_collapsed
from .settings import NEAR, RemovalSettings

POINTS = 500  # of each ω's history
DECIDED = ("removed", "keep", "omegas")  # what the phases after the soft one depend on, in their checkpoints' settings
POLARIZED_FROM, POLARIZING = 0.5, 1.0  # from this share of the soft phase a polarizing term rises to this weight


class SoftPhase:
    """What stands behind ω while it is learned: gates, pressure, and how open each site was over time.

    It is a `Stateful`: all of it is kept in the checkpoint.
    """

    def __init__(self, soft: nn.Module, settings: RemovalSettings, pressure: Pressure):
        self.gates = Gates(soft, settings.gate, floor=settings.omega_start, seed=settings.seed)
        self.pressure, self.steps, self.step = pressure, settings.soft_steps, 0
        self.opened = torch.zeros(len(self.gates.theta), dtype=torch.float64)  # sum over the steps
        self.gates.settle_()

    def open_(self) -> None:
        """Write the ω of the coming step."""
        self.gates.open_(self.step / self.steps)

    def penalty(self, soft: nn.Module) -> Tensor:
        """λ is not yet in it, but a polarizing term, relative to λ, is."""
        removed = self.gates.removed()
        whole = self.pressure(removed)
        if self.gates.gate.polarizes:
            rise = max(0.0, (self.gates.fraction - POLARIZED_FROM) / (1 - POLARIZED_FROM))
            whole = whole + POLARIZING * rise * (4 * removed * (1 - removed)).mean()
        return whole

    def after_step_(self, step: int) -> None:
        """Bounds, what was open, and λ."""
        self.gates.settle_()
        removed = self.gates.removed().detach().double().cpu()
        self.opened += removed
        if self.pressure.goal is not None:
            self.gates.write_()  # qualities are those of the network that learns
            self.pressure.steer_(removed.tolist(), step)
            self.gates.settle_()
        self.step = step + 1

    def state_dict(self) -> dict[str, Any]:
        """All that it needs to go on."""
        return {"gates": self.gates.state_dict(), "pressure": self.pressure.state_dict(), "opened": self.opened,
                "step": self.step}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.gates.load_state_dict(state["gates"])
        self.pressure.load_state_dict(state["pressure"])
        self.opened.copy_(state["opened"])
        self.step = int(state["step"])


class RemovalPhases:
    """A removal under way. The methods `soft`, `push`, `discard` and `tune` are its phases, in this order.

    Each says whether it came to its end, and none may follow one that did not. `now` is the model as the latest phase
    has it: first with switches, then thin.
    """

    def __init__(
        self,
        model: nn.Module,
        soft: nn.Module,
        settings: RemovalSettings,
        learning: SoftPhase,
        trainings: Phases,
        evaluations: Evaluations,
        calibration: Calibration,
    ):
        self.model, self.now, self.settings, self.learning = model, soft, settings, learning
        self.trainings, self.evaluations, self.calibration = trainings, evaluations, calibration
        self.losses = {"original": calibration.loss(soft)}  # on the calibration batches, by phase
        self.decisions = decide(soft, settings.tau)
        self.decided: dict[str, Any] | None = None  # what the later phases depend on

    def soft(self) -> bool:
        """Phase 1: weights and ω learn together; at its end, the sites are decided."""
        chosen, learning = self.settings, self.learning
        loss = self.trainings.task.loss

        def opened(soft: nn.Module, batch: Any) -> Tensor:
            learning.open_()
            return loss(soft, batch)

        def after_step(soft: nn.Module, step: int) -> dict[str, float] | None:
            learning.after_step_(step)
            if not _is_recorded(step, chosen.soft_steps):
                return None
            return _by_site(soft) | ({"lam": learning.pressure.lam} if chosen.steered else {})

        finished = self.trainings.train_(
            "soft",
            self.now,
            chosen.soft_steps,
            loss=opened,
            lr=chosen.lr,
            schedule=chosen.schedule,
            penalty=learning.penalty,
            penalty_weight=lambda step: learning.pressure.lam,
            stateful=learning,
            groups=lambda soft: [self._weights(soft), self._gates()],
            after_backward=learning.gates.collect_,
            after_step=after_step,
            describe=lambda soft: _counts(decide(soft, chosen.tau)),
        )
        learning.gates.settle_()
        self.decisions = decide(self.now, chosen.tau)
        if finished:
            if learning.pressure.goal is not None:
                self.decisions = decided_by(learning, self.decisions)
            learning.gates.write_()
            self.decided = dict(zip(DECIDED, (self.gone(), chosen.keep, switch_values(self.now)), strict=True))
            self.trainings.settings |= self.decided
            self._look("soft")
        return finished

    def push(self) -> bool:
        """Phase 3: the weights learn on while every ω moves evenly from where it ended to the side it is on."""
        steps = 0 if self.settings.rewind else self.settings.push_steps
        if not steps or not self._weights(self.now)["params"]:
            return True
        for omega in omega_parameters(self.now):
            omega.requires_grad_(False)
        start, ends = switch_values(self.now), self._ends()

        def nearer(soft: nn.Module, step: int) -> dict[str, float] | None:
            share = (step + 1) / steps
            set_omegas_(soft, {name: start[name] + share * (ends[name] - start[name]) for name in ends})
            return _by_site(soft) if _is_recorded(step, steps) else None

        finished = self.trainings.train_(
            "push",
            self.now,
            steps,
            lr=self.settings.lr,
            groups=lambda soft: [self._weights(soft)],
            after_step=nearer,
        )
        if finished:
            self._look("pushed")
        return finished

    def discard(self) -> bool:
        """Phase 4: what was decided to go is removed physically; the others are restored or frozen."""
        ends = self._ends()
        if self.settings.rewind:
            copy_state_(self.now, self.model)
        if any(ends.values()):
            set_omegas_(self.now, ends)
            self.now = discard(self.now, _between(ends, self.gone()), keep=self.settings.keep)  # type: ignore[arg-type]
        else:  # nothing goes, which `discard` refuses: the original with the weights that were learned
            whole = copy.deepcopy(self.model)
            copy_state_(whole, self.now)
            self.now = whole
        self._look("discarded")
        return True

    def tune(self) -> bool:
        """Phase 5: the thin model learns the task alone."""
        chosen = self.settings
        steps = chosen.tune_steps + (chosen.push_steps if chosen.rewind else 0)
        if not steps or not any(weight.requires_grad for weight in self.now.parameters()):
            return True
        lr = chosen.lr if chosen.lr_tune is None else chosen.lr_tune
        finished = self.trainings.train_("tune", self.now, steps, lr=lr, schedule=chosen.tune_schedule)
        if finished:
            self._look("tuned")
        return finished

    def collapse(self) -> str:
        """In words, by how much the loss rose from the switches as learned to each at its side; "" where not too far.

        That is once the weights have adapted: pushed, or where nothing was pushed, tuned.
        """
        end = next(phase for phase in ("pushed", "tuned", "discarded") if phase in self.losses)
        before, soft, after = (self.losses[phase] for phase in ("original", "soft", end))
        if not has_collapsed(before, soft, after):
            return ""
        return f"{soft:.3g} with the switches as learned and {after:.3g} once {end} ({before:.3g} of the original)"

    def _look(self, phase: str) -> None:
        """Take the loss and the qualities of the model as it is after a phase."""
        self.losses[phase] = self.calibration.loss(self.now)
        self.evaluations.evaluate(phase, self.now, self.decided)

    def gone(self) -> list[str]:
        """The switches that were decided to go, by name."""
        return switch_names(self.decisions[self.decisions["removed"]])

    def _ends(self) -> dict[str, float]:
        """By switch, the ω that it is to have in the end: those that stay and are frozen keep theirs."""
        gone, values = set(self.gone()), switch_values(self.now)
        frozen = self.settings.keep == "freeze"
        return {name: 1.0 if name in gone else value if frozen else 0.0 for name, value in values.items()}

    def _weights(self, soft: nn.Module) -> dict[str, Any]:
        """The optimizer's group of all that is trained but the switches; where weights are frozen, ω learns alone."""
        own = {id(omega) for omega in omega_parameters(soft)}
        weights = [w for w in soft.parameters() if id(w) not in own and w.requires_grad]
        return {"params": weights, "lr": self.settings.lr}

    def _gates(self) -> dict[str, Any]:
        """The optimizer's group of what stands behind the switches."""
        return {"params": [self.learning.gates.theta], "lr": self.settings.lr_omega, "weight_decay": 0.0}


def _between(ends: dict[str, float], gone: list[str]) -> float:
    """A threshold that parts those that go, at 1, from those that stay."""
    went = set(gone)
    return max((omega for name, omega in ends.items() if name not in went), default=0.0)


def decided_by(learning: SoftPhase, decisions: pd.DataFrame) -> pd.DataFrame:
    """Decisions by a goal: switches go in the order of their ω, those that were open longer first, until it is met."""
    assert learning.pressure.goal is not None
    order = decisions.assign(opened=learning.opened.numpy()).sort_values(
        ["omega", "opened"], ascending=False, kind="stable"
    )
    opened = int((order["omega"] > 0.5).sum())
    gone = order.index[: learning.pressure.goal.choose(switch_names(order), opened)]
    last = order.loc[gone, "omega"].min() if len(gone) else 1.0
    removed, near = decisions.index.isin(gone), (decisions["omega"] - last).abs() <= NEAR
    return decisions.assign(removed=removed, near_tau=near)


def _is_recorded(step: int, steps: int) -> bool:
    """Whether ω is recorded after this step: at about `POINTS` steps, and at the last."""
    return step % math.ceil(steps / POINTS) == 0 or step == steps - 1


def _by_site(soft: nn.Module) -> dict[str, float]:
    """By site id its ω, or the mean of those of its channels."""
    return {site: float(omega.detach().mean()) for site, omega in named_omegas(soft).items()}


def decide(soft: nn.Module, tau: float) -> pd.DataFrame:
    """One row a switch: what `omegas` says of it, removed, near_tau."""
    frame = omegas(soft)
    values = frame["omega"].to_numpy()
    return frame.assign(removed=values > tau, near_tau=abs(values - tau) <= NEAR)


def _counts(decisions: pd.DataFrame) -> str:
    return f"{decisions['removed'].sum()} of {len(decisions)} above τ, {decisions['near_tau'].sum()} near"
