"""Several trainings in a row that count as one: a checkpoint folder each, running steps, one time limit."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ..errors import add_note
from .fit import Fit, fit
from .history import TrainingFailed
from .task import Task


class Phases:
    """The phases of one training, each a `fit` that begins at the batch after the last of the one before.

    `settings` and `options` are those of `fit` for every phase that comes; a phase may add options of its own.
    """

    def __init__(
        self,
        task: Task,
        folder: str | Path | None,
        time_limit_s: float | None,
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
    ):
        self.task, self.folder = task, None if folder is None else Path(folder)
        self.deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self.settings, self.options = dict(settings), dict(options)
        self.done: dict[str, tuple[int, Fit]] = {}  # by phase: its first step, and how it went
        self.first = 0

    def train_(self, phase: str, model: nn.Module, steps: int, **options: Any) -> bool:
        """Train one phase in place; whether it came to its end."""
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
            add_note(error, f"the step is counted within the phase {phase!r}, which begins at batch {first}")
            raise
        self.done[phase] = first, went
        self.first += steps
        return went.finished

    def seconds(self) -> float:
        """Time of training, all phases and all calls together."""
        return sum(went.seconds for _, went in self.done.values())

    def history(self, names: set[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The phases' histories in one (phase, step, lr, loss, penalty), and apart from it the columns in `names`.

        The latter tidily: phase, step, site, omega.
        """
        frames = []
        for phase, (first, went) in self.done.items():
            frame = went.history.assign(phase=phase)
            frames.append(frame.assign(step=frame["step"] + first))
        whole = pd.concat(frames, ignore_index=True)
        recorded = [name for name in whole if name in names]
        track = whole.melt(["phase", "step"], recorded, "site", "omega").dropna(subset="omega", ignore_index=True)
        plain = [name for name in ("phase", "step", "lr", "loss", "penalty") if name in whole]
        return whole.loc[:, plain], track
