"""λ: what the penalty weighs beside the task's loss, and how it is steered to a goal.

The loss is divided by its own value before anything is removed (`Calibration.unit`), so λ has no unit: with λ = 0.5,
removing every site may cost half of the loss that the network has. A loss in other units, or with another reduction,
decides the same. That holds for any optimizer, as the whole objective is divided, not the penalty multiplied.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from ..passes.switch_state import set_omegas_, switch_values
from ..training.task import Task, qualities_of
from .budget import Savings

REACHED = 0.7  # the share of the soft phase after which the goal is to be met; the rest lets ω settle
STEERED_FROM = 0.01  # λ of a steered pressure at the first step
GAIN = 200.0  # by so many e-folds λ would rise in a whole phase that lags behind by the whole model
LARGEST_LAM = 1e6


class Goal(Protocol):
    """What a pressure is steered to."""

    def gap(self, removed: Sequence[float], step: int, steps: int) -> float:
        """How far what is removed lags behind what is to be removed after `step` of `steps` steps.

        As a share of the whole; negative where it is ahead.
        """
        ...

    def choose(self, ordered: Sequence[str], opened: int) -> int:
        """How many of the sites, the first of these, are to go; the first `opened` have ended above one half."""
        ...


class Pressure:
    """λ, fixed or steered: it rises while less is removed than planned, and falls while more is.

    That is dual ascent on the logarithm of λ. `weights` says what each site weighs in the penalty; their mean is 1.
    """

    def __init__(self, lam: float | None, *, p: float, weights: Tensor, steps: int, goal: Goal | None = None):
        self.lam = STEERED_FROM if lam is None else lam
        self.p, self.weights, self.steps, self.goal = p, weights, steps, goal

    def __call__(self, removed: Tensor) -> Tensor:
        """Mean over the sites of ``1 - removed ** p``, each with its weight (paper, eq. 5)."""
        kept = 1 - (removed if self.p == 1 else removed.clamp(min=0) ** self.p)
        return (self.weights.to(kept) * kept).mean()

    def steer_(self, removed: Sequence[float], step: int) -> None:
        """Adjust λ after a step."""
        if self.goal is not None:
            gap = self.goal.gap(removed, step + 1, self.steps)
            self.lam = min(self.lam * math.exp(max(-1.0, min(1.0, GAIN / self.steps * gap))), LARGEST_LAM)

    def state_dict(self) -> dict[str, Any]:
        """All that it needs to go on."""
        return {"lam": self.lam}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.lam = float(state["lam"])


def check_reachable(savings: Savings, budget: Mapping[str, float]) -> None:
    """Raise ValueError where a budget cannot be met with all sites gone."""
    every = savings.switches
    for measure, share in budget.items():
        if savings.wholes.get(measure) == 0:
            raise ValueError(
                f"budget[{measure!r}] of {share:g}: the model has no {measure}, of which a share could stay"
            )
        if (least := savings.left(measure, every)) > share:
            raise ValueError(
                f"budget[{measure!r}] of {share:g} cannot be met: with all {len(every)} chosen {savings.unit} "
                f"removed, {least:.3g} of it stay. Choose a larger share, or further kinds of site"
            )


class WithinBudget:
    """The goal of a budget: what is left, estimated from what each site saves alone, falls evenly to the budget.

    Args:
        savings: of the switches, for the measures of the budget.
        budget: by measure, the share of the whole that may stay.

    Raises:
        ValueError: where it cannot be met with all sites gone.
    """

    def __init__(self, savings: Savings, budget: Mapping[str, float]):
        self.savings, self.budget = savings, budget
        check_reachable(savings, budget)
        self.saved: dict[str, list[float]] = {}
        for measure in budget:
            least = savings.left(measure, savings.switches)
            alone = savings.alone[measure]
            self.saved[measure] = [(1 - least) * one / max(sum(alone), 1e-12) for one in alone]

    def gap(self, removed: Sequence[float], step: int, steps: int) -> float:
        """Of the measure that lags behind most."""
        gaps = []
        for measure, share in self.budget.items():
            left = 1 - sum(saved * gone for saved, gone in zip(self.saved[measure], removed, strict=True))
            gaps.append(left - (1 - (1 - share) * _planned(step, steps)))
        return max(gaps)

    def choose(self, ordered: Sequence[str], opened: int) -> int:
        """As many as are needed, by bisection: the last one may save more than was missing."""
        low, high = 0, len(ordered)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.savings.over(self.budget, ordered[:middle]) <= 0 else (middle + 1, high)
        return low


def fall_of(soft: nn.Module, task: Task, limits: Mapping[str, float]) -> Callable[[Sequence[str] | None], float]:
    """What `WithinLoss` asks for: the share of what may be lost that is lost.

    Raises:
        ValueError: where a limit is for no quality of the task, and where a quality is NaN from the first.
    """

    before = qualities_of(task, soft, columns=(), untouched=True)
    unknown = [name for name in limits if name not in before]
    if unknown:
        raise ValueError(f"at_most_loss[{unknown[0]!r}]: task.quality gives no such value, but {', '.join(before)}")

    def fall(gone: Sequence[str] | None) -> float:
        kept = switch_values(soft)
        if gone is not None:
            went = set(gone)
            set_omegas_(soft, {name: float(name in went) for name in kept})
        now = qualities_of(task, soft, columns=(), untouched=False)
        set_omegas_(soft, kept)
        return max(_lost(before[name], now[name], task.measures.get(name)) / most for name, most in limits.items())

    return fall


def _lost(before: float, now: float, better: str | None) -> float:
    """By how much a quality got worse; one that is NaN is lost."""
    if math.isnan(now):
        return math.inf
    return 0.0 if now == before else (now - before if better == "lower" else before - now)


class WithinLoss:
    """The goal of qualities that may get worse by so much, which is to be used up.

    Args:
        fall: measures the share of what may be lost that is lost, 1 at the limit: of the model as it is, or with
            exactly the named sites removed.
        every: so many steps lie between two measurements.
    """

    def __init__(self, fall: Callable[[Sequence[str] | None], float], every: int):
        self.fall, self.every = fall, every

    def gap(self, removed: Sequence[float], step: int, steps: int) -> float:
        """Of the quality that has lost most; 0 between two measurements."""
        if step % self.every:
            return 0.0
        # One measurement stands for all steps since the last one.
        return max(-1.0, min(1.0, _planned(step, steps) - self.fall(None))) * self.every / 4

    def choose(self, ordered: Sequence[str], opened: int) -> int:
        """As many as leave the qualities within the limit before tuning: those that are open, or by bisection fewer.

        Those that are open come first, as it is them that the weights have learned to do without.
        """
        low, high = 0, opened
        if self.fall(ordered[:opened]) <= 1:
            return opened
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fall(ordered[:middle]) <= 1 else (low, middle - 1)
        return low


def _planned(step: int, steps: int) -> float:
    """The share of the way to the goal that is to be behind after so many steps."""
    return min(1.0, step / (REACHED * steps))
