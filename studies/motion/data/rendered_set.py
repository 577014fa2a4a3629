"""Samples rendered once and kept as 8-bit frames on disk, for all trainings and workers: patches of them, drawn anew.

Rendering a sample takes a CPU longer than drawing a hundred patches of it. A set is a folder, known by all that its
frames depend on, and is there whole or not at all: it is written beside its place and then renamed. What two workers
render at once is the same; the first to end keeps it.
"""

import hashlib
import json
import os
import shutil
import sys
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .generator import Batch, Frames, Generator, Limits, perturbed

AT_ONCE = 64  # samples rendered between two writes
FRAMES, FACTORS, SETTINGS = "frames.npy", "factors.npy", "settings.json"


@dataclass(frozen=True)
class RenderedSet:
    """`frames`: N x 3 x 3 x S x S bytes (A, B, target; channels), mapped from disk; `factors`: N."""

    frames: np.ndarray
    factors: np.ndarray
    limits: Limits

    def batch(
        self, draw: np.random.Generator, count: int, *, patch: int | None, device: torch.device | str = "cpu"
    ) -> Batch:
        """`count` squares of `patch` pixels (None: whole samples), each of a sample and a place of its own, mirrored
        and transposed at random, with fresh colours and noise: all fixed by `draw`."""
        side = patch or self.frames.shape[-1]
        pixels = np.empty((count, 3, 3, side, side), np.uint8)
        chosen = draw.integers(len(self.frames), size=count)
        for into, index in zip(pixels, chosen, strict=True):
            top, left = draw.integers(self.frames.shape[-1] - side + 1, size=2)
            seen = self.frames[index, :, :, top : top + side, left : left + side]
            down, right, turned = draw.random(3) < 0.5
            seen = seen[..., :: -1 if down else 1, :: -1 if right else 1]
            into[:] = seen.swapaxes(-1, -2) if turned else seen
        factors = torch.from_numpy(self.factors[chosen]).to(device)
        colours = draw.uniform(-self.limits.colour, self.limits.colour, (count, 3))
        noises = draw.uniform(0, self.limits.noise, count).tolist()
        seeds = draw.integers(2**31, size=count).tolist()
        return perturbed(Frames(torch.from_numpy(pixels).to(device), factors), list(colours), noises, seeds)


def rendered_set(generator: Generator, count: int, folder: Path, *, pictures: Any) -> RenderedSet:
    """The samples 0 to `count` - 1 of `generator`: from `folder`, or rendered into it.

    `pictures` identifies the sources' files (`fingerprint` of `sources`). The frames take 9 bytes a pixel. Raises
    OSError where the disk is too full.
    """
    settings = {
        "count": count, "size": generator.size, "seed": generator.seed, "factor": generator.factor,
        "limits": asdict(generator.limits), "sources": generator.sources.fingerprint, "pictures": pictures,
        "code": _code(),
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    place = folder / f"{count}x{generator.size}-{key}"
    if not place.is_dir():
        _render(generator, count, place, settings)
    return RenderedSet(np.load(place / FRAMES, mmap_mode="r"), np.load(place / FACTORS), generator.limits)


def _render(generator: Generator, count: int, place: Path, settings: dict[str, Any]) -> None:
    shape = (count, 3, 3, generator.size, generator.size)
    print(f"rendering {count} samples, {np.prod(shape, dtype=np.int64) / 1e9:.2f} GB, into {place}", file=sys.stderr)
    part = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.mkdir(parents=True)
        frames = np.lib.format.open_memmap(part / FRAMES, mode="w+", dtype=np.uint8, shape=shape)
        factors = np.empty(count, np.float32)
        for first in range(0, count, AT_ONCE):
            made = generator.frames(range(first, min(first + AT_ONCE, count)))
            frames[first : first + AT_ONCE] = made.pixels.cpu().numpy()
            factors[first : first + AT_ONCE] = made.factor.cpu().numpy()
        frames.flush()
        np.save(part / FACTORS, factors)
        (part / SETTINGS).write_text(json.dumps(settings, indent=1))
        try:
            os.rename(part, place)
        except OSError:
            if not place.is_dir():  # else another worker was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _code() -> str:
    """The hash of the files that frames are made by."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
