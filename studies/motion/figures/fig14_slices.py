"""Figures 14, 15, 16a and 18: x-t slices of clips, all methods, and how sharp and how steady they are.

``python -m studies.motion.figures.fig14_slices --preset smoke|cpu|gpu [--data DIR] [--time-limit MINUTES]``

A photo of scikit-image that sways, whose true magnification is known, and real clips of ``DIR/videos``, where they are:
one row of pixels (of the guitar one column) over time. The report shows the first and Big Buck Bunny, which may be
published; slices of the others are written beside them in the scratch folder. Output:
``reports/fig14_slices/<preset>/``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.image import imsave

import archlab as al
from archlab.experiments import Scratch, command, data_fingerprint
from archlab.report import Column, Picture, plots, table, write_report
from studies.device import device

from ..data.generator import Generator
from ..data.noise import quantise
from ..data.sources import find_sources
from ..evaluate.methods import LEARNED, NAMES, TITLES
from ..evaluate.methods import rows as rows_of
from ..magnification import ACCELERATION, magnification
from ..video import reading

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "report"]


@dataclass(frozen=True)
class Clip:
    """A part of a video, how it is magnified, and where the slice lies: a share of the height, or of the width."""

    file: str
    start: float  # seconds
    smaller: int  # times
    factor: float
    band: tuple[float, float]  # Hz at `rate`; acceleration and jerk-aware magnification are about its middle
    rate: float
    mode: str = "butter"
    row: float = 0.5
    column: float | None = None


PRESETS = ("smoke", "cpu", "gpu")
COPY = "the clip itself"
ROWS = rows_of((COPY, *NAMES))
SWAY, RATE, HZ, PHOTO = 0.25, 30.0, 2.0, 0  # of the rendered clip: pixels, frames a second, sways a second, which
RENDERED = Clip("", 0.0, 1, 10.0, (1.0, 3.0), RATE)
# Parameters as published where they are: baby and guitar of Wu et al. and Wadhwa et al., cat_toy in the dynamic mode.
CLIPS = {
    "bunny": Clip("bigbuckbunny.mp4", 2.6, 5, 5.0, (1.0, 4.0), 25.0, "dynamic", row=0.12),
    "baby": Clip("baby.mp4", 0.0, 4, 20.0, (0.4, 3.0), 30.0, "iir"),
    "guitar": Clip("guitar.mp4", 0.0, 2, 25.0, (72.0, 92.0), 600.0, column=0.5),
    "cat toy": Clip("cat_toy.mp4", 0.0, 3, 5.0, (1.0, 4.0), 29.97, "dynamic"),
}
FRAMES = {"smoke": 12, "cpu": 28, "gpu": 120}
SIZES = {"smoke": 64, "cpu": 144, "gpu": 384}  # pixels of the rendered clip
SMALLER = {"smoke": 2, "cpu": 1, "gpu": 1}  # times, once more
SETTLED = 12  # frames after which filters see no begin
PUBLISHED = ("rendered", "bunny")


def fingerprint(preset: str, data: Path | None) -> Any:
    return None if data is None or not (data / "videos").is_dir() else data_fingerprint(data / "videos")


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Numbers of each clip with one method; slices in the cell's folder."""
    found = {}
    for name, clip in {"rendered": RENDERED, **CLIPS}.items():
        target = None
        if name == "rendered":
            frames, target = rendered(SIZES[preset], FRAMES[preset])
            np.save(scratch.folder / "target.npy", slice_of(target, clip))
        elif scratch.data is not None and (scratch.data / "videos" / clip.file).is_file():
            frames = read(scratch.data / "videos" / clip.file, clip, SMALLER[preset], FRAMES[preset])
        else:
            continue
        shown = frames if row["name"] == COPY else np.stack(list(magnified(row["name"], frames, clip)))
        if name in PUBLISHED:
            np.save(scratch.folder / f"{row['name'] if name == 'rendered' else name}.npy", slice_of(shown, clip))
        imsave(scratch.folder / f"{name}.png", slice_of(shown, clip))
        found[name] = numbers(shown, frames, target)
    return {"frames": FRAMES[preset], "size": SIZES[preset], "clips": found}


def rendered(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo that sways from left to right, as it is and magnified, uint8 T x size x size x 3."""
    generator = Generator(find_sources(None, "val"), size, device=device())
    layer = generator.background(np.random.default_rng(PHOTO), np.array([0.0, SWAY]), blurred=False)
    sway = np.sin(2 * np.pi * HZ * np.arange(count) / RATE)
    maker = torch.Generator(generator.device).manual_seed(0)
    clips = []
    for gains in (sway, RENDERED.factor * sway):
        images = generator.render([layer], tuple(map(float, gains)))
        clips.append((quantise(images, maker) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return clips[0], clips[1]


def read(path: Path, clip: Clip, smaller: int, count: int) -> np.ndarray:
    """Some frames of a video, averaged over squares of pixels."""
    by = clip.smaller * smaller

    def averaged() -> Iterator[np.ndarray]:
        for frame in islice(reading.frames(path, start=clip.start), count):
            height, width = (side // by for side in frame.shape[:2])
            squares = frame[: height * by, : width * by].reshape(height, by, width, by, 3)
            yield squares.mean(axis=(1, 3)).round().astype(np.uint8)

    return np.stack(list(averaged()))


def magnified(name: str, frames: np.ndarray, clip: Clip) -> Iterator[np.ndarray]:
    options: dict[str, Any] = {"model": name, "device": device()}
    if name in ACCELERATION:
        return magnification(frames, factor=clip.factor, band=clip.band, rate=clip.rate, **options)
    if name in LEARNED:
        options["precision"] = "fp32"
    if clip.mode != "dynamic":
        options |= {"band": clip.band, "rate": clip.rate}
    return magnification(frames, factor=clip.factor, mode=clip.mode, **options)


def slice_of(frames: np.ndarray, clip: Clip) -> np.ndarray:
    """Time downwards; of a column, time to the right."""
    if clip.column is None:
        return reading.xt_slice(frames, row=int(clip.row * frames.shape[1]))
    return frames[:, :, int(clip.column * frames.shape[2])].transpose(1, 0, 2)


def numbers(shown: np.ndarray, frames: np.ndarray, target: np.ndarray | None) -> dict[str, float | None]:
    """`sharp` and `flicker` against the clip itself: the mean slope of a picture, and the mean second difference in
    time, where what moves evenly has none. SSIM to the true magnification, where it is known."""
    settled = min(SETTLED, len(shown) // 2)
    parts = [clip[settled:].astype(np.float32).mean(axis=-1) for clip in (shown, frames)]
    sharp = [np.mean([np.hypot(*np.gradient(image)).mean() for image in part]) for part in parts]
    flicker = [np.abs(np.diff(part, n=2, axis=0)).mean() for part in parts]
    ssim = None
    if target is not None:
        pair = [torch.from_numpy(clip[settled::4]).permute(0, 3, 1, 2).float() / 255 for clip in (shown, target)]
        ssim = float(al.ssim(*pair))
    return {"sharp": float(sharp[0] / sharp[1]), "flicker": float(flicker[0] / flicker[1]), "ssim": ssim}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write slices.png, table.md and report.md."""
    first = rows[rows["seed"] == 0]
    draw(first, {name: Path(path) for name, path in rows.attrs["folders"].items()}, folder / "slices.png")
    lines, names = [], list(first["clips"].iloc[0])
    for row in first.to_dict("records"):
        line: dict[str, Any] = {"method": TITLES.get(row["row"], row["row"]), "ssim": row["clips"]["rendered"]["ssim"]}
        for name, found in row["clips"].items():
            line |= {f"sharp {name}": found["sharp"], f"flicker {name}": found["flicker"]}
        lines.append(line)
    columns = [Column("method", "method"), Column("ssim", "rendered: SSIM", digits=3, better="higher")]
    columns += [Column(f"{key} {name}", f"{name}: {key}", digits=2) for name in names for key in ("sharp", "flicker")]
    shown, one = table(pd.DataFrame(lines), columns=columns), first.iloc[0]
    told = [_in_words("rendered", RENDERED), *(_in_words(name, CLIPS[name]) for name in names if name in CLIPS)]
    write_report(
        rows, folder, "Figures 14, 15, 16a and 18: slices of magnified clips",
        f"{one['frames']} frames of each clip; the rendered one, a photo of scikit-image that sways by {SWAY:g} pixels "
        f"at {HZ:g} Hz, has {one['size']} x {one['size']} pixels. Total gain, and what is magnified:", told,
        Picture("slices.png", "one row of pixels over time"), "Time runs downwards. "
        "Big Buck Bunny: (c) Blender Foundation, CC-BY 3.0. Slices of the other clips may not be published; the "
        "command writes them into its scratch folder. Sharp: the mean slope of the pictures, and flicker: the mean "
        "second difference in time, both over those of the clip itself. A true magnification is as sharp as the clip, "
        "and sways more, so it has more of the second, but no more than the gain.",
        shown,
        command=f"python -m {__name__}", tables={"table": shown},
    )  # fmt: skip


def _in_words(name: str, clip: Clip) -> str:
    what = "the motion away from the frame before" if clip.mode == "dynamic" else f"{clip.mode}, "
    band = "" if clip.mode == "dynamic" else f"{clip.band[0]:g} to {clip.band[1]:g} Hz at {clip.rate:g} frames a second"
    return f"{name}: {clip.factor:g}, {what}{band}"


def draw(rows: pd.DataFrame, folders: dict[str, Path], path: Path) -> None:
    """A line a clip that may be published, a column a method."""
    somewhere = folders[COPY]
    true = {"true magnification": somewhere / "target.npy"}
    lines = [("rendered", true), ("bunny", {})]
    names = list(rows["row"])
    _, panels = plt.subplots(len(names) + 1, len(lines), figsize=(7.1, 9.4), layout="constrained")
    for column, (clip, more) in zip(panels.T, lines, strict=True):
        pictures = {TITLES.get(n, n): folders[n] / f"{n if clip == 'rendered' else clip}.npy" for n in names} | more
        for ax in column:
            ax.axis("off")
        if not any(file.is_file() for file in pictures.values()):
            continue  # the clip was not at hand
        for ax, (title, file) in zip(column, pictures.items(), strict=False):
            ax.imshow(np.load(file), interpolation="nearest", aspect="auto")
            ax.set_title(f"{clip}: {title}", fontsize=plots.FONT)
    plots.save(panels[0, 0], path)


if __name__ == "__main__":
    command()
