"""Where cells run. An executor is one function, and a line in `EXECUTORS`, at the end of this file.

It is given cells in an order in which each stands after those it needs, a number of workers and the time (of
`time.monotonic`) at which to stop, and returns how each cell ended: "finished", or why not.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from ..arguments import text, whole
from ..files import write_whole
from ..names import closest
from .cells import FINISHED, Cell, Plan, cells_of, run_cell, standing

MOST_WORKERS = 1_024  # more cannot be meant
Executor = Callable[[list[Cell], int, float | None], dict[Cell, str]]


def here(cells: list[Cell], workers: int, deadline: float | None) -> dict[Cell, str]:
    """Run cells in this process, one after another, whatever the number of workers."""
    return {cell: told(cell, run_cell(cell, deadline)) for cell in cells}


def processes(cells: list[Cell], workers: int, deadline: float | None) -> dict[Cell, str]:
    """Run cells in processes of their own, at most `workers` at once (one at least), each after those it needs."""
    workers = max(1, workers)
    outcomes: dict[Cell, str] = {}
    waiting, running = list(cells), {}
    free = list(range(workers))
    try:
        while waiting or running:
            for cell in list(waiting):
                lost = [need for need in cell.needs.values() if outcomes.get(need, FINISHED) != FINISHED]
                if standing(cell):
                    outcome = FINISHED
                elif lost:
                    outcome = f"waits for {lost[0].label}"
                elif deadline is not None and time.monotonic() >= deadline:
                    outcome = "out of time"
                elif free and all(outcomes.get(need) == FINISHED for need in cell.needs.values()):
                    waiting.remove(cell)
                    slot = free.pop(0)
                    running[cell] = slot, _spawn(cell, slot, workers, deadline)
                    continue
                else:
                    continue
                waiting.remove(cell)
                outcomes[cell] = told(cell, outcome)
            for cell, (slot, process) in list(running.items()):
                if process.poll() is not None:
                    del running[cell]
                    free.append(slot)
                    outcomes[cell] = told(cell, _outcome(cell, process.returncode))
            time.sleep(0.02)
    finally:
        for _, process in running.values():
            process.terminate()
    return outcomes


def _spawn(cell: Cell, slot: int, workers: int, deadline: float | None) -> subprocess.Popen:
    given = {
        "plan": asdict(cell.plan),
        "key": cell.key,
        "left_s": None if deadline is None else deadline - time.monotonic(),
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    gpus = gpus or [str(index) for index in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    cell.home.mkdir(parents=True, exist_ok=True)
    with open(cell.home / "log.txt", "ab") as log:
        code = f"from {work.__module__} import {work.__name__}; {work.__name__}()"
        return subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(given)], stdout=log, stderr=subprocess.STDOUT, env=environment
        )


def work() -> None:
    """What a worker process does: one cell, found again by its key; its outcome goes to a file beside the log."""
    given = json.loads(sys.argv[1])
    plan = Plan(**given["plan"])
    deadline = None if given["left_s"] is None else time.monotonic() + given["left_s"]
    (cell,) = [cell for cell in cells_of(plan) if cell.key == given["key"]]
    outcome = run_cell(cell, deadline)
    write_whole(cell.home / "outcome.txt", outcome.encode())


def _outcome(cell: Cell, status: int) -> str:
    told = cell.home / "outcome.txt"
    if status == 0 and told.exists():
        return told.read_text(encoding="utf-8")
    how = f"killed by signal {-status}" if status < 0 else f"failed with exit status {status}"
    return f"{how}; see {cell.home / 'log.txt'}"


def told(cell: Cell, outcome: str) -> str:
    """The outcome as it is, after a line about the cell for who watches."""
    result = standing(cell)
    took = f", {result['seconds']:.0f} s" + (", stale" if result["stale"] else "") if result else ""
    print(f"{cell.label}: {outcome}{took}", file=sys.stderr, flush=True)
    return outcome


EXECUTORS: dict[str, Executor] = {"here": here, "processes": processes}


def executor_for(name: str | None, workers: int) -> Executor:
    """The executor of that name; without one, `here` for no workers and `processes` for some.

    Raises:
        ValueError: no such executor; fewer workers than none.
    """
    whole("workers", workers, least=0, most=MOST_WORKERS)
    text("executor", name or "")
    name = name or ("processes" if workers else "here")
    if name not in EXECUTORS:
        raise ValueError(f"executor: there is no {name!r}; {closest(name, EXECUTORS)}")
    return EXECUTORS[name]
