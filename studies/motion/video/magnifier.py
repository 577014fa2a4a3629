"""Magnify the motion in a stream of frames, one by one and as fast as the device can, in constant memory.

`magnify` shows of each frame what ``net(still, frame, factor)`` shows, where `still` is the frame without the motion
that a temporal filter finds. But it encodes every frame once, converts images on the device, and runs a copy of the
network: channels last, in half precision where the device has it, compiled or replayed as a CUDA graph where that is
asked for. ``python -m studies.motion.magnify`` does it to a video file.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from studies.device import device as first_device

from ..network.fast import pad_by_ring_, sum_in_fp32_
from ..network.models import MagnificationNet
from .stream import (
    DTYPES,
    EXECUTIONS,
    Stream,
    automatic,
    begun,
    coarsest_stride,
    due,
    encoded,
    has_bf16,
    inference,
    shown,
)
from .temporal import STATIC, Filter, then_the_last_again
from .writing import check_frame

Frame = np.ndarray | Tensor
Precision = Literal["auto", "fp32", "mixed", "fp16", "bf16"]
Execution = Literal["eager", "compile", "graph"]

SMALLEST = 16  # pixels of a side: as many as the largest stride, so that there is enough to mirror


def magnify(
    net: MagnificationNet,
    frames: Iterable[Frame],
    *,
    factor: float,
    filter: Filter = STATIC,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    execution: Execution = "eager",
) -> Iterator[np.ndarray]:
    """The magnified frames, one for each of `frames` as they come; both RGB, uint8 H x W x 3.

    Frames are taken one at a time and encoded once, so a stream may be endless. Sides that the network cannot take (it
    needs multiples of its `coarsest_stride`) are mirrored at the right and lower edge, and cut again.

    Tolerance, against ``net(first, frame, factor)`` in float32, with the trained baseline and factors up to 50: in fp32
    1e-4 of the network's [-1, 1], so at most one of 256 levels; in fp16 two levels, and .15 on average; mixed 8 levels,
    and .25 on average; in bf16 16 levels, and 1 on average. On a GPU torch may compute fp32 convolutions in TF32 (its
    setting, left alone here), which rounds as fp16 does.

    Args:
        net: the network; it is copied, not changed.
        frames: of one size, as arrays or tensors.
        factor: the total gain: a motion d is shown as factor · d; 1 shows the frame itself.
        filter: which motion, of `studies.motion.video.temporal`: ``STATIC``, away from the first frame; ``DYNAMIC``,
            away from the one before; or within a band, as ``butter((0.4, 3), rate=30)``. The first frame has none: it
            comes out as the network reconstructs it. Frames of a filter with a delay come so much later; its memory
            holds the shapes of as many frames as it has taps.
        device: default: the first GPU, where there is one.
        precision: ``"auto"`` is fp16 on a GPU; on a CPU ``"mixed"`` where it has AMX, without which bf16 is slower
            there, else fp32. Mixed: the decoder convolves in bf16; its sums, the encoder and the manipulator are in
            fp32, as their rounding would be magnified.
        execution: ``"eager"``; ``"compile"``, torch.compile for the size at hand; ``"graph"``, a CUDA graph. The latter
            two get ready when the first frame is shown.

    Raises:
        ValueError: the factor is not positive and finite, a choice is unknown, the device cannot do it, there is no
            frame, one has another size than those before, or the output is not finite; it names the frame.

    >>> from studies.motion.network.models import baseline
    >>> clip = np.full((3, 18, 30, 3), 128, np.uint8)
    >>> [frame.shape for frame in magnify(baseline(width=4), clip, factor=10)]
    [(18, 30, 3), (18, 30, 3), (18, 30, 3)]
    """
    where = working_device(device)
    _check(factor, precision, execution, where)
    chosen = automatic(where) if precision == "auto" else precision
    dtype = DTYPES[chosen]
    own = copy.deepcopy(net).eval().requires_grad_(False).to(where, dtype)
    own = own.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    own = sum_in_fp32_(pad_by_ring_(own)) if chosen == "mixed" else pad_by_ring_(own)
    stream = Stream(own, float(factor), coarsest_stride(net), filter, where, dtype, chosen == "mixed")
    return _magnified(stream, frames, execution)


def _magnified(stream: Stream, frames: Iterable[Frame], execution: Execution) -> Iterator[np.ndarray]:
    memory, run, delay = None, None, stream.filter.delay
    for number, pixels in enumerate(then_the_last_again(checked(frames), delay)):
        with inference(stream.device):
            if memory is None or number <= delay:
                there = pixels.to(stream.device)
                texture, features = encoded(stream, there)
                memory = memory or begun(stream, texture, features)
                waiting = due(stream, memory, texture, features)
                if number < delay:
                    continue
                image, finite = shown(stream, *waiting, there)
            else:
                run = run or EXECUTIONS[execution](stream, memory, pixels)
                image, finite = run(pixels)
            if not finite:
                raise ValueError(
                    f"frame {number - delay}: the output is not finite in {stream.dtype} at factor {stream.factor:g}; "
                    "use a smaller factor, or precision='fp32'"
                )
            result = image.cpu().numpy()
        yield result


def checked(frames: Iterable[Frame]) -> Iterator[Tensor]:
    """Frames as tensors, uint8 H x W x 3. Raises ValueError where one is none or of another size, or there is none."""
    shape = None
    for number, frame in enumerate(frames):
        pixels = frame if isinstance(frame, Tensor) else torch.from_numpy(np.require(frame, requirements=["C", "W"]))
        shape = shape or tuple(pixels.shape)
        check_frame(pixels, number, shape)
        if min(shape[:2]) < SMALLEST:
            raise ValueError(f"frames must have at least {SMALLEST} pixels a side, got {shape[0]} x {shape[1]}")
        yield pixels
    if shape is None:
        raise ValueError("there is no frame to magnify: the video is empty")


def check_factor(factor: float) -> None:
    """Raise ValueError where `factor` is no gain."""
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"factor must be positive and finite, got {factor}")


def working_device(device: torch.device | str | None) -> torch.device:
    """`device`, or the first GPU, where there is one. Raises ValueError for what is no cpu or cuda device here."""
    try:
        where = first_device() if device is None else torch.device(device)
    except (RuntimeError, TypeError) as error:  # what torch does not know
        raise ValueError(f"device must be a cpu or cuda device, got {device!r}") from error
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be a cpu or cuda device, got {str(where)!r}")
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(where)!r}: torch finds no CUDA device here")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={str(where)!r}: there are {torch.cuda.device_count()} CUDA devices, from 0")
    return where


def _check(factor: float, precision: str, execution: str, where: torch.device) -> None:
    check_factor(factor)
    for name, value, known in (("precision", precision, Precision), ("execution", execution, Execution)):
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
    if execution == "graph" and where.type != "cuda":
        raise ValueError(f"execution='graph' is a CUDA graph, and the device is {where}: use 'eager' or 'compile'")
    if precision == "fp16" and where.type != "cuda":
        raise ValueError(f"precision='fp16' is for GPUs, and the device is {where}: use 'fp32' or 'auto'")
    if precision == "mixed" and where.type != "cpu":
        raise ValueError(f"precision='mixed' is for CPUs, and the device is {where}: use 'fp16' or 'auto'")
    if precision in ("mixed", "bf16") and not has_bf16(where):
        raise ValueError(f"precision={precision!r}: {where} has no instructions for it and would be slower: use 'auto'")
