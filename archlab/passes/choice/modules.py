"""What stands in a supernet where there is a choice: modules of which one option is computed at a time.

The option at index 0 is the one that the model had; `now` is the index of the option that runs. What runs is all that
autograd sees, so the weights of the others get no gradient.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd as Convolution

from ...capture.copies import copied


class Choice(nn.Module):
    """One of several modules. Attributes that it lacks are those of the one that runs."""

    def __init__(self, options: Sequence[nn.Module]):
        super().__init__()
        self.options = nn.ModuleList(options)
        self.now = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.options[self.now](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or name == "options":
                raise
        return getattr(self.options[self.now], name)

    def plain(self) -> nn.Module:
        """The module that runs."""
        return self.options[self.now]

    def parameters_of(self, index: int) -> Iterator[nn.Parameter]:
        """Those of the option at `index`, without those of choices inside it."""
        return parameters_outside_choices(self.options[index])


class SharedKernel(nn.Module):
    """A convolution of several kernel sizes with one weight: a smaller kernel is the centre of a larger one.

    The weight is kept in rings, each what one size has more than the next smaller one, so that those that a size does
    not reach get no gradient. Rings outside the original kernel begin at zero.
    """

    def __init__(self, conv: Convolution, sizes: Sequence[int]):
        """`sizes` begins with that of `conv`."""
        super().__init__()
        self.sizes, self.now = tuple(sizes), 0
        self.shells = nn.ModuleList(_without_weights(resized(conv, size)) for size in sizes)
        self.register_parameter("bias", conv._parameters["bias"])
        self.rings = nn.ParameterList()
        weight, own = conv.weight.detach(), conv.weight.shape[-1]
        cells: dict[tuple[int, ...], int] = {}  # of the rings in turn, with their numbers
        for inner, size in itertools.pairwise([0, *sorted(sizes)]):
            grid = list(_cells(size, weight.dim() - 2))
            ring = [cell for cell in grid if max(map(abs, cell)) >= inner]
            cells |= {cell: len(cells) + number for number, cell in enumerate(ring)}
            places = [[(c + own - 1) // 2 for c in cell] for cell in ring]
            columns = [
                weight[(..., *place)] if size <= own else torch.zeros_like(weight.flatten(2)[..., 0])
                for place in places
            ]
            self.rings.append(nn.Parameter(torch.stack(columns, -1), requires_grad=conv.weight.requires_grad))
            order = torch.tensor([cells[cell] for cell in grid], device=weight.device)
            self.register_buffer(f"order_{size}", order, persistent=False)

    def weight(self, size: int) -> Tensor:
        """The weight of one size."""
        rings = list(self.rings)[: sorted(self.sizes).index(size) + 1]
        flat = torch.cat(rings, dim=-1)[..., self.get_buffer(f"order_{size}")]
        return flat.unflatten(-1, self._shell(size).kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        size = self.sizes[self.now]
        return self._shell(size)._conv_forward(x, self.weight(size), self.bias)

    def plain(self) -> nn.Module:
        """A convolution of the size that runs, with copies of its weights."""
        size = self.sizes[self.now]
        conv = copied(self._shell(size))
        conv.weight = nn.Parameter(self.weight(size).detach(), requires_grad=self.rings[0].requires_grad)
        conv.bias = self.bias
        return conv.train(self.training)

    def parameters_of(self, index: int) -> Iterator[nn.Parameter]:
        """Those that the size at `index` is computed with."""
        reach = sorted(self.sizes).index(self.sizes[index]) + 1
        own = {f"rings.{number}" for number in range(reach)} | {"bias"}
        return (parameter for name, parameter in self.named_parameters() if name in own)

    def _shell(self, size: int) -> Any:
        return self.shells[self.sizes.index(size)]


class Skip(nn.Module):
    """Gives back the first tensor that it gets, in place of a module that is left out."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


CHOICES = (Choice, SharedKernel)


def parameters_outside_choices(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of `module` and of what it holds, but for choices."""
    if not isinstance(module, CHOICES):
        yield from module.parameters(recurse=False)
        for child in module.children():
            yield from parameters_outside_choices(child)


def resized(conv: Convolution, size: int) -> Convolution:
    """A convolution as `conv` of another kernel size, padded so that its output has the same shape; new weights."""
    dims = len(conv.kernel_size)
    new, kernel, padding = copied(conv), (size,) * dims, padding_for(conv, size)
    twin = getattr(nn, f"Conv{dims}d")(
        1, 1, kernel, padding=padding, dilation=conv.dilation, padding_mode=conv.padding_mode, device="meta"
    )
    for name in ("kernel_size", "padding", "_reversed_padding_repeated_twice"):
        setattr(new, name, vars(twin)[name])
    old = new.weight
    new.weight = nn.Parameter(old.new_empty((*old.shape[:2], *kernel)), requires_grad=old.requires_grad)
    new.reset_parameters()
    return new


def padding_for(conv: Convolution, size: int) -> Any:
    """The padding with which a kernel of another size makes an output of the same shape; it may be below zero."""
    if conv.padding == "same":
        return "same"
    pads = (0,) * len(conv.kernel_size) if isinstance(conv.padding, str) else conv.padding
    return tuple(p + d * (size - k) // 2 for p, d, k in zip(pads, conv.dilation, conv.kernel_size, strict=True))


def _without_weights(conv: Convolution) -> Convolution:
    for name in ("weight", "bias"):
        conv.register_parameter(name, None)
    return conv


def _cells(size: int, dims: int) -> Iterator[tuple[int, ...]]:
    """The places in a kernel, in order, as twice their distances from its centre."""
    return itertools.product(range(1 - size, size, 2), repeat=dims)
