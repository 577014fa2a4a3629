"""Which block of a stack a new one is made like: stacks repeat one block, or a few in turn."""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

# What a layer keeps to know its place: it differs from block to block, and means nothing for what the block is.
INDEX = re.compile(r"(layer|block)_?(idx|id|index|number|num)")
_PLAIN = (bool, int, str, type(None))


def like(blocks: Sequence[nn.Module], more: int, kinds: Sequence[Any] = ()) -> list[int]:
    """For each of so many new blocks behind `blocks`, the number of the one that it is made like.

    A stack that ends in a repetition goes on with it: one block over and over, or several in turn (windows that shift
    in every other block, every sixth layer with global attention), whatever comes first. One that never repeats begins
    again where its blocks differ in settings alone (dilations of 1, 2, 4), and else repeats its last with weights.

    Args:
        blocks: the blocks there are.
        more: how many are to come.
        kinds: what else is known of each block, as a configuration keeps it.

    """
    kinds = kinds or [None] * len(blocks)
    made = [(_settings(block), kind) for block, kind in zip(blocks, kinds, strict=True)]
    period = _repetition(made)
    start = len(blocks) - period
    if not period:
        shapes = [_parameters(block) for block in blocks]
        if len(set(shapes)) > 1:
            last = max((n for n, held in enumerate(shapes) if held), default=len(blocks) - 1)
            return [last] * more
        start, period = 0, len(blocks)
    return [start + i % period for i in range(more)]


def _repetition(made: Sequence[Any]) -> int:
    """The period of the earliest repetition that goes on to the end; 0 where there is none."""
    last = len(made)
    for total in range(1, last):
        for first in range(total):
            period = total - first
            if last - first > period and all(made[i] == made[i - period] for i in range(first + period, last)):
                return period
    return 0


def _settings(block: nn.Module) -> list[tuple]:
    """What a block is made of: classes, shapes and plain settings. Rates are not: many stacks let them grow."""
    found: list[tuple] = []
    for path, module in block.named_modules():
        for name, value in vars(module).items():
            plain = isinstance(value, _PLAIN) or (
                isinstance(value, tuple) and all(isinstance(v, _PLAIN) for v in value)
            )
            if plain and name != "training" and not name.startswith("_") and not INDEX.fullmatch(name):
                found.append((path, name, value))
        found.append((path, type(module)))
    return [*found, *_parameters(block)]


def _parameters(block: nn.Module) -> tuple:
    return tuple((name, tuple(p.shape)) for name, p in block.named_parameters())
