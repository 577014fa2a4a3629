"""A small real study that the crash test kills: trainings, what is measured of them, and their weights to the bit."""

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from archlab.experiments import OutOfTime, Scratch
from archlab.training import Task, fit

NAME = "victim"
PRESETS = ("smoke", "cpu")
STEPS = {"smoke": 60, "cpu": 600}
SAVE_EVERY = 20  # steps, so that a moment of a second's run falls before, into and after a checkpoint
ROWS = [{"name": "width 8"}, {"name": "width 8, measured"}, {"name": "width 4"}, {"name": "width 4, measured"}]


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner, self.act, self.outer = nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.act(self.inner(x)))


def network(width: int = 8) -> nn.Module:
    """Two residual blocks, and a dropout, whose draws depend on the state of the generator."""
    torch.manual_seed(0)
    return nn.Sequential(Block(width), nn.Dropout(0.1), Block(width), nn.Linear(8, 8))


def batches(step: int) -> Tensor:
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(step))


def loss(net: nn.Module, x: Tensor) -> Tensor:
    return (net(x) - x.roll(1, 1).abs()).square().mean()


def quality(net: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        return {"mse": loss(net.eval(), batches(-1 % 10**6)).item()}


TASK = Task(batches(0)[:1], batches, loss, quality, {"mse": "lower"})


def bits(net: nn.Module) -> str:
    """A hash of all weights."""
    told = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        told.update(name.encode() + value.contiguous().numpy().tobytes())
    return told.hexdigest()


def needs(row: dict[str, Any]) -> list[str]:
    name = row["name"].removesuffix(", measured")
    return [name] if name != row["name"] else []


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Train; or read what was trained."""
    if before := needs(row):
        return {"measured": scratch.needed[before[0]].values["mse"] * 2}
    net = network(int(row["name"].split()[-1]))
    torch.manual_seed(seed)
    went = fit(
        net, TASK, steps=STEPS[preset], lr=1e-3, folder=scratch.folder, save_every=SAVE_EVERY, progress=False,
        time_limit_s=scratch.time_left_s(),
    )  # fmt: skip
    if not went.finished:
        raise OutOfTime
    losses = hashlib.sha256(went.history["loss"].to_numpy().tobytes()).hexdigest()
    return {"steps": went.steps_done, "weights": bits(net), "losses": losses, **quality(net)}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write rows.txt: that there is a report says that all was there."""
    (folder / "rows.txt").write_text(rows[["row", "mse"]].to_string())
