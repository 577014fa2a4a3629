"""Synthetic pairs of frames with a known, magnified motion (Oh et al., ECCV 2018, section 3.3).

A sample is a background photo and some foreground cut-outs, each moving by a translation of its own.
Every layer is sampled from a continuous picture: its pixels under a Gaussian of 1 pixel of the
destination, interpolated by the bicubic (Keys) kernel, so a shift of a hundredth of a pixel is as
exact as one of ten. Both steps and the shift are two small matrices a layer, rows and columns.

The parts of the data set, a fifth each: 0 standard, 1 blurred background, 2 only the background
moves (no foreground), 3 everything is static, 4 a static background with moving foreground.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .sources import Sources, tiled

PARTS = ("standard", "blurred background", "background only", "static", "static background")
TRAIN_SEED, VALIDATION_SEED = 1, 2  # of the samples to train with, and of those to evaluate on
REFERENCE_SIZE = 384  # the published limits hold at this size and shrink with the crop


class Batch(NamedTuple):
    """Frames in [-1, 1], N x 3 x S x S. `b` and `target` carry one colour perturbation, `clean_b` none."""

    a: Tensor
    b: Tensor
    clean_b: Tensor
    target: Tensor
    factor: Tensor  # N


@dataclass(frozen=True)
class Limits:
    """Distributions that the paper leaves open. Pixels are those of a 384 x 384 sample.

    factor: log-uniform in [2, `factor`]. Magnified motion of a layer: uniform in [0, `magnified`], divided by the
    factor, cut at `motion`; so most inputs move by a fraction of a pixel. Direction: uniform.
    """

    factor: float = 100.0
    motion: float = 10.0
    magnified: float = 30.0
    objects: tuple[int, int] = (7, 15)
    noise: float = 0.3
    colour: float = 0.25


@dataclass(frozen=True)
class Generator:
    """Samples fixed by (seed, index). `size`: pixels of a side. `device`: where they are rendered.

    Fewer objects fill a smaller crop: their number shrinks with the square root of the area.
    """

    sources: Sources
    size: int
    seed: int = 0
    device: torch.device | str = "cpu"
    limits: Limits = Limits()
    factor: float | None = None  # the same factor for every sample, for an evaluation

    def batch(self, indices: range | list[int], *, noise: bool) -> Batch:
        """The samples `indices`; with `noise` the inputs carry the photon noise of training."""
        samples = [self._sample(index, noise) for index in indices]
        a, b, clean, target, factor = zip(*samples, strict=True)
        return Batch(
            torch.stack(a), torch.stack(b), torch.stack(clean), torch.stack(target),
            torch.tensor(factor, device=self.device),
        )  # fmt: skip

    def _sample(self, index: int, noise: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        draw = np.random.default_rng((self.seed, index))
        part = PARTS[index % len(PARTS)]
        limits, ratio = self.limits, self.size / REFERENCE_SIZE
        factor = self.factor or float(np.exp(draw.uniform(math.log(2), math.log(limits.factor))))

        def motion(moves: bool) -> np.ndarray:
            length = min(draw.uniform(0, limits.magnified) / factor, limits.motion) * ratio
            angle = draw.uniform(0, 2 * np.pi)
            return length * np.array([np.sin(angle), np.cos(angle)]) * moves

        background = motion(part not in ("static", "static background"))
        layers = [self.background(draw, background, part == "blurred background")]
        if part != "background only":
            low, high = (max(2, round(n * math.sqrt(ratio))) for n in limits.objects)
            for _ in range(int(draw.integers(low, high + 1))):
                layers.append(self.object(draw, motion(part != "static")))
        frames = self.render(layers, (0.0, 1.0, factor))
        noise_maker = torch.Generator(self.device).manual_seed(int(draw.integers(2**62)))
        a, clean, target = (quantise(frame, noise_maker) * 2 - 1 for frame in frames)
        shift = torch.tensor(draw.uniform(-limits.colour, limits.colour, 3), dtype=torch.float32, device=self.device)
        b, target = ((frame + shift[:, None, None]).clamp(-1, 1) for frame in (clean, target))
        if noise:
            level = draw.uniform(0, limits.noise)
            a, b = (photon_noise(frame, level, noise_maker) for frame in (a, b))
        return a, b, clean, target, factor

    def background(self, draw: np.random.Generator, motion: np.ndarray, blurred: bool) -> "Layer":
        """A photo at a random scale and place, larger than the sample by what the largest motion needs."""
        picture = self.sources.backgrounds[int(draw.integers(len(self.sources.backgrounds)))]
        margin = 2 * self.limits.magnified * self.size / REFERENCE_SIZE + 8
        most = min(picture.shape[1:]) / (self.size + margin)  # source pixels in one of the sample
        scale = float(np.exp(draw.uniform(0, math.log(min(max(most, 1.0), 4.0)))))
        side = math.ceil((self.size + margin) * scale)
        picture = tiled(picture, side, side)
        top, left = (int(draw.integers(n - side + 1)) for n in picture.shape[1:])
        picture = picture[:, top : top + side, left : left + side]
        if draw.random() < 0.5:
            picture = picture.flip(2)
        blur = draw.uniform(2, 6) * self.size / REFERENCE_SIZE * 2 if blurred else 0.0
        picture, scale = reduced(torch.cat([picture, torch.ones_like(picture[:1])]), scale)
        return Layer(picture.to(self.device), scale, np.full(2, -margin / 2), motion, math.hypot(1.0, blur))

    def object(self, draw: np.random.Generator, motion: np.ndarray) -> "Layer":
        """A cut-out at a random scale and place, at least its middle inside the sample."""
        picture = self.sources.objects[int(draw.integers(len(self.sources.objects)))]
        if draw.random() < 0.5:
            picture = picture.flip(2)
        length = self.size * draw.uniform(0.12, 0.5)  # of the longest side, in the sample
        scale = max(picture.shape[1:]) / length
        picture, scale = reduced(torch.cat([picture[:3] * picture[3:], picture[3:]]), scale)  # colour times alpha
        extent = np.array(picture.shape[1:]) / scale
        origin = draw.uniform(-extent / 2, self.size - extent / 2)
        return Layer(picture.to(self.device), scale, origin, motion, 1.0)

    def render(self, layers: list["Layer"], gains: tuple[float, ...]) -> Tensor:
        """The layers, the first at the back, moved by each of `gains` times their motion: n x 3 x size x size."""
        image = torch.zeros(len(gains), 3, self.size, self.size, device=self.device)
        for layer in layers:
            drawn = draw_layer(layer, np.outer(gains, layer.motion), self.size)
            image = drawn[:, :3] + (1 - drawn[:, 3:]) * image
        return image.clamp(0, 1)


class Layer(NamedTuple):
    """A picture in a sample: `picture` 4 x H x W (colour times alpha, alpha), `scale` source pixels a sample pixel,
    `origin` its upper left corner and `motion` its displacement (y, x), `blur` the Gaussian's sigma: sample pixels."""

    picture: Tensor
    scale: float
    origin: np.ndarray
    motion: np.ndarray
    blur: float


def reduced(picture: Tensor, scale: float) -> tuple[Tensor, float]:
    """`picture` averaged over whole pixels, so that 1.4 to 2.8 of them make one of the sample; and its scale then."""
    by = min(int(scale / 1.4), *picture.shape[1:])
    return (F.avg_pool2d(picture, by), scale / by) if by > 1 else (picture, scale)


def draw_layer(layer: Layer, shifts: np.ndarray, size: int) -> Tensor:
    """The layer at ``origin + shift`` for each of `shifts` (n x 2): n x 4 x size x size, transparent outside it."""
    rows, columns = (
        sampling_matrix(size, n, layer.scale, layer.origin[axis] + shifts[:, axis], layer.blur, layer.picture.device)
        for axis, n in enumerate(layer.picture.shape[1:])
    )
    return rows[:, None] @ layer.picture @ columns[:, None].mT


def sampling_matrix(
    size: int, source: int, scale: float, origin: np.ndarray, blur: float, device: torch.device | str = "cpu"
) -> Tensor:
    """n x `size` x `source`: weights of the source pixels in each sample pixel along one axis, for n origins.

    Sample pixel i lies at ``(i + 0.5 - origin) * scale`` on the source, whose pixel j lies at ``j + 0.5``. The
    source is a Gaussian-weighted sum (sigma `blur` sample pixels) interpolated by Keys' cubic; outside it is 0.
    """
    origins = torch.as_tensor(origin, dtype=torch.float64, device=device).reshape(-1, 1)
    sigma = blur * scale
    reach = math.ceil(3 * sigma) + 2
    centre = (torch.arange(size, dtype=torch.float64, device=device) + 0.5 - origins) * scale - 0.5
    taps = torch.arange(-1, 3, dtype=torch.float64, device=device)
    base = centre.floor()
    cubic = _keys(centre[..., None] - (base[..., None] + taps)).float()  # n x size x 4
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32, device=device)
    gauss = torch.exp(-0.5 * (offsets / sigma) ** 2)
    gauss = gauss / gauss.sum()
    width = len(offsets)
    window = torch.zeros(*centre.shape, width + 3, device=device)
    for tap in range(4):
        window[..., tap : tap + width] += cubic[..., tap : tap + 1] * gauss
    columns = (base.long() - 1 - reach)[..., None] + torch.arange(width + 3, device=device)
    inside = (columns >= 0) & (columns < source)
    matrix = torch.zeros(*centre.shape, source, device=device)
    return matrix.scatter_add_(-1, columns.clamp(0, source - 1), window * inside)


def _keys(t: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, a = -1/2."""
    t = t.abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t <= 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def quantise(image: Tensor, generator: torch.Generator) -> Tensor:
    """`image` in [0, 1] rounded to 8 bits at random, so that its mean keeps changes below one level."""
    noise = torch.rand(image.shape, generator=generator, device=image.device)
    return (image * 255 + noise).floor().clamp(0, 255) / 255


def photon_noise(image: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """`image` in [-1, 1] with noise whose variance grows with brightness: ``x + level n sqrt((x + 1) / 127.5)``."""
    normal = torch.randn(image.shape, generator=generator, device=image.device)
    return image + level * normal * ((image + 1) / 127.5).clamp(min=0).sqrt()
