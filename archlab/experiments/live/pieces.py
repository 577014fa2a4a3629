"""Pieces of work on live objects (a model and a task in memory), each done once, here or in worker processes.

A study's cells are found again by name, in a module that every worker imports. A model and a task have no such name:
workers get a copy of them. All else is as with cells: each piece is kept as it ends, has a lease, and is done after
those that it needs; several processes or machines that do the same in one folder share it.
"""

import contextlib
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ...arguments import whole
from ...errors import add_note
from ...training.task import Task
from ..executors.by_name import MOST_WORKERS
from ..lease import is_held, lease
from ..order import ELSEWHERE, FINISHED, OUT_OF_TIME, in_order
from ..processes import sigterm_as_exception
from .cluster import Cluster, ClusterPool
from .pickled import pickled
from .pool import Pool, Told, computing

ALSO_SHARED = ": several processes that make the same call with one folder share the work, too"


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of work, known by its label."""

    label: str
    needs: Mapping[str, "Piece"] = field(default_factory=dict)  # by label, what must be done before


@dataclass(frozen=True)
class Work:
    """How pieces are done. A worker gets it pickled.

    Attributes:
        do: Does the piece of a label, and keeps what it makes, or returns it to `keep`.
        is_done: Whether what it makes is kept.
        leases: By label, the file that is held while somebody does it; None where nobody else can.
        keep: Is given a label and what `do` returned, which JSON can write, in the process of the user's call, which
            alone keeps it then; None where `do` does.
    """

    do: Callable[[str], Any]
    is_done: Callable[[str], bool]
    leases: Callable[[str], Path] | None
    keep: Callable[[str, Any], Any] | None = None

    def once(self, label: str) -> str:
        """Do a piece, unless it is done or somebody else does it; how it ended."""
        with contextlib.nullcontext(True) if self.leases is None else lease(self.leases(label)) as mine:
            if mine is None:
                return ELSEWHERE
            if not self.is_done(label):
                made = self.do(label)
                if self.keep is not None:
                    self.keep(label, made)
            return FINISHED

    def tried(self, label: str) -> Told:
        """The same in a worker, which does not `keep`; an error is told in words."""
        try:
            return Told(self.once(label)) if self.keep is None else Told(FINISHED, self.do(label))
        except Exception as error:
            traceback.print_exc()
            return Told(_failed(error))


def parts_of(task: Task) -> dict[str, Any]:
    """What a task consists of, by the names that errors give it."""
    return {f"task.{field.name}": getattr(task, field.name) for field in fields(task)}


def check_workers(call: str, workers: int) -> None:
    """Check a number of workers; 0 stands for this process. Raises TypeError, ValueError."""
    whole(f"{call}: workers", workers, least=0, most=MOST_WORKERS)


@contextlib.contextmanager
def place_for(folder: str | Path | None, *, needed: bool) -> Iterator[Path | None]:
    """The user's folder; without one a temporary folder where one is `needed`, else None."""
    if folder is None and needed:
        with tempfile.TemporaryDirectory(prefix="archlab-") as temporary:
            yield Path(temporary)
    else:
        yield None if folder is None else Path(folder)


@dataclass(eq=False)
class Crew:
    """Who does pieces of work: this process, or workers, each with a copy of `work`. `crew_for` makes one.

    Attributes:
        call: The user's call, for errors.
        work: How a piece is done.
        workers: 0 does them here, one after another; else so many processes, started when they are first needed.
        parts: What `work` consists of, by the names that they have for the user.
        until: What is open until the crew's end.
        cluster: Whose workers do them instead, as many at once as there are, or `workers`.
        deadline: On `time.monotonic`, when to begin no more; None for no limit.
    """

    call: str
    work: Work
    workers: int
    parts: Mapping[str, Any]
    until: contextlib.ExitStack
    cluster: Cluster | None = None
    deadline: float | None = None
    pool: Pool | ClusterPool | None = None
    warnings: dict[str, None] = field(default_factory=dict)  # what workers warned of, each once

    def carry_out(self, pieces: Sequence[Piece], *, lasting: bool, tell: Callable[[str, str], Any]) -> None:
        """Do all pieces that are not done, each after those it needs.

        Args:
            pieces: Each stands after those that it needs.
            lasting: Whether what is kept outlasts the call: then the others go on where one fails.
            tell: Is given the label of a piece and how it ended.

        Raises:
            Exception: what a piece raised here, with a note that names the piece, and what `work.keep` raised.
            RuntimeError: what it raised in a worker, or that its worker was killed.
            TypeError: `work` cannot be pickled.
            NoScheduler: of the cluster.
        """
        work, leases = self.work, self.work.leases
        errors: dict[Piece, Exception] = {}

        def here(piece: Piece, slot: int) -> Callable[[], str]:
            try:
                outcome = work.once(piece.label)
            except Exception as error:
                errors[piece], outcome = error, _failed(error)
            return lambda: outcome

        def ended(piece: Piece, outcome: str) -> None:
            tell(piece.label, outcome)
            if not lasting and outcome.startswith(("failed", "killed")):
                _raise(self.call, {piece: outcome}, errors, "")

        begin, places = here, 1
        if (self.workers or self.cluster) and not all(work.is_done(piece.label) for piece in pieces):
            begin, places = self._begin, self.workers or len(pieces)
        outcomes = in_order(
            pieces, places, self.deadline, begin, tell=ended,
            standing=lambda piece: work.is_done(piece.label),
            held=lambda piece: leases is not None and is_held(leases(piece.label)),
        )  # fmt: skip
        if lost := {piece: outcome for piece, outcome in outcomes.items() if outcome not in (FINISHED, OUT_OF_TIME)}:
            _raise(self.call, lost, errors, "; what is finished is kept, and the same call goes on with the rest")

    def _begin(self, piece: Piece, slot: int) -> Callable[[], str | None]:
        """Have a worker do a piece, and keep what it made."""
        told = self._pool().begin(piece.label, slot)

        def ended() -> str | None:
            found = told()
            if found is None:
                return None
            self.warnings |= dict.fromkeys(f"{piece.label}: {text}" for text in found.warnings)
            if found.outcome == FINISHED and self.work.keep is not None:
                self.work.keep(piece.label, found.made)
            return found.outcome

        return ended

    def _pool(self) -> Pool | ClusterPool:
        if self.pool is None:
            alone = f"leave {'workers=0' if self.cluster is None else 'scheduler=None'}"
            shared = "" if self.work.leases is None else ALSO_SHARED
            payload = pickled(self.call, (computing(), self.work.tried), self.parts, remedy=f"{alone}{shared}")
            if self.cluster is None:
                folder = self.until.enter_context(tempfile.TemporaryDirectory(prefix="archlab-"))
                self.pool = Pool(payload, Path(folder))
            else:
                self.pool = ClusterPool(payload, self.cluster, self.deadline)
            self.until.callback(self._end, self.pool)
        return self.pool

    def _end(self, pool: Pool | ClusterPool) -> None:
        """End the workers, and warn of what they warned of."""
        pool.end()
        for text in self.warnings:
            warnings.warn(text, stacklevel=4)


@contextlib.contextmanager
def crew_for(
    call: str,
    work: Work,
    *,
    workers: int,
    parts: Mapping[str, Any],
    cluster: Cluster | None = None,
    deadline: float | None = None,
) -> Iterator[Crew]:
    """A crew, whose workers end with the block."""
    with contextlib.ExitStack() as until:
        until.enter_context(sigterm_as_exception())
        yield Crew(call, work, workers, parts, until, cluster, deadline)


def carry_out(
    call: str,
    pieces: Sequence[Piece],
    work: Work,
    *,
    workers: int,
    parts: Mapping[str, Any],
    lasting: bool,
    tell: Callable[[str, str], Any],
) -> None:
    """Do all pieces that are not done by a crew of their own, as `Crew.carry_out` says."""
    with crew_for(call, work, workers=workers, parts=parts) as crew:
        crew.carry_out(pieces, lasting=lasting, tell=tell)


def _raise(call: str, lost: Mapping[Piece, str], errors: Mapping[Piece, Exception], then: str) -> None:
    """Raise the error of the first piece that was `lost`, naming it and the others."""
    (first, outcome), *others = lost.items()
    more = f"; not finished either: {', '.join(piece.label for piece, _ in others)}" if others else ""
    if first in errors:
        add_note(errors[first], f"raised in {call}, {first.label}{more}{then}")
        raise errors[first]
    raise RuntimeError(f"{call}: {first.label} {outcome}{more}{then}")


def _failed(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {error}"
