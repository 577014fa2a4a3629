"""Numbers that take long to measure, kept one by one, so that a call that was killed loses the last one at most."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..files import write_whole
from .checkpoint import CheckpointMismatch
from .identity import difference_in_start, first_difference, modules_of, settings_of, start_of
from .task import Task


class Kept:
    """What was measured of one model and its task, by key, in a JSON file; without a folder, in memory alone.

    Args:
        path: The file, which need not be there.
        model: As the measurements begin.
        task: Its loss, qualities, first batch and settings are part of what the file is known by.
        facts: What else is.

    Raises:
        CheckpointMismatch: the file has those of another model, task or facts.
    """

    def __init__(self, path: Path | None, model: nn.Module, task: Task, facts: Mapping[str, Any]):
        self.path, self.values, self.known_by = path, {}, {}
        if path is not None:
            own = {name: repr(value) for name, value in facts.items()}
            self.known_by = {
                "start": start_of(model, task, {"task.loss": task.loss, "task.quality": task.quality}),
                "facts": modules_of(model) | settings_of("task.settings", task.settings) | own,
            }
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            before, values = content["known_by"], {**content["values"]}
            difference = first_difference(before["facts"], self.known_by["facts"])
            difference = difference or difference_in_start(before["start"], self.known_by["start"])
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return  # there is none, or not a whole one: it is measured, which costs time only
        if difference:
            raise CheckpointMismatch(path, difference)
        self.values = values

    def get(self, key: str) -> Any:
        """What is kept under a key, or None."""
        return self.values.get(key)

    def keep_(self, key: str, value: Any) -> Any:
        """Keep a value that JSON can write; it is returned."""
        self.values[key] = value
        if self.path is not None:
            write_whole(self.path, json.dumps({"known_by": self.known_by, "values": self.values}).encode())
        return value
