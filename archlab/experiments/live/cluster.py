"""Workers of a Dask cluster that do pieces of work on live objects: each holds a `Pool` for its caller.

They need not share a folder with the caller. What it sends are the objects, pickled; what comes back is what is told of
a piece, so the caller alone keeps and writes. As with cells, a worker does nothing in its own process: that can be
stopped in the middle of a piece, computes as the caller's does, and unlike those of cells is kept for the next piece.
"""

import contextlib
import itertools
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..executors.scheduler import connected, outcome_of, process_environment, tell_what_lacks
from ..order import OUT_OF_TIME
from ..processes import worker_environment
from .pool import Pool, Told

if TYPE_CHECKING:
    from distributed import Future, Worker

POLL_S, LATE_S = 0.05, 1.0  # between looks of a worker at its process, and of a late caller at what waits
IDLE_S = 60.0  # after which a worker ends the processes of a caller that it hears no more of


@dataclass(frozen=True)
class Cluster:
    """A cluster that was asked for.

    Attributes:
        scheduler: Its address.
        resources: What a piece takes of its worker.
    """

    scheduler: str
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sent:
    """What a worker is told of a piece, beside the payload."""

    caller: str
    label: str
    until: float | None  # when not to begin any more, by the clocks of both machines
    path: str  # where the caller finds modules
    folder: str  # where the caller works
    threads: str


class ClusterPool:
    """The workers of a cluster, for one caller; it does what `Pool` does.

    Args:
        payload: As that of `Pool`.
        cluster: Where.
        deadline: On `time.monotonic`, when to begin no more; None for no limit.

    Raises:
        NoScheduler: at that address.
    """

    def __init__(self, payload: bytes, cluster: Cluster, deadline: float | None):
        self.cluster, self.deadline = cluster, deadline
        self.caller = uuid.uuid4().hex
        self.client = connected(cluster.scheduler)
        tell_what_lacks(self.client, "trials", [cluster.resources])
        # A task, and no data that is scattered: where the worker that holds it dies, the scheduler makes it again.
        self.payload = self.client.submit(bytes, payload, key=f"payload-{self.caller}", pure=False)
        self.futures: set[Future] = set()
        self.given, self.looked = set[Any](), -LATE_S  # the tasks that workers have been given, as seen then

    def begin(self, label: str, slot: int) -> Callable[[], Told | None]:
        """Have a worker do a piece; the function that is returned gives what it told, or None."""
        until = None if self.deadline is None else time.time() + self.deadline - time.monotonic()
        threads = os.environ.get("OMP_NUM_THREADS") or str(torch.get_num_threads())
        sent = Sent(self.caller, label, until, worker_environment()["PYTHONPATH"], os.getcwd(), threads)
        future = self.client.submit(
            do_piece, sent, self.payload, key=f"piece-{uuid.uuid4().hex}", resources=dict(self.cluster.resources),
            pure=False,
        )  # fmt: skip
        self.futures.add(future)

        def told() -> Told | None:
            if future.done():
                found = outcome_of(future)
                self.futures.discard(future)
                future.release()  # else it is done again where the worker that holds what was told dies
                return found if isinstance(found, Told) else Told(found)
            if self._waits_late(future):
                future.cancel()
                return Told(OUT_OF_TIME)
            return None

        return told

    def end(self) -> None:
        """Have the workers end what they do, and their processes for this caller."""
        name, caller = __name__, self.caller

        def end_there() -> None:  # sent by value: a worker that has done nothing here need not import this
            if name in sys.modules:
                sys.modules[name].end_pool(caller)

        with contextlib.suppress(OSError, TimeoutError):  # the scheduler may be gone
            self.client.cancel([*self.futures, self.payload])
            self.client.run(end_there, on_error="ignore")
        self.client.close()

    def _waits_late(self, future: "Future") -> bool:
        """Whether a piece that is not done waited for a worker at the deadline: what begins later does nothing."""
        if self.deadline is None or time.monotonic() < self.deadline:
            return False
        if time.monotonic() - self.looked >= LATE_S:
            given: Any = self.client.processing()  # by worker
            self.given = {key for keys in given.values() for key in keys}
            self.looked = time.monotonic()
        return future.key not in self.given


def do_piece(sent: Sent, payload: bytes) -> Told:
    """What a worker of the cluster does: it has a process do a piece, as long as its caller wants it."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    if sent.until is not None and time.time() >= sent.until:
        return Told(OUT_OF_TIME)
    with _slot(sent, payload, Path(worker.local_directory)) as (pool, slot):
        told = pool.begin(sent.label, slot)
        while (found := told()) is None:
            time.sleep(POLL_S)
            if not _is_wanted(worker, key):
                pool.stop(slot)
                return Told("interrupted: its caller has ended")
        return found


def end_pool(caller: str) -> None:
    """End a worker's processes for a caller, as soon as they do nothing."""
    with _LOCK:
        if caller in _HELD:
            _HELD[caller].idle_s = 0.0
            _end_when_idle(caller)


@dataclass(eq=False)
class _Held:
    """A worker's processes for one caller."""

    pool: Pool
    folder: tempfile.TemporaryDirectory
    busy: set[int] = field(default_factory=set)
    idle_s: float = IDLE_S
    used: int = 0  # how often a piece was begun


_HELD: dict[str, _Held] = {}  # by caller
_LOCK = threading.Lock()  # the worker's threads share them


@contextlib.contextmanager
def _slot(sent: Sent, payload: bytes, place: Path) -> Iterator[tuple[Pool, int]]:
    """A process of a caller's that does nothing else."""
    with _LOCK:
        if sent.caller not in _HELD:
            folder = tempfile.TemporaryDirectory(prefix="archlab-", dir=place)
            where = Path(sent.folder) if Path(sent.folder).is_dir() else None
            environment = process_environment(sent.path, sent.threads)
            _HELD[sent.caller] = _Held(Pool(payload, Path(folder.name), environment, where), folder)
        held = _HELD[sent.caller]
        held.used += 1
        slot = next(number for number in itertools.count() if number not in held.busy)
        held.busy.add(slot)
    try:
        yield held.pool, slot
    finally:
        with _LOCK:
            held.busy.remove(slot)
            _end_when_idle(sent.caller)


def _end_when_idle(caller: str) -> None:
    """End a caller's processes, unless a piece is begun before they have been idle for as long as they may be."""
    held = _HELD[caller]
    used = held.used

    def end() -> None:
        with _LOCK:
            if _HELD.get(caller) is not held or held.busy or held.used != used:
                return
            del _HELD[caller]
        held.pool.end()
        held.folder.cleanup()

    timer = threading.Timer(held.idle_s, end)
    timer.daemon = True
    timer.start()


def _is_wanted(worker: "Worker", key: Any) -> bool:
    """Whether the scheduler still wants a task's result; not so when its caller cancels it, ends or is killed."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state != "cancelled"
