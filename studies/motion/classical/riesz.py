"""Phases along the dominant orientation: the Riesz pyramid (Wadhwa et al. 2014), faster than a steerable one.

Each level of a Laplacian pyramid, with its two differences across three pixels, is read as a quaternion, whose phase
moves with the image along the local orientation. Such a phase is a vector: its length times cos and sin of the angle.
As in the paper, differences stand for the Riesz transform. They do so at a quarter of a level's sampling rate; for
longer waves, which a level holds too, they are too small: a wave of 4 pixels is magnified as told, of 16 by .6 of it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .laplacian import image_of, most_levels, pyramid
from .phase_based import along


@dataclass(frozen=True)
class Riesz:
    """The pyramid with `count` levels, each N x 3 x h x w: the band and its differences along x and y."""

    count: int

    def levels(self, luma: Tensor) -> tuple[list[Tensor], Tensor]:
        """The bands of images N x H x W, finest first, and what is in none."""
        *bands, rest = pyramid(luma[:, None], self.count)
        return [_with_differences(band) for band in bands], rest

    def image(self, levels: list[Tensor], rest: Tensor) -> Tensor:
        """The images that have these bands, of which the first channel counts."""
        return image_of([*(level[:, :1] for level in levels), rest])[:, 0]

    @staticmethod
    def turned(level: Tensor, before: Tensor) -> Tensor:
        """By how much the phase has turned, N x 2 x h x w.

        From the quaternion of one times the inverse of the other. By its two-argument arc tangent: the arc cosine, in
        single precision, knows no angle below 3e-4, and none at all where rounding makes its argument larger than 1.
        """
        band, differences = level[:, :1], level[:, 1:]
        real = (level * before).sum(dim=1, keepdim=True)
        turning = differences * before[:, :1] - band * before[:, 1:]
        length = torch.linalg.vector_norm(turning, dim=1, keepdim=True)
        return turning * (torch.atan2(length, real) / length.clamp_min(torch.finfo(length.dtype).tiny))

    @staticmethod
    def shifted(level: Tensor, phase: Tensor) -> Tensor:
        """The band, its phase turned, N x 1 x h x w."""
        turn = torch.linalg.vector_norm(phase, dim=1, keepdim=True)
        along = (level[:, 1:] * phase).sum(dim=1, keepdim=True)
        return level[:, :1] * torch.cos(turn) - along * torch.sinc(turn / torch.pi)

    @staticmethod
    def amplitude(level: Tensor) -> Tensor:
        return torch.linalg.vector_norm(level, dim=1, keepdim=True)

    @staticmethod
    def restricted(level: Tensor, phase: Tensor, axis: float) -> Tensor:
        """What of the turning is due to motion along an axis, as `phase_based.along` says."""
        x, y = (level[:, 1:] / torch.linalg.vector_norm(level[:, 1:], dim=1, keepdim=True).clamp_min(1e-12)).split(1, 1)
        turning = phase[:, :1] * x + phase[:, 1:] * y
        left = along(turning, x, y, Riesz.amplitude(level), axis)
        return torch.cat([left * x, left * y], dim=1)


def riesz(like: Tensor) -> Riesz:
    """The pyramid for images of the size of `like`, N x H x W.

    >>> [tuple(level.shape) for level in riesz(torch.zeros(1, 32, 24)).levels(torch.zeros(1, 32, 24))[0]]
    [(1, 3, 32, 24), (1, 3, 16, 12)]
    """
    height, width = like.shape[-2:]
    if min(height, width) < 16:
        raise ValueError(f"images must have at least 16 pixels a side, got {height} x {width}")
    return Riesz(most_levels(height, width) - 1)


def _with_differences(band: Tensor) -> Tensor:
    padded = F.pad(band, (1, 1, 1, 1), mode="reflect")
    x = (padded[..., 1:-1, :-2] - padded[..., 1:-1, 2:]) / 2
    y = (padded[..., :-2, 1:-1] - padded[..., 2:, 1:-1]) / 2
    return torch.cat([band, x, y], dim=1)
