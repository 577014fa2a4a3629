"""Figure 11: from the baseline to the real-time network, one structural change after the other.

``python -m studies.motion.figures.fig11_ablation --preset smoke|cpu|gpu|paper [--data DIR] [--time-limit MINUTES]``

Parameters, FLOPs, FPS, SSIM and LPIPS, the published ones beside ours. The design behind the last rows is not
published: they are in reading A, and at gpu and paper in readings B and C as well; what each of them costs is always
printed. The trainings are those of `networks`. Output: ``reports/fig11_ablation/<preset>/``.
"""

from pathlib import Path

import pandas as pd

from archlab.experiments import command
from archlab.report import tables

from ..data.sources import fingerprint
from ..evaluate.costs import costs
from ..network.example import STREAMED
from ..network.models import LINEAR, MagnificationNet, scaled
from ..train.networks import PRESETS
from .shared import cell, conditions, draw_tradeoff, needs, table_of, variants_of, write

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
# FLOPs [G] and parameters [K] of the paper's Fig. 11; it gives parameters only as 24.4 % fewer in the end.
PUBLISHED_COSTS = {"linear": (20.5, None), "scaled": (9.86, 731)}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, readings.md, tradeoff.png and report.md."""
    table = table_of(rows)
    table.save(folder)
    readings = readings_table()
    readings.save(folder, "readings")
    draw_tradeoff(rows, folder / "tradeoff.png")
    changes = "; ".join(f"{name}: {change}" for name, change in CHANGES.items())
    left = rows[(rows["seed"] == 0) & (rows["steps"] == 0)]
    why = "".join(f"\n- {row['row']}: {row['why_not']}" for row in left.to_dict("records"))
    first = rows[rows["seed"] == 0]
    write(
        folder, "Figure 11: ablation", conditions(rows, "fig11_ablation"),
        f"{changes}. The paper gives the baseline SSIM .921 here and .932 in its Table 1, and the ¼× step 1.42 times "
        "the speed here and 1.85 times in its section 4.2.",
        table.markdown(), "![SSIM against FPS](tradeoff.png)",
        f"## Three readings of the linear encoder\n\nFLOPs by the paper's rule at {STREAMED} x {STREAMED}. B is what "
        "the passes derive from the baseline (`tests/studies/motion/test_derive.py`); A and C are designed by hand.",
        readings.markdown(), f"Not trained:\n{why}" if why else "",
        f"## FPS by precision and mode\n\n{variants_of(first).markdown()}" if len(first["speeds"].iloc[0]) > 1 else "",
    )  # fmt: skip


def readings_table() -> tables.Table:
    """What each reading costs, before and after depth and width are scaled, beside the published figures."""
    lines = []
    for reading, config in LINEAR.items():
        for step, made in (("linear", config), ("scaled", scaled(config))):
            cost = costs(MagnificationNet(made))
            flops, params = PUBLISHED_COSTS[step]
            line = {"reading": reading, "step": step, "params [K]": cost["params_k"], "FLOPs [G]": cost["flops_g"]}
            lines.append(line | {"paper: K": params, "paper: G": flops})
    frame = pd.DataFrame(lines).astype({"paper: K": float})
    return tables.table(frame, digits={"params [K]": 0, "paper: K": 0, "FLOPs [G]": 2, "paper: G": 2})


if __name__ == "__main__":
    command()
