"""Synthetic pairs of frames with a known, magnified motion (Oh et al., ECCV 2018, section 3.3).

A sample is a background photo and some foreground cut-outs, each moving by a translation of its own. What a sample
shows is drawn by its (seed, index) on the host; many samples are then rendered at once, on any device.

The parts of the data set, a fifth each: 0 standard, 1 blurred background, 2 only the background
moves (no foreground), 3 everything is static, 4 a static background with moving foreground.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .layers import Layer, draw_layers
from .noise import levels, normal, uniform, with_noise
from .sources import Sources, tiled

PARTS = ("standard", "blurred background", "background only", "static", "static background")
TRAIN_SEED, VALIDATION_SEED = 1, 2  # of the samples to train with, and of those to evaluate on
REFERENCE_SIZE = 384  # the published limits hold at this size and shrink with the crop
# Samples rendered together hold as many pixels as this: many of a size in a product, and not too much memory.
PIXELS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 23}


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


class Scene(NamedTuple):
    """What one sample shows: layers, the first at the back, and all that is drawn at random about its frames."""

    layers: list[Layer]
    factor: float
    seed: int  # of the quantisation and the photon noise
    colour: np.ndarray  # added to the channels of B and the target, on [-1, 1]
    noise: float  # level of the photon noise


class Frames(NamedTuple):
    """Clean 8-bit frames, N x 3 x 3 x S x S (A, B, target; channels), and their factors, N."""

    pixels: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Generator:
    """Samples fixed by (seed, index), whatever batch they are made in. `size`: pixels of a side. `device`: where they
    are rendered; it and the batch change a sample by rounding: a value in ten thousand, by one level of 8 bits.

    Fewer objects fill a smaller crop: their number shrinks with the square root of the area.
    """

    sources: Sources
    size: int
    seed: int = 0
    device: torch.device | str = "cpu"
    limits: Limits = Limits()
    factor: float | None = None  # the same factor for every sample, for an evaluation

    @torch.no_grad()
    def batch(self, indices: Sequence[int], *, noise: bool) -> Batch:
        """The samples `indices`; with `noise` the inputs carry the photon noise of training."""
        scenes = [self.scene(index) for index in indices]
        levels = [scene.noise if noise else 0.0 for scene in scenes]
        return perturbed(self._frames(scenes), [s.colour for s in scenes], levels, [s.seed for s in scenes])

    @torch.no_grad()
    def frames(self, indices: Sequence[int]) -> Frames:
        """The samples `indices` without colour perturbation and noise, to be kept and perturbed anew each time."""
        return self._frames([self.scene(index) for index in indices])

    def _frames(self, scenes: Sequence[Scene]) -> Frames:
        device = torch.device(self.device)
        at_once = max(1, PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE["cuda"]) // self.size**2)
        made = []
        for first in range(0, len(scenes), at_once):
            some = scenes[first : first + at_once]
            images = self.render_all([scene.layers for scene in some], [(0.0, 1.0, scene.factor) for scene in some])
            seeds = torch.tensor([scene.seed for scene in some], dtype=torch.int32, device=device)
            for image, seed in zip(together(images), together(seeds), strict=True):
                made.append(levels(image, uniform(seed, *image.shape[1:])).byte())
        return Frames(torch.cat(made), torch.tensor([scene.factor for scene in scenes], device=device))

    def scene(self, index: int) -> Scene:
        """What the sample `index` shows."""
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
        seed = int(draw.integers(2**62)) % 2**31
        colour = draw.uniform(-limits.colour, limits.colour, 3)
        return Scene(layers, factor, seed, colour, noise=draw.uniform(0, limits.noise))

    def background(self, draw: np.random.Generator, motion: np.ndarray, blurred: bool) -> Layer:
        """A photo at a random scale and place, larger than the sample by what the largest motion needs."""
        picture = self.sources.backgrounds.raw(int(draw.integers(len(self.sources.backgrounds))))
        margin = 2 * self.limits.magnified * self.size / REFERENCE_SIZE + 8
        most = min(picture.shape[1:]) / (self.size + margin)  # source pixels in one of the sample
        scale = float(np.exp(draw.uniform(0, math.log(min(max(most, 1.0), 4.0)))))
        side = math.ceil((self.size + margin) * scale)
        if min(picture.shape[1:]) < side:
            picture = tiled(picture.float(), side, side).byte()
        top, left = (int(draw.integers(n - side + 1)) for n in picture.shape[1:])
        picture = picture[:, top : top + side, left : left + side].to(self.device)
        if draw.random() < 0.5:
            picture = picture.flip(2)
        blur = draw.uniform(2, 6) * self.size / REFERENCE_SIZE * 2 if blurred else 0.0
        by = reduction(scale, picture.shape[1:])
        if by > 1:
            picture = averaged(picture, by)
        return Layer(picture, scale / by, np.full(2, -margin / 2), motion, math.hypot(1.0, blur))

    def object(self, draw: np.random.Generator, motion: np.ndarray) -> Layer:
        """A cut-out at a random scale and place, at least its middle inside the sample."""
        cut_outs = self.sources.cut_outs
        index, flipped = int(draw.integers(len(cut_outs))), draw.random() < 0.5
        length = self.size * draw.uniform(0.12, 0.5)  # of the longest side, in the sample
        scale = max(cut_outs.sides(index)) / length
        by = reduction(scale, cut_outs.sides(index))
        picture = cut_outs.reduced(index, by, self.device)
        if flipped:
            picture = picture.flip(2)
        extent = np.array(picture.shape[1:]) * by / scale
        origin = draw.uniform(-extent / 2, self.size - extent / 2)
        return Layer(picture, scale / by, origin, motion, 1.0)

    def render(self, layers: list[Layer], gains: tuple[float, ...]) -> Tensor:
        """The layers, the first at the back, moved by each of `gains` times their motion: n x 3 x size x size."""
        return self.render_all([layers], [gains])[0]

    def render_all(self, scenes: Sequence[Sequence[Layer]], gains: Sequence[tuple[float, ...]]) -> Tensor:
        """`render` of many: N x n x 3 x size x size."""
        layers = [layer for scene in scenes for layer in scene]
        shifts = [  # what is still is drawn once
            np.outer(gain if layer.motion.any() else gain[:1], layer.motion)
            for scene, gain in zip(scenes, gains, strict=True)
            for layer in scene
        ]
        drawn = iter(draw_layers(layers, shifts, self.size))
        images = torch.zeros(len(scenes), len(gains[0]), 3, self.size, self.size, device=self.device)
        for image, scene in zip(images, scenes, strict=True):
            for _ in scene:
                for piece in next(drawn):
                    behind, colour = piece.of(image), piece.pixels
                    if colour.shape[1] == 4:
                        behind.mul_(1 - colour.narrow(1, 3, 1))
                    behind.add_(colour.narrow(1, 0, 3))
        return images.clamp_(0, 1)


def perturbed(frames: Frames, colours: Sequence[np.ndarray], noises: Sequence[float], seeds: Sequence[int]) -> Batch:
    """A batch of clean frames: `colours` added to B and the target, photon noise of levels `noises` on A and B.

    `colours`, `noises` and `seeds` (of the noise) have one entry a sample."""
    device = frames.pixels.device
    shift = torch.tensor(np.stack(colours), dtype=torch.float32).to(device)[..., None, None]
    level = torch.tensor(noises, dtype=torch.float32).to(device).view(-1, 1, 1, 1)
    seed = torch.tensor(seeds, dtype=torch.int32).to(device) ^ 0x5DEECE6
    made = torch.empty(4, len(level), *frames.pixels.shape[2:], device=device)
    columns = (frames.pixels, shift, level, seed, made.transpose(0, 1))
    for pixels, shift, level, seed, into in zip(*(together(column) for column in columns), strict=True):
        a, clean, target = (pixels.float().div_(127.5).sub_(1)).unbind(1)
        b, target = ((frame + shift).clamp_(-1, 1) for frame in (clean, target))
        if any(noises):
            drawn = normal(seed, 2, *a.shape[1:])
            a, b = (with_noise(frame, level, n) for frame, n in zip((a, b), drawn.unbind(1), strict=True))
        torch.stack([a, b, clean, target], dim=1, out=into)
    a, b, clean, target = made
    return Batch(a, b, clean, target, frames.factor)


def together(samples: Tensor) -> tuple[Tensor, ...]:
    """`samples` as they are best worked on: on a CPU one by one, which stay in the cache of a core; else all."""
    return samples.split(1 if samples.device.type == "cpu" else len(samples))


def averaged(picture: Tensor, by: int) -> Tensor:
    """Bytes, C x H x W, averaged over squares of `by` pixels, in [0, 1]; several times as fast as `avg_pool2d`."""
    height, width = (side // by * by for side in picture.shape[1:])
    rows = reduce(torch.add, [picture[:, n:height:by].short() for n in range(by)])
    return reduce(torch.add, [rows[..., n:width:by] for n in range(by)]).float() / (255 * by * by)


def reduction(scale: float, picture: Sequence[int]) -> int:
    """Whole pixels to average so that 1.4 to 2.8 of a picture, given by its sides, make one of the sample."""
    return max(1, min(int(scale / 1.4), *picture))
