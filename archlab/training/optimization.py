"""How a training moves the weights: the loss, the optimizer, its rates and precision. One group of `fit`'s options."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = ("fp32", "bf16")
POINTS = 100  # of a schedule, by which it is compared

Groups = list[dict[str, Any]]  # an optimizer's parameter groups
Schedule = Callable[[int], float]


def constant(step: int) -> float:
    """Return 1: the schedule that leaves the learning rate as it is.

    Args:
        step: The update, counted from 0.

    Returns:
        The factor on the learning rate.
    """
    return 1.0


def cosine(steps: int, *, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Return a schedule: linear from 0 over the warm-up, then half a cosine from 1 to `final` at the last step.

    Args:
        steps: How many updates the whole schedule has.
        warmup: How many of them rise.
        final: The factor at the last step.

    Returns:
        A function from an update, counted from 0, to the factor on the learning rate.

    Raises:
        ValueError: for a warm-up as long as the training.

    >>> [round(cosine(5, warmup=2)(step), 2) for step in range(5)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup must be at least 0 and below steps={steps}, got {warmup}")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - 1 - warmup)
        return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return factor


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
    penalty_weight: float = 1.0
    after_step: Callable[[nn.Module, int], Mapping[str, float] | None] | None = None
    divergence: float = 1e4
    prefetch: int = 0

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.prefetch < 0:
            raise ValueError(f"prefetch must be at least 0, got {self.prefetch}")

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the parameters that are trained, each group with a learning rate of its own.

        Raises:
            ValueError: where no parameter is trained.
        """
        given = self.groups(model) if self.groups else [{"params": [p for p in model.parameters() if p.requires_grad]}]
        given = [{"lr": self.lr, **group, "params": list(group["params"])} for group in given]
        given = [group for group in given if group["params"]]
        if not given:
            raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient: nothing to train")
        return self.optimizer(given)

    def identity(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on with. A schedule is compared by its values.

        The keys are on disk in every checkpoint: a new name for one refuses all that were begun before.
        """
        identity: dict[str, Any] = {
            "steps": self.steps,
            "precision": self.precision,
            "clip_norm": self.clip_norm,
            "penalty_weight": self.penalty_weight,
            "optimizer": type(optimizer).__name__,
            "schedule": [float(self.schedule(step)) for step in range(0, self.steps, max(1, self.steps // POINTS))],
        }
        for index, group in enumerate(optimizer.param_groups):
            facts = {key: value for key, value in group.items() if key != "params"}
            identity[f"parameter group {index}"] = repr(sorted(facts.items()))
        return identity
