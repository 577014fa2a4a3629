"""Linear layers as values that can be composed and added: convolutions, transposed ones, linear and affine layers.

A convolution reads ``y[n] = sum_t w[t] x[s n + d t - p]``, so two of them after each other are one whose kernel is the
second's, spread by s1 d2, convolved with the first's: side ``d1 (k1 - 1) + s1 d2 (k2 - 1) + 1``, stride ``s1 s2``,
padding ``p1 + s1 p2``. That is exact wherever the second one's padding commutes with the first; `then` raises
NotExact where it does not. Tensors may lie on the meta device: then only shapes are worked out.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Form = Literal["conv", "transposed", "affine"]


class NotExact(Exception):
    """Two layers are not one layer; the message says why."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear map between channels, the same at every position.

    `form` "conv": `weight` is out x in/groups x *kernel (a linear layer has no kernel dimensions and works on the last
    dimension); "transposed": likewise, in this order of dimensions; "affine": one factor a channel. `padding` is on
    both sides. Layers of `dims` 0 are those on the last dimension.
    """

    form: Form
    dims: int
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    mode: str = "zeros"
    groups: int = 1

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    @property
    def inputs(self) -> int:
        return self.outputs if self.form == "affine" else self.weight.shape[1] * self.groups

    @property
    def kernel(self) -> tuple[int, ...]:
        return (1,) * self.dims if self.form == "affine" else tuple(self.weight.shape[2:])

    @property
    def signature(self) -> tuple:
        """All that is known of it without its weights."""
        options = self.stride, self.padding, self.dilation, self.output_padding, self.mode, self.groups
        return self.form, self.dims, tuple(self.weight.shape), self.bias is None, *options

    def is_pointwise(self, axis: int) -> bool:
        """Whether, along one spatial axis, each output position reads its own input position only."""
        if self.form == "affine":
            return True
        return self.form == "conv" and (self.kernel[axis], self.stride[axis], self.padding[axis]) == (1, 1, 0)

    def macs(self, positions_in: int, positions_out: int) -> int:
        """Multiply-adds on so many positions; an affine layer counts nothing, as in `costing`."""
        if self.form == "affine":
            return 0
        return self.weight.numel() * (positions_in if self.form == "transposed" else positions_out)

    def __repr__(self) -> str:
        if self.form == "affine":
            return f"affine {self.outputs}"
        kernel = "x".join(map(str, self.kernel)) or "linear"
        stride = f" s{max(self.stride)}" if self.stride and max(self.stride) > 1 else ""
        return f"{self.inputs}->{self.outputs} {kernel}{stride}{' transposed' if self.form == 'transposed' else ''}"


def identity(channels: int, dims: int, *, device: torch.device | str | None = None) -> Layer:
    """The layer that changes nothing."""
    return Layer("affine", dims, torch.ones(channels, dtype=torch.float64, device=device), None)


def then(first: Layer, second: Layer, *, hoist: bool = False) -> Layer:
    """The one layer that does what `first` and then `second` do.

    Raises NotExact where no layer does, at every size of the input. `hoist`: as if all padding were done by the first
    layer, which is then the only reason not to be exact.
    """
    if first.dims != second.dims:
        raise NotExact("one works on the last dimension of its input, the other on the second")
    if first.outputs != second.inputs:
        raise NotExact(f"{first.outputs} channels come, {second.inputs} are read")
    if first.form == "affine" or second.form == "affine":
        return _with_affine(first, second)
    if first.form == "transposed":
        return _transposed_then(first, second)
    if second.form == "transposed":
        return _then_transposed(first, second)
    padding, mode = _hoisted(first, second) if hoist else _joint_padding(first, second)
    groups = math.gcd(first.groups, second.groups)
    steps = [s * d for s, d in zip(first.stride, second.dilation, strict=True)]
    dilation, (near, far) = _lattice((first.dilation, first.kernel), (steps, second.kernel))
    weight = _convolved(_stacked(second, groups), _stacked(first, groups), far, near).flatten(0, 1)
    stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
    bias = _bias_after(first, second)
    return Layer("conv", first.dims, weight, bias, stride, padding, dilation, (0,) * first.dims, mode, groups)


def plus(first: Layer, second: Layer) -> Layer:
    """The one layer whose output is the sum of both layers' on one input. Raises NotExact where there is none."""
    if first.dims != second.dims:
        raise NotExact("one works on the last dimension of its input, the other on the second")
    if first.form == "affine" and second.form == "affine":
        return replace(first, weight=first.weight + second.weight, bias=_sum(first.bias, second.bias))
    if first.form == "affine":
        first, second = second, first
    if first.form == "transposed" or second.form == "transposed":
        raise NotExact("a sum with a transposed convolution")
    groups = math.gcd(first.groups, second.groups) if second.form != "affine" else first.groups
    if second.form == "affine":
        second = as_convolution(second, groups)
    if first.stride != second.stride:
        raise NotExact(f"their strides differ, {first.stride} and {second.stride}")
    padded = {layer.mode for layer in (first, second) if any(layer.padding)}
    if len(padded) > 1:
        raise NotExact(f"their padding modes differ, {' and '.join(sorted(padded))}")
    kernel, dilation, padding, places = [], [], [], ([], [])
    for axis in range(first.dims):
        taps = [
            [t * layer.dilation[axis] - layer.padding[axis] for t in range(layer.kernel[axis])]
            for layer in (first, second)
        ]
        if taps[0][0] + taps[0][-1] != taps[1][0] + taps[1][-1]:
            raise NotExact("their kernels are not centred on the same position")
        low, high = min(t[0] for t in taps), max(t[-1] for t in taps)
        step = math.gcd(*(offset - low for t in taps for offset in t)) or 1
        kernel.append((high - low) // step + 1)
        dilation.append(step)
        padding.append(-low)
        for offsets, t in zip(places, taps, strict=True):
            offsets.append([(offset - low) // step for offset in t])
    weight = first.weight.new_zeros(first.outputs, first.inputs // groups, *kernel)
    for layer, offsets in zip((first, second), places, strict=True):
        if not weight.is_meta:
            dense = _stacked(layer, groups).flatten(0, 1)
            weight[np.ix_(range(weight.shape[0]), range(weight.shape[1]), *offsets)] += dense
    return replace(
        first, weight=weight, bias=_sum(first.bias, second.bias), padding=tuple(padding), dilation=tuple(dilation),
        mode=next(iter(padded), "zeros"), groups=groups,
    )  # fmt: skip


def _with_affine(first: Layer, second: Layer) -> Layer:
    if first.form == "affine" and second.form == "affine":
        weight = first.weight * second.weight
        moved = None if first.bias is None else first.bias * second.weight
        return replace(first, weight=weight, bias=_sum(moved, second.bias), dims=max(first.dims, second.dims))
    if second.form == "affine":
        weight = first.weight * second.weight.reshape(-1, *[1] * (first.weight.dim() - 1))
        moved = None if first.bias is None else first.bias * second.weight
        return replace(first, weight=weight, bias=_sum(moved, second.bias))
    if first.bias is not None:
        if second.form == "transposed":
            raise NotExact("a shift before a transposed convolution reaches its outputs unevenly")
        if any(second.padding) and second.mode == "zeros":
            raise NotExact("a shift before zero padding: the border would have to be padded with what is no zero")
    per_group = first.weight.reshape(second.groups, 1, -1, *[1] * second.dims)
    weight = (second.weight.unflatten(0, (second.groups, -1)) * per_group).flatten(0, 1)
    return replace(second, weight=weight, bias=_bias_after(first, second))


def _then_transposed(first: Layer, second: Layer) -> Layer:
    if not all(first.is_pointwise(axis) for axis in range(first.dims)):
        raise NotExact("a convolution of several positions before a transposed one")
    if first.bias is not None:
        raise NotExact("a bias before a transposed convolution reaches its outputs unevenly")
    groups = math.gcd(first.groups, second.groups)
    pointwise = _stacked(first, groups).flatten(2)
    weight = torch.einsum("gom...,gmi->goi...", _stacked(second, groups), pointwise).flatten(0, 1)
    return replace(second, weight=weight, groups=groups)


def _transposed_then(first: Layer, second: Layer) -> Layer:
    if second.form == "transposed":
        raise NotExact("a transposed convolution after another")
    if any(second.padding) or any(s > 1 for s in second.stride):
        raise NotExact("a padded or strided convolution after a transposed one")
    groups = math.gcd(first.groups, second.groups)
    dilation, (near, far) = _lattice((first.dilation, first.kernel), (second.dilation, second.kernel))
    axes = tuple(range(3, 3 + first.dims))
    weight = _convolved(_stacked(second, groups).flip(axes), _stacked(first, groups), far, near).flatten(0, 1)
    if any(op >= max(s, d) for op, s, d in zip(first.output_padding, first.stride, dilation, strict=True)):
        raise NotExact("an output padding that no transposed convolution of the merged kernel can have")
    reach = [d * (k - 1) for d, k in zip(second.dilation, second.kernel, strict=True)]
    padding = tuple(p + r for p, r in zip(first.padding, reach, strict=True))
    return replace(
        first, weight=weight, bias=_bias_after(first, second), padding=padding, dilation=dilation, groups=groups
    )


def _joint_padding(first: Layer, second: Layer) -> tuple[tuple[int, ...], str]:
    """The padding of both layers in one, where it is exact."""
    for axis, padding in enumerate(second.padding):
        if not padding:
            continue
        if first.is_pointwise(axis):
            if second.mode == "zeros" and first.bias is not None:
                raise NotExact("a bias before zero padding: the border would have to be padded with what is no zero")
        elif (first.mode, second.mode) == ("circular", "circular") and any(first.padding):
            period = first.dilation[axis] * (first.kernel[axis] - 1) == 2 * first.padding[axis]
            if not period or first.stride[axis] > 1:  # a stride keeps it where it divides the size, and only there
                raise NotExact("circular padding after a convolution that does not keep the period at every size")
        else:
            raise NotExact("both are padded: hoist_padding() moves it to the first, which changes the border")
    return _hoisted(first, second)


def _hoisted(first: Layer, second: Layer) -> tuple[tuple[int, ...], str]:
    modes = [layer.mode for layer in (first, second) if any(layer.padding)]
    if len(set(modes)) > 1:
        raise NotExact(f"their padding modes differ, {' and '.join(modes)}")
    padding = tuple(p + s * q for p, s, q in zip(first.padding, first.stride, second.padding, strict=True))
    return padding, modes[0] if modes else "zeros"


def _lattice(*taps: tuple[Sequence[int], Sequence[int]]) -> tuple[tuple[int, ...], list[list[int]]]:
    """For kernels with (spacing, size) along each axis: the widest spacing on which all their taps lie, and the
    spacing of each kernel in its units."""
    common = []
    for axis in range(len(taps[0][0])):
        common.append(math.gcd(*(spacing[axis] for spacing, size in taps if size[axis] > 1)) or 1)
    units = [[s // g if k > 1 else 1 for s, k, g in zip(spacing, size, common, strict=True)] for spacing, size in taps]
    return tuple(common), units


def _convolved(second: Tensor, first: Tensor, stride: list[int], dilation: list[int]) -> Tensor:
    """``out[g, o, i, v] = sum over m, t of second[g, o, m, t] first[g, m, i, u]`` with v = stride t + dilation u.

    A product of matrices for each tap of the second: a transposed convolution would read all of `first` for every `o`.
    """
    taps, size = second.shape[3:], first.shape[3:]
    reach = [s * (t - 1) + d * (u - 1) + 1 for s, t, d, u in zip(stride, taps, dilation, size, strict=True)]
    out = second.new_zeros(*second.shape[:2], first.shape[2], *reach)
    for tap in itertools.product(*map(range, taps)) if not out.is_meta else ():
        one = torch.bmm(second[(..., *tap)], first.flatten(2)).unflatten(2, first.shape[2:])
        starts = [s * t for s, t in zip(stride, tap, strict=True)]
        places = [slice(at, at + d * (u - 1) + 1, d) for at, d, u in zip(starts, dilation, size, strict=True)]
        out[(..., *places)] += one
    return out


def _stacked(layer: Layer, groups: int) -> Tensor:
    """The weight as `groups` blocks, groups x out x in x kernel, each of an equal share of the inputs; dense within."""
    weight = layer.weight.unflatten(0, (groups, -1))
    inner = layer.groups // groups
    if inner == 1:
        return weight
    out, share = layer.outputs // layer.groups, weight.shape[2]
    dense = weight.new_zeros(groups, inner * out, inner * share, *weight.shape[3:])
    for i in range(inner if not weight.is_meta else 0):
        rows = slice(i * out, (i + 1) * out)
        dense[:, rows, i * share : (i + 1) * share] = weight[:, rows]
    return dense


def as_convolution(layer: Layer, groups: int) -> Layer:
    """An affine layer as a convolution of one position, with so many groups."""
    share = layer.outputs // groups
    diagonal = layer.weight.new_zeros(layer.outputs, share)
    if not diagonal.is_meta:
        diagonal[torch.arange(layer.outputs), torch.arange(layer.outputs) % share] = layer.weight
    ones, none = (1,) * layer.dims, (0,) * layer.dims
    weight = diagonal.reshape(layer.outputs, share, *ones)
    return Layer("conv", layer.dims, weight, layer.bias, ones, none, ones, none, "zeros", groups)


def _bias_after(first: Layer, second: Layer) -> Tensor | None:
    """What the second layer makes of the first one's bias, and its own."""
    if first.bias is None:
        return second.bias
    if second.weight.is_meta:  # planning asks for little else
        return second.weight.new_empty(second.outputs)
    taps = second.weight.flatten(2).sum(2) if second.dims else second.weight
    blocks = zip(taps.chunk(second.groups), first.bias.chunk(second.groups), strict=True)
    return _sum(torch.cat([tap @ bias for tap, bias in blocks]), second.bias)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def swapped(weight: Tensor, groups: int) -> Tensor:
    """A transposed convolution's weight, in x out/groups, as out x in/groups, and back."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).contiguous()
