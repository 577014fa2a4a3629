"""What may be chosen at a place of a network: kernel sizes, leaving it out, channels, another module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from ..arguments import choice, function, whole, wrong
from ..passes.choice.options import KEEP, MOST_KERNEL, ORIGINAL, SKIP, channels, kernel_size
from ..passes.width.scale import MOST_CHANNELS

WEIGHTS = ("own", "shared")


@dataclass(frozen=True)
class Options:
    """What may stand at each module that a pattern names; made by `kernel`, `optional`, `width` and `either`.

    Attributes:
        kind: The name of the function that made it.
        values: The options, as an architecture names them.
        weights: "own", weights for each option, or "shared".
        factories: By option, what makes the module.
    """

    kind: str
    values: tuple[Any, ...]
    weights: str = "own"
    factories: Mapping[str, Callable[[nn.Module], nn.Module]] = field(default_factory=dict)

    def original(self, model: nn.Module, path: str) -> Any:
        """The option that `model` has at `path`. Raises ValueError for a module that this kind is not for."""
        read: dict[str, Callable[[nn.Module, str], Any]] = {"kernel": kernel_size, "width": channels}
        found = read[self.kind](model, path) if self.kind in read else self.values[0]
        if found not in self.values:
            what = "kernel" if self.kind == "kernel" else "channels"
            rule = f"those that {path} has among its options, {found}"
            raise ValueError(wrong(f"al.{self.kind}: the {what}", rule, self.values, f"add {found}"))
        return found


def kernel(*sizes: int, weights: Literal["own", "shared"] = "own") -> Options:
    """The kernel size of a convolution, or of all convolutions in a block together; padded to the same output.

    Args:
        sizes: The sizes, that of the original among them; all odd or all even.
        weights: "own": each size has weights of its own, the new ones fresh (Guo et al. 2020); "shared": one weight,
            of which a smaller kernel is the centre and what is outside the original begins at zero.

    Raises:
        ValueError: for fewer than two sizes, or one twice.

    >>> kernel(3, 5, 7).values
    (3, 5, 7)
    """
    choice("al.kernel: weights", weights, WEIGHTS)
    for size in sizes:
        whole("al.kernel: a size", size, most=MOST_KERNEL)
    return Options("kernel", _several("al.kernel: sizes", sizes), weights)


def optional() -> Options:
    """Whether a module is there: "keep", or "skip", where its input stands for its output of the same shape.

    >>> optional().values
    ('keep', 'skip')
    """
    return Options("optional", (KEEP, SKIP))


def width(*counts: int) -> Options:
    """The output channels of a layer, with all that must follow, as `al.scale_width` finds it; weights for each count.

    Args:
        counts: The numbers of channels, that of the original among them.

    Raises:
        ValueError: for fewer than two, or one twice.

    >>> width(8, 16).values
    (8, 16)
    """
    for count in counts:
        whole("al.width: a count", count, most=MOST_CHANNELS)
    return Options("width", _several("al.width: counts", counts))


def either(*factories: Callable[[nn.Module], nn.Module]) -> Options:
    """Another module in place of the "original", by the name of the factory that makes it.

    Args:
        factories: ``factory(module)`` makes a module that can stand where `module` does. A recipe keeps the name only:
            `al.load` looks it up in the `modules` that it is given.

    Raises:
        ValueError: for no factory, one without a name, or two of one name.
        TypeError: for what is no function of a module.

    >>> def leaky(module):
    ...     return nn.LeakyReLU(0.1)
    >>> either(leaky).values
    ('original', 'leaky')
    """
    named = {}
    for factory in factories:
        function("al.either: a factory", factory, "the module that stands there")
        name = getattr(factory, "__name__", "")
        if not name.isidentifier() or name == ORIGINAL:
            raise ValueError(wrong("al.either: a factory", "a function with a name that a recipe can keep", factory))
        named[name] = factory
    values = _several("al.either: factories", (ORIGINAL, *(getattr(f, "__name__", "") for f in factories)))
    return Options("either", values, factories=named)


def _several(name: str, values: tuple) -> tuple:
    if len(values) < 2 or len(set(values)) < len(values):
        raise ValueError(wrong(name, "two options or more, each once", values))
    return values
