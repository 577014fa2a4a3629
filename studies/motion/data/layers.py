"""Pictures drawn at sub-pixel places: many layers at once, each by two small matrices, rows and columns.

A layer is sampled from a continuous picture: its pixels under a Gaussian of 1 pixel of the destination, interpolated
by the bicubic (Keys) kernel, so a shift of a hundredth of a pixel is as exact as one of ten. It is drawn in tiles, each
from its own part of the source and only where the layer shows; tiles of like size become one batch of matrix products,
on any device. The batch that a layer is drawn in changes it by rounding alone (1e-6 of white).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

TILE = 96  # sample pixels of a side at most: larger ones multiply by more zeros, smaller ones overlap more
SAMPLE_STEP, SOURCE_STEP = 16, 32  # tiles are padded to multiples of these sides, so that many are of one size


class Layer(NamedTuple):
    """A picture in a sample: `picture` 4 x H x W (colour times alpha, alpha), `scale` source pixels a sample pixel,
    `origin` its upper left corner and `motion` its displacement (y, x), `blur` the Gaussian's sigma: sample pixels.

    The picture is in [0, 1], or bytes. One of 3 channels has no alpha: for a layer that has nothing behind it."""

    picture: Tensor
    scale: float
    origin: np.ndarray
    motion: np.ndarray
    blur: float


class Piece(NamedTuple):
    """A rectangle of a drawn layer, `pixels` n x C x height x width for n shifts; all else of it is transparent."""

    top: int
    left: int
    pixels: Tensor

    def of(self, image: Tensor) -> Tensor:
        """The same rectangle of `image` (... x size x size)."""
        return image.narrow(-2, self.top, self.pixels.shape[-2]).narrow(-1, self.left, self.pixels.shape[-1])


class Span(NamedTuple):
    """Along one axis: pixels `start` to `stop` of the sample, and those of the source that they are made of."""

    start: int
    stop: int
    source_start: int
    source_stop: int


class Tile(NamedTuple):
    """A part of layer `number`, over a span of rows and one of columns."""

    number: int
    layer: Layer
    shifts: np.ndarray
    spans: tuple[Span, Span]


def draw_layer(layer: Layer, shifts: np.ndarray, size: int) -> Tensor:
    """The layer at ``origin + shift`` for each of `shifts` (n x 2): n x C x size x size, transparent outside it."""
    image = torch.zeros(len(shifts), len(layer.picture), size, size, device=layer.picture.device)
    for piece in draw_layers([layer], [shifts], size)[0]:
        piece.of(image).copy_(piece.pixels)
    return image


def draw_layers(layers: Sequence[Layer], shifts: Sequence[np.ndarray], size: int) -> list[list[Piece]]:
    """Each layer at each of its `shifts` (n x 2), as pieces that do not overlap."""
    pieces: list[list[Piece]] = [[] for _ in layers]
    groups: dict[tuple[Any, ...], list[Tile]] = defaultdict(list)
    for number, (layer, moves) in enumerate(zip(layers, shifts, strict=True)):
        axes = [spans(layer, moves[:, axis].tolist(), axis, size) for axis in (0, 1)]
        for rows, columns in product(*axes):
            kind = (layer.picture.dtype, len(layer.picture), len(moves), _padded(rows), _padded(columns))
            groups[kind].append(Tile(number, layer, moves, (rows, columns)))
    for (*_, rows, columns), tiles in groups.items():
        for tile, pixels in zip(tiles, _drawn(tiles, (rows, columns)), strict=True):
            (top, bottom, *_), (left, right, *_) = tile.spans
            shown = pixels.narrow(2, 0, bottom - top).narrow(3, 0, right - left)
            pieces[tile.number].append(Piece(top, left, shown))
    return pieces


def _drawn(tiles: list[Tile], sides: tuple[tuple[int, int], tuple[int, int]]) -> Tensor:
    """Tiles of one kind: N x n x C x height x width, with `sides` (in the sample, in the source) of rows and columns.

    Each is ``rows @ picture @ columns.T``, for n shifts and C channels."""
    (height, source_height), (width, source_width) = sides
    first = tiles[0].layer.picture
    count, channels, shifts = len(tiles), len(first), len(tiles[0].shifts)
    pictures = torch.zeros(count, source_height, channels, source_width, device=first.device)
    for into, tile in zip(pictures, tiles, strict=True):
        rows, columns = (slice(span.source_start, span.source_stop) for span in tile.spans)
        part = tile.layer.picture[:, rows, columns].transpose(0, 1)
        into.narrow(0, 0, part.shape[0]).narrow(2, 0, part.shape[2]).copy_(part)
    rows, columns = (_matrices(tiles, axis, *sides[axis]) for axis in (0, 1))
    halfway = torch.bmm(rows.flatten(1, 2), pictures.flatten(2))
    drawn = torch.bmm(halfway.view(count * shifts, height * channels, source_width), columns.flatten(0, 1).mT)
    if first.dtype == torch.uint8:
        drawn /= 255
    return drawn.view(count, shifts, height, channels, width).transpose(2, 3)


def _matrices(tiles: list[Tile], axis: int, size: int, source: int) -> Tensor:
    """N x n x `size` x `source`: the sampling matrices of tiles, each in its own part of the sample and the source."""
    scale = np.array([tile.layer.scale for tile in tiles])
    blur = np.array([tile.layer.blur for tile in tiles])
    origins = np.stack([tile.layer.origin[axis] + tile.shifts[:, axis] for tile in tiles])
    starts = np.array([tile.spans[axis].start for tile in tiles])
    source_starts = np.array([tile.spans[axis].source_start for tile in tiles])
    origins = origins - (starts - source_starts / scale)[:, None]
    return sampling_matrix(size, source, scale, origins, blur, tiles[0].layer.picture.device)


def spans(layer: Layer, shifts: list[float], axis: int, size: int) -> list[Span]:
    """The tiles along one axis that hold all of the layer, at each of `shifts`, inside a sample of `size` pixels."""
    length, scale = layer.picture.shape[1 + axis], layer.scale
    first, last = (float(layer.origin[axis] + moved) for moved in (min(shifts), max(shifts)))
    reach = _reach(layer.blur * scale) + 3  # source pixels from a sample pixel's centre to the last that it sees
    start = max(0, math.floor(first - reach / scale - 0.5))
    stop = min(size, math.ceil(last + (length + reach) / scale + 0.5))
    count = math.ceil((stop - start) / TILE)
    cuts = [start + (stop - start) * n // count for n in range(count + 1)] if stop > start else []
    found = []
    for top, bottom in pairwise(cuts):
        source_start = max(0, math.floor((top + 0.5 - last) * scale) - reach)
        source_stop = min(length, math.ceil((bottom - 0.5 - first) * scale) + reach)
        if source_stop > source_start:
            found.append(Span(top, bottom, source_start, source_stop))
    return found


def _padded(span: Span) -> tuple[int, int]:
    """The sides that a tile is drawn with, in the sample and in the source."""
    sample, source = span.stop - span.start, span.source_stop - span.source_start
    return -(-sample // SAMPLE_STEP) * SAMPLE_STEP, -(-source // SOURCE_STEP) * SOURCE_STEP


def _reach(sigma: float) -> int:
    """Source pixels that a Gaussian reaches to either side."""
    return math.ceil(3 * sigma) + 2


def sampling_matrix(
    size: int,
    source: int,
    scale: float | np.ndarray,
    origin: np.ndarray,
    blur: float | np.ndarray,
    device: torch.device | str = "cpu",
) -> Tensor:
    """... x `size` x `source`: weights of the source pixels in each sample pixel along one axis, for ... origins.

    Sample pixel i lies at ``(i + 0.5 - origin) * scale`` on the source, whose pixel j lies at ``j + 0.5``. The
    source is a Gaussian-weighted sum (sigma `blur` sample pixels) interpolated by Keys' cubic; outside it is 0.
    `scale` and `blur` are one for all, or one for each along the first axis of `origin`.
    """
    scale, blur = (np.asarray(value, np.float64).reshape(-1, *[1] * (origin.ndim - 1)) for value in (scale, blur))
    centre = (np.arange(size) + 0.5 - origin[..., None]) * scale[..., None] - 0.5
    base = np.floor(centre)
    cubic = (_powers(centre - base) @ KEYS).reshape(len(scale), -1, 4)
    gauss = _gaussians((scale * blur).reshape(-1, 1, 1))
    room = gauss.shape[-1]  # of one sample pixel's weights
    cubic, gauss = (torch.from_numpy(array).to(device, torch.float32) for array in (cubic, gauss))
    weights = torch.bmm(cubic, gauss).view(*centre.shape, room)
    # Written into a matrix with room for what lies outside the source, which is then cut off.
    first = torch.from_numpy(base.clip(-room, source + room)).to(device, torch.int64) - room // 2 + 1
    columns = first.clamp_(-room, source)[..., None] + torch.arange(room, 2 * room, device=device)
    matrix = torch.zeros(*centre.shape, source + 2 * room, device=device)
    return matrix.scatter_(-1, columns, weights)[..., room : room + source]


# Keys' cubic convolution, a = -1/2: weights of the pixels at -1, 0, 1 and 2 for the powers 0 to 3 of a place in [0, 1).
KEYS = np.array([[0, 1, 0, 0], [-0.5, 0, 0.5, 0], [1, -2.5, 2, -0.5], [-0.5, 1.5, -1.5, 0.5]])


def _powers(t: np.ndarray) -> np.ndarray:
    """... x 4: the powers 0 to 3 of `t`."""
    return np.stack([np.ones_like(t), t, t * t, t * t * t], axis=-1)


def _gaussians(sigma: np.ndarray) -> np.ndarray:
    """... x 4 x width: normalised Gaussians of `sigma` (... x 1 x 1) pixels, cut at their reach, around four pixels.

    A sample pixel sees the source through them; the width is that of the widest."""
    reach = _reach(float(sigma.max()))
    offsets = np.arange(-reach - 1, reach + 3) - np.arange(-1, 3)[:, None]
    weights = np.exp(-0.5 * (offsets / sigma) ** 2) * (abs(offsets) <= np.ceil(3 * sigma) + 2)
    return weights / weights.sum(axis=-1, keepdims=True)
