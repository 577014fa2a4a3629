"""The networks made faster on a CPU, with the same output. For inference: no upsampled maps, no padded copies, sums
that bear half precision, and memory that is not given back after each map. For training in half precision: padding in
it.

torch pads a map with a mirrored border into a new one and convolves that. At full HD these copies took a quarter of the
proposed network's time on a CPU. Here a large map is convolved with the zeros that the convolution itself pads with,
and the ring of outputs that saw them is computed again, of four narrow strips with their mirrored border.
"""

import ctypes
import platform
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al

from .example import example_for
from .models import MagnificationNet

# Positions of a map from which on the ring is faster; measured on one core of a Xeon with AVX-512, channels last, fp32:
# 3 x 3 of 32 channels at 270 x 480 16.4 ms instead of 19.0, at 1080 x 1920 (to 16 channels) 195 instead of 337; 7 x 7
# of 16 channels at 540 x 960 83 instead of 87. At 24 x 24 it takes 1.6 times as long.
LARGE = 2**16
SIDE = 32  # pixels of the frames that `upsampling_folded` is checked on
Net = TypeVar("Net", bound=nn.Module)


def upsampling_folded(net: MagnificationNet) -> MagnificationNet:
    """A copy of `net` by `al.fold_upsampling`, the same within rounding; `net` itself where nothing can be folded, as
    in one that was saved so."""
    try:
        folded = al.fold_upsampling(net, example_for(net, SIDE))
    except ValueError:
        return net
    assert isinstance(folded, MagnificationNet)
    return folded


def pad_by_ring_(net: Net) -> Net:
    """Let the convolutions of `net` that it can be done to be `RingConv2d`, in place; structure and weights stay.

    Those of stride, dilation and groups 1 whose border is mirrored or replicated by less than the kernel is wide.
    """
    for module in net.modules():
        if type(module) is nn.Conv2d and _has_ring(module):
            module.__class__ = RingConv2d
    return net


def sum_in_fp32_(net: MagnificationNet) -> MagnificationNet:
    """Let the decoder's residual blocks of `net` add to a map in fp32 under autocast too, in place.

    In bf16 each sum is rounded to 8 bits, and the proposed network adds 36 times: its frames were up to 9 of 256 levels
    off at full HD, total gain 10, and are up to 4 with sums in fp32.
    """
    net.decoder.blocks.register_forward_pre_hook(lambda blocks, inputs: tuple(x.float() for x in inputs))
    return net


def pad_in_half_(net: Net) -> Net:
    """Let the convolutions of `net` that pad with more than zeros be `HalfPadConv2d`, in place.

    A step of training in bf16 on a CPU with AMX takes 17 % less time. The output is the same to the bit; of gradients,
    what is mirrored is added in bf16.
    """
    return _convolutions_as(net, nn.Conv2d, HalfPadConv2d)


def pad_as_torch_(net: Net) -> Net:
    """Take back what `pad_in_half_` did, in place, also in what passes have made of that network since."""
    return _convolutions_as(net, HalfPadConv2d, nn.Conv2d)


def _convolutions_as(net: Net, now: type[nn.Conv2d], then: type[nn.Conv2d]) -> Net:
    for module in net.modules():
        if type(module) is now and module.padding_mode != "zeros":
            module.__class__ = then
    return net


# Of glibc's mallopt: the parameter, and its value.
_NO_MAPPING, _NO_TRIMMING = (-4, 0), (-1, 2**31 - 1)


def keep_freed_memory() -> bool:
    """Keep what this process frees for its next tensors; False where the C library is not glibc, which can be told so.

    glibc gives the memory of a large map back at once, and each frame then waits for the same pages again: 130 MB for
    one map of 32 channels in bf16 at full HD. For a program that owns its process, as from now on it stays as large as
    it ever was.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(*setting) for setting in (_NO_MAPPING, _NO_TRIMMING)])


class HalfPadConv2d(nn.Conv2d):
    """A convolution that on a CPU under autocast pads what it was cast to: torch casts to fp32 to pad, and back."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(input, weight, bias)
        half = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            padded = F.pad(input.to(half), self._reversed_padding_repeated_twice, mode=self.padding_mode)
        return F.conv2d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)


class RingConv2d(nn.Conv2d):
    """A convolution with a mirrored or replicated border that pads no copy of a large map. Only for inference on a CPU:
    of a small map, elsewhere, and where gradients are asked for it does what nn.Conv2d does."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        height, width = input.shape[-2:]
        large = input.dim() == 4 and height * width >= LARGE and min(height, width) > max(self.kernel_size)
        if large and input.device.type == "cpu" and not torch.is_grad_enabled():
            assert isinstance(self.padding, tuple)
            return with_ring(input, weight, bias, padding=self.padding, mode=self.padding_mode)
        return super()._conv_forward(input, weight, bias)


def with_ring(x: Tensor, weight: Tensor, bias: Tensor | None, *, padding: tuple[int, ...], mode: str) -> Tensor:
    """``conv2d(pad(x, mode), weight, bias)`` with stride 1, of a map that is larger than the kernel."""
    (above, left), (rows, columns) = padding, (side - 1 for side in weight.shape[2:])
    made = F.conv2d(x, weight, bias, padding=padding)
    if above:
        top, bottom = x[:, :, :rows], x[:, :, x.shape[2] - rows :]
        made[:, :, :above] = F.conv2d(F.pad(top, (left, left, above, 0), mode=mode), weight, bias)
        made[:, :, -above:] = F.conv2d(F.pad(bottom, (left, left, 0, above), mode=mode), weight, bias)
    if left:
        inner = made[:, :, above : made.shape[2] - above]
        first, last = x[..., :columns], x[..., x.shape[3] - columns :]
        inner[..., :left] = F.conv2d(F.pad(first, (left, 0, 0, 0), mode=mode), weight, bias)
        inner[..., -left:] = F.conv2d(F.pad(last, (0, left, 0, 0), mode=mode), weight, bias)
    return made


def _has_ring(conv: nn.Conv2d) -> bool:
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    room = {"reflect": 1, "replicate": 0}.get(conv.padding_mode)  # what is mirrored lies inside of the strip
    if isinstance(conv.padding, str) or not plain or room is None or not any(conv.padding):
        return False
    return all(not p or p + room < k for p, k in zip(conv.padding, conv.kernel_size, strict=True))
