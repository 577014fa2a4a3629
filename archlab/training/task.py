"""What is needed to train and evaluate a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """What is needed to train and to judge a model.

    `example` runs the model once (a tensor, a tuple, a dict of keyword arguments, or a `Call`).
    `batches(step)` returns the batch of that step, counted from 0, and must depend on the step alone (seed a
    generator of its own with it): then a resumed training sees the same data with no loader state to keep.
    `loss(model, batch)` returns a scalar; it moves the batch to the model's device where that is not so yet.
    `quality(model)` returns named numbers, measured on data that `batches` never gives. `measures` says, for
    those who print them, which way each is better.
    """

    example: Any
    batches: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    quality: Callable[[nn.Module], Mapping[str, float]]
    measures: tuple = ()
