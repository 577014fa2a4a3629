"""Figure 8: sub-pixel motion and noise, with the decoder at ½, ¼ and ⅛ of the resolution.

``python -m studies.motion.figures.fig8_noise --preset smoke|cpu|gpu|paper [--data DIR] [--time-limit MINUTES]``

15 motions without noise and twice 21 levels of photon noise. The trainings are those of `networks`. Output:
``reports/fig8_noise/<preset>/``.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from archlab.experiments import Scratch, Wanted, command
from archlab.report import Picture, plots, table, write_report

from ..data.sources import find_sources
from ..evaluate.quality import copy_b
from ..evaluate.small_motions import MAGNIFIED, NOISE_MOTIONS, Scenes, measure
from ..train.family import budget_for, fingerprint
from ..train.networks import PRESETS, of, trained
from .shared import about

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "needs", "report"]

RESOLUTIONS = {"baseline": "½ (baseline)", "quarter": "¼", "eighth": "⅛"}
COPY = "copy of B"
ROWS = [{"name": name} for name in (*RESOLUTIONS, COPY)]
SCENES = {"smoke": 1, "cpu": 12, "gpu": 64, "paper": 200}


def needs(row: dict[str, Any]) -> list[Wanted]:
    return [of(row["name"])] if row["name"] in RESOLUTIONS else []


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """All 57 points of one network."""
    name = row["name"]
    magnify = trained(name, scratch) if name in RESOLUTIONS else copy_b
    assert magnify is not None
    pictures = find_sources(scratch.data, "val")
    scenes = Scenes(pictures, budget_for(preset).size, SCENES[preset])
    steps = scratch.needed[of(name)].values["steps"] if name in RESOLUTIONS else 0
    about = {"steps": steps, "size": scenes.size, "scenes": scenes.count, "val_data": pictures.fingerprint}
    return about | {"points": measure(magnify, scenes).round(5).to_dict("records")}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write curves.png, points.csv, table.md and report.md."""
    first = rows[rows["seed"] == 0]
    frames = [pd.DataFrame(row["points"]).assign(network=row["row"]) for row in first.to_dict("records")]
    frame = pd.concat(frames, ignore_index=True)
    frame.to_csv(folder / "points.csv", index=False)
    _, panels = plt.subplots(1, 3, figsize=(7.1, 2.4), layout="constrained", sharey=True)
    curves = {f"(a) sub-pixel, factor · d = {MAGNIFIED:g} px": ("sub-pixel", None, "motion")}
    curves |= {f"({'bc'[i]}) noise, d = {d:g} px": ("noise", d, "noise") for i, d in enumerate(NOISE_MOTIONS)}
    for ax, (title, (test, motion, x)) in zip(panels, curves.items(), strict=True):
        part = frame[(frame["test"] == test) & (motion is None or frame["motion"] == motion)]
        draw_curves(part, x, ax).set_title(title, fontsize=plots.FONT)
    panels[0].set_xlabel("motion d [pixels at 384]", fontsize=plots.FONT)
    panels[0].legend(fontsize=plots.FONT - 1, frameon=False)
    plots.save(panels[0], folder / "curves.png")
    frame["part"] = frame["test"] + frame["motion"].map(lambda d: f" {d:g} px").where(frame["test"] == "noise", "")
    means = frame.pivot_table(index="network", columns="part", values="ssim", sort=False).loc[list(first["row"])]
    means_table = table(means.reset_index(), better=dict.fromkeys(means.columns, "higher"))
    one = first.iloc[0]
    write_report(
        rows, folder, "Figure 8: small motions and noise",
        f"SSIM on {one['scenes']} scenes of {one['size']} x {one['size']} pixels ({one['val_data']}), the same "
        "at every point; motions are pixels at 384 x 384, in proportion here.",
        Picture("curves.png", "SSIM against motion and noise"), "Mean SSIM over the points of each test:", means_table,
        command=f"python -m {__name__}", about=about(rows), tables={"table": means_table},
    )  # fmt: skip


def draw_curves(frame: pd.DataFrame, x: str, ax: Axes) -> Axes:
    """SSIM against `x`, a line a network."""
    names = [*RESOLUTIONS, COPY]
    for (name, rows), colour in zip(frame.groupby("network", sort=False), plots.COLOURS, strict=False):
        ax.plot(rows[x], rows["ssim"], color="0.6" if name == COPY else colour, linewidth=1.0, marker="o", markersize=2,
                linestyle="--" if name == COPY else "-", label=RESOLUTIONS.get(str(name), str(name)))  # fmt: skip
    assert set(frame["network"]) <= set(names)
    ax.set_xscale("log")
    ax.set_xlabel("noise factor", fontsize=plots.FONT)
    ax.set_ylabel("SSIM" if ax.get_subplotspec().is_first_col() else "", fontsize=plots.FONT)  # type: ignore[union-attr]
    ax.tick_params(labelsize=plots.FONT - 1)
    return ax


if __name__ == "__main__":
    command()
