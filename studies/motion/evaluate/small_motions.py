"""The paper's two tests of small motions (Figs. 8 and 17): how SSIM falls with smaller motion, and with more noise.

A sample is a background photo and one cut-out that moves by d; the network sees d, the target has moved by factor · d.
Lengths are pixels of a 384 x 384 sample and shrink with smaller ones, as in the training data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import archlab as al
from studies.device import device

from ..data.generator import REFERENCE_SIZE, VALIDATION_SEED, Generator
from ..data.noise import quantise
from ..data.sources import Sources
from .methods import Seen, of_pairs
from .quality import Magnifier, unit

MAGNIFIED = 10.0  # pixels: factor · d of the sub-pixel test and of the noise test's small motion
MOTIONS = np.geomspace(0.04, 1.0, 15)  # pixels, the sub-pixel test
NOISES = np.geomspace(0.01, 100.0, 21)  # photon noise: its variance over the pixel's value, both of 8 bits
NOISE_MOTIONS = {0.05: 200.0, 5.0: 2.0}  # motion -> factor of the two noise tests


class Point(NamedTuple):
    """One point of a curve."""

    test: str
    motion: float
    factor: float
    noise: float


def points() -> list[Point]:
    """15 motions without noise, and for both motions of the noise test 21 levels of it."""
    found = [Point("sub-pixel", d, MAGNIFIED / d, 0.0) for d in MOTIONS]
    return found + [Point("noise", d, factor, noise) for d, factor in NOISE_MOTIONS.items() for noise in NOISES]


@dataclass(frozen=True)
class Scenes:
    """`count` scenes of `size` pixels, the same at every point but for the motion and the noise."""

    sources: Sources
    size: int
    count: int

    def at(self, point: Point) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Frames A and B and the target, 1 x 3 x size x size in [-1, 1]."""
        return ((frames[:1], frames[1:], target) for frames, target in self.shown(point, (0.0, 1.0)))

    def shown(self, point: Point, shifts: tuple[float, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        """Frames, in which all has moved by so many times its motion, and the target; T and 1 x 3 x size x size.

        In the sub-pixel test the background moves as far in another direction; in the noise test it is still. All is
        rounded to 8 bits as the training data is; noise is on the frames.
        """
        generator = Generator(self.sources, self.size, device=device())
        ratio = self.size / REFERENCE_SIZE
        for index in range(self.count):
            draw = np.random.default_rng((VALIDATION_SEED, index, self.size))
            angle, turn = draw.uniform(0, 2 * np.pi), draw.uniform(np.pi / 4, 7 * np.pi / 4)
            moves = point.motion * ratio * np.array([[np.sin(a), np.cos(a)] for a in (angle, angle + turn)])
            moves[1] *= point.test == "sub-pixel"
            back, front = generator.background(draw, moves[1], blurred=False), generator.object(draw, moves[0])
            drawn = generator.render([back, front], (*shifts, point.factor))
            maker = torch.Generator(generator.device).manual_seed(int(draw.integers(2**62)))
            *frames, target = (quantise(frame, maker) for frame in drawn)
            frames = torch.stack([noisy(frame, point.noise, maker) for frame in frames])
            yield frames * 2 - 1, target[None] * 2 - 1


def noisy(image: Tensor, level: float, maker: torch.Generator) -> Tensor:
    """`image` in [0, 1] with noise of variance `level` times the pixel's 8-bit value, in [0, 1] again."""
    if not level:
        return image
    normal = torch.randn(image.shape, generator=maker, device=image.device)
    return (image + normal * (level * image / 255).sqrt()).clamp(0, 1)


def measure(magnify: Magnifier, scenes: Scenes) -> pd.DataFrame:
    """Mean SSIM at every point: test, motion, factor, noise, ssim, sd."""
    return measure_method(of_pairs(magnify), scenes)


@torch.inference_mode()
def measure_method(method: Seen, scenes: Scenes) -> pd.DataFrame:
    """The same of a method, which may see more than two frames."""
    rows = []
    for point in points():
        found = [
            float(al.ssim(unit(method.show(frames, point.factor)), unit(target)))
            for frames, target in scenes.shown(point, method.shifts)
        ]
        rows.append({**point._asdict(), "ssim": float(np.mean(found)), "sd": float(np.std(found))})
    return pd.DataFrame(rows)
