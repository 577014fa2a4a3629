"""Where cells run. An executor is one function, and a line in `EXECUTORS`, at the end of this file.

It is given cells in an order in which each stands after those it needs, a number of workers and the time (of
`time.monotonic`) at which to stop, and returns how each cell ended: "finished", or why not.
"""

import functools
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ..arguments import number, text, whole
from ..files import write_whole
from ..names import closest
from .attempts import run_cell
from .cells import Cell, Plan, cells_of, standing
from .lease import is_held
from .order import in_order
from .processes import die_with, end_, how_it_ended, sigterm_as_exception, worker_environment

MOST_WORKERS = 1_024  # more cannot be meant
Executor = Callable[[list[Cell], int, float | None], dict[Cell, str]]


def here(cells: list[Cell], workers: int, deadline: float | None) -> dict[Cell, str]:
    """Run cells in this process, one after another, whatever the number of workers."""

    def begin(cell: Cell, slot: int) -> Callable[[], str]:
        outcome = run_cell(cell, deadline)
        return lambda: outcome

    return _in_order(cells, 1, deadline, begin)


def _in_order(
    cells: list[Cell], places: int, deadline: float | None, begin: Callable[[Cell, int], Callable[[], str | None]]
) -> dict[Cell, str]:
    return in_order(cells, places, deadline, begin, standing=standing, held=lambda cell: is_held(cell.lease), tell=tell)


def processes(
    cells: list[Cell], workers: int, deadline: float | None, *, cell_limit_s: float | None = None
) -> dict[Cell, str]:
    """Run cells in processes of their own, at most `workers` at once (one at least), each after those it needs.

    A process that runs for longer than `cell_limit_s` is killed. None outlives this call.
    """
    workers, started = max(1, workers), []

    def begin(cell: Cell, slot: int) -> Callable[[], str | None]:
        try:
            started.append(_spawned(cell, slot, workers, deadline, cell_limit_s))
        except OSError as error:
            outcome = f"failed: {type(error).__name__}: {error}"
            return lambda: outcome
        return started[-1].outcome

    try:
        return _in_order(cells, workers, deadline, begin)
    finally:
        for worker in started:
            worker.end()


@dataclass(eq=False)
class _Worker:
    """A process that runs one cell."""

    cell: Cell
    process: subprocess.Popen
    said: Path  # how the cell ended
    limit_s: float | None
    began: float = field(default_factory=time.monotonic)

    def outcome(self) -> str | None:
        """How the cell ended; None while it runs."""
        status = self.process.poll()
        if status is None:
            if self.limit_s is None or time.monotonic() - self.began < self.limit_s:
                return None
            end_(self.process, grace_s=0.0)
            return f"killed: it ran longer than the limit of {self.limit_s / 60:g} min a cell; see {_log(self.cell)}"
        if self.said.exists():
            outcome = self.said.read_text(encoding="utf-8")
            self.said.unlink(missing_ok=True)
            return outcome
        return f"{how_it_ended(status)}; see {_log(self.cell)}"

    def end(self) -> None:
        """End the process, and those that it started."""
        end_(self.process)
        self.said.unlink(missing_ok=True)


def _spawned(cell: Cell, slot: int, workers: int, deadline: float | None, limit_s: float | None) -> _Worker:
    said = cell.home / f"outcome-{uuid.uuid4().hex}.txt"
    given = {
        "plan": asdict(cell.plan),
        "key": cell.key,
        "left_s": None if deadline is None else deadline - time.monotonic(),
        "said": str(said),
        "parent": os.getpid(),
    }
    environment = worker_environment()
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    gpus = gpus or [str(index) for index in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    cell.home.mkdir(parents=True, exist_ok=True)
    code = f"from {work.__module__} import {work.__name__}; {work.__name__}()"
    words = [sys.executable, "-c", code, json.dumps(given)]
    with open(_log(cell), "ab") as log:  # a session of its own: with the process ends what it started
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    return _Worker(cell, process, said, limit_s)


def _log(cell: Cell) -> Path:
    return cell.home / "log.txt"


def work() -> None:
    """What a worker process does: one cell, found again by its key; its outcome goes to a file that is named to it.

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


def tell(cell: Cell, outcome: str) -> None:
    """A line about a cell for who watches."""
    result = standing(cell)
    took = f", {result['seconds']:.0f} s" + (", stale" if result["stale"] else "") if result else ""
    print(f"{cell.label}: {outcome}{took}", file=sys.stderr, flush=True)


EXECUTORS: dict[str, Executor] = {"here": here, "processes": processes}


def executor_for(name: str | None, workers: int, cell_limit_s: float | None = None) -> Executor:
    """The executor of that name; without one, `here` for no workers and no limit, and `processes` else.

    Raises:
        ValueError: no such executor; fewer workers than none; a limit that cannot be or cannot be kept.
    """
    whole("workers", workers, least=0, most=MOST_WORKERS)
    text("executor", name or "")
    number("cell_limit_s", cell_limit_s, above=0, optional=True)
    name = name or ("processes" if workers or cell_limit_s else "here")
    if name not in EXECUTORS:
        raise ValueError(f"executor: there is no {name!r}; {closest(name, EXECUTORS)}")
    if cell_limit_s is None:
        return EXECUTORS[name]
    if EXECUTORS[name] is not processes:
        raise ValueError(f"cell_limit_s: {name!r} cannot stop a cell that hangs; 'processes' can")
    return functools.partial(processes, cell_limit_s=cell_limit_s)
