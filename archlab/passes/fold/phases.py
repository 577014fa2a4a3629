"""A convolution behind a nearest upsampling as one on the coarse grid: the arithmetic, and the module that it becomes.

Along one axis, ``out[m] = sum over t of w[t] up[m - p + d t]`` with ``up[z] = x[floor(z / r)]``. With ``m - p = r j +
b`` it reads ``x[j + floor((b + d t) / r)]``: for each phase b a kernel of its own over the coarse x, with as many taps
as the fine one covers coarse positions. So one convolution makes all phases, and a pixel shuffle puts ``r j + b`` in
order; what it makes beyond both ends is cut.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..resolution.layers import shuffled
from .linear import Layer, NotExact

MODEL_CODE = True  # of the models that these layers are put into: see `capture.frames`

Cut = tuple[tuple[int, int], ...]  # positions at the near and the far end of each axis of the fine grid


class PhaseConv(nn.Module):
    """``conv(upsampled)`` from the map that was upsampled: `conv` makes all phases of each output channel, which are
    shuffled onto a grid `factor` times as fine, and `cut` is cut off its ends. N x C x spatial, of one to three
    dimensions."""

    def __init__(self, conv: nn.Module, factor: int, cut: Cut):
        super().__init__()
        self.conv, self.factor, self.cut = conv, factor, cut

    def extra_repr(self) -> str:
        return f"factor={self.factor}, cut={self.cut}"

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        dims = len(self.cut)
        x = F.pixel_shuffle(x, self.factor) if dims == 2 else shuffled(x, dims, self.factor)
        return x[(..., *(slice(near, -far or None) for near, far in self.cut))]


def phases(layer: Layer, factor: int) -> tuple[Layer, Cut]:
    """The convolution that makes all phases of `layer` behind a nearest upsampling by `factor`, and what is cut off.

    Zero, circular and replicating padding of the fine grid are those of the coarse one. Mirrored positions of the fine
    grid are the coarse border's as long as there are fewer of them than the factor.

    Raises NotExact where no such layer does the same, or where it has no fewer taps.
    """
    if layer.form != "conv" or not layer.dims:
        raise NotExact("it is no convolution")
    if any(stride > 1 for stride in layer.stride):
        raise NotExact("it has a stride")
    mode = layer.mode
    if mode == "reflect":
        if max(layer.padding) >= factor:
            raise NotExact(f"it mirrors {max(layer.padding)} positions, of which the coarse grid knows {factor - 1}")
        mode = "replicate"
    weight, kernel, padding, cut = layer.weight, [], [], []
    for k, d, p in zip(layer.kernel, layer.dilation, layer.padding, strict=True):
        reach = d * (k - 1)
        taps = (factor - 1 + reach) // factor + 1
        # As far as the fine padding reaches at the near end, and the last window at the far end.
        coarse = max(-(-p // factor), -(-(factor * (taps - 1) + p - reach) // factor))
        near = factor * coarse - p
        cut.append((near, near - factor * (taps - 1) + reach))
        kernel.append(taps)
        padding.append(coarse)
        chosen = torch.zeros(k, factor, taps, dtype=weight.dtype, device=weight.device)
        for t in range(k):
            for b in range(factor):
                chosen[t, b, (b + d * t) // factor] = 1
        weight = torch.einsum("abi...,ipt->ab...pt", weight, chosen)  # its phases and taps come last
    if torch.Size(kernel).numel() >= torch.Size(layer.kernel).numel():
        raise NotExact("its kernel covers as many positions of the coarse grid")
    outer, inner = range(2, 2 + 2 * layer.dims, 2), range(3, 3 + 2 * layer.dims, 2)
    weight = weight.permute(0, *outer, 1, *inner).reshape(-1, weight.shape[1], *kernel)
    bias = None if layer.bias is None else layer.bias.repeat_interleave(factor**layer.dims)
    ones = (1,) * layer.dims
    made = replace(
        layer, weight=weight, bias=bias, padding=tuple(padding), stride=ones, dilation=ones, mode=mode,
    )  # fmt: skip
    return made, tuple(cut)
