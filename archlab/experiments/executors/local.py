"""Executors on this machine: `here` and `processes`."""

import os
import time
from collections.abc import Callable

import torch

from ..attempts import run_cell
from ..cells import Cell
from ..processes import worker_environment
from .cell_process import CellProcess, Job
from .cells_in_order import cells_in_order


def here(cells: list[Cell], workers: int, deadline: float | None) -> dict[Cell, str]:
    """Run cells in this process, one after another, whatever the number of workers."""

    def begin(cell: Cell, slot: int) -> Callable[[], str]:
        outcome = run_cell(cell, deadline)
        return lambda: outcome

    return cells_in_order(cells, 1, deadline, begin)


def processes(
    cells: list[Cell], workers: int, deadline: float | None, *, cell_limit_s: float | None = None
) -> dict[Cell, str]:
    """Run cells in processes of their own, at most `workers` at once (one at least), each after those it needs.

    A process that runs for longer than `cell_limit_s` is killed. None outlives this call.
    """
    workers, started = max(1, workers), []

    def begin(cell: Cell, slot: int) -> Callable[[], str | None]:
        left_s = None if deadline is None else deadline - time.monotonic()
        try:
            started.append(
                CellProcess.begin(
                    Job.of(cell), left_s=left_s, limit_s=cell_limit_s, environment=_environment(slot, workers)
                )
            )
        except OSError as error:
            outcome = f"failed: {type(error).__name__}: {error}"
            return lambda: outcome
        return started[-1].outcome

    try:
        return cells_in_order(cells, workers, deadline, begin)
    finally:
        for process in started:
            process.end()


def _environment(slot: int, workers: int) -> dict[str, str]:
    """That of the process in a place: its share of the cores, and a GPU of its own where there are several."""
    environment = worker_environment()
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    gpus = gpus or [str(index) for index in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return environment
