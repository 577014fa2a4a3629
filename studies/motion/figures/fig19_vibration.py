"""Figure 19: is what is shown physically right? A rendered vibration of 21 Hz at 100 frames a second, all methods.

``python -m studies.motion.figures.fig19_vibration --preset smoke|cpu|gpu [--time-limit MINUTES]``

An object sways up and down by a quarter of a pixel before a photo that is still, both of scikit-image's samples. What
moves between 17 and 25 Hz (FIR) is magnified 20 times in all. Tracked points on the object give the frequency and the
amplitude that are seen; what sways at 21 Hz where nothing does is ringing. The clip has the 1280 x 800 pixels of the
paper's; on a CPU it is shorter. Output: ``reports/fig19_vibration/<preset>/``.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.ndimage import binary_dilation, binary_erosion

import archlab as al
from archlab.experiments import Scratch, command
from archlab.report import Column, Picture, plots, table, write_report
from studies.device import device

from ..data.generator import Generator
from ..data.layers import draw_layer
from ..data.noise import quantise
from ..data.sources import find_sources
from ..evaluate.methods import LEARNED, NAMES, TITLES
from ..evaluate.methods import rows as rows_of
from ..evaluate.tracking import corners, displacements
from ..magnification import ACCELERATION, magnification

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "report"]

PRESETS = ("smoke", "cpu", "gpu")
COPY = "the clip itself"
ROWS = rows_of((*NAMES, COPY))
SIZES = {"smoke": (128, 96), "cpu": (1280, 800), "gpu": (1280, 800)}  # width, height
FRAMES = {"smoke": 32, "cpu": 40, "gpu": 128}
HZ, RATE, BAND = 21.0, 100.0, (17.0, 25.0)
AMPLITUDE, FACTOR = 0.25, 20.0  # pixels; total gain
SCENE = 11  # of the generator: an object with corners, before a calm photo
EDGE = 8  # frames at either end that are not judged: filters begin there
TRACKED = 30  # points
NEAR = 0.075  # of the width, from what moves: where ringing is looked for
GRID_HZ = 0.01
HZ_OFF, SHARE_OFF = 0.1, 0.05  # how far learned methods may miss frequency and amplitude


def fingerprint(preset: str, data: Path | None) -> str:
    return "scikit-image samples"


class Clip(NamedTuple):
    """Frames and true magnification, uint8 T x H x W x 3, and where the object is in the first, H x W."""

    frames: np.ndarray
    target: np.ndarray
    object: np.ndarray


@lru_cache(1)
def clip(width: int, height: int, count: int) -> Clip:
    generator = Generator(find_sources(None, "val"), width, device=device())
    draw = np.random.default_rng(SCENE)
    back = generator.background(draw, np.zeros(2), blurred=False)
    front = generator.object(draw, np.array([AMPLITUDE, 0.0]))
    front = front._replace(origin=(width - np.array(front.picture.shape[1:]) / front.scale) / 2)
    sway = np.sin(2 * np.pi * HZ * np.arange(count) / RATE)
    top = (width - height) // 2
    maker = torch.Generator(generator.device).manual_seed(0)

    def pixels(gains: np.ndarray) -> np.ndarray:
        images = [generator.render([back, front], (float(gain),)) for gain in gains]
        rows = quantise(torch.cat(images)[:, :, top : top + height], maker) * 255
        return rows.round().byte().permute(0, 2, 3, 1).cpu().numpy()

    alpha = draw_layer(front, np.zeros((1, 2)), width)[0, 3, top : top + height].cpu().numpy()
    return Clip(pixels(sway), pixels(FACTOR * sway), alpha > 0.9)


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """What is seen of the vibration with one method, and the slice in the cell's folder."""
    (width, height), count = SIZES[preset], FRAMES[preset]
    made = clip(width, height, count)
    shown = np.stack(list(magnified(row["name"], made.frames)))
    column = int(np.argwhere(made.object)[:, 1].mean())
    for name, frames in (("input", made.frames), ("target", made.target), (row["name"], shown)):
        np.save(scratch.folder / f"{name}.npy", frames[:, :, column].transpose(1, 0, 2))
    about = {"width": width, "height": height, "frames": count}
    return about | vars(judged(shown, made)) | {"tracker": vars(judged(made.target, made))}


def magnified(name: str, frames: np.ndarray) -> Any:
    if name == COPY:
        return frames
    options: dict[str, Any] = {"model": name, "band": BAND, "rate": RATE, "device": device()}
    if name in ACCELERATION:
        return magnification(frames, factor=FACTOR, **options)
    options |= {"precision": "fp32"} if name in LEARNED else {}
    return magnification(frames, factor=FACTOR, mode="fir", **options)


@dataclass(frozen=True)
class Judged:
    """`amplitude` is a share of the true one; `ringing` the root of the energy at 21 Hz beside what moves over that in
    it, as shares of the true clip; `flicker` how much the error changes from frame to frame, in levels of 255."""

    hz: float
    amplitude: float
    ringing: float
    flicker: float
    ssim: float


def judged(shown: np.ndarray, made: Clip) -> Judged:
    inner = slice(EDGE, len(shown) - EDGE)
    first = grey(made.frames[:1])[0]
    inside = binary_erosion(made.object, iterations=4)
    points = corners(np.where(inside, first, first[inside].mean()), TRACKED, margin=8)
    points = points[inside[tuple(points.T)]]  # pyright: ignore[reportCallIssue, reportArgumentType]
    heights = [np.median(displacements(first, image, points)[:, 0]) for image in grey(shown)[inner]]
    hz, amplitude = sinusoid(np.array(heights))
    swaying = [swaying_part(grey(frames)[inner]) for frames in (shown, made.target)]
    moving = swaying[1] > 4 * np.median(swaying[1])
    beside = binary_dilation(moving, iterations=round(NEAR * moving.shape[1])) & ~(  # pyright: ignore[reportOperatorIssue]
        binary_dilation(moving, iterations=4)
    )
    error = grey(shown)[inner] - grey(made.target)[inner]
    images = [torch.from_numpy(frames[inner][::8]).permute(0, 3, 1, 2).float() / 255 for frames in (shown, made.target)]
    return Judged(
        hz=hz,
        amplitude=amplitude / (FACTOR * AMPLITUDE),
        ringing=float(np.sqrt((swaying[0][beside] ** 2).mean() / (swaying[1][moving] ** 2).mean())),
        flicker=float(np.abs(np.diff(error, axis=0)).mean()) * 255,
        ssim=float(al.ssim(*images)),
    )


def grey(frames: np.ndarray) -> np.ndarray:
    return frames.mean(axis=-1) / 255


def sinusoid(heights: np.ndarray) -> tuple[float, float]:
    """Frequency and amplitude of the sway that fits best.

    >>> t = np.arange(32) / RATE
    >>> hz, amplitude = sinusoid(3 * np.sin(2 * np.pi * 20.5 * t + 1) + 0.4)
    >>> round(hz, 2), round(amplitude, 2)
    (20.5, 3.0)
    """
    best = (np.inf, 0.0, 0.0)
    for hz in np.arange(1, RATE / 2 - 1, GRID_HZ):
        weights, (rest, *_), *_ = np.linalg.lstsq(waves(len(heights), hz), heights, rcond=None)
        best = min(best, (float(rest), float(hz), float(np.hypot(*weights[:2]))))
    return best[1], best[2]


def waves(count: int, hz: float) -> np.ndarray:
    turn = 2 * np.pi * hz * np.arange(count) / RATE
    return np.stack([np.sin(turn), np.cos(turn), np.ones(count)], axis=1)


def swaying_part(frames: np.ndarray) -> np.ndarray:
    """The amplitude of 21 Hz at every pixel, of T x H x W."""
    weights = np.linalg.lstsq(waves(len(frames), HZ), frames.reshape(len(frames), -1), rcond=None)[0]
    return np.hypot(weights[0], weights[1]).reshape(frames.shape[1:])


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write slices.png, table.md and report.md."""
    first = rows[rows["seed"] == 0]
    draw(first, {name: Path(path) for name, path in rows.attrs["folders"].items()}, folder / "slices.png")
    one = first.iloc[0]
    tracker = {"row": "the true magnification", **one["tracker"]}
    shown = pd.concat([pd.DataFrame([tracker]), first], ignore_index=True)
    shown = shown.assign(row=shown["row"].replace(TITLES))
    columns = [
        Column("row", "method"),
        Column("hz", "frequency [Hz]", digits=2),
        Column("amplitude", "amplitude [of the true one]", digits=3),
        Column("ringing", "ringing", digits=3),
        Column("flicker", "flicker [levels]", digits=2),
        Column("ssim", "SSIM", digits=3),
    ]
    table_of = table(shown, columns=columns)
    learned = first[first["row"].isin(LEARNED)]
    said = [
        f"{TITLES[row['row']]}: {row['hz']:.2f} Hz, {_whether(abs(row['hz'] - HZ) <= HZ_OFF)} {HZ_OFF:g} Hz; "
        f"amplitude {row['amplitude']:.3f}, {_whether(abs(row['amplitude'] - 1) <= SHARE_OFF)} {SHARE_OFF:.0%}."
        for row in learned.to_dict("records")
    ]
    write_report(
        rows, folder, "Figure 19: a vibration of 21 Hz",
        f"{one['frames']} frames of {one['width']} x {one['height']} pixels, {RATE:g} a second: an object sways by "
        f"{AMPLITUDE:g} pixels at {HZ:g} Hz before a still photo. FIR {BAND[0]:g} to {BAND[1]:g} Hz, total gain "
        f"{FACTOR:g}; acceleration and jerk-aware magnification have filters of their own about {sum(BAND) / 2:g} Hz, "
        "and a factor with which as much comes out. Ringing: the amplitude at 21 Hz beside what moves, over that in "
        f"it. Flicker: how much the error changes from frame to frame. {EDGE} frames at either end are not judged.",
        Picture("slices.png", "one column of pixels over time"), table_of,
        "Asked of the learned ones:", said,
        "The paper says of its Figure 19, without numbers: the networks capture the sinusoid; phase-based "
        "magnification rings and does not.",
        command=f"python -m {__name__}", tables={"table": table_of},
    )  # fmt: skip


def _whether(near: bool) -> str:
    return "within" if near else "not within"


def draw(rows: pd.DataFrame, folders: dict[str, Path], path: Path) -> None:
    """One column of pixels of each clip, side by side in two lines."""
    somewhere = folders[rows["row"].iloc[0]]
    pictures = {"the clip": np.load(somewhere / "input.npy"), "true magnification": np.load(somewhere / "target.npy")}
    pictures |= {TITLES[name]: np.load(folders[name] / f"{name}.npy") for name in rows["row"] if name in TITLES}
    _, panels = plt.subplots(2, 5, figsize=(7.1, 3.8), layout="constrained")
    for ax, (name, picture) in zip(panels.flat, pictures.items(), strict=True):
        ax.imshow(picture, interpolation="nearest", aspect="auto")
        ax.set_title(name.replace(" (", "\n("), fontsize=plots.FONT)
        ax.set_xticks([])
        ax.set_yticks([])
    panels[1, 0].set_xlabel("time", fontsize=plots.FONT)
    panels[1, 0].set_ylabel("y", fontsize=plots.FONT)
    plots.save(panels[0, 0], path)


if __name__ == "__main__":
    command()
