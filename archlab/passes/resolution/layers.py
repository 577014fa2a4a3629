"""Layers that lead to another grid and back: what `scale_resolution` and `share` put into a network."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Down = Literal["conv", "average", "pixel-unshuffle"]
Up = Literal["nearest-conv", "bilinear", "pixel-shuffle"]
Init = Literal["fresh", "resample"]
INIT = ("fresh", "resample")
DOWN, UP = ("conv", "average", "pixel-unshuffle"), ("nearest-conv", "bilinear", "pixel-shuffle")
_CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_LINEAR = ("linear", "bilinear", "trilinear")
MODEL_CODE = True  # of the models that these layers are put into: see `frames`


class DownStage(nn.Module):
    """Half the grid, sizes rounded up: N x C x spatial, of one to three dimensions."""

    def __init__(self, how: Down, channels: int, dims: int, kernel: int, mode: str, activation: nn.Module | None):
        super().__init__()
        self.how, self.dims = how, dims
        conv = _CONVOLUTIONS[dims - 1]
        if how == "conv":
            self.conv = conv(channels, channels, kernel, 2, kernel // 2, padding_mode=mode)
        elif how == "average":
            self.pool = _POOLS[dims - 1](2, ceil_mode=True)
        else:
            self.conv = conv(channels * 2**dims, channels, kernel, 1, kernel // 2, padding_mode=mode)
        self.act = activation if how != "average" else None

    @torch.no_grad()
    def resample_(self) -> None:
        """Begin as the mean of each cell of two: an average over its pixels. A kernel of one sees the first alone; the
        last cell of an odd side takes in what the convolution is padded with."""
        if self.how == "average":
            return
        _zero_(self.conv)
        weight, middle = self.conv.weight, self.conv.kernel_size[0] // 2
        cell = (slice(middle, middle + 2),) * self.dims if self.how == "conv" else (middle,) * self.dims
        inputs = weight.shape[1] // weight.shape[0]  # of each channel: the pixels of a cell where they are unshuffled
        for channel in range(len(weight)):
            seen = weight[(channel, slice(channel * inputs, (channel + 1) * inputs), *cell)]
            seen.fill_(1 / seen.numel())

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "average":
            return self.pool(x)
        if self.how == "pixel-unshuffle":
            odd = [side % 2 for side in x.shape[2:]]
            if any(odd):
                x = F.pad(x, [n for side in reversed(odd) for n in (0, side)], mode="replicate")
            x = unshuffled(x)
        x = self.conv(x)
        return x if self.act is None else self.act(x)


class UpStage(nn.Module):
    """Twice the grid, cut to `size`: N x C x spatial, of one to three dimensions."""

    def __init__(self, how: Up, channels: int, dims: int, kernel: int, mode: str, activation: nn.Module | None):
        super().__init__()
        self.how, self.dims = how, dims
        if how != "bilinear":
            made = channels * 2**dims if how == "pixel-shuffle" else channels
            self.conv = _CONVOLUTIONS[dims - 1](channels, made, kernel, 1, kernel // 2, padding_mode=mode)
        self.act = activation if how != "bilinear" else None

    @torch.no_grad()
    def resample_(self) -> None:
        """Begin as the copy of each pixel to its cell of two."""
        if self.how == "bilinear":
            return
        _zero_(self.conv)
        weight, middle = self.conv.weight, (self.conv.kernel_size[0] // 2,) * self.dims
        made = weight.shape[0] // weight.shape[1]  # of each channel: the pixels of a cell where they are shuffled
        for channel in range(len(weight)):
            weight[(channel, channel // made, *middle)] = 1.0

    def forward(self, x: Tensor, size: Iterable[int] | None = None) -> Tensor:
        if self.how == "pixel-shuffle":
            x = shuffled(self.conv(x), self.dims)
        elif self.how == "bilinear":
            x = F.interpolate(x, scale_factor=2.0, mode=_LINEAR[self.dims - 1], align_corners=False)
        else:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        for axis, side in enumerate(size or (), 2):
            if x.shape[axis] != side:
                x = x.narrow(axis, 0, side)
        if self.how == "nearest-conv":
            x = self.conv(x)
        return x if self.act is None else self.act(x)


def _zero_(conv: nn.Module) -> None:
    """Set all of a convolution's parameters to zero."""
    for parameter in conv.parameters():
        parameter.zero_()


class Coarser(nn.Sequential):
    """Stages after each other, each on half the grid of the one before."""

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        for stage in self:
            x = stage(x)
        return x


class Finer(nn.Sequential):
    """Stages after each other, each on twice the grid; the last one gives that of `like`, so odd sizes come back."""

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        sizes: list[tuple[int, ...] | None] = [None if like is None else tuple(like.shape[2:])]
        for _ in range(len(self) - 1):
            sizes.append(sizes[-1] and tuple(-(-side // 2) for side in sizes[-1]))
        for stage, size in zip(self, reversed(sizes), strict=True):
            x = stage(x, size)
        return x


class Rescaled(nn.Module):
    """`span` on another grid: brought there by `before`, back by `after`."""

    def __init__(self, before: nn.Module, span: nn.Module, after: nn.Module):
        super().__init__()
        self.before, self.span, self.after = before, span, after

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.after(self.span(self.before(x), *args, **kwargs), x)


class Resample(nn.Module):
    """A map on another grid: `factor` times finer (nearest) where that is above 1, else averaged, odd sizes rounded up.

    N x C x spatial, of one to three dimensions.
    """

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"

    def forward(self, x: Tensor) -> Tensor:
        if self.factor > 1:
            return F.interpolate(x, scale_factor=self.factor, mode="nearest")
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.dim() - 3]
        return pool(x, round(1 / self.factor), ceil_mode=True)


def shuffled(x: Tensor, dims: int, factor: int = 2) -> Tensor:
    """N x (C factor^dims) x spatial as N x C x `factor` times the grid: torch's pixel shuffle, for any number of
    dimensions."""
    n, channels, *sides = x.shape
    channels //= factor**dims
    x = x.reshape(n, channels, *[factor] * dims, *sides)
    order = [axis for pair in zip(range(2 + dims, 2 + 2 * dims), range(2, 2 + dims), strict=True) for axis in pair]
    return x.permute(0, 1, *order).reshape(n, channels, *(factor * side for side in sides))


def unshuffled(x: Tensor) -> Tensor:
    """N x C x even grid as N x (C 2^dims) x half the grid: torch's pixel unshuffle, for any number of dimensions."""
    n, channels, *sides = x.shape
    dims = len(sides)
    x = x.reshape(n, channels, *(part for side in sides for part in (side // 2, 2)))
    x = x.permute(0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2))
    return x.reshape(n, channels * 2**dims, *(side // 2 for side in sides))
