"""Figure 2: does the displacement grow as the factor says? All methods, measured by tracking points.

``python -m studies.motion.figures.fig2_linearity --preset smoke|cpu|gpu [--data DIR] [--time-limit MINUTES]``

Held-out photos that move by a known fraction of a pixel are magnified by rising factors, up to 10 pixels. Corners are
tracked (Kanade, Lucas, Tomasi) from the unmoved photo into what each method shows, and into the true target, which says
what the tracker itself is worth. Output: ``reports/fig2_linearity/<preset>/``.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from archlab.experiments import Scratch, command
from archlab.report import Column, Picture, plots, table, write_report
from studies.device import device

from ..data.generator import VALIDATION_SEED, Generator
from ..data.sources import Sources, find_sources, fingerprint
from ..evaluate.methods import LEARNED, NAMES, TITLES, Seen, method
from ..evaluate.methods import rows as rows_of
from ..evaluate.quality import line, moving_photo, unit
from ..evaluate.tracking import corners, displacements
from .shared import draw_lines, legend_above, points_of

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "report"]

PRESETS = ("smoke", "cpu", "gpu")
TRUE = "the true target"  # what the tracker is worth
ROWS = rows_of((*NAMES, TRUE))
SIZES = {"smoke": 96, "cpu": 192, "gpu": 384}  # pixels
PHOTOS = {"smoke": 1, "cpu": 3, "gpu": 24}
FARTHEST = 10.0  # pixels that are shown
STEPS = 5  # factors: even steps up to there
MOTIONS = (0.5, 0.1)  # pixels that a photo moves
TRACKED = 40  # points at most
ENOUGH = 0.95  # R² that learned methods must have
NEAR = 0.2  # of the true displacement: how far it may be missed and counts as linear


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The displacements of one method, or of the truth."""
    pictures = find_sources(scratch.data, "val")
    seen = None if row["name"] == TRUE else method(row["name"])
    found = measured(seen, pictures, SIZES[preset], PHOTOS[preset])
    about = {"size": SIZES[preset], "photos": PHOTOS[preset], "val_data": pictures.fingerprint}
    return about | {"points": found.round(4).to_dict("records")}


@torch.inference_mode()
def measured(seen: Seen | None, pictures: Sources, size: int, photos: int) -> pd.DataFrame:
    """Of a method, or of the true target. Columns: photo, motion, factor, wanted, measured; pixels along the motion."""
    generator = Generator(pictures, size, seed=VALIDATION_SEED, device=device())
    rows = []
    for photo in range(photos):
        layer, direction = moving_photo(generator, photo)
        first = grey(generator.render([layer], (0.0,))[0] * 2 - 1)
        points = corners(first, TRACKED, margin=size // 8)
        for motion in MOTIONS:
            moving = layer._replace(motion=direction * motion)
            frames = None if seen is None else generator.render([moving], seen.shifts) * 2 - 1
            for wanted in np.linspace(0, FARTHEST, STEPS + 1)[1:]:
                factor = float(wanted / motion)
                if seen is None or frames is None:
                    image = generator.render([moving], (factor,))[0] * 2 - 1
                else:
                    image = seen.show(frames, factor)[0]
                found = np.median(displacements(first, grey(image), points), axis=0) @ direction
                rows.append({"photo": photo, "motion": motion, "factor": factor, "wanted": float(wanted),
                             "measured": float(found)})  # fmt: skip
    return pd.DataFrame(rows)


def grey(image: Tensor) -> np.ndarray:
    return unit(image).mean(dim=0).cpu().numpy()


def summary(points: pd.DataFrame) -> dict[str, float]:
    """Of one method and motion: slope and R² against what is wanted, the mean at the farthest, and up to where the mean
    over the photos is right."""
    slope, r2 = line(points, "measured")
    means = points.groupby("wanted")["measured"].mean()
    right = (means / means.index - 1).abs() <= NEAR
    until = max((far for far in means.index if right[:far].all()), default=0.0)
    return {"slope": slope, "r2": r2, "farthest": float(means.iloc[-1]), "until": float(until)}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write curves.png, points.csv, table.md and report.md."""
    frame, first = points_of(rows, "method", folder), rows[rows["seed"] == 0]
    draw(frame, folder / "curves.png")
    lines = []
    for name, points in frame.groupby("method", sort=False):
        line_of: dict[str, Any] = {"method": TITLES.get(str(name), name)}
        for motion, part in points.groupby("motion", sort=False):
            line_of |= {f"{key} {motion}": value for key, value in summary(part).items()}
        lines.append(line_of)
    columns = [Column("method", "method")]
    for motion in MOTIONS:
        columns += [
            Column(f"slope {motion}", f"d = {motion:g} px: slope", digits=2),
            Column(f"r2 {motion}", "R²", digits=3, better="higher"),
            Column(f"farthest {motion}", f"at {FARTHEST:g} px", digits=1),
            Column(f"until {motion}", "right up to [px]", digits=0, better="higher"),
        ]
    shown, one = table(pd.DataFrame(lines), columns=columns), first.iloc[0]
    learned = frame[frame["method"].isin(LEARNED)]
    reached = {
        TITLES[str(name)]: min(summary(part)["r2"] for _, part in points.groupby("motion"))
        for name, points in learned.groupby("method", sort=False)
    }
    said = ", ".join(f"{name} {value:.3f}" for name, value in reached.items())
    write_report(
        rows, folder, "Figure 2: linearity",
        f"{one['photos']} photos of {one['size']} x {one['size']} pixels ({one['val_data']}) move by d and are "
        f"magnified by rising factors up to {FARTHEST:g} pixels. Displacement: the median over at most {TRACKED} "
        "corners, tracked (Kanade, Lucas, Tomasi) from the unmoved photo; the true target shows what the tracker is "
        f'worth. "Right up to": all mean displacements so far are within {NEAR:.0%}.',
        Picture("curves.png", "measured against wanted displacement"), shown,
        f"R² of {ENOUGH:g} or more is asked of the learned ones; the lower of the two motions': {said}. The paper "
        "shows straight lines for both networks, attenuated ones for Wu et al. and Wadhwa et al., without numbers.",
        command=f"python -m {__name__}", tables={"table": shown},
    )  # fmt: skip


def draw(frame: pd.DataFrame, path: Path) -> None:
    """A panel a motion: the mean over the photos against what is wanted."""
    _, panels = plt.subplots(1, len(MOTIONS), figsize=(7.1, 3.2), layout="constrained", sharey=True)
    for ax, motion in zip(panels, MOTIONS, strict=True):
        part = frame[(frame["motion"] == motion) & (frame["method"] != TRUE)]
        means = part.groupby(["method", "wanted"], sort=False)["measured"].mean().reset_index()
        means["method"] = means["method"].map(TITLES)
        ax.plot([0, FARTHEST], [0, FARTHEST], color="0.6", linestyle="--", linewidth=1, label="as the factor says")
        draw_lines(means, "wanted", "measured", ax, strong=[TITLES[name] for name in LEARNED])
        ax.set_title(f"d = {motion:g} px, factor up to {FARTHEST / motion:g}", fontsize=plots.FONT)
        ax.set_xlabel("factor · d [pixels]", fontsize=plots.FONT)
    panels[0].set_ylabel("tracked displacement [pixels]", fontsize=plots.FONT)
    legend_above(panels[0])
    plots.save(panels[0], path)


if __name__ == "__main__":
    command()
