"""Linear Eulerian magnification (Wu et al. 2012): what changes in each level of a Laplacian pyramid is added to it.

A motion d of a wave is magnified only while factor * d stays below an eighth of its length: above, and in fine levels,
less is added.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ..video.temporal import Delay, Filter, State
from .colour import to_rgb, to_yiq
from .laplacian import image_of, most_levels, pyramid

EXAGGERATION = 2.0  # the bound is exceeded so many times, as in the paper's own programs


@dataclass(eq=False)
class Memory:
    """What is kept between frames."""

    levels: list[State]
    frames: State


@dataclass(frozen=True)
class Linear:
    """Frame by frame: `start` with the first, then `step` with each, the first too. Frames are N x 3 x H x W, [0, 1].

    Args:
        filter: which motion.
        factor: total gain of it.
        wavelength: pixels; shorter waves are magnified less (the paper's lambda_c).
        chroma: which share of their magnification changes of colour get.
    """

    filter: Filter
    factor: float
    wavelength: float = 16.0
    chroma: float = 0.1

    @property
    def delay(self) -> int:
        return self.filter.delay

    def start(self, first: Tensor) -> Memory:
        yiq, (height, width) = to_yiq(first), first.shape[-2:]
        states = [self.filter.start(level) for level in pyramid(yiq, most_levels(height, width))]
        return Memory(states, Delay(self.delay).start(yiq))

    def step(self, memory: Memory, frame: Tensor) -> Tensor:
        """The frame that is due, magnified."""
        yiq, (height, width) = to_yiq(frame), frame.shape[-2:]
        levels = pyramid(yiq, len(memory.levels) - 1)
        alphas = amplification(height, width, len(levels), self.factor, self.wavelength)
        motions = [
            alpha * self.filter.step(state, level)
            for alpha, state, level in zip(alphas, memory.levels, levels, strict=True)
        ]
        share = yiq.new_tensor([1.0, self.chroma, self.chroma]).reshape(1, 3, 1, 1)
        return to_rgb(Delay(self.delay).step(memory.frames, yiq) + share * image_of(motions))


def amplification(height: int, width: int, levels: int, factor: float, wavelength: float) -> list[float]:
    """By how much the changes in each level, finest first, are multiplied before they are added (the paper's alpha).

    Nothing of the finest and the coarsest; of those between factor - 1, or what the bound allows if that is less.

    >>> [round(alpha, 2) for alpha in amplification(256, 256, levels=7, factor=11, wavelength=16)]
    [0, 3.19, 8.37, 10.0, 10.0, 10.0, 0]
    """
    alpha, length = factor - 1, math.hypot(height, width) / 3
    within = []
    for level in range(1, levels - 1):  # lengths double from level to level; the coarsest has `length`
        bound = EXAGGERATION * (length / 2 ** (levels - 1 - level) * (1 + abs(alpha)) / wavelength - 1)
        within.append(math.copysign(max(0.0, min(abs(alpha), bound)), alpha))
    return [0, *within, 0][:levels]
