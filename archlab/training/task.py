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
from torch.utils.data import DataLoader

from ..arguments import choice, function, plain, shown, text, wrong
from ..capture.example import tensors_in
from ..capture.modes import evaluation
from ..errors import add_note
from .loader import example_in, loader_batches, note_ahead

Loss = Callable[[nn.Module, Any], Tensor]

NO_VALUES = "lies on the meta device, where nothing has a value: load its weights before it is trained or scored"
OF_THE_OUTPUT = "return what torch computes from the model's output, without .item() and .detach()"


@dataclass(frozen=True, repr=False)
class Task:
    """What is needed to train and to evaluate a model; checked, as far as it can be without one, when it is made.

    Args:
        example: Runs the model once: a tensor, a tuple of arguments, a dict of keyword arguments, or a `Call`.
        batches: ``batches(step)`` returns the batch of that step, counted from 0. It must depend on the step alone
            (seed a generator of its own with it): then a resumed training sees the same data, with no loader state
            to keep. With a checkpoint folder the first is made once more, to know the training by.
        loss: ``loss(model, batch)`` returns a scalar. It moves the batch to the model's device where that is not so
            yet.
        quality: ``quality(model)`` returns named numbers, measured on data that `batches` never gives. Wherever it is
            asked for, the model is in evaluation mode, without gradients, and the global generators begin at seed 0;
            then modes, buffers and generators are put back.
        measures: By name of a quality, which way it is better: "higher" or "lower". Where one is not named, "higher".
            Tables and figures of what is measured mark it; those of a quality that is not named do not.
        settings: JSON-able facts that the functions depend on, such as the name of the data or a crop; a checkpoint of
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

    def __repr__(self) -> str:
        given = ", ".join(shown(tensor) for tensor in tensors_in(self.example)) or shown(self.example)
        named = ", ".join(f"{name} ({better} is better)" for name, better in self.measures.items())
        lines = {
            "example": given, "batches": shown(self.batches), "loss": shown(self.loss), "quality": shown(self.quality),
            "measures": named, "settings": shown(self.settings) if self.settings else "",
        }  # fmt: skip
        return "\n".join(["Task", *(f"  {name:<9}{value}" for name, value in lines.items() if value)])

    @classmethod
    def from_loader(
        cls,
        loader: DataLoader,
        *,
        loss: Loss,
        evaluate: Callable[[nn.Module], Mapping[str, float]],
        example: Any = None,
        measures: Mapping[str, Literal["higher", "lower"]] | None = None,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> "Task":
        """A task whose batches are those of a DataLoader, each made from `seed` and the step alone.

        With the same seed a step has the same batch, bit for bit: in another process, after a resume, and with any
        number of workers. What the dataset draws for it (random crops, noise) is seeded by the step, and the training's
        own random numbers are left alone.

        - A dataset with indices: the order of each epoch is drawn from the loader's own sampler, seeded by `seed` and
          the epoch. A training that is resumed loads nothing twice. A batch sampler of your own is iterated likewise;
          it needs a length that is right in every epoch.
        - An iterable dataset is iterated anew each epoch, and skipped to the step: a resumed training runs through the
          batches before. With workers they are as torch deals them out, so their number matters, and is to stay.
        - Not used: the loader's own `generator`, and `persistent_workers` (with indices they persist, else not).

        Args:
            loader: Of any dataset; it is not iterated itself. Give it `num_workers` to have batches made ahead: the
                `prefetch` of `fit` is refused, as its thread would draw from the training's generators.
            loss: As in `Task`: ``loss(model, batch)``, with a batch as the loader gives it.
            evaluate: ``evaluate(model)`` returns named numbers: the `quality` of the task.
            example: Runs the model once; default: from the first batch. That is the tensor, of a tuple or list its
                first element, of a dict its entries but "labels", as keyword arguments.
            measures: As in `Task`.
            settings: As in `Task`; `seed` joins them.
            seed: Of the order and of all that is drawn for a batch: another one gives other batches.

        Returns:
            The task.

        Raises:
            TypeError: for what is no DataLoader, and where the first batch does not say how the model is run.
            ValueError: for a loader without a batch, or with a sampler whose length is not known or not right.

        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> x = torch.arange(6.0)[:, None]
        >>> task = Task.from_loader(
        ...     DataLoader(TensorDataset(x, 2 * x), batch_size=2, shuffle=True),
        ...     loss=lambda net, batch: nn.functional.mse_loss(net(batch[0]), batch[1]),
        ...     evaluate=lambda net: {"error": (net(x) - 2 * x).abs().mean().item()},
        ... )
        >>> task.example.shape, sorted(int(value) for step in range(3) for value in task.batches(step)[0])
        (torch.Size([2, 1]), [0, 1, 2, 3, 4, 5])
        """
        if not isinstance(settings, Mapping | None):
            raise TypeError(wrong("Task.from_loader: settings", "a dict of facts or None", settings))
        batches = loader_batches(loader, seed)
        example = example_in(batches(0)) if example is None else example
        measures = {} if measures is None else measures
        return cls(example, batches, loss, evaluate, measures, {"seed": seed, **(settings or {})})


def check_task(task: Task) -> None:
    """Raise TypeError for what is no Task."""
    if not isinstance(task, Task):
        raise TypeError(wrong("task", "an al.Task", task, "make one: Task(example, batches, loss, quality)"))


def qualities_of(task: Task, model: nn.Module, *, columns: tuple[str, ...], untouched: bool) -> dict[str, float]:
    """``task.quality(model)`` as plain numbers, to stand beside the `columns` of a table.

    The model is in evaluation mode, and afterwards as it was. One that was changed may be so bad that a quality is NaN;
    of the `untouched` one that is an error.

    Raises:
        TypeError: for what are no named numbers.
        ValueError: for none, for one with the name of a column, which it would overwrite, and for NaN.
    """
    try:
        with evaluation(model):
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


def better_of(task: Task, columns: Iterable[str]) -> dict[str, str]:
    """Which way columns of qualities, and of their changes, are better, where ``task.measures`` says it.

    Tables of them keep it in ``.attrs["better"]``, where what prints and draws them finds it.
    """
    ways = {column: way for name, way in task.measures.items() for column in (name, f"delta_{name}")}
    return {column: ways[column] for column in columns if column in ways}


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
    if loss.is_meta:
        raise ValueError(f"the model {NO_VALUES}")
    return loss


def numbered_batches(task: Task, steps: Iterable[int], *, prefetch: int) -> Generator[tuple[int, Any], None, None]:
    """Yield (step, batch) for each of `steps`; with `prefetch`, so many are made ahead of time by one thread."""

    def make(step: int) -> Any:
        return batch_of(task, step)

    if prefetch == 0:
        for step in steps:
            yield step, make(step)
        return
    maker = ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=note_ahead)
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
