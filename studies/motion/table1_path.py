"""What other values of λ than Table 1's remove, and what that costs against the control."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from archlab.report import Table, plots, table, with_ends

from .evaluate.paired import change_against
from .evaluate.quality import COMPARED

KIND_COLUMNS = {"activation": "ReLU", "skip": "Skip", "block": "Block"}


def lambda_path(rows: pd.DataFrame) -> pd.DataFrame:
    """The learned rows of seed 0 by part, kind and λ: "removed", "sites", "share", and the change by measure."""
    rows = rows[rows["seed"] == 0]
    control, lines = rows[rows["what"] == "control"], []
    for _, learned in rows[rows["what"] == "learn"].groupby(["part", "kind", "lam"], sort=False):
        row = learned.iloc[0]
        line = {name: row[name] for name in ("part", "kind", "lam", "removed", "sites")}
        changes = {measure: change_against(learned, control, measure) for measure in COMPARED}
        lines.append(line | {"share": row["removed"] / row["sites"]} | changes)
    return pd.DataFrame(lines).sort_values(["part", "kind", "lam"], key=_in_the_papers_order, ignore_index=True)


def _in_the_papers_order(column: pd.Series) -> pd.Series:
    order = {name: place for place, name in enumerate(("encoder", "manipulator", "decoder", *KIND_COLUMNS))}
    return column if column.name == "lam" else column.map(order)


def only_on_the_path(rows: pd.DataFrame) -> pd.Series:
    """Which rows the table does not have: learned at another λ than its."""
    return (rows["what"] == "learn") & (rows["row"] != rows["part"] + " " + rows["kind"])


def path_table(path: pd.DataFrame) -> Table:
    shown = pd.DataFrame({"part": path["part"], "kind": path["kind"].map(KIND_COLUMNS), "λ": path["lam"]})
    shown["removed"] = [f"{row.removed:.0f}/{row.sites:.0f}" for row in path.itertuples()]
    for measure in COMPARED:
        if path[measure].notna().all():
            shown[measure.upper()] = [with_ends(change, digits=4) for change in path[measure]]
    return table(shown, digits={"λ": 2})


def draw_path(path: pd.DataFrame, file: Path) -> None:
    """Change of SSIM against the share of sites removed: a panel a kind, a colour a part, a marker a λ."""
    _, panels = plt.subplots(1, len(KIND_COLUMNS), figsize=(7.1, 2.8), sharey=True, layout="constrained")
    markers = dict(zip(sorted(path["lam"].unique()), "vso^DPX", strict=False))
    for ax, (kind, title) in zip(panels, KIND_COLUMNS.items(), strict=True):
        of_kind = path[path["kind"] == kind]
        for (part, points), colour in zip(of_kind.groupby("part", sort=False), plots.COLOURS, strict=False):
            means = [change.mean for change in points["ssim"]]
            ax.plot(points["share"], means, color=colour, linewidth=0.9, label=str(part))
            ax.vlines(points["share"], [c.low for c in points["ssim"]], [c.high for c in points["ssim"]], color=colour)
            for x, y, lam in zip(points["share"], means, points["lam"], strict=True):
                ax.scatter(x, y, color=colour, marker=markers[lam], s=14, zorder=3)
        ax.axhline(0, color="0.6", linewidth=0.7, linestyle=":")
        ax.set_xlim(-0.05, 1.05)
        ax.set_title(title, fontsize=plots.FONT)
        ax.set_xlabel("share of sites removed", fontsize=plots.FONT)
        ax.tick_params(labelsize=plots.FONT - 1)
    panels[0].set_ylabel("SSIM less the control's", fontsize=plots.FONT)
    shown = [panels[1].scatter([], [], color="0.3", marker=marker, s=14) for marker in markers.values()]
    panels[0].legend(fontsize=plots.FONT - 1, frameon=False)
    panels[1].legend(shown, [f"λ = {lam:g}" for lam in markers], fontsize=plots.FONT - 1, frameon=False)
    plots.save(panels[0], file)
