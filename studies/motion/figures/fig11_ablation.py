"""Figure 11: from the baseline to the real-time network, one structural change after the other.

``python -m studies.motion.figures.fig11_ablation --preset smoke|cpu|gpu|paper [--data DIR] [--time-limit MINUTES]``

Parameters, FLOPs, FPS, SSIM and LPIPS, the published ones beside ours. The design behind the last rows is not
published: they are in reading A, and at gpu and paper in readings B and C as well; what each of them costs is always
printed. The trainings are those of `networks`. Output: ``reports/fig11_ablation/<preset>/``.
"""

from pathlib import Path

import pandas as pd

from archlab.experiments import command
from archlab.report import Column, Table, write_report

from .. import columns
from ..evaluate.costs import costs
from ..network.example import STREAMED
from ..network.models import LINEAR, MagnificationNet, scaled
from ..train.family import fingerprint
from ..train.networks import PRESETS
from .shared import about, against_baseline, cell, draw_tradeoffs, needs, table_of, variants_of

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "needs", "report"]

CHANGES = {
    "baseline": "baseline",
    "quarter": "+ ¼× resolution in the decoder",
    "linear A": "+ single linear encoder",
    "scaled A": "+ 4× decoder depth, half the channels",
    "proposed": "+ perceptual loss",
}
OTHERS = ("linear B", "scaled B", "linear C", "scaled C")
ROWS = [{"name": name} for name in (*CHANGES, *OTHERS)]


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, readings.md, tradeoff.png and report.md."""
    table, readings = table_of(rows), readings_table()
    pictures = draw_tradeoffs(rows, folder)
    changes = "; ".join(f"{name}: {change}" for name, change in CHANGES.items())
    first = rows[rows["seed"] == 0]
    why = [f"{row['row']}: {row['why_not']}" for row in first[first["steps"] == 0].to_dict("records")]
    write_report(
        rows, folder, "Figure 11: ablation",
        f"{changes}. The paper gives the baseline SSIM .921 here and .932 in its Table 1, and the ¼× step 1.42 times "
        "the speed here and 1.85 times in its section 4.2.",
        table, *pictures, *against_baseline(rows), "## Three readings of the linear encoder",
        f"FLOPs by the paper's rule at {STREAMED} x {STREAMED}. B is what "
        "the passes derive from the baseline (`tests/studies/motion/test_derive.py`); A and C are designed by hand.",
        readings, *(["Not trained:", why] if why else []), *variants_of(first),
        command=f"python -m {__name__}", about=about(rows),
        tables={"table": table, "readings": readings},
    )  # fmt: skip


def readings_table() -> Table:
    """What each reading costs, before and after depth and width are scaled, beside the published figures."""
    rows = pd.DataFrame(
        {"reading": reading, "step": step, **costs(MagnificationNet(made))}
        for reading, config in LINEAR.items()
        for step, made in (("linear", config), ("scaled", scaled(config)))
    )
    first = (Column("reading", "reading"), Column("step", "step"))
    return columns.table_of(rows, columns.COSTS, first=first, published="Fig. 11, costs", by="step")


if __name__ == "__main__":
    command()
