"""Several trainings in a row that count as one: a checkpoint folder each, running steps, one time limit.

And the qualities of the model between them, each measured once.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ..errors import add_note
from ..files import write_whole
from .checkpoint import CheckpointMismatch
from .fit import Fit, fit
from .history import TrainingFailed
from .identity import difference_in_start, first_difference, is_same, settings_of, start_of, weights_of
from .task import Loss, Task, better_of, qualities_of

QUALITIES = "qualities.json"


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
        self.options = dict(options)
        self.settings = {**(self.options.pop("settings", None) or {}), **settings}
        self.done: dict[str, tuple[int, Fit]] = {}  # by phase: its first step, and how it went
        self.first = 0

    def train_(self, phase: str, model: nn.Module, steps: int, *, loss: Loss | None = None, **options: Any) -> bool:
        """Train one phase in place, by the task's loss or another `loss`; whether it came to its end."""
        first, loss = self.first, loss or self.task.loss
        try:
            went = fit(
                model,
                replace(self.task, loss=loss, batches=lambda step: self.task.batches(first + step)),
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
        """The phases' histories in one: phase, step, lr, loss, what else was noted; apart from it those in `names`.

        The latter tidily: phase, step, site, omega.
        """
        frames = []
        for phase, (first, went) in self.done.items():
            frame = went.history.assign(phase=phase)
            frames.append(frame.assign(step=frame["step"] + first))
        empty = pd.DataFrame(columns=["phase", "step", "lr", "loss"])  # where no phase was trained
        whole = pd.concat(frames, ignore_index=True) if frames else empty
        recorded = [name for name in whole if name in names]
        track = whole.melt(["phase", "step"], recorded, "site", "omega").dropna(subset="omega", ignore_index=True)
        plain = [name for name in whole if name not in (*recorded, "phase", "step")]
        return whole.loc[:, ["phase", "step", *plain]], track


class Evaluations:
    """`task.quality` of the model that a training of `model` has made after each phase, where that is `wanted`.

    They are saved in the folder, so that a rerun which came to the same decisions and weights measures nothing twice.

    Raises:
        CheckpointMismatch: the folder has those of another training.
    """

    def __init__(self, model: nn.Module, task: Task, folder: str | Path | None, *, wanted: bool):
        self.task, self.wanted = task, wanted
        self.path = None if folder is None else Path(folder) / QUALITIES
        self.start: dict[str, Any] = {}  # of the training; it is in the file
        self.saved: dict[str, dict[str, Any]] = {}  # by phase: of which decisions and weights, and the values
        self.rows: list[dict[str, Any]] = []
        if wanted and self.path is not None:
            self.start = start_of(model, task, {"task.quality": task.quality})
            self.start["settings"] = settings_of("task.settings", task.settings)
            self._read(self.path)

    def _read(self, path: Path) -> None:
        """Take what an earlier call measured, if it was the same training, and by the same function."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            before, phases = content["start"], {**content["phases"]}
            by_the_same = is_same(before["functions"]["task.quality"], self.start["functions"]["task.quality"])
            difference = first_difference(before["settings"], self.start["settings"])
            difference = difference or difference_in_start({**before, "functions": {}}, {**self.start, "functions": {}})
            kept = {
                phase: {"of": [str(known) for known in entry["of"]], "values": {**entry["values"]}}
                for phase, entry in phases.items()
            }
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return  # there are none, or half of them: they are measured, which costs time only
        if difference:
            raise CheckpointMismatch(path, difference)
        self.saved = kept if by_the_same else {}

    def evaluate(self, phase: str, model: nn.Module, decided: Any = None) -> None:
        """Evaluate `model` after `phase`; its weights and what was `decided` tell it from that of another run."""
        if not self.wanted:
            return
        known = [repr(decided), "" if self.path is None else weights_of(model)]
        if phase not in self.saved or self.saved[phase]["of"] != known:
            values = qualities_of(self.task, model, columns=("phase",), untouched=phase == "original")
            self.saved[phase] = {"of": known, "values": values}
            if self.path is not None:
                content = {"start": self.start, "phases": self.saved}
                write_whole(self.path, json.dumps(content, indent=1).encode())
        self.rows.append({"phase": phase, **self.saved[phase]["values"]})

    def frame(self) -> pd.DataFrame:
        """One row an evaluated phase: phase, and each quality; in ``.attrs["better"]``, which way these are better."""
        frame = pd.DataFrame(self.rows)
        frame.attrs["better"] = better_of(self.task, map(str, frame))
        return frame
