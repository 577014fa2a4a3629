"""Filters that see acceleration: what moves at a constant speed, however fast, has no motion for them.

For the phases of a pyramid (Zhang et al. 2017, Takeda et al. 2018), and as good for the shapes of a network.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..video.temporal import Finite, State


def acceleration(frequency: float, rate: float) -> Finite:
    """Zhang et al. (2017): the difference of two Gaussians in time, over n/4 and n frames; n is a quarter period.

    It passes about half of a motion of `frequency`: the absolute values of its 4n + 1 taps add up to 1.

    Args:
        frequency: Hz, of the motion that is to be seen.
        rate: frames a second at capture.

    >>> len(acceleration(frequency=3, rate=30).taps)
    13
    """
    n = _quarter_period(frequency, rate)
    return _difference_of_gaussians(n / 4, n, reach=2 * n)


@dataclass(frozen=True)
class JerkAware:
    """Acceleration, weighted by (1 - jerk) ** beta: little of it where a motion is quick as well as large.

    The size of the jerk is divided by the largest so far in the same sample of the batch, over all its positions: the
    paper says that it is normalised, not over what.
    """

    acceleration: Finite
    jerk: Finite
    beta: float

    @property
    def delay(self) -> int:
        return self.acceleration.delay

    def start(self, first: Tensor) -> State:
        states = self.acceleration.start(first), self.jerk.start(first)
        largest = states[0][0].new_zeros(len(first), *[1] * (first.ndim - 1))
        return [*states[0], *states[1], largest]

    def step(self, state: State, x: Tensor) -> Tensor:
        half = len(state) // 2
        motion = self.acceleration.step(state[:half], x)
        jerk = self.jerk.step(state[half:-1], x).abs()
        state[-1].copy_(torch.maximum(state[-1], jerk.flatten(1).amax(dim=1).reshape(state[-1].shape)))
        quiet = 1 - jerk / state[-1].clamp_min(torch.finfo(jerk.dtype).tiny)
        return motion * quiet**self.beta


def jerk_aware(frequency: float, rate: float, *, beta: float = 1.0) -> JerkAware:
    """Takeda et al. (2018): the difference of two Gaussians, sigma and 2 sigma, where there is little jerk.

    Args:
        frequency: Hz, of the motion that is to be seen.
        rate: frames a second at capture.
        beta: the larger, the less of what jerks is left; 0 is acceleration alone.
    """
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be at least 0, got {beta}")
    sigma = _quarter_period(frequency, rate) / math.sqrt(2)
    reach = math.ceil(4 * sigma)
    t = np.arange(-reach, reach + 1) / sigma
    third = np.exp(-(t**2) / 2) * (3 * t - t**3)
    return JerkAware(_difference_of_gaussians(sigma, 2 * sigma, reach), Finite(tuple(third.tolist())), beta)


def _quarter_period(frequency: float, rate: float) -> int:
    """In whole frames."""
    if not 0 < frequency < rate / 2:
        raise ValueError(
            f"a frequency must lie between 0 and {rate / 2:g} Hz, half of {rate:g} frames a second; got {frequency:g}"
        )
    return math.ceil(rate / (4 * frequency))


def _difference_of_gaussians(narrow: float, wide: float, reach: int) -> Finite:
    t = np.arange(-reach, reach + 1)
    first, second = (np.exp(-(t**2) / (2 * sigma**2)) for sigma in (narrow, wide))
    taps = first / first.sum() - second / second.sum()
    return Finite(tuple((taps / np.abs(taps).sum()).tolist()))
