"""Magnify the motion in a video, frame by frame and as fast as the device can: any length, in constant memory.

``python -m studies.motion.magnifying INPUT OUTPUT --factor 10 [--start S] [--end S] [--weights NAME|FILE]``

`magnify` is what to call from Python. It shows what ``net(first, frame, factor)`` shows of each frame, but encodes
every frame once, converts images on the device, and runs a copy of the network: channels last, in half precision where
the device has it, compiled or replayed as a CUDA graph where that is asked for.
"""

import copy
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import typer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import Tensor

import archlab as al
from archlab.training.progress import bar

from . import video
from .models import EIGHTH, LINEAR, QUARTER, Config, MagnificationNet, baseline, proposed, scaled
from .streaming import DTYPES, MODES, Stream, coarsest_stride, first_step, half_of, has_bf16, inference
from .training import device as first_device

Reference = Literal["first", "previous"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
Mode = Literal["eager", "compile", "graph"]

SMALLEST = 16  # pixels of a side: as many as the largest stride, so that there is enough to mirror
TRAINED = {"baseline": (baseline, "studies.motion.table1"), "proposed": (proposed, "studies.motion.networks")}
DESIGNS = (Config(), QUARTER, EIGHTH, *LINEAR.values(), *map(scaled, LINEAR.values()))  # at any width


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

    Frames are taken one at a time and encoded once, so a stream may be endless. `net` is copied, not changed.

    - `factor`: the total gain: a motion d away from the reference is shown as factor · d; 1 shows the frame itself.
    - `reference`: ``"first"``, the first frame (static mode); ``"previous"``, the frame before (dynamic mode). The
      first frame is its own reference: it comes out as the network reconstructs it.
    - `device`: default: the first GPU, where there is one.
    - `precision`: ``"auto"`` is fp16 on a GPU; on a CPU bf16 where it has instructions for that, else fp32.
    - `mode`: ``"eager"``; ``"compile"``, torch.compile for the size at hand; ``"graph"``, a CUDA graph. The latter two
      get ready at the second frame.

    Sides that the network cannot take (it needs multiples of its `coarsest_stride`) are mirrored at the right and
    lower edge, and cut again.

    Tolerance, against ``net(first, frame, factor)`` in float32, with the trained baseline and factors up to 50: in fp32
    1e-4 of the network's [-1, 1], so at most one of 256 levels; in fp16 two levels, and .15 on average; in bf16 16
    levels, and 1 on average. On a GPU torch may compute fp32 convolutions in TF32 (its setting, left alone here), which
    rounds as fp16 does.

    Raises ValueError for a factor that is not positive and finite, an unknown choice, what the device cannot do, no
    frames at all, a frame of another size than those before, and an output that is not finite, naming the frame.

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
        video.check_frame(pixels, number, shape)
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


def network(weights: str) -> MagnificationNet:
    """The network that `weights` names: ``baseline`` or ``proposed`` (trained here), or a safetensors file.

    A file holds the weights of one of `DESIGNS` at any width, or a thinned baseline that `archlab.save` wrote. Raises
    ValueError where it is neither, FileNotFoundError where it is missing.
    """
    if weights in TRAINED:
        make, study = TRAINED[weights]
        try:
            return make(pretrained=True)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the trained weights of the {weights} network are not in this checkout ({error}); "
                f"a training writes them: python -m {study} --preset cpu"
            ) from error
    if not Path(weights).is_file():
        raise FileNotFoundError(f"{weights}: no such file, and none of {', '.join(TRAINED)}")
    try:
        with safe_open(weights, framework="pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{weights} cannot be read as safetensors: {error}") from error
    if "recipe" in metadata:
        image = torch.zeros(1, 3, 64, 64)
        net = al.load(weights, baseline, (image, image, 2.0))
        assert isinstance(net, MagnificationNet)
        return net
    net = MagnificationNet(_design(weights, shapes))
    load_model(net, weights)
    return net


def _design(weights: str, shapes: dict[str, tuple[int, ...]]) -> Config:
    width = shapes.get("manipulator.conv1.bias", (0,))[0]
    for design in DESIGNS if width else ():
        config = replace(design, width=width)
        with torch.device("meta"):
            state = MagnificationNet(config).state_dict()
        if {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes:
            return config
    raise ValueError(f"{weights} holds the weights of no magnification network of studies.motion.models")


def main(
    input: Annotated[Path, typer.Argument(help="A video, of any format that FFmpeg reads.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="The magnified one: .mp4, .mov or .mkv.", show_default=False)],
    factor: Annotated[float, typer.Option(help="Total gain of motions; 1 shows the video itself.")] = 10.0,
    reference: Annotated[Reference, typer.Option(help="What motion is measured from.")] = "first",
    start: Annotated[float, typer.Option(help="Second of the input to begin at; its frame is the first.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Second of the input to stop before.")] = None,
    weights: Annotated[str, typer.Option(help="baseline, proposed, or a safetensors file.")] = "baseline",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU, where there is one.")] = None,
    precision: Annotated[Precision, typer.Option(help="auto: half precision where the device has it.")] = "auto",
    mode: Annotated[Mode, typer.Option(help="How the network is run.")] = "eager",
) -> None:
    """Magnify small motions in a video; written at its frame rate, without sound."""
    try:
        if output.resolve() == input.resolve():
            raise ValueError(f"{output}: the output would overwrite the input while it is read")
        given, rate = video.frames(input, start=start, end=end), video.frame_rate(input)
        options: dict[str, Any] = {"reference": reference, "device": device, "precision": precision, "mode": mode}
        magnified = magnify(network(weights), given, factor=factor, **options)
        expected, begun = video.about_frames(input, start=start, end=end), perf_counter()
        with bar("magnify", expected or 0, wanted=expected is not None) as show:

            def watched() -> Iterator[np.ndarray]:
                for number, frame in enumerate(magnified, start=1):
                    yield frame
                    show(number, lambda: f"{number / (perf_counter() - begun):.2f} frames/s")  # noqa: B023

            count = video.save_video(watched(), output, rate)
    except (ValueError, FileNotFoundError) as error:
        print(f"magnifying: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    print(f"{output}: {count} frames, {count / (perf_counter() - begun):.3g} a second")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
