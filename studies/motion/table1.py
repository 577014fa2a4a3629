"""Table 1 of the paper: what can be removed from the residual blocks of the magnification network."""

from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save_model

from archlab.cells import OutOfTime, Scratch
from archlab.running import command
from archlab.sourcing import data_fingerprint
from archlab.training import fit

from . import training
from .sources import find_sources

PRESETS = ("smoke", "cpu", "gpu", "paper")
ROWS = [
    {"name": "training of the baseline", "what": "train"},
]


def fingerprint(preset: str, data: Path | None) -> Any:
    """What the pictures are: those folders of `data` that are read."""
    if data is None:
        return "scikit-image samples"
    parts = [data / name for name in ("backgrounds", "objects") if (data / name).is_dir()]
    return [data_fingerprint(part) for part in parts or [data]]


def depends(row: dict[str, Any]) -> list[str]:
    """A long training stays valid while what it computes is unchanged."""
    return ["archlab.training", *(f"studies.motion.{name}" for name in ("data", "models", "sources", "training"))]


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    return train(preset, seed, scratch)


def train(preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Train the baseline; its weights lie in the cell's folder as baseline.safetensors."""
    budget = training.budget_for(preset)
    net = training.new_network(seed=seed)
    task = training.task(find_sources(scratch.data, "train"), budget, seed=seed, quality=lambda net: {})
    went = fit(
        net, task, folder=scratch.folder, time_limit_s=scratch.time_left_s(), title="baseline",
        settings={"size": budget.size, "batch": budget.batch}, **training.fit_options(budget),
    )  # fmt: skip
    if not went.finished:
        raise OutOfTime
    save_model(net, str(scratch.folder / "baseline.safetensors"))
    every = max(1, len(went.history) // 200)
    losses = went.history["loss"].groupby(went.history["step"] // every).mean()
    return {"steps": went.steps_done, "loss": losses.iloc[-1], "losses": [round(v, 5) for v in losses]}


def report(rows: pd.DataFrame, folder: Path) -> None:
    pass


if __name__ == "__main__":
    command("studies.motion.table1")
