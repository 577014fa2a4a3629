"""An executor on other machines: workers of a Dask cluster, which share the folders of the study.

A worker runs each cell in a process of its own, as `processes` does: Dask's own workers may not start processes (a
DataLoader's, say), cannot be stopped in the middle of a cell, and keep what a cell leaves in memory.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..cells import Cell, standing
from ..lease import is_held, lease
from ..order import FINISHED, OUT_OF_TIME, WAITS
from ..processes import worker_environment
from .cell_process import CellProcess, Job
from .cells_in_order import cells_in_order
from .local import here
from .scheduler import checked_resources, connected, outcome_of, process_environment, tell_what_lacks

if TYPE_CHECKING:
    from distributed import Future

POLL_S, RUNNER_S = 0.1, 1.0  # between looks of a worker at its process, and at whether its runner lives
SEEN_S = 60.0  # after which a file that was written on one machine is seen on all: network file systems cache


@dataclass(frozen=True)
class Assignment:
    """What a worker of the cluster is told."""

    job: Job
    runner: str  # a lease that the runner holds
    until: float | None  # when the cell should stop, by the clocks of both machines
    limit_s: float | None
    path: str  # where the runner finds modules
    folder: str  # where the runner works
    threads: str | None  # that the runner asks for by OMP_NUM_THREADS; else a worker's share of its cores


def cluster(
    cells: list[Cell], workers: int, deadline: float | None, *, scheduler: str, cell_limit_s: float | None = None
) -> dict[Cell, str]:
    """Run cells in the workers of a Dask cluster, each in a process of its own and after those it needs.

    A cell takes what its study's `resources` asks for. Where a worker dies, another one goes on with its cell. None
    outlives this call.

    Args:
        cells: To run.
        workers: So many at most are given away at once; 0 gives away all that can run.
        deadline: On `time.monotonic`.
        scheduler: The address.
        cell_limit_s: Seconds after which a cell's process is killed.

    Raises:
        NoScheduler: at that address.
    """
    if all(standing(cell) for cell in cells):  # that needs no cluster, and no folder that can be written to
        return here(cells, 0, deadline)
    runner = Path(cells[0].plan.scratch).absolute() / f"runner-{uuid.uuid4().hex}.json"
    until = None if deadline is None else time.time() + deadline - time.monotonic()
    with connected(scheduler) as client, lease(runner):
        tell_what_lacks(client, "cells", map(_resources, cells))

        def begin(cell: Cell, slot: int) -> Callable[[], str | None]:
            sent = Assignment(
                _absolute(cell), str(runner), until, cell_limit_s, worker_environment()["PYTHONPATH"], os.getcwd(),
                os.environ.get("OMP_NUM_THREADS"),
            )  # fmt: skip
            future = client.submit(
                run_assigned, sent, key=f"{cell.key}-{uuid.uuid4().hex[:8]}", resources=_resources(cell), pure=False
            )
            return _Handed(cell, future, deadline).outcome

        return cells_in_order(cells, workers or len(cells), deadline, begin)


def run_assigned(sent: Assignment) -> str:
    """What a worker of the cluster does: it runs a cell in a process, as long as its runner lives; how it ended."""
    from dask.system import CPU_COUNT
    from distributed import get_worker

    left_s = None if sent.until is None else sent.until - time.time()
    if left_s is not None and left_s <= 0:
        return OUT_OF_TIME
    if not is_held(sent.runner):
        return (
            f"failed: its runner has ended, or {socket.gethostname()} does not see {sent.runner}: give --out and "
            "--scratch in folders that all machines share"
        )
    threads = sent.threads or max(1, CPU_COUNT // get_worker().state.nthreads)
    environment = process_environment(sent.path, threads)
    begun = time.monotonic()
    while (outcome := _supervised(sent, left_s, environment)).startswith(WAITS):
        if time.monotonic() - begun > SEEN_S:
            break
        time.sleep(RUNNER_S)  # the runner has seen what it needs; this machine's view of the folders is older
    return outcome


def _supervised(sent: Assignment, left_s: float | None, environment: Mapping[str, str]) -> str:
    """How a cell's process ended, which does so with its runner."""
    process = CellProcess.begin(
        sent.job, left_s=left_s, limit_s=sent.limit_s, environment=environment, folder=sent.folder
    )
    looked = time.monotonic()
    try:
        while (outcome := process.outcome()) is None:
            time.sleep(POLL_S)
            if time.monotonic() - looked >= RUNNER_S:
                looked = time.monotonic()
                if not is_held(sent.runner):
                    return "interrupted: its runner has ended"
        return outcome
    finally:
        process.end()


@dataclass
class _Handed:
    """A cell that was handed to the cluster."""

    cell: Cell
    future: "Future"
    deadline: float | None
    ended: float | None = None  # on time.monotonic

    def outcome(self) -> str | None:
        """How it ended; None while it waits or runs, and until its result is seen here, where folders may lag."""
        if not self.future.done():
            return self._late()
        outcome = outcome_of(self.future)
        self.ended = self.ended or time.monotonic()
        if outcome == FINISHED and not standing(self.cell) and time.monotonic() - self.ended < SEEN_S:
            return None
        return outcome

    def _late(self) -> str | None:
        """A cell that waits for a worker at the deadline does so no longer."""
        if self.deadline is None or time.monotonic() < self.deadline or is_held(self.cell.lease):
            return None
        self.future.cancel()
        return OUT_OF_TIME


def _absolute(cell: Cell) -> Job:
    """A cell for another process, elsewhere: paths say all."""
    plan = cell.plan
    paths = {name: getattr(plan, name) for name in ("out", "scratch", "data", "weights")}
    plan = replace(plan, **{name: path and str(Path(path).absolute()) for name, path in paths.items()})
    return Job(asdict(plan), cell.key, str(cell.home.absolute()))


def _resources(cell: Cell) -> dict[str, float]:
    """What a cell takes of its worker, as its study says. Raises ValueError where that is no dict of numbers."""
    study = import_module(cell.plan.study)
    found = study.resources(cell.row, cell.plan.preset) if hasattr(study, "resources") else {}
    return checked_resources(f"{cell.plan.study}.resources", found)
