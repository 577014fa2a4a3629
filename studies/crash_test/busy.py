"""Equal cells of one busy thread: what a second worker is worth."""

import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from archlab.experiments import Scratch

NAME = "busy"
PRESETS = ("smoke", "cpu")
SECONDS = {"smoke": 0.2, "cpu": 5.0}  # of CPU time, so that a worker's start does not count much
ROWS = [f"cell {number}" for number in range(8)]


def cell(row: str, preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    torch.set_num_threads(1)
    x, turns = torch.rand(200, 200), 0
    begun = time.process_time()
    while time.process_time() - begun < SECONDS[preset]:
        x, turns = (x @ x).tanh(), turns + 1
    return {"turns": turns}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Nothing: the time is what counts."""
