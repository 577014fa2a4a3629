"""Figure 1: what the baseline and the proposed network cost, and where: parameters, FLOPs, FPS, time by module.

``python -m studies.motion.figures.fig1_cost --preset smoke|cpu|gpu|paper [--time-limit MINUTES]``

Nothing is trained: the speeds are those of `networks`. Output: ``reports/fig1_cost/<preset>/``.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

import archlab as al
from archlab.experiments import Scratch, Wanted, command
from archlab.report import Column, Picture, plots, write_report

from .. import columns
from ..evaluate.costs import costs
from ..evaluate.gpu_speeds import gpu_fps
from ..network.example import STREAMED, streamed
from ..network.models import MagnificationNet
from ..train.family import NETWORKS, fingerprint
from ..train.networks import PRESETS, SPEED, of
from .shared import about, speed_of, variants_of

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "needs", "report"]

ROWS = [{"name": "baseline"}, {"name": "proposed"}]
MODULES: tuple[str, ...] = ("encoder", "manipulator", "decoder")


def needs(row: dict[str, Any]) -> list[Wanted]:
    return [of(SPEED)]


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Costs and speeds of one network, with the share of each module in the time."""
    return costs(MagnificationNet(NETWORKS[row["name"]])) | speed_of(row["name"], scratch)


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, time.png, diagram.png and report.md."""
    first = rows[rows["seed"] == 0].reset_index(drop=True)
    for name in MODULES:
        first[name] = [speeds[0][name] for speeds in first["speeds"]] * first["median_ms"]
    first[columns.GPU_SPEED.name] = gpu_fps(first["row"])
    base, ours = first.iloc[0], first.iloc[1]
    gained = (
        f"{1 - ours['params_k'] / base['params_k']:.1%} fewer parameters (paper: 24.4 %), "
        f"{base['flops_g'] / ours['flops_g']:.1f} times fewer FLOPs (4.2), {ours['fps'] / base['fps']:.1f} times "
        f"faster here, {ours['fps_gpu'] / base['fps_gpu']:.1f} times on a GPU (2.7)."
    )
    costs = [replace(column, digits=3) if column.name == "flops_g" else column for column in columns.COSTS]
    times = [Column(name, name, unit="ms", digits=1) for name in MODULES]
    table = columns.table_of(first, [*costs, *columns.SPEED, columns.GPU_SPEED, *times], published="Fig. 1")
    draw_times(first, folder / "time.png")
    _, panels = plt.subplots(2, 1, figsize=(7.1, 4.2), layout="constrained", sharex=True)
    for ax, name in zip(panels, first["row"], strict=True):
        draw_network(MagnificationNet(NETWORKS[name]), ax)
        ax.set_title(name, fontsize=plots.FONT, loc="left")
    plots.save(panels[0], folder / "diagram.png")
    write_report(
        rows, folder, "Figure 1: what the networks cost",
        f"FLOPs by the paper's rule at {STREAMED} x {STREAMED}. The times of the modules are shares of a run that was "
        "taken apart, times the median of the plain ones.",
        table, gained, Picture("time.png", "time by module"),
        "Each bar a layer, as wide as its multiply-adds, as high as the side of its map:",
        Picture("diagram.png", "both networks"),
        *variants_of(first), command=f"python -m {__name__}", about=about(rows), tables={"table": table},
    )  # fmt: skip


def draw_times(frame: pd.DataFrame, path: Path) -> None:
    """A bar a network, a part a module: milliseconds in columns named as the modules."""
    _, ax = plt.subplots(figsize=(plots.COLUMN[0], 1.4))
    left = pd.Series(0.0, index=frame.index)
    for name, colour in zip(MODULES, plots.COLOURS, strict=False):
        ax.barh(frame["row"], frame[name], left=left, color=colour, height=0.6, label=name)
        left += frame[name]
    ax.invert_yaxis()
    ax.set_xlabel("time of one frame [ms]", fontsize=plots.FONT)
    ax.tick_params(labelsize=plots.FONT - 1)
    ax.legend(fontsize=plots.FONT - 1, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    plots.save(ax, path)


def draw_network(net: MagnificationNet, ax: Axes) -> Axes:
    """The layers of one streamed frame, in the order they run: width the multiply-adds, height the map's side."""
    colours, at = dict(zip(MODULES, plots.COLOURS, strict=False)), 0.0
    for path, width, height in layers(net):
        colour = colours[path.partition(".")[0]]
        ax.add_patch(Rectangle((at, 0), width, height, facecolor=colour, edgecolor="white", linewidth=0.3))
        at += width
    ax.set_xlim(0, max(at, ax.get_xlim()[1]))
    ax.set_ylim(0, STREAMED * 1.05)
    ax.set_yticks([STREAMED // 4, STREAMED // 2, STREAMED], ["¼", "½", "1"])
    ax.set_ylabel("resolution", fontsize=plots.FONT)
    ax.set_xlabel("multiply-adds [G], layer after layer", fontsize=plots.FONT)
    ax.tick_params(labelsize=plots.FONT - 1)
    ax.legend(
        [Patch(color=c) for c in colours.values()], list(colours), fontsize=plots.FONT - 1, frameon=False, ncols=3
    )
    return ax


def layers(net: MagnificationNet) -> list[tuple[str, float, int]]:
    """Path, multiply-adds [G] and the side of the map [pixels] of each layer of one streamed frame, as they run."""
    costs = al.cost(net, streamed(net)).by_module().set_index("module")["macs"]
    found: list[tuple[str, float, int]] = []
    net = copy.deepcopy(net).to("meta")
    for path, module in net.named_modules():
        if costs[path] and not list(module.children()):

            def note(_: Any, inputs: Any, made: torch.Tensor, path: str = path) -> None:
                found.append((path, costs[path] / 1e9, made.shape[-1]))

            module.register_forward_hook(note)
    step = streamed(net, device="meta")
    step.fn(net, *step.args)
    return found


if __name__ == "__main__":
    command()
