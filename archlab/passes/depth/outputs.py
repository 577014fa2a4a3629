"""Outputs of two networks that differ in their layers, side by side: what they give for each layer (a cache, hidden
states) differs in number."""

from collections.abc import Callable, Iterator
from itertools import count as counter
from typing import Any

from torch import Tensor, nn

from ...capture.example import Call, parts_of, tensors_in


def aligned(before: Any, after: Any, have: int, count: int) -> tuple[list[int], list[int]] | None:
    """Which tensors in the outputs of `have` and of `count` blocks stand for the same, as places in what `tensors_in`
    gives of each; None where the outputs are not alike.

    Lists that differ in length by as many as the blocks have an entry a block: those of the blocks that both have are
    paired. What they have beyond the blocks (the last hidden state, behind a norm) is not.
    """
    pairs = list(_pairs(_numbered(before, counter(), ()), _numbered(after, counter(), ()), have, count))
    found = [pair for pair in pairs if pair is not None]
    return None if len(found) < len(pairs) else ([a for a, _ in found], [b for _, b in found])


def left_of(before: Any, after: Any) -> tuple[list[int], list[int]]:
    """The tensors of an output that are left in another, in which the same things hold fewer, as `aligned` gives them.

    So a cache has empty entries for layers that were removed.
    """
    pairs = list(_left(_numbered(before, counter(), ()), _numbered(after, counter(), ())))
    return [a for a, _ in pairs], [b for _, b in pairs]


def _left(a: Any, b: Any) -> Iterator[tuple[int, int]]:
    if isinstance(a, int) and isinstance(b, int):
        yield a, b
    elif isinstance(a, dict) and isinstance(b, dict):
        for key in a:
            if key in b:
                yield from _left(a[key], b[key])


def _numbered(tree: Any, numbers: Iterator[int], inside: tuple[int, ...]) -> Any:
    """The tree with a number for each tensor, in the order of `tensors_in`; without what holds none, but in lists."""
    if isinstance(tree, Tensor):
        return next(numbers)
    if id(tree) in inside:
        return {}
    parts = {key: _numbered(part, numbers, (*inside, id(tree))) for key, part in parts_of(tree).items()}
    return {key: part for key, part in parts.items() if part != {} or isinstance(tree, tuple | list)}


def _pairs(a: Any, b: Any, have: int, count: int) -> Iterator[tuple[int, int] | None]:
    if isinstance(a, int) or isinstance(b, int):
        yield (a, b) if isinstance(a, int) and isinstance(b, int) else None
    elif a.keys() == b.keys():
        for key in a:
            yield from _pairs(a[key], b[key], have, count)
    elif len(b) - len(a) == count - have and len(a) >= have:
        for key in range(min(have, count)):
            yield from _pairs(a.get(key, {}), b.get(key, {}), have, count)
    else:
        yield None


def with_output(example: Any, function: Callable[[Any], Any]) -> Call:
    """The example, giving what `function` makes of the output."""

    def run(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return function(example.fn(model, *args, **kwargs) if isinstance(example, Call) else model(*args, **kwargs))

    if isinstance(example, Call):
        return Call(run, *example.args, **example.kwargs)
    if isinstance(example, dict):
        return Call(run, **example)
    return Call(run, *(example if isinstance(example, tuple) else (example,)))


def only(places: list[int]) -> Callable[[Any], list[Tensor]]:
    """For `with_output`: the tensors at these places."""

    def pick(output: Any) -> list[Tensor]:
        tensors = tensors_in(output)
        return [tensors[place] for place in places]

    return pick
