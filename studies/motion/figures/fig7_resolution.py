"""Figure 7: the decoder at ½, ¼ and ⅛ of the resolution: SSIM, FPS, and x-t slices of a magnified clip.

``python -m studies.motion.figures.fig7_resolution --preset smoke|cpu|gpu|paper [--data DIR] [--time-limit MINUTES]``

The clip is rendered: a photo that scikit-image ships sways by a fraction of a pixel, so its true magnification is
known. The trainings are those of `networks`. Output: ``reports/fig7_resolution/<preset>/``.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from archlab.experiments import Scratch, Wanted, command
from archlab.report import Pair, Picture, plots, write_report
from studies.device import device

from ..data.generator import Generator
from ..data.layers import Layer, draw_layer
from ..data.noise import quantise
from ..data.sources import find_sources
from ..evaluate.quality import unit
from ..train.family import budget_for, fingerprint
from ..train.networks import PRESETS, trained
from ..video.reading import xt_slice
from .shared import RESOLUTIONS, about, against_baseline, draw_tradeoffs, gathered, needs_of, table_of

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "needs", "report"]

ROWS = [{"name": name} for name in RESOLUTIONS]
FRAMES, PERIOD = 48, 16  # of the clip
SWAY, FACTOR = 0.3, 10.0  # pixels; total gain
PHOTO = 0  # of scikit-image's samples


def needs(row: dict[str, Any]) -> list[Wanted]:
    return needs_of(row["name"])


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Quality and speed, and the slice of the magnified clip in the cell's folder."""
    net = trained(row["name"], scratch)
    assert net is not None
    frames, target = clip(budget_for(preset).size)
    with torch.inference_mode():
        gain = torch.tensor([FACTOR], device=frames.device)
        made = torch.cat([net(frames[:1], frame[None], gain) for frame in frames])
    for name, shown in (("input", frames), ("target", target), (row["name"], made)):
        np.save(scratch.folder / f"{name}.npy", xt_slice(pixels(shown), row=shown.shape[2] // 2))
    error = (made - target).abs().mean()
    return gathered(row["name"], scratch) | {"clip_l1": float(error)}


def clip(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A photo that sways from left to right, as it is and magnified: frames x 3 x size x size in [-1, 1]."""
    sources = find_sources(None, "val")
    generator = Generator(sources, size, device=device())
    still = generator.background(np.random.default_rng(PHOTO), np.zeros(2), blurred=False)
    sway = SWAY * np.sin(2 * np.pi * np.arange(FRAMES) / PERIOD)
    maker = torch.Generator(device()).manual_seed(0)
    clips = [quantise(drawn(still, gain * sway, size), maker) * 2 - 1 for gain in (1.0, FACTOR)]
    return clips[0], clips[1]


def drawn(layer: Layer, shifts: np.ndarray, size: int) -> torch.Tensor:
    """The layer shifted in x by each of `shifts`."""
    moves = np.stack([np.zeros_like(shifts), shifts], axis=1)
    return draw_layer(layer, moves, size)[:, :3].clamp(0, 1)


def pixels(frames: torch.Tensor) -> np.ndarray:
    """Frames in [-1, 1] as pictures: frames x height x width x 3 in [0, 1]."""
    return unit(frames).permute(0, 2, 3, 1).cpu().numpy()


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, tradeoff.png, slices.png, two slices to be compared and report.md."""
    table = table_of(rows)
    pictures = draw_tradeoffs(rows, folder)
    first = rows[rows["seed"] == 0]
    folders = {name: Path(rows.attrs["folders"][name]) for name in RESOLUTIONS}
    shown = {"input": folders["baseline"] / "input.npy", "target": folders["baseline"] / "target.npy"}
    shown |= {label: folders[name] / f"{name}.npy" for name, label in RESOLUTIONS.items()}
    slices = {label: np.load(path) for label, path in shown.items()}
    draw_slices(slices, folder / "slices.png")
    pair = {"slice_target.png": "target", "slice_baseline.png": RESOLUTIONS["baseline"]}
    for file, label in pair.items():
        plt.imsave(folder / file, np.asarray(slices[label], dtype=float))
    errors = ", ".join(f"{RESOLUTIONS[row['row']]} {row['clip_l1']:.4f}" for row in first.to_dict("records"))
    write_report(
        rows, folder, "Figure 7: resolution in the decoder", table,
        "The paper measures ¼× 1.85 times as fast as the baseline here, and 1.42 times in its Fig. 11.",
        *pictures,
        f"x-t slices (time downwards) of a rendered clip: a photo of scikit-image that sways by {SWAY:g} pixels, "
        f"magnified {FACTOR:g} times in static mode. L1 to the true magnification: {errors}.",
        Picture("slices.png", "x-t slices"), Pair(*(Picture(file, f"x-t slice, {of}") for file, of in pair.items())),
        *against_baseline(rows), command=f"python -m {__name__}", about=about(rows), tables={"table": table},
    )  # fmt: skip


def draw_slices(slices: dict[str, np.ndarray], path: Path) -> None:
    _, panels = plt.subplots(1, len(slices), figsize=(7.1, 1.6), layout="constrained")
    for ax, (name, picture) in zip(panels, slices.items(), strict=True):
        ax.imshow(picture, interpolation="nearest", aspect="auto")
        ax.set_title(name, fontsize=plots.FONT)
        ax.set_xticks([])
        ax.set_yticks([])
    panels[0].set_ylabel("time", fontsize=plots.FONT)
    panels[0].set_xlabel("x", fontsize=plots.FONT)
    plots.save(panels[0], path)


if __name__ == "__main__":
    command()
