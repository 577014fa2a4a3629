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


class Judge:
    """Qualities by phase. Kept in the folder, so that a rerun that came to the same decisions judges each phase once;
    random states unmoved."""

    def __init__(self, task: Task, folder, wanted: bool):
        self.task, self.wanted = task, wanted
        self.path = None if folder is None else Path(folder) / "qualities.json"
        self.kept: dict[str, dict[str, Any]] = {}
        self.rows: list[dict[str, Any]] = []
        if self.path is not None and self.path.exists():
            self.kept = json.loads(self.path.read_text())

    def __call__(self, phase: str, model: nn.Module, decided: Any = None) -> None:
        """Judge `model` after `phase`; `decided` is what tells it from the one of another run in this folder."""
        if not self.wanted:
            return
        if phase not in self.kept or self.kept[phase]["decided"] != repr(decided):
            states = random_states()
            with torch.no_grad():
                values = {name: float(value) for name, value in self.task.quality(model).items()}
            set_random_states_(states)
            self.kept[phase] = {"decided": repr(decided), "values": values}
            if self.path is not None:
                write_whole(self.path, json.dumps(self.kept, indent=1).encode())
        self.rows.append({"phase": phase, **self.kept[phase]["values"]})

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)
