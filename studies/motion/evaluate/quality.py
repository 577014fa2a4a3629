"""How good a magnifier is: held-out samples, image quality, and whether motion grows as the factor says.

A magnifier is any function (frame_a, frame_b, factor) -> image, frames and image N x 3 x S x S in [-1, 1], factor N.
Held-out samples come from photos that training never saw, with its distribution of motions and factors but without
its photon noise; the 8-bit quantisation and the colour perturbation stay.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from skimage.registration import optical_flow_ilk
from torch import Tensor

import archlab as al
from studies.device import device

from ..data.generator import REFERENCE_SIZE, VALIDATION_SEED, Batch, Generator
from ..data.layers import Layer
from ..data.sources import Sources

Magnifier = Callable[[Tensor, Tensor, Tensor], Tensor]
BACKBONE = Path("weights") / "alexnet_features_torchvision.pth"  # below the data folder; else torchvision's own copy
AT_ONCE = 8
# What is measured of every image, beside LPIPS, which needs a backbone. Pixels: a follow-up's released SSIM leaves out
# the map's border.
MEASURES = {"ssim": al.ssim, "ssim_crop8": partial(al.ssim, crop=8)}
COMPARED = ("ssim", "lpips")  # what networks are compared by, sample by sample


@dataclass(frozen=True)
class HeldOut:
    """`count` samples of `size` pixels, made anew each time they are gone through; `factor` None: as in training."""

    sources: Sources
    size: int
    count: int
    factor: float | None = None

    def __iter__(self) -> Iterator[Batch]:
        generator = Generator(self.sources, self.size, seed=VALIDATION_SEED, device=device(), factor=self.factor)
        for first in range(0, self.count, AT_ONCE):
            yield generator.batch(range(first, min(first + AT_ONCE, self.count)), noise=False)


def copy_b(frame_a: Tensor, frame_b: Tensor, factor: Tensor) -> Tensor:
    """The magnifier that does nothing: what any other must beat."""
    return frame_b


@torch.inference_mode()
def evaluate(
    magnify: Magnifier, samples: Iterable[Batch], *, data: Path | None = None, perceptual: bool = True
) -> pd.DataFrame:
    """One row a sample: factor, ssim, ssim_crop8, lpips (NaN where its backbone is missing; `.attrs` says why)."""
    backbone = data / BACKBONE if data is not None and (data / BACKBONE).is_file() else None
    reason = why_no_lpips(backbone) if perceptual else "not asked for"
    rows = []
    for batch in samples:
        image = unit(magnify(batch.a, batch.b, batch.factor))
        target = unit(batch.target)
        values = {name: measure(image, target, reduction="none") for name, measure in MEASURES.items()}
        if not reason:
            values["lpips"] = al.lpips(image, target, backbone=backbone, reduction="none")
        values["factor"] = batch.factor
        rows.append(pd.DataFrame({name: value.cpu().numpy() for name, value in values.items()}))
    frame = pd.concat(rows, ignore_index=True).reindex(columns=["factor", *MEASURES, "lpips"])
    frame.attrs["no_lpips"] = reason
    return frame


@cache
def why_no_lpips(backbone: Path | None) -> str:
    """Empty where LPIPS can be measured; else the reason, found out once: without a network that takes seconds."""
    try:
        al.lpips_network("alex", None if backbone is None else str(backbone))
    except al.BackboneMissing as error:
        return str(error)
    return ""


def unit(image: Tensor) -> Tensor:
    """An image in [-1, 1] as one in [0, 1], clamped, float32."""
    return ((image.float() + 1) / 2).clamp(0, 1)


def summary(frame: pd.DataFrame) -> dict[str, Any]:
    """Means of what `evaluate` found, and the interval of SSIM over the samples."""
    _, low, high = al.interval(frame["ssim"], method="bootstrap")
    means: dict[str, Any] = {name: float(frame[name].mean()) for name in (*MEASURES, "lpips")}
    if frame["lpips"].isna().all():
        means["lpips"] = None
    return means | {"ssim_low": low, "ssim_high": high, "judged": len(frame), "no_lpips": frame.attrs["no_lpips"]}


@torch.inference_mode()
def displacements(
    magnify: Magnifier, sources: Sources, size: int, *, factors: tuple[float, ...], photos: int = 6, steps: int = 8
) -> pd.DataFrame:
    """Measured against wanted motion, as in the paper's Fig. 2: whole photos that move, by known amounts.

    For each photo and factor, `steps` magnified motions factor · d up to 10 pixels at 384 x 384, in proportion at
    other sizes; the network sees d. Measured: the median over the inner pixels of the dense iterative Lucas-Kanade
    flow (scikit-image) from frame A to the output, along the direction of motion; and from A to the true target,
    which shows what the measure itself is worth. Columns: photo, factor, wanted, measured, on_target; in pixels.
    """
    generator = Generator(sources, size, seed=VALIDATION_SEED, device=device())
    most = 10.0 * size / REFERENCE_SIZE
    rows = []
    for photo in range(photos):
        layer, direction = moving_photo(generator, photo)
        for factor in factors:
            for wanted in np.linspace(0, most, steps + 1)[1:]:
                moved = layer._replace(motion=direction * wanted / factor)
                a, b, target = generator.render([moved], (0.0, 1.0, factor)) * 2 - 1
                gain = torch.tensor([factor], device=a.device)
                image = magnify(a[None], b[None], gain)[0]
                row = {"photo": photo, "factor": factor, "wanted": float(wanted)}
                for name, frame in (("measured", image), ("on_target", target)):
                    row[name] = float(_flow(a, frame) @ direction)
                rows.append(row)
    return pd.DataFrame(rows)


def moving_photo(generator: Generator, photo: int) -> tuple[Layer, np.ndarray]:
    """A whole photo at rest, and a direction (y, x) of length 1 for it to move along: both fixed by its number."""
    draw = np.random.default_rng((VALIDATION_SEED, photo, generator.size))
    layer = generator.background(draw, np.zeros(2), blurred=False)
    angle = draw.uniform(0, 2 * np.pi)
    return layer, np.array([np.sin(angle), np.cos(angle)])


def _flow(frame: Tensor, moved: Tensor) -> np.ndarray:
    """The displacement (y, x) of most of the picture, in pixels."""
    still, other = (unit(image).mean(dim=0).cpu().numpy().astype(np.float64) for image in (frame, moved))
    flow = optical_flow_ilk(still, other, radius=7, num_warp=15)
    edge = max(8, still.shape[0] // 8)
    return np.median(flow[:, edge:-edge, edge:-edge].reshape(2, -1), axis=1)


def line(frame: pd.DataFrame, column: str) -> tuple[float, float]:
    """How `column` follows the wanted displacement: slope of the line through the origin, and R² about it."""
    wanted, found = frame["wanted"].to_numpy(float), frame[column].to_numpy(float)
    slope = float(wanted @ found / (wanted @ wanted))
    return slope, 1 - float(np.square(found - slope * wanted).sum() / np.square(found - found.mean()).sum())
