"""The path of a supernet at each step: drawn from a seed and the step alone, so that any run of them agrees."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..arguments import number, whole, wrong
from ..training.task import Task, check_task
from .space import Architecture, Space
from .supernet import set_architecture_, supernet_of

TRIES = 1000  # draws until one falls into its bin; then the nearest of them is taken
MOST_BINS = 1000

Range = tuple[float, float]


def sample_(
    net: nn.Module, seed: int, step: int = 0, *, bins: int | None = None, macs: Range | None = None
) -> Architecture:
    """Let a supernet compute a random architecture, in place; which one, `seed` and `step` say alone.

    Args:
        net: a supernet.
        seed: of the whole sequence of paths.
        step: of a training, say.
        bins: None: every option is alike likely. Else the range of MACs is cut into so many equal bins, one of which is
            drawn, then architectures until one falls into it (Guo et al. 2020); after 1,000, the nearest is taken.
        macs: the least and the most multiply-adds; None: of the whole space. Without `bins`, one bin.

    Returns:
        The architecture, by position.

    Raises:
        ValueError: for another model, and for a range that holds no architecture of the space.

    >>> import torch
    >>> from archlab import kernel, optional, supernet
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    >>> net = supernet(net, torch.zeros(1, 1, 8, 8), choices={"0": kernel(3, 5, 7), "1": optional()})
    >>> [sample_(net, seed=0, step=step) for step in (0, 1, 0)]
    [{'0': 5, '1': 'skip'}, {'0': 3, '1': 'keep'}, {'0': 5, '1': 'skip'}]
    """
    found = drawn(supernet_of(net)[1].space, seed, step, bins=bins, macs=macs)
    set_architecture_(net, found)
    return found


def one_path(task: Task, *, seed: int = 0, bins: int | None = None, macs: Range | None = None) -> Task:
    """The task whose step n trains the path that ``sample_(net, seed, n)`` draws: to train a supernet with.

    The path goes with the batch, so it is the same after a resume and with batches made ahead.

    Args:
        task: What each path is trained for.
        seed: As for `sample_`.
        bins: As for `sample_`.
        macs: As for `sample_`.

    Returns:
        The task; its loss takes a supernet.

    >>> import torch
    >>> from archlab import optional, supernet
    >>> from archlab.training import fit
    >>> x = torch.arange(4.0)[:, None]
    >>> task = Task(x, lambda step: x, lambda net, x: (net(x) - x).square().mean(), lambda net: {"error": 0.0})
    >>> net = supernet(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), x, choices={"1": optional()})
    >>> fit(net, one_path(task), steps=4, progress=False).steps_done
    4
    """
    check_task(task)
    whole("one_path: seed", seed, least=0)
    _check_range(bins, macs)
    batches, loss = task.batches, task.loss

    def numbered(step: int) -> tuple[int, Any]:
        return step, batches(step)

    def loss_of_path(net: nn.Module, batch: tuple[int, Any]) -> Tensor:
        step, own = batch
        sample_(net, seed, step, bins=bins, macs=macs)
        return loss(net, own)

    settings = {**(task.settings or {}), "paths": {"seed": seed, "bins": bins, "macs": macs and tuple(macs)}}
    return replace(task, batches=numbered, loss=loss_of_path, settings=settings)


def drawn(space: Space, seed: int, step: int, *, bins: int | None = None, macs: Range | None = None) -> Architecture:
    """The architecture of this seed and step, as `sample_` says."""
    whole("sample_: seed", seed, least=0)
    whole("sample_: step", step, least=0)
    _check_range(bins, macs)
    generator = random.Random(f"{seed} {step}")
    if bins is None and macs is None:
        return space.draw(generator)
    least, most = macs or space.macs_range
    if least > space.macs_range[1] or most < space.macs_range[0]:
        rule = "a range that meets {:,} to {:,}, those of the space".format(*space.macs_range)
        raise ValueError(wrong("sample_: macs", rule, macs))
    span = (most - least) / (bins or 1)
    low = least + span * generator.randrange(bins or 1)
    nearest: tuple[float, Architecture] | None = None
    for _ in range(TRIES):
        architecture = space.draw(generator)
        outside = max(low - (cost := space.macs(architecture)), cost - (low + span), 0)
        if nearest is None or outside < nearest[0]:
            nearest = outside, architecture
        if not outside:
            break
    assert nearest is not None
    return nearest[1]


def _check_range(bins: Any, macs: Any) -> None:
    whole("sample_: bins", bins, least=1, most=MOST_BINS, optional=True)
    if macs is None:
        return
    if isinstance(macs, str | Mapping) or not hasattr(macs, "__len__") or len(macs) != 2:
        raise TypeError(wrong("sample_: macs", "the least and the most multiply-adds, or None", macs))
    number("sample_: the least of macs", macs[0], low=0)
    number("sample_: the most of macs", macs[1], low=macs[0])
