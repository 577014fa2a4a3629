"""Figure 10: what the shape encoder does to a picture, as the linear filters nearest to it; with activations or none.

``python -m studies.motion.figures.fig10_impulse --preset smoke|cpu|gpu|paper [--data DIR] [--time-limit MINUTES]``

The baseline of `networks`, and the same with every activation of its encoder removed and trained on. For each output
channel the filter that predicts it best from the picture (least squares over patches of held-out photos), and how much
of its variance that explains. Output: ``reports/fig10_impulse/<preset>/``.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

import archlab as al
from archlab.experiments import OutOfTime, Scratch, Wanted, command
from archlab.report import Picture, plots, table, write_report
from archlab.training import cosine, fit

from ..data.sources import find_sources
from ..evaluate.quality import HeldOut, evaluate, summary
from ..train import training
from ..train.family import budget_for, fingerprint
from ..train.networks import JUDGED, PRESETS, of, trained
from .shared import about

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "needs", "report"]

ROWS = [{"name": "baseline"}, {"name": "linear encoder"}]
TUNE = {"smoke": 5, "cpu": 1500, "gpu": 1000, "paper": 100_000}  # steps after the activations are gone
PATCHES = {"smoke": 4_000, "cpu": 40_000, "gpu": 100_000, "paper": 100_000}
SIDE = 19  # pixels: wider than what the linear filters turn out to need
# Of the mean power. Neighbouring pixels are alike, which leaves the finest detail undecided: of .001, .01, .05 and .2
# this one explains most of the baseline's map on patches that the filters were not fitted to.
RIDGE = 0.05
SHOWN = 12  # channels in the figure


def needs(row: dict[str, Any]) -> list[Wanted]:
    return [of("baseline")]


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The filters of one encoder, in the cell's folder, and how linear it is."""
    net: Any = trained("baseline", scratch)
    budget = budget_for(preset)
    held_out = find_sources(scratch.data, "val")
    steps = 0
    if row["name"] == "linear encoder":
        task = training.task_for(scratch, budget, seed=seed, first=budget.steps)
        net = al.remove(net, task.example, kinds="activation", where="encoder*")
        steps = TUNE[preset]
        went = fit(
            net, task, steps=steps, lr=1e-4, schedule=cosine(steps), clip_norm=1.0, folder=scratch.folder,
            time_limit_s=scratch.time_left_s(), precision=budget.precision, title="linear encoder",
            prefetch=training.fit_options(budget)["prefetch"],
        )  # fmt: skip
        if not went.finished:
            raise OutOfTime
    net.eval()
    quality = summary(evaluate(net, HeldOut(held_out, budget.size, JUDGED[preset]), perceptual=False))
    filters, explained = filters_of(net, HeldOut(held_out, budget.size, 10_000), PATCHES[preset])
    np.save(scratch.folder / "filters.npy", filters)
    found = {"steps": scratch.needed[of("baseline")].values["steps"], "tuned": steps, "ssim": quality["ssim"]}
    return found | {"explained": explained, "channels": len(explained), "patches": PATCHES[preset]}


@torch.inference_mode()
def filters_of(net: Any, samples: HeldOut, count: int) -> tuple[np.ndarray, list[float]]:
    """Channels x 3 x SIDE x SIDE: least-squares filters from frame A to the shape map, in the order of their power; and
    the share of each channel's variance that its filter explains on patches it was not fitted to."""
    inputs, outputs = patches_of(net, samples, count)
    centre = [values.mean(dim=0) for values in (inputs, outputs)]
    x, y = ((values - c).double() for values, c in zip((inputs, outputs), centre, strict=True))
    cut = len(x) * 4 // 5
    gram = x[:cut].mT @ x[:cut]
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram, x[:cut].mT @ y[:cut])
    rest = y[cut:] - x[cut:] @ weights
    explained = 1 - rest.square().mean(dim=0) / y[cut:].var(dim=0).clamp(min=1e-12)
    order = (x[cut:] @ weights).var(dim=0).argsort(descending=True)
    filters = weights.mT[order].reshape(-1, 3, SIDE, SIDE).float().cpu().numpy()
    return filters, [round(v, 4) for v in explained[order].tolist()]


def patches_of(net: Any, samples: HeldOut, count: int) -> tuple[Tensor, Tensor]:
    """`count` patches of frames, n x (3 SIDE SIDE), and the shape map at their centres, n x channels."""
    draw = np.random.default_rng(0)
    inputs, outputs, have = [], [], 0
    for batch in samples:
        shape = net.encode(batch.a)[1]
        stride = batch.a.shape[-1] // shape.shape[-1]
        reach = SIDE // 2
        columns = F.unfold(batch.a, SIDE, padding=reach, stride=stride)  # n x patch x positions
        edge = -(-reach // stride)  # patches that reach over the border see padding
        side = shape.shape[-1]
        inner = torch.arange(side * side, device=shape.device).reshape(side, side)[edge:-edge, edge:-edge].flatten()
        taken = inner[torch.from_numpy(draw.choice(len(inner), size=min(len(inner), 256), replace=False))]
        inputs.append(columns[:, :, taken].mT.flatten(0, 1))
        outputs.append(shape.flatten(2)[:, :, taken].mT.flatten(0, 1))
        have += len(inputs[-1])
        if have >= count:
            break
    return torch.cat(inputs)[:count], torch.cat(outputs)[:count]


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write filters.png, table.md and report.md."""
    first = rows[rows["seed"] == 0].set_index("row")
    pictures = {name: np.load(Path(rows.attrs["folders"][name]) / "filters.npy") for name in first.index}
    _, panels = plt.subplots(len(pictures), SHOWN, figsize=(7.1, 1.5), layout="constrained")
    for line, (name, filters) in zip(panels, pictures.items(), strict=True):
        for ax, one in zip(line, filters, strict=False):
            grey = one.mean(axis=0)
            ax.imshow(grey, cmap="gray", vmin=-abs(grey).max(), vmax=abs(grey).max(), interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
        line[0].set_ylabel(name, fontsize=plots.FONT - 1)
    plots.save(panels[0, 0], folder / "filters.png")
    lines = [
        {"network": name, "SSIM": row["ssim"], "explained, median": float(np.median(row["explained"])),
         "explained, least": min(row["explained"])}
        for name, row in first.iterrows()
    ]  # fmt: skip
    shown, one = table(pd.DataFrame(lines)), first.iloc[1]
    write_report(
        rows, folder, "Figure 10: filters of the shape encoder",
        f"The filter of {SIDE} x {SIDE} pixels (mean over RGB shown) that predicts a channel of the shape map best, "
        f"for the {SHOWN} strongest channels, by least squares over {one['patches']} patches; below, the share of a "
        "channel's variance that it explains on a fifth of them that it was not fitted to. The linear encoder is the "
        f"baseline without any activation in the encoder, trained on for {one['tuned']} steps.",
        Picture("filters.png", "filters"), shown,
        command=f"python -m {__name__}", about=about(rows), tables={"table": shown},
    )  # fmt: skip


if __name__ == "__main__":
    command()
