"""The Laplacian pyramid of Burt and Adelson (1983), for images of any size: exact by construction."""

import torch
import torch.nn.functional as F
from torch import Tensor

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """`levels` bands of N x C x H x W, finest first, each of half the resolution of the one before; then what is left.

    >>> [tuple(level.shape[-2:]) for level in pyramid(torch.zeros(1, 1, 37, 22), levels=2)]
    [(37, 22), (19, 11), (10, 6)]
    """
    bands = []
    for _ in range(levels):
        smaller = _blurred(image)[..., ::2, ::2]
        bands.append(image - _enlarged(smaller, image.shape[-2:]))
        image = smaller
    return [*bands, image]


def image_of(levels: list[Tensor]) -> Tensor:
    """The image whose pyramid these are."""
    *bands, image = levels
    for band in reversed(bands):
        image = band + _enlarged(image, band.shape[-2:])
    return image


def most_levels(height: int, width: int) -> int:
    """How many bands there are before a side has fewer than 4 pixels, too few to be blurred.

    >>> most_levels(64, 48)
    4
    """
    count, side = 0, min(height, width)
    while side >= 4:
        side, count = (side + 1) // 2, count + 1
    return count


def _blurred(image: Tensor) -> Tensor:
    """By the binomial of five, mirrored at the border."""
    taps = image.new_tensor(BINOMIAL)
    channels = image.shape[1]
    padded = F.pad(image, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, taps.reshape(1, 1, 5, 1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(rows, taps.reshape(1, 1, 1, 5).repeat(channels, 1, 1, 1), groups=channels)


def _enlarged(image: Tensor, size: torch.Size) -> Tensor:
    """To `size`, about twice as large: zeros between the pixels, blurred."""
    large = image.new_zeros(*image.shape[:2], *size)
    large[..., ::2, ::2] = image
    return 4 * _blurred(large)
