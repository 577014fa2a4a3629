"""What is needed to train and evaluate a model."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """What is needed to train and to evaluate a model.

    Args:
        example: Runs the model once: a tensor, a tuple of arguments, a dict of keyword arguments, or a `Call`.
        batches: ``batches(step)`` returns the batch of that step, counted from 0. It must depend on the step alone
            (seed a generator of its own with it): then a resumed training sees the same data, with no loader state
            to keep. With a checkpoint folder the first is made once more, to know the training by.
        loss: ``loss(model, batch)`` returns a scalar. It moves the batch to the model's device where that is not so
            yet.
        quality: ``quality(model)`` returns named numbers, measured on data that `batches` never gives.
        measures: Says, for those who print the qualities, which way each is better.
        settings: JSON-able facts that the functions hang on, such as the name of the data or a crop; a checkpoint of
            a task with other ones is refused.
    """

    example: Any
    batches: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    quality: Callable[[nn.Module], Mapping[str, float]]
    measures: tuple = ()
    settings: Mapping[str, Any] | None = None


def qualities_of(task: Task, model: nn.Module, *, columns: tuple[str, ...]) -> Mapping[str, float]:
    """``task.quality(model)``, to stand beside the `columns` of a table.

    Raises:
        ValueError: a quality has the name of one of them, which it would overwrite.
    """
    values = task.quality(model)
    for name in values:
        if name in columns:
            raise ValueError(f"task.quality: {name!r} is a column of the table that its values stand in; rename it")
    return values


def numbered_batches(task: Task, steps: Iterable[int], *, prefetch: int) -> Generator[tuple[int, Any], None, None]:
    """Yield (step, batch) for each of `steps`; with `prefetch`, so many are made ahead of time by one thread."""

    def make(step: int) -> Any:
        with torch.no_grad():
            return task.batches(step)

    if prefetch == 0:
        for step in steps:
            yield step, make(step)
        return
    maker = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        # As many are under way as were asked for: each that is taken starts the next.
        later = iter(steps)
        ahead = deque((step, maker.submit(make, step)) for step in itertools.islice(later, prefetch))
        while ahead:
            step, batch = ahead.popleft()
            ready = batch.result()
            ahead.extend((following, maker.submit(make, following)) for following in itertools.islice(later, 1))
            yield step, ready
    finally:
        maker.shutdown(wait=True, cancel_futures=True)
