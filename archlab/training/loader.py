"""A torch DataLoader as a function of the step, so that a training goes on at the right batch with no state to keep.

What a loader gives next depends on all that it gave before: on its generators, and on when its workers were started.
Here each batch is made from (seed, step) alone. Of the loader are used: dataset, samplers, collate_fn, drop_last, and
how its workers run.
"""

import copy
import itertools
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from ..arguments import shown, whole, wrong
from ..capture.modes import random_states_kept

OF_EPOCH, OF_BATCH = 0, 1  # what a seed is drawn for
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
WHOLE = (Tensor, np.ndarray, str, bytes, type, FunctionType, ModuleType)  # what holds no generator that is looked for
LONG = 64  # entries of a container that is not gone through: files, say, and no transforms
OF_WORKERS = ("num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "prefetch_factor")
LABELS = "labels"  # transformers' name of the keyword that is a target and no input

_thread = threading.local()


def note_ahead() -> None:
    """Note that this thread makes batches while another one trains."""
    _thread.ahead = True


class IndexedBatches:
    """The batches of a loader whose dataset has indices: ``batches(step)``.

    The order of each epoch is drawn anew from copies of the loader's samplers, with every generator in them seeded by
    (seed, epoch). A batch is fetched and collated with the global generators, and those that the dataset holds, seeded
    by (seed, step), so random crops are the same whichever process makes them, and whatever was made before.
    """

    def __init__(self, loader: DataLoader, seed: int):
        self.loader, self.seed = loader, seed
        self.order = _Order(loader, seed)
        self.made = DataLoader(
            _Made(loader, seed), batch_size=None, sampler=self.order, collate_fn=_as_it_is,
            persistent_workers=loader.num_workers > 0, generator=torch.Generator(), **_of_workers(loader),
        )  # fmt: skip
        self.batches: Iterator[Any] = iter(())
        self.following: int | None = None

    def __call__(self, step: int) -> Any:
        _check_thread()
        if step != self.following:
            self.order.first = step
            self.batches = iter(self.made)
        self.following = None  # what fails is begun anew
        batch = next(self.batches)
        self.following = step + 1
        return batch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.loader, self.seed)


class _Order(Sampler):
    """For each step from `first` on, the step and the indices of its batch."""

    def __init__(self, loader: DataLoader, seed: int):
        self.sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        self.dataset, self.seed, self.first = loader.dataset, seed, 0
        self.length = _length(loader, self.sampler)  # batches in an epoch

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for epoch in itertools.count(self.first // self.length):
            begin = epoch * self.length
            indices = self._of_epoch(epoch)
            yield from ((step, indices[step - begin]) for step in range(max(begin, self.first), begin + self.length))

    def _of_epoch(self, epoch: int) -> list[Any]:
        number = _drawn(self.seed, OF_EPOCH, epoch)
        sampler = copy.deepcopy(self.sampler, {id(self.dataset): self.dataset})  # the dataset itself is not copied
        for part in _parts(sampler, but=self.dataset):
            _seed_(part, number)
            _set_epoch_(part, epoch)
        with _seeded(number):
            indices = list(itertools.islice(sampler, self.length + 1))
        if len(indices) != self.length:
            given = "more" if len(indices) > self.length else len(indices)
            raise ValueError(
                f"Task.from_loader: a sampler must give as many batches in every epoch as its len(): "
                f"{shown(self.sampler)} has {self.length} and gives {given} in epoch {epoch}, so the epoch of a step "
                "is not known without running through all before; mend its __len__, or give Task your own batches"
            )
        return indices


class _Made(Dataset):
    """By step and indices the batch, as the loader would fetch and collate it."""

    def __init__(self, loader: DataLoader, seed: int):
        self.dataset, self.collate, self.seed = loader.dataset, loader.collate_fn, seed
        self.batched = loader.batch_sampler is not None

    @cached_property
    def generators(self) -> list[Any]:
        return _generators_in(self.dataset)

    def __getitem__(self, asked: tuple[int, Any]) -> Any:
        step, indices = asked
        number = _drawn(self.seed, OF_BATCH, step)
        for generator in self.generators:
            _reseed_(generator, number)
        with _seeded(number):
            if not self.batched:
                found = self.dataset[indices]
            elif at_once := getattr(self.dataset, "__getitems__", None):
                found = at_once(indices)
            else:
                found = [self.dataset[index] for index in indices]
            return self.collate(found)


class StreamBatches:
    """The batches of a loader whose dataset is iterable: ``batches(step)``.

    Each epoch is iterated anew, from its begin to the step that is asked for: a stream cannot be entered elsewhere.
    Where epochs begin is found out by running through them once.
    """

    def __init__(self, loader: DataLoader, seed: int):
        self.loader, self.seed = loader, seed
        self.firsts = [0]  # by epoch, its first step, as far as is known
        self.epoch, self.following, self.stream = -1, 0, iter(())

    def __call__(self, step: int) -> Any:
        _check_thread()
        known = max(epoch for epoch, first in enumerate(self.firsts) if first <= step)
        if step < self.following or known > self.epoch:
            self._open_(known)
        while self.following < step:
            self._next_()
        return self._next_()

    def _open_(self, epoch: int) -> None:
        self.epoch, self.following = epoch, self.firsts[epoch]
        loader, number = self.loader, _drawn(self.seed, OF_EPOCH, epoch)
        _set_epoch_(loader.dataset, epoch)
        for own in _generators_in(loader.dataset):
            _reseed_(own, number)
        generator = torch.Generator().manual_seed(number)  # of the seeds of its workers
        anew = DataLoader(
            loader.dataset, batch_size=loader.batch_size, drop_last=loader.drop_last, collate_fn=loader.collate_fn,
            generator=generator, **_of_workers(loader),
        )  # fmt: skip
        with _seeded(number):
            self.stream = iter(anew)

    def _next_(self) -> Any:
        """The batch of the step `following`."""
        try:
            return self._of_epoch_()
        except StopIteration:
            if self.following == self.firsts[self.epoch]:
                told = f"Task.from_loader: loader must give a batch, got none in epoch {self.epoch}"
                raise ValueError(f"{told}: {shown(self.loader.dataset)} is empty, or its iterator is used up") from None
            self.firsts[self.epoch + 1 :] = [self.following]
        self._open_(self.epoch + 1)
        return self._next_()

    def _of_epoch_(self) -> Any:
        with _seeded(_drawn(self.seed, OF_BATCH, self.following)):
            batch = next(self.stream)
        self.following += 1
        return batch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.loader, self.seed)


def loader_batches(loader: DataLoader, seed: int) -> IndexedBatches | StreamBatches:
    """The batches of `loader` as a function of the step.

    Raises:
        TypeError: for what is no DataLoader, or one with an iteration of its own.
        ValueError: for a loader without a batch, or with samplers whose length is not known.
    """
    if not isinstance(loader, DataLoader):
        rule = "a torch.utils.data.DataLoader"
        raise TypeError(wrong("Task.from_loader: loader", rule, loader, "DataLoader(dataset, batch_size=8) makes one"))
    if type(loader).__iter__ is not DataLoader.__iter__:
        raise TypeError(
            f"Task.from_loader: loader must be iterated as torch does, but {type(loader).__name__} has an __iter__ of "
            "its own, which would not be used; give a plain DataLoader of the same dataset, before a library wraps it"
        )
    whole("Task.from_loader: seed", seed, least=0)
    return (StreamBatches if isinstance(loader.dataset, IterableDataset) else IndexedBatches)(loader, seed)


def example_in(batch: Any) -> Any:
    """What runs the model once, in a batch: a tensor, the first of a tuple, or a dict without its labels.

    Raises:
        TypeError: where it cannot be told.
    """
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name != LABELS}
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if isinstance(first, Tensor):
        return first
    raise TypeError(
        f"Task.from_loader: what runs the model is not seen in the first batch, {shown(batch)}; give it: "
        "example=a tensor, a tuple of arguments, a dict of keywords or an al.Call"
    )


def _check_thread() -> None:
    """Raise where batches are made while another thread trains: seeding would change what that draws."""
    if getattr(_thread, "ahead", False):
        raise ValueError(
            "prefetch must be 0 for a task of a DataLoader: the loader's own workers make batches ahead; "
            "give it num_workers=2, say"
        )


def _length(loader: DataLoader, sampler: Any) -> int:
    try:
        length = len(sampler)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(
            f"Task.from_loader: a sampler must have a length, and {shown(getattr(sampler, 'sampler', sampler))} has "
            f"none ({error}): the epoch of a step would not be known. RandomSampler(data, replacement=True, "
            "num_samples=1000) draws without end, too"
        ) from error
    if length < 1:
        size = f"batch_size={loader.batch_size}, drop_last={loader.drop_last}"
        raise ValueError(f"Task.from_loader: loader must give a batch, got none: its sampler has no more, with {size}")
    return length


def _of_workers(loader: DataLoader) -> dict[str, Any]:
    return {name: getattr(loader, name) for name in OF_WORKERS}


def _as_it_is(batch: Any) -> Any:
    return batch


def _drawn(*numbers: int) -> int:
    """A seed from several numbers; those of close numbers have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def _seeded(number: int) -> Iterator[None]:
    """While open, the global generators on the CPU are seeded; afterwards they are as before.

    `torch.manual_seed` would seed those of GPUs, too, where dropout of the training draws.
    """
    with random_states_kept(()):
        torch.default_generator.manual_seed(number)
        random.seed(number)
        np.random.seed(number)
        yield


def _parts(thing: Any, *, but: Any = None) -> Iterator[Any]:
    """`thing` and all that it holds, except `but`: samplers inside samplers, the transforms of a dataset."""
    seen, left = {id(but)}, [thing]
    while left:
        part = left.pop()
        if id(part) in seen or isinstance(part, WHOLE):
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, list | tuple | dict):
            left += [] if len(part) > LONG else part.values() if isinstance(part, dict) else part
        else:
            left += getattr(part, "__dict__", {}).values()


def _generators_in(dataset: Any) -> list[Any]:
    """The random generators that a dataset, or a transform in it, draws from beside the global ones."""
    return [part for part in _parts(dataset) if isinstance(part, GENERATORS)]


def _reseed_(generator: Any, number: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(number)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(number).state
    else:
        generator.seed(number)


def _seed_(part: Any, number: int) -> None:
    """Seed a part of a sampler: a generator, or what would take one from torch or make one of its seed."""
    if isinstance(part, GENERATORS):
        _reseed_(part, number)
    elif isinstance(getattr(part, "__dict__", None), dict):
        held = vars(part)
        if "generator" in held and held["generator"] is None:
            held["generator"] = torch.Generator().manual_seed(number)
        if isinstance(part, Sampler) and isinstance(held.get("seed"), int):  # as DistributedSampler has it
            held["seed"] = (held["seed"] + number) % 2**31


def _set_epoch_(thing: Any, epoch: int) -> None:
    """Tell a sampler or a dataset that asks for it which epoch begins."""
    if callable(set_epoch := getattr(thing, "set_epoch", None)):
        set_epoch(epoch)
