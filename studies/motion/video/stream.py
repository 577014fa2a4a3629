"""One frame of a stream through a magnification network: eager, compiled or as a CUDA graph; 8-bit pixels in and out.

Conversions happen on the device, and what a step keeps for the next stays in place, so that the same step can be
captured as a graph.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archlab.measure.executable import captured
from archlab.measure.executable import compiled as compiled_function

from ..network.models import MagnificationNet
from .temporal import Delay, Filter, State

Result = tuple[Tensor, Tensor]  # a magnified frame, uint8 H x W x 3, and whether the network's output was finite
Run = Callable[[Tensor], Result]

# What the network's parameters and maps are. "mixed": the decoder convolves in bf16, all else, its sums too, in fp32.
DTYPES = {"fp32": torch.float32, "mixed": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
STRIDES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, eq=False)
class Stream:
    """A network, how frames go through it, and which of their motions it magnifies."""

    net: MagnificationNet
    factor: float
    stride: int
    filter: Filter
    device: torch.device
    dtype: torch.dtype
    mixed: bool = False  # the decoder under autocast to bf16


class Memory(NamedTuple):
    """What a stream keeps, changed in place; with a filter that has a delay also the shapes and textures that wait."""

    motion: State
    shapes: State
    textures: State


def automatic(device: torch.device) -> str:
    """What ``precision="auto"`` is: half precision where `device` is made for it.

    On GPUs fp16, not bf16: it rounds eight times finer, and the rounding of the shapes is magnified as a motion is. So
    on a CPU the decoder alone is in bf16, and that where it has AMX: with AVX-512's bf16 alone a 3 x 3 convolution of
    32 channels of 270 x 480 takes 28 ms of a core, in fp32 16; whole frames are in `studies.motion.figures.full_hd`.
    """
    if device.type == "cuda":
        return "fp16"
    return "mixed" if _cpu_has_amx() else "fp32"


def has_bf16(device: torch.device) -> bool:
    if device.type == "cpu":
        return _cpu_has_bf16()
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or _cpu_has_amx()


def _cpu_has_amx() -> bool:
    return torch.cpu._is_amx_tile_supported()


@torch.no_grad()
def coarsest_stride(net: nn.Module) -> int:
    """What both sides of an image must be multiples of, found by running `net` on the meta device, without data.

    Raises ValueError where it returns no image of its input's size for any of 1, 2, 4, 8, 16.

    >>> from studies.motion.network.models import EIGHTH, baseline
    >>> coarsest_stride(baseline()), coarsest_stride(MagnificationNet(EIGHTH))
    (4, 8)
    """
    blank = copy.deepcopy(net).to("meta")
    dtype, why = next(blank.parameters()).dtype, ""
    for stride in STRIDES:
        image = torch.empty(1, 3, 17 * stride, 17 * stride, dtype=dtype, device="meta")  # 17: no further factor of 2
        try:
            if blank(image, image, 2.0).shape == image.shape:
                return stride
        except RuntimeError as error:  # maps of two resolutions do not fit together
            why = f": {error}"
    raise ValueError(f"{type(net).__name__} returns no image of its input's size, 17 to {17 * STRIDES[-1]} pixels{why}")


def encoded(stream: Stream, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Texture and shape of a frame."""
    return stream.net.encode(_image(stream, pixels))


def begun(stream: Stream, texture: Tensor, shape: Tensor) -> Memory:
    """What is remembered before the first frame, whose texture and shape are given."""
    wait = Delay(stream.filter.delay)
    return Memory(stream.filter.start(shape), wait.start(shape), wait.start(texture))


def due(stream: Stream, memory: Memory, texture: Tensor, shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Texture, shape and motion of the frame that is due: the one given, or as many before as the filter's delay."""
    motion, wait = stream.filter.step(memory.motion, shape), Delay(stream.filter.delay)
    return wait.step(memory.textures, texture), wait.step(memory.shapes, shape), motion


def shown(stream: Stream, texture: Tensor, shape: Tensor, motion: Tensor, like: Tensor) -> Result:
    """A frame of the size of `like`, magnified: away from what its shape would be without its motion."""
    still = (shape - motion).to(shape.dtype)
    magnified = stream.net.manipulator(still, shape, stream.factor)
    with torch.autocast(stream.device.type, torch.bfloat16) if stream.mixed else nullcontext():
        image = stream.net.decoder(texture, magnified)
    return _result(image, like)


def step(stream: Stream, memory: Memory, pixels: Tensor) -> Result:
    """Take a frame and show the one that is due."""
    return shown(stream, *due(stream, memory, *encoded(stream, pixels)), pixels)


def _image(stream: Stream, pixels: Tensor) -> Tensor:
    """uint8 H x W x 3 as 1 x 3 x H' x W' in [-1, 1], sides mirrored up to multiples of the stride."""
    image = (pixels.permute(2, 0, 1)[None].float() / 127.5 - 1).to(stream.dtype)
    height, width = image.shape[-2:]
    if height % stream.stride or width % stream.stride:
        image = F.pad(image, (0, -width % stream.stride, 0, -height % stream.stride), mode="reflect")
    return image.contiguous(memory_format=torch.channels_last)


def _result(image: Tensor, like: Tensor) -> Result:
    """An image in [-1, 1] as uint8 of the size of `like`, and whether all of it is finite."""
    levels = ((image[0, :, : like.shape[0], : like.shape[1]].float() + 1) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 0).contiguous(), image.isfinite().all()


def eager(stream: Stream, memory: Memory, pixels: Tensor) -> Run:
    return lambda pixels: step(stream, memory, pixels.to(stream.device))


def compiled(stream: Stream, memory: Memory, pixels: Tensor) -> Run:
    """`step` compiled as a whole for one size: each video gets a version of its own."""
    fast = compiled_function(step, fullgraph=True)
    return lambda pixels: fast(stream, memory, pixels.to(stream.device))


def graphed(stream: Stream, memory: Memory, pixels: Tensor) -> Run:
    """`step` captured as a CUDA graph on the current device; frames are copied to where it reads them."""
    scratch = Memory(*([tensor.clone() for tensor in state] for state in memory))  # the true one must not move yet
    return captured(
        lambda pixels: step(stream, memory, pixels),
        [pixels.to(stream.device, copy=True)],
        warm_up=lambda pixels: step(stream, scratch, pixels),
    )


EXECUTIONS = {"eager": eager, "compile": compiled, "graph": graphed}


@contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """No gradients and none of the caller's autocast; `device` is the current one."""
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        yield
