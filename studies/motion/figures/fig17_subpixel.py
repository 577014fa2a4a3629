"""Figure 17: sub-pixel motion and noise, all methods: learned, and from signal processing.

``python -m studies.motion.figures.fig17_subpixel --preset smoke|cpu|gpu [--data DIR] [--time-limit MINUTES]``

The points are those of Figure 8: 15 motions without noise and twice 21 levels of photon noise. The learned networks are
those with the trained weights of this repository. Output: ``reports/fig17_subpixel/<preset>/``.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from archlab.experiments import Scratch, command
from archlab.report import Picture, write_report

from ..data.sources import find_sources, fingerprint
from ..evaluate.methods import LEARNED, NAMES, TITLES, method, of_pairs
from ..evaluate.methods import rows as rows_of
from ..evaluate.quality import copy_b
from ..evaluate.small_motions import Scenes, measure_method
from .shared import draw_small_motions, points_of, small_motions_table

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "report"]

COPY = "copy of B"
PRESETS = ("smoke", "cpu", "gpu")
ROWS = rows_of((*NAMES, COPY))
SIZES = {"smoke": 48, "cpu": 96, "gpu": 384}  # pixels
SCENES = {"smoke": 1, "cpu": 3, "gpu": 64}
WORDS = {
    "sub-pixel": "Better than phase-based and Singh et al. down to .04 px",
    "noise 0.05 px": "Networks alike, and better than phase-based at every level",
    "noise 5 px": "Networks alike, and better than phase-based at every level",
}  # of the paper


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """All 57 points of one method."""
    pictures = find_sources(scratch.data, "val")
    scenes = Scenes(pictures, SIZES[preset], SCENES[preset])
    seen = of_pairs(copy_b) if row["name"] == COPY else method(row["name"])
    about = {"size": scenes.size, "scenes": scenes.count, "val_data": pictures.fingerprint}
    return about | {"points": measure_method(seen, scenes).round(5).to_dict("records")}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write curves.png, points.csv, table.md and report.md."""
    frame, one = points_of(rows, "method", folder), rows[rows["seed"] == 0].iloc[0]
    frame["method"] = frame["method"].replace(TITLES)
    draw_small_motions(frame, folder / "curves.png", strong=[TITLES[name] for name in LEARNED], faint=COPY)
    means_table = small_motions_table(frame, "method")
    write_report(
        rows, folder, "Figure 17: small motions and noise, all methods",
        f"SSIM on {one['scenes']} scenes of {one['size']} x {one['size']} pixels ({one['val_data']}), the same at "
        "every point and for every method; motions are pixels at 384 x 384, in proportion here. Acceleration and jerk-"
        "aware magnification see the motion as a sway in time, and noise in each of its frames.",
        Picture("curves.png", "SSIM against motion and noise"), "Mean SSIM over the points of each test:", means_table,
        "What the paper says of its Figure 17, which has no table:",
        [f"{part}: {words}." for part, words in WORDS.items()],
        command=f"python -m {__name__}", tables={"table": means_table},
    )  # fmt: skip


if __name__ == "__main__":
    command()
