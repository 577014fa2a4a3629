"""Several trainings in a row that count as one: a checkpoint folder each, running steps, one time limit."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from .fit import Fit, TrainingFailed, fit
from .task import Task


class Phases:
    """Phases of one training: a folder each, running steps, and the time that is left."""

    def __init__(self, task: Task, folder, time_limit_s: float | None, settings: dict, options: dict[str, Any]):
        self.task, self.folder = task, None if folder is None else Path(folder)
        self.deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self.settings, self.options = settings, options
        self.done: dict[str, tuple[int, Fit]] = {}
        self.first = 0

    def __call__(self, phase: str, model: nn.Module, steps: int, **options: Any) -> bool:
        """Train one phase; whether it came to its end."""
        first = self.first
        try:
            went = fit(
                model,
                replace(self.task, batches=lambda step: self.task.batches(first + step)),
                steps=steps,
                folder=self.folder and self.folder / phase,
                time_limit_s=self.deadline and max(0.0, self.deadline - time.monotonic()),
                settings=self.settings,
                title=phase,
                **{**self.options, **options},
            )
        except TrainingFailed as error:
            error.add_note(f"the step is counted within the phase {phase!r}, which begins at batch {first}")
            raise
        self.done[phase] = first, went
        self.first += steps
        return went.finished

    @property
    def seconds(self) -> float:
        return sum(went.seconds for _, went in self.done.values())

    def history(self, names: set[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The phases' histories in one, and apart from it, tidily, the columns in `names`."""
        frames = []
        for phase, (first, went) in self.done.items():
            frame = went.history.assign(phase=phase)
            frames.append(frame.assign(step=frame["step"] + first))
        whole = pd.concat(frames, ignore_index=True)
        noted = [name for name in whole if name in names]
        track = whole.melt(["phase", "step"], noted, "site", "omega").dropna(subset="omega", ignore_index=True)
        plain = [name for name in ("phase", "step", "lr", "loss", "penalty") if name in whole]
        return whole.loc[:, plain], track
