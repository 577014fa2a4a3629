"""All methods that are compared, learned and classical, as functions of frames in which something moves by d.

Most see two frames, the second moved by d. Acceleration and jerk-aware magnification need time: they see a sway of
amplitude d, and what counts is the frame at its peak. Their filters pass part of a motion; the factor is raised so that
as much of it comes out as is asked for.
"""

import math
from collections.abc import Callable, Iterable
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from studies.device import device

from ..classical.methods import METHODS, magnified, phase
from ..magnification import ACCELERATION, raised
from ..network.models import PRETRAINED, PRETRAINED_LIGHTWEIGHT, PRETRAINED_PROPOSED
from ..network.weights import network
from ..video.temporal import STATIC
from .quality import Magnifier

# And their weights. The last stands for Singh et al. (2023), as `network.models.lightweight` says.
LEARNED = {"baseline": PRETRAINED, "proposed": PRETRAINED_PROPOSED, "lightweight": PRETRAINED_LIGHTWEIGHT}
NAMES = (*LEARNED, *METHODS, *ACCELERATION)
TITLES = {
    "baseline": "baseline (learned)", "proposed": "proposed (learned)",
    "lightweight": "12 channels (for Singh 2023)", "linear": "linear, 2012", "phase": "phase, 2013",
    "riesz": "Riesz, 2014", "acceleration": "acceleration, 2017", "jerk": "jerk-aware, 2018",
}  # fmt: skip
PERIOD = 8  # frames of the sway
PEAK = PERIOD + PERIOD // 4  # the frame that counts: a whole sway before it, and after it as much as filters wait for
SWAY = tuple(math.sin(2 * math.pi * n / PERIOD) for n in range(PEAK + 7))


class Seen(NamedTuple):
    """A method: the frames that it is given, as multiples of the motion, and what it shows of frames, T x 3 x H x W in
    [-1, 1], with a factor: 1 x 3 x H x W, the second of two, or the one at the peak."""

    shifts: tuple[float, ...]
    show: Callable[[Tensor, float], Tensor]


def rows(names: Iterable[str] = NAMES) -> list[dict[str, Any]]:
    """Rows of a study, one a method. A learned one's says which weights it has: with others it is another row."""
    weights = {name: {"weights": sha256(path.read_bytes()).hexdigest()[:12]} for name, path in LEARNED.items()}
    return [{"name": name, **weights.get(name, {})} for name in names]


def method(name: str) -> Seen:
    """The method of that name, of `NAMES`."""
    if name in LEARNED:
        net = network(name).eval().to(device())
        return of_pairs(net)
    if name in ACCELERATION:
        filter = ACCELERATION[name](1 / PERIOD, 1.0)

        def show(frames: Tensor, factor: float) -> Tensor:
            return _classical(phase(filter, raised(filter, factor, 1 / PERIOD)), frames, PEAK)

        return Seen(SWAY, show)
    return Seen((0.0, 1.0), lambda frames, factor: _classical(METHODS[name](STATIC, factor), frames, 1))


def of_pairs(magnify: Magnifier) -> Seen:
    """A function of two frames and factors as a method."""
    return Seen(
        (0.0, 1.0),
        lambda frames, factor: magnify(frames[:1], frames[1:], torch.tensor([factor], device=frames.device)),
    )


def _classical(method: Any, frames: Tensor, number: int) -> Tensor:
    images = magnified(method, ((frame[None] + 1) / 2 for frame in frames))
    return next(islice(images, number, None)) * 2 - 1
