"""Figure 8: sub-pixel motion and noise, with the decoder at ½, ¼ and ⅛ of the resolution.

``python -m studies.motion.figures.fig8_noise --preset smoke|cpu|gpu|paper [--data DIR] [--time-limit MINUTES]``

15 motions without noise and twice 21 levels of photon noise. The trainings are those of `networks`. Output:
``reports/fig8_noise/<preset>/``.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from archlab.experiments import Scratch, Wanted, command
from archlab.report import Picture, write_report

from ..data.sources import find_sources
from ..evaluate.quality import copy_b
from ..evaluate.small_motions import Scenes, measure
from ..train.family import fingerprint
from ..train.networks import PRESETS, of, trained
from .shared import RESOLUTIONS, about, draw_small_motions, points_of, small_motions_table

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "needs", "report"]

COPY = "copy of B"
ROWS = [{"name": name} for name in (*RESOLUTIONS, COPY)]
SCENES = {"smoke": 1, "cpu": 64, "gpu": 64, "paper": 200}
SIZES = {"smoke": 48, "cpu": 192, "gpu": 192, "paper": 384}


def needs(row: dict[str, Any]) -> list[Wanted]:
    return [of(row["name"])] if row["name"] in RESOLUTIONS else []


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """All 57 points of one network."""
    name = row["name"]
    magnify = trained(name, scratch) if name in RESOLUTIONS else copy_b
    assert magnify is not None
    pictures = find_sources(scratch.data, "val")
    scenes = Scenes(pictures, SIZES[preset], SCENES[preset])
    steps = scratch.needed[of(name)].values["steps"] if name in RESOLUTIONS else 0
    about = {"steps": steps, "size": scenes.size, "scenes": scenes.count, "val_data": pictures.fingerprint}
    return about | {"points": measure(magnify, scenes).round(5).to_dict("records")}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write curves.png, points.csv, table.md and report.md."""
    frame, one = points_of(rows, "network", folder), rows[rows["seed"] == 0].iloc[0]
    named = frame.assign(method=frame["network"].replace(RESOLUTIONS))
    draw_small_motions(named, folder / "curves.png", strong=[], faint=COPY)
    means_table = small_motions_table(frame, "network")
    write_report(
        rows, folder, "Figure 8: small motions and noise",
        f"SSIM on {one['scenes']} scenes of {one['size']} x {one['size']} pixels ({one['val_data']}), the same "
        "at every point; motions are pixels at 384 x 384, in proportion here.",
        Picture("curves.png", "SSIM against motion and noise"), "Mean SSIM over the points of each test:", means_table,
        command=f"python -m {__name__}", about=about(rows), tables={"table": means_table},
    )  # fmt: skip


if __name__ == "__main__":
    command()
