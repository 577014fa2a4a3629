"""What is needed to train and evaluate a model."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from ..arguments import choice, function, plain, shown, text, wrong
from ..errors import add_note

Loss = Callable[[nn.Module, Any], Tensor]

OF_THE_OUTPUT = "return what torch computes from the model's output, without .item() and .detach()"


@dataclass(frozen=True)
class Task:
    """What is needed to train and to evaluate a model; checked, as far as it can be without one, when it is made.

    Args:
        example: Runs the model once: a tensor, a tuple of arguments, a dict of keyword arguments, or a `Call`.
        batches: ``batches(step)`` returns the batch of that step, counted from 0. It must depend on the step alone
            (seed a generator of its own with it): then a resumed training sees the same data, with no loader state
            to keep. With a checkpoint folder the first is made once more, to know the training by.
        loss: ``loss(model, batch)`` returns a scalar. It moves the batch to the model's device where that is not so
            yet.
        quality: ``quality(model)`` returns named numbers, measured on data that `batches` never gives.
        measures: By name of a quality, which way it is better: "higher" or "lower". Where one is not named, "higher".
        settings: JSON-able facts that the functions hang on, such as the name of the data or a crop; a checkpoint of
            a task with other ones is refused.

    Raises:
        TypeError: for a function that is none, or does not take these arguments.
    """

    example: Any
    batches: Callable[[int], Any]
    loss: Loss
    quality: Callable[[nn.Module], Mapping[str, float]]
    measures: Mapping[str, Literal["higher", "lower"]] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = None

    def __post_init__(self):
        remedy = "it must give the same batch whenever it is asked: index into your data by the step"
        function("Task: batches", self.batches, "the step", remedy=remedy)
        if isinstance(self.loss, _Loss):
            remedy = f"write lambda model, batch: {type(self.loss).__name__}()(model(batch[0]), batch[1])"
            raise TypeError(wrong("Task: loss", "a function of the model and a batch", self.loss, remedy))
        function("Task: loss", self.loss, "the model", "a batch")
        function("Task: quality", self.quality, "the model")
        if not isinstance(self.settings, Mapping | None):
            raise TypeError(wrong("Task: settings", "a dict of facts or None", self.settings))
        if not isinstance(self.measures, Mapping):
            raise TypeError(wrong("Task: measures", "a dict as {'loss': 'lower'}", self.measures))
        for name, better in self.measures.items():
            choice(f"Task: measures[{name!r}]", better, ("higher", "lower"))


def check_task(task: Task) -> None:
    """Raise TypeError for what is no Task."""
    if not isinstance(task, Task):
        raise TypeError(wrong("task", "an al.Task", task, "make one: Task(example, batches, loss, quality)"))


def qualities_of(task: Task, model: nn.Module, *, columns: tuple[str, ...], untouched: bool) -> dict[str, float]:
    """``task.quality(model)`` as plain numbers, to stand beside the `columns` of a table.

    A model that was changed may be so bad that a quality is NaN; of the `untouched` one that is an error.

    Raises:
        TypeError: for what are no named numbers.
        ValueError: for none, for one with the name of a column, which it would overwrite, and for NaN.
    """
    try:
        values = task.quality(model)
    except Exception as error:
        add_note(error, "raised by task.quality")
        raise
    rule = "return a dict of numbers by name"
    if not isinstance(values, Mapping):
        raise TypeError(f"task.quality must {rule}, got {shown(values)}" + '; write {"quality": …}')
    if not values:
        raise ValueError(f"task.quality must {rule}, got {{}}: there is nothing to compare by")
    found = {}
    for name, value in values.items():
        text("a name that task.quality returns", name)
        if name in columns:
            raise ValueError(f"task.quality: {name!r} is a column of the table that its values stand in; rename it")
        found[name] = plain(value)
        where = f"what task.quality returns as {name!r}"
        if isinstance(found[name], bool) or not isinstance(found[name], Real):
            raise TypeError(wrong(where, "a number", value, "take the mean, say"))
        found[name] = float(found[name])
        if untouched and math.isnan(found[name]):
            raise ValueError(f"{where} is NaN for the untouched model: nothing can be compared with it")
    return found


def batch_of(task: Task, step: int) -> Any:
    """``task.batches(step)``; what it raises says so."""
    with torch.no_grad():
        try:
            return task.batches(step)
        except StopIteration as error:
            raise RuntimeError(
                f"task.batches must give a batch at every step, got StopIteration at {step}; take the step modulo "
                "the number of batches"
            ) from error
        except Exception as error:
            add_note(error, f"raised by task.batches({step})")
            raise


def loss_of(task: Task, model: nn.Module, batch: Any, step: int) -> Tensor:
    """``task.loss(model, batch)``, which is a scalar tensor; what it raises says so.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for a tensor of several numbers.
    """
    try:
        loss = task.loss(model, batch)
    except Exception as error:
        add_note(error, f"raised by task.loss in step {step}, for {shown(batch)}, which task.batches gave")
        raise
    if not isinstance(loss, Tensor):
        raise TypeError(f"task.loss must return a scalar tensor, got {shown(loss)}; {OF_THE_OUTPUT}")
    if loss.numel() != 1:
        raise ValueError(f"task.loss must return a scalar, got shape {tuple(loss.shape)}; take its mean, say")
    return loss


def numbered_batches(task: Task, steps: Iterable[int], *, prefetch: int) -> Generator[tuple[int, Any], None, None]:
    """Yield (step, batch) for each of `steps`; with `prefetch`, so many are made ahead of time by one thread."""

    def make(step: int) -> Any:
        return batch_of(task, step)

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
