"""An executor on other machines: workers of a Dask cluster, which share the folders of the study.

A worker runs each cell in a process of its own, as `processes` does: Dask's own workers may not start processes (a
DataLoader's, say), cannot be stopped in the middle of a cell, and keep what a cell leaves in memory.
"""

import os
import socket
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module, util
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...arguments import wrong
from ..cells import Cell, standing
from ..lease import is_held, lease
from ..order import FINISHED, OUT_OF_TIME, WAITS
from ..processes import worker_environment
from .cell_process import CellProcess, Job
from .cells_in_order import cells_in_order
from .local import here

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_S = 10.0  # that a scheduler may take to answer
POLL_S, RUNNER_S = 0.1, 1.0  # between looks of a worker at its process, and at whether its runner lives
SEEN_S = 60.0  # after which a file that was written on one machine is seen on all: network file systems cache
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # Dask's nannies set them to 1


class NoScheduler(ConnectionError):
    """No scheduler answers."""


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


def check_installed() -> None:
    """Raise ModuleNotFoundError, with what to install, where Dask's distributed is not there."""
    if util.find_spec("distributed") is None:
        raise ModuleNotFoundError(
            "executor 'dask' needs the package distributed, which is not installed: pip install 'archlab[cluster]'"
        )


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
    with _connected(scheduler) as client, lease(runner):
        _tell_what_lacks(client, cells)

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
    environment = worker_environment()
    environment["PYTHONPATH"] = os.pathsep.join([sent.path, environment["PYTHONPATH"]])
    environment |= dict.fromkeys(THREADS, sent.threads or str(max(1, CPU_COUNT // get_worker().state.nthreads)))
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


def _connected(scheduler: str) -> "Client":
    from distributed import Client

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions elsewhere, which a cell's process does not see
            return Client(scheduler, timeout=CONNECT_S, set_as_default=False, name="archlab")
    except (OSError, ValueError) as error:
        raise NoScheduler(
            f"scheduler: no Dask scheduler answers at {scheduler} ({error}); start one with: dask scheduler"
        ) from error


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
        if self.future.status == "cancelled":
            return "failed: the scheduler gave it up, or is gone"
        try:
            outcome = self.future.result(timeout=CONNECT_S)
        except Exception as error:  # whatever a worker raises: that it has no archlab, or was killed again and again
            return f"failed: {type(error).__name__}: {error}"
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
    if not isinstance(found, Mapping) or not all(isinstance(amount, Real) for amount in found.values()):
        raise ValueError(wrong(f"{cell.plan.study}.resources", "a dict of numbers, as {'GPU': 1}", found))
    return dict(found)


def _tell_what_lacks(client: "Client", cells: list[Cell]) -> None:
    """Say what no worker has that a cell takes: it waits until one comes."""
    there: list[Any] = [worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
    if not there:
        print("the scheduler has no workers yet; cells wait for one: dask worker ADDRESS", file=sys.stderr)
        return
    for name, amount in {pair for cell in cells for pair in _resources(cell).items()}:
        if all(resources.get(name, 0) < amount for resources in there):
            print(
                f"no worker has {name}={amount:g} yet; cells wait for one: dask worker ADDRESS --resources "
                f"'{name}={amount:g}'",
                file=sys.stderr,
            )
