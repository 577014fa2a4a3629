"""Figure 1: what the baseline and the proposed network cost, and where: parameters, FLOPs, FPS, time by module.

``python -m studies.motion.figures.fig1_cost --preset smoke|cpu|gpu|paper [--time-limit MINUTES]``

Nothing is trained: the speeds are those of `networks`. Output: ``reports/fig1_cost/<preset>/``.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from archlab.capture.recorder import capture_meta
from archlab.experiments import Scratch, Wanted, command
from archlab.report import plots, tables

from ..data.sources import fingerprint
from ..evaluate.costs import costs
from ..network.example import STREAMED, streamed
from ..network.models import MagnificationNet
from ..train.family import NETWORKS
from ..train.networks import PRESETS, SPEED, of
from .shared import conditions, speed_of, variants_of, write

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "needs", "report"]

ROWS = [{"name": "baseline"}, {"name": "proposed"}]
MODULES: tuple[str, ...] = ("encoder", "manipulator", "decoder")
PUBLISHED = {"baseline": (967, 41.3, 9.6), "proposed": (731, 9.86, 25.8)}  # params [K], FLOPs [G], FPS


def needs(row: dict[str, Any]) -> list[Wanted]:
    return [of(SPEED)]


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Costs and speeds of one network, with the share of each module in the time."""
    return costs(MagnificationNet(NETWORKS[row["name"]])) | speed_of(row["name"], scratch)


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, time.png, diagram.png and report.md."""
    rows = rows[rows["seed"] == 0]
    lines = []
    for row in rows.to_dict("records"):
        line = {"network": row["row"], "params [K]": row["params_k"], "FLOPs [G]": row["flops_g"], "FPS": row["fps"]}
        line |= {f"{name} [ms]": row["speeds"][0][name] * row["median_ms"] for name in MODULES}
        lines.append(line | dict(zip(("paper: K", "paper: G", "paper: FPS"), PUBLISHED[row["row"]], strict=True)))
    frame = pd.DataFrame(lines)
    base, ours = frame.iloc[0], frame.iloc[1]
    gained = (
        f"{1 - ours['params [K]'] / base['params [K]']:.1%} fewer parameters (paper: 24.4 %), "
        f"{base['FLOPs [G]'] / ours['FLOPs [G]']:.1f} times fewer FLOPs (4.2), {ours['FPS'] / base['FPS']:.1f} times "
        "faster (2.7)."
    )
    digits = dict.fromkeys(["params [K]", "paper: K"], 0) | dict.fromkeys([f"{m} [ms]" for m in MODULES], 1)
    table = tables.table(frame, digits=digits | {"paper: FPS": 1})
    table.save(folder)
    draw_times(frame, folder / "time.png")
    _, panels = plt.subplots(2, 1, figsize=(7.1, 4.2), layout="constrained", sharex=True)
    for ax, name in zip(panels, frame["network"], strict=True):
        draw_network(MagnificationNet(NETWORKS[name]), ax)
        ax.set_title(name, fontsize=plots.FONT, loc="left")
    plots.save(panels[0], folder / "diagram.png")
    write(
        folder, "Figure 1: what the networks cost", conditions(rows, "fig1_cost"),
        f"FLOPs by the paper's rule at {STREAMED} x {STREAMED}. The times of the modules are shares of a run that was "
        "taken apart, times the median of the plain ones.",
        table.markdown(), gained, "![time by module](time.png)",
        "Each bar a layer, as wide as its multiply-adds, as high as its grid:", "![both networks](diagram.png)",
        f"## By precision and mode\n\n{variants_of(rows).markdown()}" if len(rows["speeds"].iloc[0]) > 1 else "",
    )  # fmt: skip


def draw_times(frame: pd.DataFrame, path: Path) -> None:
    """A bar a network, a part a module."""
    _, ax = plt.subplots(figsize=(plots.COLUMN[0], 1.4))
    left = pd.Series(0.0, index=frame.index)
    for name, colour in zip(MODULES, plots.COLOURS, strict=False):
        ax.barh(frame["network"], frame[f"{name} [ms]"], left=left, color=colour, height=0.6, label=name)
        left += frame[f"{name} [ms]"]
    ax.invert_yaxis()
    ax.set_xlabel("time of one frame [ms]", fontsize=plots.FONT)
    ax.tick_params(labelsize=plots.FONT - 1)
    ax.legend(fontsize=plots.FONT - 1, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    plots.save(ax, path)


def draw_network(net: MagnificationNet, ax: Axes) -> Axes:
    """The layers of one streamed frame, in the order they run: width the multiply-adds, height the grid's side."""
    colours, at = dict(zip(MODULES, plots.COLOURS, strict=False)), 0.0
    for op in capture_meta(net, streamed(net)).ops:
        if not op.macs:
            continue
        module = (op.call.module if op.call else op.execution.module).partition(".")[0]
        width, height = op.macs / 1e9, op.out_shapes[0][-1]
        ax.add_patch(Rectangle((at, 0), width, height, facecolor=colours[module], edgecolor="white", linewidth=0.3))
        at += width
    ax.set_xlim(0, max(at, ax.get_xlim()[1]))
    ax.set_ylim(0, STREAMED * 1.05)
    ax.set_yticks([STREAMED // 4, STREAMED // 2, STREAMED], ["¼", "½", "1"])
    ax.set_ylabel("grid", fontsize=plots.FONT)
    ax.set_xlabel("multiply-adds [G], layer after layer", fontsize=plots.FONT)
    ax.tick_params(labelsize=plots.FONT - 1)
    ax.legend(
        [Patch(color=c) for c in colours.values()], list(colours), fontsize=plots.FONT - 1, frameon=False, ncols=3
    )
    return ax


if __name__ == "__main__":
    command()
