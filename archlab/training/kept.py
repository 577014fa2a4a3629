"""Numbers that take long to measure, kept one by one, so that a call that was killed loses the last one at most.

    <folder>/known_by.json       what was measured: model, task, facts
    <folder>/<key>-<hash>.json   one value: written whole, never changed
    <folder>/<key>-<hash>.lease held while somebody measures it

A file a value, so that several processes, on several machines, may fill one folder.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..files import write_whole
from .checkpoint import CheckpointMismatch
from .identity import difference_in_start, first_difference, modules_of, settings_of, start_of
from .task import Task

KNOWN_BY = "known_by.json"


class Kept:
    """Values by key, in a folder of files; without one, in memory alone.

    Args:
        folder: It need not be there.
        of: What the values are of: those that are of something else do not count.
    """

    def __init__(self, folder: Path | None, of: str = ""):
        self.folder, self.of = folder, of
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        """What is kept under a key, by whichever process, or None."""
        if key not in self.values and self.folder is not None:
            try:
                content = json.loads(self._path(key).read_text(encoding="utf-8"))
                if (content["of"], content["key"]) == (self.of, key):
                    self.values[key] = content["value"]
            except (OSError, ValueError, TypeError, LookupError):
                pass  # there is none, or not a whole one: it is measured, which costs time only
        return self.values.get(key)

    def keep_(self, key: str, value: Any) -> Any:
        """Keep a value that JSON can write; it is returned."""
        if self.folder is not None:
            write_whole(self._path(key), json.dumps({"of": self.of, "key": key, "value": value}).encode())
        self.values[key] = value
        return value

    def lease(self, key: str) -> Path:
        """The file to hold while a value is measured, where others may measure it, too."""
        return self._path(key).with_suffix(".lease")

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", key).strip("-.")[:60]
        return self.folder / f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def kept_of(folder: Path | None, model: nn.Module, task: Task, facts: Mapping[str, Any]) -> Kept:
    """What was measured of one model and its task.

    Args:
        folder: It need not be there; None keeps in memory.
        model: As the measurements begin.
        task: Its loss, qualities, first batch and settings are part of what the folder is known by.
        facts: What else is.

    Raises:
        CheckpointMismatch: the folder has values of another model, task or facts.
    """
    if folder is None:
        return Kept(None)
    own = {name: repr(value) for name, value in facts.items()}
    known_by = {
        "start": start_of(model, task, {"task.loss": task.loss, "task.quality": task.quality}),
        "facts": modules_of(model) | settings_of("task.settings", task.settings) | own,
    }
    return Kept(folder, _agreed(folder / KNOWN_BY, known_by))


def _agreed(path: Path, known_by: Mapping[str, Any]) -> str:
    """A hash of the file that says what a folder's values are of; written if there is none, or not a whole one.

    Each value names it: those beside another such file, since lost, do not count.
    """
    while True:
        try:
            content = path.read_bytes()
            before = json.loads(content)
            difference = first_difference(before["facts"], known_by["facts"])
            difference = difference or difference_in_start(before["start"], known_by["start"])
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            write_whole(path, json.dumps(known_by).encode())
            continue  # another process may have written its own at the same time: one of them stands
        if difference:
            raise CheckpointMismatch(path, difference)
        return hashlib.sha256(content).hexdigest()[:16]
