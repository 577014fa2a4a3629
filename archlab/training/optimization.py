"""How a training moves the weights: the loss, the optimizer, its rates and precision. One group of `fit`'s options."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..arguments import choice, flag, function, number, plain, whole, wrong

PRECISIONS = ("fp32", "bf16")
POINTS = 100  # of a schedule, by which it is compared
MOST_STEPS, MOST_AHEAD = 10**7, 10_000  # updates, and batches made ahead: more cannot be meant

Groups = list[dict[str, Any]]  # an optimizer's parameter groups
Schedule = Callable[[int], float]


class Stateful(Protocol):
    """What keeps its state in a training's checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """All that it needs to go on: tensors, numbers, strings, lists and dicts of these."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


def constant(step: int) -> float:
    """Return 1: the schedule that leaves the learning rate as it is.

    Args:
        step: The update, counted from 0.

    Returns:
        The factor on the learning rate.
    """
    return 1.0


def cosine(steps: int, *, warmup: int = 0, hold: int = 0, final: float = 0.0) -> Schedule:
    """Return a schedule: linear from 0 over the warm-up, then half a cosine from 1 to `final` at the last step.

    Args:
        steps: How many updates the whole schedule has.
        warmup: How many of them rise.
        hold: How many stay at 1 before the rate falls.
        final: The factor at the last step.

    Returns:
        A function from an update, counted from 0, to the factor on the learning rate.

    Raises:
        ValueError: for a warm-up and a hold that are as long as the training.

    >>> [round(cosine(5, warmup=2)(step), 2) for step in range(5)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    >>> [round(cosine(5, hold=2)(step), 2) for step in range(5)]
    [1.0, 1.0, 1.0, 0.5, 0.0]
    """
    whole("steps", steps, least=1)
    whole("warmup", warmup, least=0)
    whole("hold", hold, least=0)
    if warmup + hold >= steps:
        asked = f"{warmup} and {hold}" if hold else warmup
        raise ValueError(wrong("warmup and hold" if hold else "warmup", f"below steps={steps}", asked))
    number("final", final, low=0)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup - hold) / max(1, steps - 1 - warmup - hold)
        return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2

    return factor


def check_schedule(name: str, schedule: Schedule) -> None:
    """Check that `schedule` is a function of a step, and its first factor. Raises TypeError or ValueError."""
    function(name, schedule, "the step", remedy="archlab.training.cosine makes one")
    factor_at(schedule, 0, name=name)


def factor_at(schedule: Schedule, step: int, *, name: str = "schedule") -> float:
    """The factor that `schedule` gives at `step`. Raises TypeError or ValueError for what is none."""
    factor = plain(schedule(step))
    number(f"what {name}({step}) returns", factor, low=0)
    return float(factor)


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """What is minimized, by which optimizer, and when that has failed. `fit` describes each option."""

    steps: int
    lr: float
    schedule: Schedule
    precision: str
    clip_norm: float | None
    optimizer: Callable[[Groups], torch.optim.Optimizer] = torch.optim.Adam
    groups: Callable[[nn.Module], Groups] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    penalty_weight: float | Callable[[int], float] = 1.0
    loss_unit: float = 1.0
    freeze_norm: bool = False
    stateful: Stateful | None = None
    after_backward: Callable[[nn.Module], None] | None = None
    after_step: Callable[[nn.Module, int], Mapping[str, float] | None] | None = None
    divergence: float = 1e4
    prefetch: int = 0

    def __post_init__(self):
        choice("precision", self.precision, PRECISIONS)
        whole("steps", self.steps, least=1, most=MOST_STEPS)
        whole("prefetch", self.prefetch, least=0, most=MOST_AHEAD)
        number("lr", self.lr, above=0)
        number("clip_norm", self.clip_norm, above=0, optional=True, remedy="None clips nothing")
        if not callable(self.penalty_weight):
            number("penalty_weight", self.penalty_weight, remedy="or a function of the step")
        number("loss_unit", self.loss_unit, above=0)
        flag("freeze_norm", self.freeze_norm)
        number("divergence", self.divergence, above=0, finite=False, remedy="float('inf') never stops")
        check_schedule("schedule", self.schedule)
        remedy = "torch.optim.Adam, say, or functools.partial(torch.optim.AdamW, weight_decay=1e-2)"
        function("optimizer", self.optimizer, "parameter groups", remedy=remedy)
        function("groups", self.groups, "the model", optional=True)
        function("penalty", self.penalty, "the model", optional=True)
        function("after_backward", self.after_backward, "the model", optional=True)
        function("after_step", self.after_step, "the model", "the step", optional=True)

    def weight_of_penalty(self, step: int) -> float:
        """What the penalty is multiplied by at this step."""
        return self.penalty_weight(step) if callable(self.penalty_weight) else self.penalty_weight

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the parameters that are trained, each group with a learning rate of its own.

        Raises:
            ValueError: where no parameter is trained.
        """
        given = self.groups(model) if self.groups else [{"params": [p for p in model.parameters() if p.requires_grad]}]
        if isinstance(given, Tensor | Mapping) or not all(
            isinstance(group, Mapping) and "params" in group for group in given
        ):
            raise TypeError(wrong("what groups(model) returns", 'a list of dicts with "params" each', given))
        given = [{"lr": self.lr, **group, "params": list(group["params"])} for group in given]
        for group in given:
            number("the lr of a parameter group in groups", group["lr"], low=0)
        given = [group for group in given if group["params"]]
        if not given:
            raise ValueError(
                f"{type(model).__name__} has no parameter that requires a gradient: nothing to train; "
                "call requires_grad_(True) on what may learn, or ask for no steps"
            )
        try:
            optimizer = self.optimizer(given)
        except (TypeError, ValueError) as error:
            rule = "a function of parameter groups with an lr each"
            raise ValueError(wrong("optimizer", rule, self.optimizer, str(error))) from error
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(wrong("what optimizer makes", "a torch.optim.Optimizer", optimizer))
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("optimizer must update from one gradient, got LBFGS, which asks for several; use Adam")
        return optimizer

    def identity(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on with. A schedule is compared by its values.

        The keys are on disk in every checkpoint: a new name for one refuses all that were begun before.
        """
        identity: dict[str, Any] = {
            "steps": self.steps,
            "precision": self.precision,
            "clip_norm": self.clip_norm,
            "penalty_weight": "a function" if callable(self.penalty_weight) else self.penalty_weight,
            "optimizer": type(optimizer).__name__,
            "schedule": [factor_at(self.schedule, step) for step in range(0, self.steps, max(1, self.steps // POINTS))],
        }
        if self.freeze_norm:
            identity["freeze_norm"] = True
        for index, group in enumerate(optimizer.param_groups):
            facts = {key: value for key, value in group.items() if key != "params"}
            identity[f"parameter group {index}"] = repr(sorted(facts.items()))
        return identity
