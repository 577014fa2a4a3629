"""Magnify a stream of frames with any of the models that are compared here, by name: learned or classical."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .classical.acceleration import JerkAware, acceleration, jerk_aware
from .classical.methods import METHODS, magnified_video, phase, riesz_phase
from .network.fast import upsampling_folded
from .network.weights import TRAINED, network
from .video.magnifier import check_factor, magnify, working_device
from .video.temporal import Band, Filter, Finite, check_band, temporal_filter

ACCELERATION: dict[str, Callable[[float, float], Filter]] = {"acceleration": acceleration, "jerk": jerk_aware}
MODELS = (*TRAINED, *METHODS, *ACCELERATION)
PHASES = {"phase": phase, "riesz": riesz_phase, **dict.fromkeys(ACCELERATION, phase)}  # which tell axes apart

Box = tuple[int, int, int, int]  # pixels: left, top, width, height
EDGE = 8  # pixels over which a box's magnification begins
Frames = Iterable[np.ndarray | Tensor]
Magnification = Callable[[Frames], Iterator[np.ndarray]]


def magnification(
    frames: Frames,
    *,
    model: str = "baseline",
    factor: float,
    mode: str | None = None,
    rate: float | None = None,
    band: Band | None = None,
    drift_s: float | None = None,
    axis: float | None = None,
    mask: Box | None = None,
    device: torch.device | str | None = None,
    **execution: Any,
) -> Iterator[np.ndarray]:
    """The magnified frames, one for each of `frames` as they come; both RGB, uint8 H x W x 3.

    Args:
        frames: of one size, as arrays or tensors.
        model: a network as `studies.motion.network.weights.network` knows it (baseline, proposed, compact, lightweight,
            a file); linear, phase, riesz; or acceleration, jerk: phase with a filter for the middle of `band`.
        factor: the total gain: a motion d is shown as factor · d; 1 shows the frame itself. Of acceleration and jerk it
            is that in the middle of the band, where nothing jerks; of mode iir the filter passes a part only
            (`studies.motion.video.temporal`).
        mode: which motion, as `temporal_filter` says. Default: static. The last two models have none.
        rate: frames a second at capture.
        band: Hz, lower and upper edge.
        drift_s: seconds, see `temporal_filter`.
        axis: degrees, 0 from left to right, 90 up: motion across it is left as it is. Of the models that see phases.
        mask: left, top, width and height of a box, pixels; outside it frames are left as they are.
        device: default: the first GPU, where there is one.
        execution: of a network: precision and execution of `studies.motion.video.magnifier.magnify`.

    Raises:
        ValueError: at once, where what is given is impossible or has no meaning for the model; on the way for wrong
            frames.
        FileNotFoundError: the model is none of these and no file, or its weights are not here.

    >>> clip = np.full((3, 18, 30, 3), 128, np.uint8)
    >>> [frame.shape for frame in magnification(clip, model="riesz", factor=10, mode="butter", rate=30, band=(1, 3))]
    [(18, 30, 3), (18, 30, 3), (18, 30, 3)]
    """
    if mask is not None:
        bare = partial(
            magnification, model=model, factor=factor, mode=mode, rate=rate, band=band, drift_s=drift_s, axis=axis,
            device=device, **execution,
        )  # fmt: skip
        return within(frames, bare, mask)
    check_factor(factor)
    if axis is not None and not math.isfinite(axis):
        raise ValueError(f"axis must be an angle in degrees, got {axis}")
    if axis is not None and model not in PHASES:
        raise ValueError(f"model {model} does not tell axes apart, got axis {axis:g}: use {', '.join(PHASES)}")
    if model not in MODELS and not Path(model).is_file():
        raise FileNotFoundError(f"{model}: no such file, and none of {', '.join(MODELS)}")
    if model in ACCELERATION:
        if mode is not None or drift_s is not None:
            raise ValueError(f"model {model} has a filter of its own, and neither mode nor drift: leave them out")
        if band is None or rate is None:
            raise ValueError(f"model {model} needs a band in Hz about the motion to be seen, and the rate of capture")
        check_band(band, rate)
        filter = ACCELERATION[model](sum(band) / 2, rate)
        factor = raised(filter, factor, sum(band) / 2 / rate)
    else:
        filter = temporal_filter("static" if mode is None else mode, rate=rate, band=band, drift_s=drift_s)
    if model not in (*METHODS, *ACCELERATION):
        net = network(model)
        if working_device(device).type == "cpu":
            net = upsampling_folded(net)
        return magnify(net, frames, factor=factor, filter=filter, device=device, **execution)
    unused = [f"{name} {value}" for name, value in execution.items() if value not in ("auto", "fp32", "eager")]
    if unused:
        raise ValueError(f"model {model} runs eagerly in single precision; for a network only: {', '.join(unused)}")
    method = PHASES[model](filter, factor, axis=axis) if model in PHASES else METHODS[model](filter, factor)
    return magnified_video(method, frames, device=device)


def raised(filter: Filter, factor: float, frequency: float) -> float:
    """The factor with which a filter of acceleration magnifies a sway of `frequency`, periods a frame, as told.

    >>> 15 < raised(ACCELERATION["acceleration"](1 / 8, 1.0), 11.0, 1 / 8) < 25
    True
    """
    return 1 + (factor - 1) / _passed(filter, frequency)


def _passed(filter: Filter, frequency: float) -> float:
    """The share of a sway that a symmetric filter passes; of a jerk-aware one where nothing jerks."""
    taps = filter.acceleration if isinstance(filter, JerkAware) else filter
    assert isinstance(taps, Finite)
    middle = len(taps.taps) // 2
    return sum(tap * math.cos(2 * math.pi * frequency * (n - middle)) for n, tap in enumerate(taps.taps))


def within(frames: Frames, magnify: Magnification, box: Box) -> Iterator[np.ndarray]:
    """Each of `frames`, inside `box` what `magnify` makes of it, with a soft edge.

    Raises ValueError at once where `box` is none, and at the first frame where it does not lie in it.

    >>> clip = np.zeros((1, 40, 40, 3), np.uint8)
    >>> (image,) = within(clip, lambda frames: (frame + 200 for frame in frames), (10, 5, 20, 30))
    >>> image[20, [0, 10, 13, 20], 0].tolist()
    [0, 12, 88, 200]
    """
    left, top, width, height = box
    if min(left, top) < 0 or min(width, height) < 1:
        raise ValueError(f"mask must be left, top, width and height of a box in pixels, got {box}")
    return _blended(_with_its_image(frames, magnify), box)


def _blended(pairs: Iterator[tuple[np.ndarray, np.ndarray]], box: Box) -> Iterator[np.ndarray]:
    left, top, width, height = box
    rows, columns = slice(top, top + height), slice(left, left + width)
    share = np.minimum.outer(_rise(height), _rise(width))[..., None]
    for still, image in pairs:
        if top + height > still.shape[0] or left + width > still.shape[1]:
            raise ValueError(
                f"mask {left} {top} {width} {height} (left, top, width, height) does not lie in frames of "
                f"{still.shape[1]} x {still.shape[0]} pixels"
            )
        shown = still.copy()
        mixed = share * image[rows, columns] + (1 - share) * still[rows, columns]
        shown[rows, columns] = mixed.round().astype(np.uint8)
        yield shown


def _rise(length: int) -> np.ndarray:
    """From 0 to 1 over `EDGE` pixels and back; of a short box as far as it comes."""
    from_edge = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return np.minimum(from_edge / min(EDGE, (length + 1) // 2), 1.0)


def beside(frames: Frames, magnify: Magnification) -> Iterator[np.ndarray]:
    """Each of `frames` to the left of what `magnify` makes of it, H x 2 W x 3.

    >>> clip = np.zeros((2, 4, 6, 3), np.uint8)
    >>> [frame.shape for frame in beside(clip, iter)]
    [(4, 12, 3), (4, 12, 3)]
    """
    return (np.concatenate(pair, axis=1) for pair in _with_its_image(frames, magnify))


def _with_its_image(frames: Frames, magnify: Magnification) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each of `frames`, fetched where it lies on a GPU, and what `magnify` makes of it.

    No more frames are kept than a filter waits for; `itertools.tee` would keep 57, which are 350 MB of full HD.
    """
    waiting: deque[np.ndarray | Tensor] = deque()

    def noted() -> Iterator[np.ndarray | Tensor]:
        for frame in frames:
            waiting.append(frame)
            yield frame

    def paired(magnified: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for image in magnified:
            yield _array(waiting.popleft()), image
        assert not waiting, "there is an image for each frame"

    return paired(magnify(noted()))


def _array(frame: np.ndarray | Tensor) -> np.ndarray:
    return frame.cpu().numpy() if isinstance(frame, Tensor) else frame
