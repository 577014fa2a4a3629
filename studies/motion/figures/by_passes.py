"""Networks that archlab's passes make of the baseline for fewer FLOPs than the proposed one has, against it.

``python -m studies.motion.figures.by_passes --preset smoke|cpu [--data DIR] [--time-limit MINUTES]``

From the trained baseline: channels go, then the encoder's residual blocks (Table 1: nearly for nothing) and of the
decoder's those that cost the loss least. Each is trained for a few minutes. Then the better of these and the proposed
network, as `networks` leaves it, are trained on, longer than the baseline was.
At cpu a run took 6 minutes beside other work, one that is trained on 50 of a core. Output:
``reports/by_passes/<preset>/``.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

import archlab as al
from archlab.experiments import Scratch, Wanted, command
from archlab.report import Column, Picture, plots, table, write_report
from studies.device import device

from .. import columns
from ..data.sources import find_sources
from ..evaluate.costs import costs
from ..evaluate.quality import HeldOut, evaluate, summary
from ..network.example import example_for
from ..network.models import PRETRAINED, Config, MagnificationNet, baseline
from ..train import training
from ..train.derive import derived
from ..train.family import budget_for, fingerprint, load
from ..train.networks import JUDGED, of

__all__ = ["PRESETS", "ROWS", "cell_for", "fingerprint", "needs", "report"]

PRESETS = ("smoke", "cpu")
PROPOSED = "proposed"  # of `networks`, to be beaten
MADE = {"16 channels": (16, 9), "20 channels": (20, 4)}  # channels, and the blocks of the decoder that stay
TRAINED = "baseline as trained"  # Table 1's, which all others begin with
RUNS = 3
LONG = "trained on"
LONGER = {PROPOSED: PROPOSED, "20 channels": "20 channels, run 0"}  # networks, and the rows that they go on from
ROWS: list[dict[str, Any]] = [
    {"name": TRAINED, "network": TRAINED, "run": 0},
    *(
        {"name": f"{name}, run {run}", "network": name, "width": width, "decoder_blocks": blocks, "run": run}
        for name, (width, blocks) in MADE.items()
        for run in range(RUNS)
    ),
    *(
        {"name": f"{name}, {LONG}", "network": f"{name}, {LONG}", "start": row, "run": 0}
        for name, row in LONGER.items()
    ),
]
STEPS, LONG_STEPS = {"smoke": 8, "cpu": 2500}, {"smoke": 8, "cpu": 20_000}
SCORED = 8  # batches, and held-out samples, that the blocks are scored on


def needs(row: dict[str, Any]) -> list[Wanted]:
    return [_start(row)] if "start" in row else []


def _start(row: dict[str, Any]) -> Wanted:
    """The row whose network `row` trains on."""
    return of(PROPOSED) if row["start"] == PROPOSED else row["start"]


def cell_for(row: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    return as_trained if row["network"] == TRAINED else cell


def as_trained(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The trained baseline judged as the others are."""
    samples = HeldOut(find_sources(scratch.data, "val"), budget_for(preset).size, JUDGED[preset])
    net, facts = baseline(pretrained=True).eval().to(device()), json.loads(PRETRAINED.with_suffix(".json").read_text())
    return {"steps": facts["steps"]} | costs(net) | summary(evaluate(net, samples, data=scratch.data))


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """One network made, trained and judged."""
    longer = "start" in row
    budget = replace(budget_for(preset), steps=STEPS[preset])
    if longer:  # as the baseline was trained
        budget = replace(training.budget_for(preset), steps=LONG_STEPS[preset])
    samples = HeldOut(find_sources(scratch.data, "val"), budget.size, JUDGED[preset])

    def quality(net: Any) -> dict[str, float]:
        few = replace(samples, count=SCORED)
        return {"SSIM": float(evaluate(net.eval(), few, perceptual=False)["ssim"].mean())}

    task = training.task_for(scratch, budget, seed=row["run"] + RUNS * seed, quality=quality)
    net: Any = begun(row, scratch) if longer else made(row["width"], row["decoder_blocks"], task)
    net = net.to(device(), memory_format=torch.channels_last)
    values = training.train_(net, task, budget, scratch, title=row["network"])
    al.save(net, scratch.folder / "net.safetensors")
    return values | costs(net) | summary(evaluate(net.eval(), samples, data=scratch.data))


def begun(row: dict[str, Any], scratch: Scratch) -> nn.Module:
    """The network of the row that `row` goes on from, as that left it."""
    if row["start"] == PROPOSED:
        return load(PROPOSED, scratch, _start(row))
    width, _ = MADE[row["start"].split(",")[0]]
    file = scratch.needed[_start(row)].folder / "net.safetensors"
    return al.load(file, lambda: MagnificationNet(Config(width=width)), example_for(baseline()))


def made(width: int, decoder_blocks: int, task: al.Task) -> MagnificationNet:
    """The trained baseline with these channels, without the encoder's blocks, with these of the decoder's blocks."""
    whole = baseline(pretrained=True)
    scored = al.scores(whole, task, kinds="block", where="decoder*", batches=SCORED, progress=False)
    cheap = scored.sort_values("delta_task_loss")["site"].head(len(scored) - decoder_blocks)
    narrow = derived(Config(width=width), whole)
    gone = ["encoder*", *cheap]
    return al.remove(narrow, example_for(narrow), kinds="block", where=gone)  # pyright: ignore[reportReturnType]


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, tradeoff.png and report.md."""
    flops, ssim = columns.COSTS[1], columns.SSIM
    quality = (replace(column, change=False) for column in columns.QUALITY)
    found = table(rows, columns=[Column("network", "network"), *columns.COSTS, *quality], over="run")
    names = {flops.name: flops.heading, ssim.name: ssim.heading}
    ax = plots.tradeoff(
        rows.rename(columns=names), x=flops.heading, y=ssim.heading, label="network", over="run",
        better={flops.heading: "lower", ssim.heading: "higher"},
    )  # fmt: skip
    plots.save(ax, folder / "tradeoff.png")
    write_report(
        rows, folder, "Fewer FLOPs than the proposed network, by passes", _about(rows), found,
        Picture("tradeoff.png", "SSIM against FLOPs; bars are standard deviations over the runs"),
        command=f"python -m {__name__}", tables={"table": found},
    )  # fmt: skip


def _about(rows: pd.DataFrame) -> str:
    """What the networks are, and how long each was trained."""
    steps = {row["row"]: int(row["steps"]) for row in rows.to_dict("records")}
    short, long = steps["20 channels, run 0"], steps[f"20 channels, {LONG}"]
    return (
        "*16 channels*: all nine blocks of the decoder stay; *20 channels*: the four that cost the loss most to lose. "
        f"Neither has residual blocks in its encoder. Each starts from the trained baseline and has {short:,} steps "
        f"of four samples, in {RUNS} runs on other samples. *Trained on*: for {long:,} steps more of eight samples, "
        "without perceptual loss, in one run; the proposed one goes on from that of "
        "[networks](../../networks/cpu/report.md) as it was then. "
        f"*{TRAINED.capitalize()}*: Table 1's, with {steps[TRAINED]:,} steps of eight samples."
    )


if __name__ == "__main__":
    command()
