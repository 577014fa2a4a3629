"""Magnify a stream of frames with any of the models that are compared here, by name: learned or classical."""

from collections.abc import Callable, Iterable, Iterator
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .classical.acceleration import acceleration, jerk_aware
from .classical.methods import METHODS, magnified_video, phase
from .network.weights import TRAINED, network
from .video.magnifier import check_factor, magnify
from .video.temporal import Band, Filter, check_band, temporal_filter

ACCELERATION: dict[str, Callable[[float, float], Filter]] = {"acceleration": acceleration, "jerk": jerk_aware}
MODELS = (*TRAINED, *METHODS, *ACCELERATION)


def magnification(
    frames: Iterable[np.ndarray | Tensor],
    *,
    model: str = "baseline",
    factor: float,
    mode: str | None = None,
    rate: float | None = None,
    band: Band | None = None,
    drift_s: float | None = None,
    device: torch.device | str | None = None,
    **execution: Any,
) -> Iterator[np.ndarray]:
    """The magnified frames, one for each of `frames` as they come; both RGB, uint8 H x W x 3.

    Args:
        frames: of one size, as arrays or tensors.
        model: a network as `studies.motion.network.weights.network` knows it (baseline, proposed, a file); linear,
            phase, riesz; or acceleration, jerk, which are phase with a filter for the middle of `band`.
        factor: the total gain: a motion d is shown as factor · d; 1 shows the frame itself.
        mode: which motion, as `temporal_filter` says. Default: static. The last two models have none.
        rate: frames a second at capture.
        band: Hz, lower and upper edge.
        drift_s: seconds, see `temporal_filter`.
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
    check_factor(factor)
    if model not in MODELS and not Path(model).is_file():
        raise FileNotFoundError(f"{model}: no such file, and none of {', '.join(MODELS)}")
    if model in ACCELERATION:
        if mode is not None or drift_s is not None:
            raise ValueError(f"model {model} has a filter of its own, and neither mode nor drift: leave them out")
        if band is None or rate is None:
            raise ValueError(f"model {model} needs a band in Hz about the motion to be seen, and the rate of capture")
        check_band(band, rate)
        filter = ACCELERATION[model](sum(band) / 2, rate)
    else:
        filter = temporal_filter("static" if mode is None else mode, rate=rate, band=band, drift_s=drift_s)
    if model not in (*METHODS, *ACCELERATION):
        return magnify(network(model), frames, factor=factor, filter=filter, device=device, **execution)
    unused = [f"{name} {value}" for name, value in execution.items() if value not in ("auto", "fp32", "eager")]
    if unused:
        raise ValueError(f"model {model} runs eagerly in single precision; for a network only: {', '.join(unused)}")
    method = METHODS.get(model, phase)
    return magnified_video(method(filter, factor), frames, device=device)


def beside(
    frames: Iterable[np.ndarray], magnify: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
) -> Iterator[np.ndarray]:
    """Each of `frames` to the left of what `magnify` makes of it, H x 2 W x 3.

    >>> clip = np.zeros((2, 4, 6, 3), np.uint8)
    >>> [frame.shape for frame in beside(clip, iter)]
    [(4, 12, 3), (4, 12, 3)]
    """
    left, given = tee(frames)  # which keeps as many frames as a filter waits for
    return (np.concatenate(pair, axis=1) for pair in zip(left, magnify(given), strict=True))
