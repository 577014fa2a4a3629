"""Qualities of a model between the phases of a training, each measured once."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..files import write_whole
from .checkpoint import random_states, set_random_states_
from .task import Task

FILE = "qualities.json"


class Evaluations:
    """`task.quality` after each phase, where that is `wanted`.

    They are saved in the folder, so that a rerun which came to the same decisions evaluates each phase once. The
    training does not notice: random states stay as they were.
    """

    def __init__(self, task: Task, folder: str | Path | None, *, wanted: bool):
        self.task, self.wanted = task, wanted
        self.path = None if folder is None else Path(folder) / FILE
        self.saved: dict[str, dict[str, Any]] = {}  # by phase: what was decided until then, and the values
        self.rows: list[dict[str, Any]] = []
        if self.path is not None and self.path.exists():
            self.saved = json.loads(self.path.read_text())

    def evaluate(self, phase: str, model: nn.Module, decided: Any = None) -> None:
        """Evaluate `model` after `phase`; `decided` is what tells it from the one of another run in this folder."""
        if not self.wanted:
            return
        if phase not in self.saved or self.saved[phase]["decided"] != repr(decided):
            states = random_states()
            with torch.no_grad():
                values = {name: float(value) for name, value in self.task.quality(model).items()}
            set_random_states_(states)
            self.saved[phase] = {"decided": repr(decided), "values": values}
            if self.path is not None:
                write_whole(self.path, json.dumps(self.saved, indent=1).encode())
        self.rows.append({"phase": phase, **self.saved[phase]["values"]})

    def frame(self) -> pd.DataFrame:
        """One row an evaluated phase: phase, and each quality."""
        return pd.DataFrame(self.rows)
