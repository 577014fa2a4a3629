"""Magnify the motion in a stream of frames, one by one and as fast as the device can, in constant memory.

`magnify` shows what ``net(first, frame, factor)`` shows of each frame, but encodes every frame once, converts images on
the device, and runs a copy of the network: channels last, in half precision where the device has it, compiled or
replayed as a CUDA graph where that is asked for. ``python -m studies.motion.magnify`` does it to a video file.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from studies.device import device as first_device

from ..network.models import MagnificationNet
from .files import check_frame
from .stream import DTYPES, MODES, Stream, coarsest_stride, first_step, half_of, has_bf16, inference

Reference = Literal["first", "previous"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
Mode = Literal["eager", "compile", "graph"]

SMALLEST = 16  # pixels of a side: as many as the largest stride, so that there is enough to mirror


def magnify(
    net: MagnificationNet,
    frames: Iterable[np.ndarray | Tensor],
    *,
    factor: float,
    reference: Reference = "first",
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    mode: Mode = "eager",
) -> Iterator[np.ndarray]:
    """The magnified frames, one for each of `frames` as they come; both RGB, uint8 H x W x 3.

    Frames are taken one at a time and encoded once, so a stream may be endless. Sides that the network cannot take (it
    needs multiples of its `coarsest_stride`) are mirrored at the right and lower edge, and cut again.

    Tolerance, against ``net(first, frame, factor)`` in float32, with the trained baseline and factors up to 50: in fp32
    1e-4 of the network's [-1, 1], so at most one of 256 levels; in fp16 two levels, and .15 on average; in bf16 16
    levels, and 1 on average. On a GPU torch may compute fp32 convolutions in TF32 (its setting, left alone here), which
    rounds as fp16 does.

    Args:
        net: the network; it is copied, not changed.
        frames: of one size, as arrays or tensors.
        factor: the total gain: a motion d away from the reference is shown as factor · d; 1 shows the frame itself.
        reference: ``"first"``, the first frame (static mode); ``"previous"``, the frame before (dynamic mode). The
            first frame is its own reference: it comes out as the network reconstructs it.
        device: default: the first GPU, where there is one.
        precision: ``"auto"`` is fp16 on a GPU; on a CPU bf16 where it has instructions for that, else fp32.
        mode: ``"eager"``; ``"compile"``, torch.compile for the size at hand; ``"graph"``, a CUDA graph. The latter two
            get ready at the second frame.

    Raises:
        ValueError: the factor is not positive and finite, a choice is unknown, the device cannot do it, there is no
            frame, one has another size than those before, or the output is not finite; it names the frame.

    >>> from studies.motion.network.models import baseline
    >>> clip = np.full((3, 18, 30, 3), 128, np.uint8)
    >>> [frame.shape for frame in magnify(baseline(width=4), clip, factor=10)]
    [(18, 30, 3), (18, 30, 3), (18, 30, 3)]
    """
    where = _device(device)
    _check(factor, reference, precision, mode, where)
    dtype = half_of(where) if precision == "auto" else DTYPES[precision]
    own = copy.deepcopy(net).eval().requires_grad_(False).to(where, dtype)
    own = own.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    stream = Stream(own, float(factor), coarsest_stride(net), reference == "previous", dtype)
    return _magnified(stream, frames, where, mode)


def _magnified(
    stream: Stream, frames: Iterable[np.ndarray | Tensor], device: torch.device, mode: Mode
) -> Iterator[np.ndarray]:
    run, shape = None, None
    for number, frame in enumerate(frames):
        pixels = frame if isinstance(frame, Tensor) else torch.from_numpy(np.require(frame, requirements=["C", "W"]))
        shape = shape or tuple(pixels.shape)
        check_frame(pixels, number, shape)
        if min(shape[:2]) < SMALLEST:
            raise ValueError(f"frames must have at least {SMALLEST} pixels a side, got {shape[0]} x {shape[1]}")
        with inference(device):
            if number == 0:
                (image, finite), reference = first_step(stream, pixels.to(device))
            else:
                run = run or MODES[mode](stream, reference, pixels)
                image, finite = run(pixels)
            if not finite:
                raise ValueError(
                    f"frame {number}: the output is not finite in {stream.dtype} at factor {stream.factor:g}; "
                    "use a smaller factor, or precision='fp32'"
                )
            result = image.cpu().numpy()
        yield result
    if shape is None:
        raise ValueError("there is no frame to magnify: the video is empty")


def _device(device: torch.device | str | None) -> torch.device:
    try:
        where = first_device() if device is None else torch.device(device)
    except RuntimeError as error:  # a word that torch does not know
        raise ValueError(f"device must be a cpu or cuda device, got {device!r}") from error
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be a cpu or cuda device, got {str(where)!r}")
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(where)!r}: torch finds no CUDA device here")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={str(where)!r}: there are {torch.cuda.device_count()} CUDA devices, from 0")
    return where


def _check(factor: float, reference: str, precision: str, mode: str, where: torch.device) -> None:
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"factor must be positive and finite, got {factor}")
    choices = (("reference", reference, Reference), ("precision", precision, Precision), ("mode", mode, Mode))
    for name, value, known in choices:
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
    if mode == "graph" and where.type != "cuda":
        raise ValueError(f"mode='graph' is a CUDA graph, and the device is {where}: use 'eager' or 'compile'")
    if precision == "fp16" and where.type != "cuda":
        raise ValueError(f"precision='fp16' is for GPUs, and the device is {where}: use 'fp32' or 'auto'")
    if precision == "bf16" and not has_bf16(where):
        raise ValueError(f"precision='bf16': {where} has no instructions for it and would be slower: use 'auto'")
