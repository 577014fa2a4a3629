"""A process that runs one cell of a study, which it finds again by its key, and says in a file how that ended."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...files import write_whole
from ..attempts import run_cell
from ..cells import Cell, Plan, cells_of
from ..processes import die_with, end_, how_it_ended, sigterm_as_exception


@dataclass(frozen=True)
class Job:
    """A cell that a process is to run. JSON can write it."""

    plan: Mapping[str, Any]
    key: str
    home: str

    @classmethod
    def of(cls, cell: Cell) -> "Job":
        return cls(asdict(cell.plan), cell.key, str(cell.home))

    @property
    def log(self) -> Path:
        """What the process prints is added to it."""
        return Path(self.home) / "log.txt"


@dataclass(eq=False)
class CellProcess:
    """A process that runs one cell. `begin` starts one."""

    job: Job
    process: subprocess.Popen
    said: Path  # how the cell ended
    limit_s: float | None
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(
        cls,
        job: Job,
        *,
        left_s: float | None,
        limit_s: float | None,
        environment: Mapping[str, str],
        folder: str | None = None,
    ) -> "CellProcess":
        """Start it.

        Args:
            job: What it runs.
            left_s: Seconds until the cell should stop; None for no limit.
            limit_s: Seconds after which it is killed; None for no limit.
            environment: All of it.
            folder: Where it works; None: where this process does.

        Raises:
            OSError: it cannot be started, or the job's folder cannot be written to.
        """
        said = Path(job.home) / f"outcome-{uuid.uuid4().hex}.txt"
        given = {"plan": job.plan, "key": job.key, "left_s": left_s, "said": str(said), "parent": os.getpid()}
        said.parent.mkdir(parents=True, exist_ok=True)
        code = f"from {work.__module__} import {work.__name__}; {work.__name__}()"
        words = [sys.executable, "-c", code, json.dumps(given)]
        with open(job.log, "ab") as log:  # a session of its own: with the process ends what it started
            process = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, env=dict(environment), cwd=folder, start_new_session=True
            )
        return cls(job, process, said, limit_s)

    def outcome(self) -> str | None:
        """How the cell ended; None while it runs."""
        status = self.process.poll()
        if status is None:
            if self.limit_s is None or time.monotonic() - self.began < self.limit_s:
                return None
            end_(self.process, grace_s=0.0)
            return f"killed: it ran longer than the limit of {self.limit_s / 60:g} min a cell; see {self.job.log}"
        if self.said.exists():
            outcome = self.said.read_text(encoding="utf-8")
            self.said.unlink(missing_ok=True)
            return outcome
        return f"{how_it_ended(status)}; see {self.job.log}"

    def end(self) -> None:
        """End the process, and those that it started."""
        end_(self.process)
        self.said.unlink(missing_ok=True)


def work() -> None:
    """What the process does.

    Raises:
        RuntimeError: there is no such cell any more.
    """
    given = json.loads(sys.argv[1])
    die_with(given["parent"])
    deadline = None if given["left_s"] is None else time.monotonic() + given["left_s"]
    with sigterm_as_exception():
        for cell in cells_of(Plan(**given["plan"])):
            if cell.key == given["key"]:
                write_whole(given["said"], run_cell(cell, deadline).encode())
                return
    raise RuntimeError(f"there is no cell {given['key']} any more: the study or its data changed after the run began")
