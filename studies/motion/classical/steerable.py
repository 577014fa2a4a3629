"""Phases of oriented bands: the complex steerable pyramid (Portilla & Simoncelli 2000), as Wadhwa et al. (2013) use it.

Filters are made in the frequency domain, where each is a smooth step in log frequency times a power of a cosine of the
angle, on half of the plane, so that coefficients are complex. Their squares add up to 1: the pyramid is exact. An image
wraps around at its border, as its Fourier transform does.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from .phase_based import along

TRANSITION = {1.0: 1.0, 0.5: 0.75}  # octaves from stop to pass, by the width of a band


class Band(NamedTuple):
    """The filters of one scale, orientations x h x w, centred, and which part of the spectrum they cover."""

    rows: slice
    columns: slice
    filters: Tensor


@dataclass(frozen=True, eq=False)
class Steerable:
    """The pyramid for images of one size; see `steerable`.

    Bands are N x orientations x h x w, complex, finest first; motion turns their phase.
    """

    bands: list[Band]
    rest: Tensor  # squared filters of what is in no band: the highest and lowest frequencies

    def levels(self, luma: Tensor) -> tuple[list[Tensor], Tensor]:
        """The bands of images N x H x W, and the spectrum of the rest."""
        spectrum = torch.fft.fftshift(torch.fft.fft2(luma, norm="forward"), dim=(-2, -1))
        return [self._coefficients(spectrum, band) for band in self.bands], spectrum * self.rest

    def image(self, levels: list[Tensor], rest: Tensor) -> Tensor:
        """The images that have these bands."""
        spectrum = rest.clone()
        for band, level in zip(self.bands, levels, strict=True):
            part = torch.fft.fftshift(torch.fft.fft2(level, norm="forward"), dim=(-2, -1))
            spectrum[..., band.rows, band.columns] += (part * band.filters).sum(dim=1)
        return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1)), norm="forward").real

    def _coefficients(self, spectrum: Tensor, band: Band) -> Tensor:
        part = 2 * spectrum[:, None, band.rows, band.columns] * band.filters  # 2: half of the plane is left out
        return torch.fft.ifft2(torch.fft.ifftshift(part, dim=(-2, -1)), norm="forward")

    @staticmethod
    def turned(level: Tensor, before: Tensor) -> Tensor:
        """By how much the phase of a band has turned, in radians from -pi to pi."""
        return torch.angle(level * before.conj())

    @staticmethod
    def shifted(level: Tensor, phase: Tensor) -> Tensor:
        """The band, its phase turned."""
        return level * torch.polar(torch.ones_like(phase), phase)

    @staticmethod
    def amplitude(level: Tensor) -> Tensor:
        return level.abs()

    @staticmethod
    def restricted(level: Tensor, phase: Tensor, axis: float) -> Tensor:
        """What of the turning is due to motion along an axis, as `phase_based.along` says."""
        count = level.shape[1]
        angles = torch.arange(count, dtype=phase.dtype, device=phase.device).reshape(1, -1, 1, 1) * (math.pi / count)
        return along(phase, torch.cos(angles), torch.sin(angles), level.abs(), axis)


def steerable(like: Tensor, *, orientations: int = 8, octaves: float = 0.5) -> Steerable:
    """The pyramid for images of the size, type and device of `like`, N x H x W.

    Args:
        orientations: how many; each covers twice pi over so many.
        octaves: the width of a band, 1 or 0.5. The narrower, the further a motion can be magnified.

    Raises:
        ValueError: there are fewer than 2 orientations, or another width; a side has fewer than 16 pixels.

    >>> levels, rest = steerable(torch.zeros(1, 64, 48), octaves=1.0).levels(torch.zeros(1, 64, 48))
    >>> [tuple(level.shape) for level in levels]
    [(1, 8, 64, 48), (1, 8, 33, 25)]
    """
    if octaves not in TRANSITION or orientations < 2:
        raise ValueError(f"bands must be 1 or 0.5 octaves of at least 2 orientations, got {octaves}, {orientations}")
    height, width = like.shape[-2:]
    if min(height, width) < 16:
        raise ValueError(f"images must have at least 16 pixels a side, got {height} x {width}")
    y, x = (
        torch.fft.fftshift(torch.fft.fftfreq(side, d=0.5, dtype=torch.float64, device=like.device))
        for side in (height, width)
    )
    radius, angle = torch.hypot(y[:, None], x), torch.atan2(y[:, None].expand(height, width), x.expand(height, width))
    turns = torch.arange(orientations, dtype=torch.float64, device=like.device).reshape(-1, 1, 1)
    angles = turns * (math.pi / orientations)
    oriented = _evenness(orientations) * torch.cos(angle - angles).clamp_min(0) ** (orientations - 1)

    high, low = _steps(radius, 1.0, TRANSITION[octaves])
    rest, bands = high**2, []
    count = round((math.floor(math.log2(min(height, width))) - 3) / octaves)
    for number in range(count):
        edge = 2.0 ** -(number * octaves)  # no frequency above this fraction of Nyquist's is left
        high, lower = _steps(radius, edge * 2.0**-octaves, TRANSITION[octaves])
        rows, columns = _covering(height, edge), _covering(width, edge)
        filters = (low * high * oriented)[:, rows, columns].to(like.dtype)
        bands.append(Band(rows, columns, filters))
        low = low * lower
    return Steerable(bands, (rest + low**2).to(like.dtype))


def _steps(radius: Tensor, edge: float, transition: float) -> tuple[Tensor, Tensor]:
    """A high-pass that is 1 from `edge` on and 0 some octaves below, and the low-pass whose squares make up for it."""
    below = -torch.log2(radius.clamp_min(1e-12) / edge) / transition
    turn = below.clamp(0, 1) * (math.pi / 2)
    return torch.cos(turn), torch.sin(turn)


def _evenness(orientations: int) -> float:
    """What makes the squares of all orientations add up to 1 at every angle."""
    n = orientations - 1
    return 2.0**n * math.factorial(n) / math.sqrt(orientations * math.factorial(2 * n))


def _covering(side: int, edge: float) -> slice:
    """The middle of a centred spectrum that holds all below `edge`, of a length that is quickly transformed."""
    length = next_fast_len(2 * math.ceil(edge * side / 2) + 1)
    assert length is not None
    length = min(side, length)
    begin = side // 2 - length // 2
    return slice(begin, begin + length)
