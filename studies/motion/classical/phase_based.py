"""Magnification by phases (Wadhwa et al. 2013 and 2014): motion turns the phases of bands, and is turned on by them.

Of each band the phase is followed from frame to frame, from 0 in the first, so that it never jumps; a temporal filter
finds what moves; blurring, weighted by amplitude, takes noise from where there is no texture; and the band is turned by
(factor - 1) times that. Colour stays.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..video.temporal import Delay, Filter, State
from .colour import to_rgb, to_yiq

WINDOW = 4.0  # sigma in pixels of a band, of the window in which a motion is one
RIDGE = 1e-3  # of the energy: along an edge nothing tells of a motion


@dataclass(eq=False)
class Level:
    """What is kept of one band: its last coefficients, the phase they came to, and what waits."""

    before: Tensor
    phase: Tensor
    motion: State
    waiting: State


@dataclass(eq=False)
class Memory:
    """What is kept between frames."""

    pyramid: Any  # Steerable or Riesz
    levels: list[Level]
    rest: State
    colour: State


@dataclass(frozen=True)
class PhaseBased:
    """Frame by frame: `start` with the first, then `step` with each, the first too. Frames are N x 3 x H x W, [0, 1].

    Args:
        pyramid: of images like one, such as `steerable.steerable` or `riesz.riesz`.
        filter: which motion.
        factor: total gain of it.
        blur: sigma in pixels of a band; 0 for none.
        axis: degrees; only the share of a motion along this axis is magnified, 0 from left to right, 45 from lower left
            to upper right. None: all of it.
    """

    pyramid: Callable[[Tensor], Any]
    filter: Filter
    factor: float
    blur: float = 2.0
    axis: float | None = None

    @property
    def delay(self) -> int:
        return self.filter.delay

    def start(self, first: Tensor) -> Memory:
        yiq, wait = to_yiq(first), Delay(self.delay)
        pyramid = self.pyramid(yiq[:, 0])
        levels, rest = pyramid.levels(yiq[:, 0])
        memories = []
        for level in levels:
            phase = torch.zeros_like(pyramid.turned(level, level))
            memories.append(Level(level, phase, self.filter.start(phase), wait.start(level)))
        return Memory(pyramid, memories, wait.start(rest), wait.start(yiq[:, 1:]))

    def step(self, memory: Memory, frame: Tensor) -> Tensor:
        """The frame that is due, magnified."""
        yiq, wait, pyramid = to_yiq(frame), Delay(self.delay), memory.pyramid
        levels, rest = pyramid.levels(yiq[:, 0])
        magnified = []
        for kept, level in zip(memory.levels, levels, strict=True):
            kept.phase = kept.phase + pyramid.turned(level, kept.before)
            kept.before = level
            motion = self.filter.step(kept.motion, kept.phase)
            level = wait.step(kept.waiting, level)
            if self.blur:
                amplitude = pyramid.amplitude(level)
                motion = blurred(motion * amplitude, self.blur) / (blurred(amplitude, self.blur) + 1e-12)
            if self.axis is not None:
                motion = pyramid.restricted(level, motion, self.axis)
            magnified.append(pyramid.shifted(level, (self.factor - 1) * motion))
        luma = pyramid.image(magnified, wait.step(memory.rest, rest))
        return to_rgb(torch.cat([luma[:, None], wait.step(memory.colour, yiq[:, 1:])], dim=1))


def along(phases: Tensor, x: Tensor, y: Tensor, amplitude: Tensor, axis: float) -> Tensor:
    """The phases that a motion has left when all of it across `axis` is taken away.

    A phase tells of the motion along its own orientation alone. So the motion of each place is found first, in pixels
    over 2 pi of the band's wavelength: by least squares over the orientations there and in a window around it, weighted
    by energy. Where all of them are one, as along an edge, it is the motion across the edge, which is all that shows.

    Args:
        phases: N x orientations x h x w.
        x, y: the unit vectors of the orientations, of a shape that goes with that; y downwards.
        amplitude: how strong each is.
        axis: degrees, as of `PhaseBased`.
    """
    energy = amplitude**2
    # Of a strength about 1, so that squares of it do not underflow; where there is none the motion is 0.
    energy = energy / energy.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(energy.dtype).tiny)

    def window(values: Tensor) -> Tensor:
        return blurred((energy * values).sum(dim=1, keepdim=True), WINDOW)

    xx, xy, yy = window(x * x), window(x * y), window(y * y)
    to_x, to_y = window(phases * x), window(phases * y)
    ridge = RIDGE * (xx + yy) + torch.finfo(xx.dtype).eps ** 2
    xx, yy = xx + ridge, yy + ridge
    determinant = xx * yy - xy * xy
    moved_x, moved_y = (yy * to_x - xy * to_y) / determinant, (xx * to_y - xy * to_x) / determinant
    across, up = math.cos(math.radians(axis)), -math.sin(math.radians(axis))
    return (x * across + y * up) * (moved_x * across + moved_y * up)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """By a Gaussian, with nothing beyond the border, each channel of N x C x H x W by itself."""
    reach = math.ceil(3 * sigma)
    t = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    taps = torch.exp(-(t**2) / (2 * sigma**2))
    taps, channels = taps / taps.sum(), x.shape[1]
    x = F.conv2d(x, taps.reshape(1, 1, -1, 1).repeat(channels, 1, 1, 1), padding=(reach, 0), groups=channels)
    return F.conv2d(x, taps.reshape(1, 1, 1, -1).repeat(channels, 1, 1, 1), padding=(0, reach), groups=channels)
