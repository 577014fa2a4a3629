"""Pieces of work on live objects (a model and a task in memory), each done once, here or in worker processes.

A study's cells are found again by name, in a module that every worker imports. A model and a task have no such name:
workers get a copy of them. All else is as with cells: each piece is kept as it ends, has a lease, and is done after
those that it needs; several processes or machines that do the same in one folder share it.
"""

import contextlib
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ...arguments import whole
from ...errors import add_note
from ...training.task import Task
from ..lease import is_held, lease
from ..order import ELSEWHERE, FINISHED, OUT_OF_TIME, in_order
from ..processes import sigterm_as_exception
from .pickled import pickled
from .pool import Pool, computing

MOST_WORKERS = 1_024  # more cannot be meant


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of work, known by its label."""

    label: str
    needs: Mapping[str, "Piece"] = field(default_factory=dict)  # by label, what must be done before


@dataclass(frozen=True)
class Work:
    """How pieces are done. A worker gets it pickled.

    Attributes:
        do: Does the piece of a label, and keeps what it makes.
        is_done: Whether what it makes is kept.
        leases: By label, the file that is held while somebody does it; None where nobody else can.
    """

    do: Callable[[str], Any]
    is_done: Callable[[str], bool]
    leases: Callable[[str], Path] | None

    def once(self, label: str) -> str:
        """Do a piece, unless it is done or somebody else does it; how it ended."""
        with contextlib.nullcontext(True) if self.leases is None else lease(self.leases(label)) as mine:
            if mine is None:
                return ELSEWHERE
            if not self.is_done(label):
                self.do(label)
            return FINISHED

    def tried(self, label: str) -> str:
        """The same; an error is told in words."""
        try:
            return self.once(label)
        except Exception as error:
            traceback.print_exc()
            return _failed(error)


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
    """

    call: str
    work: Work
    workers: int
    parts: Mapping[str, Any]
    until: contextlib.ExitStack
    pool: Pool | None = None

    def carry_out(
        self,
        pieces: Sequence[Piece],
        *,
        lasting: bool,
        tell: Callable[[str, str], Any],
        deadline: float | None = None,
    ) -> None:
        """Do all pieces that are not done, each after those it needs.

        Args:
            pieces: Each stands after those that it needs.
            lasting: Whether what is kept outlasts the call: then the others go on where one fails.
            tell: Is given the label of a piece and how it ended.
            deadline: On `time.monotonic`, when to begin no more; None for no limit.

        Raises:
            Exception: what a piece raised here, with a note that names the piece.
            RuntimeError: what it raised in a worker, or that its worker was killed.
            TypeError: `work` cannot be pickled.
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

        begin = here
        if self.workers and not all(work.is_done(piece.label) for piece in pieces):
            pool = self._pool()

            def begin(piece: Piece, slot: int) -> Callable[[], str | None]:
                return pool.begin(piece.label, slot)

        outcomes = in_order(
            pieces, max(1, self.workers), deadline, begin, tell=ended,
            standing=lambda piece: work.is_done(piece.label),
            held=lambda piece: leases is not None and is_held(leases(piece.label)),
        )  # fmt: skip
        if lost := {piece: outcome for piece, outcome in outcomes.items() if outcome not in (FINISHED, OUT_OF_TIME)}:
            _raise(self.call, lost, errors, "; what is finished is kept, and the same call goes on with the rest")

    def _pool(self) -> Pool:
        if self.pool is None:
            payload = pickled(self.call, (computing(), self.work.tried), self.parts)
            folder = self.until.enter_context(tempfile.TemporaryDirectory(prefix="archlab-"))
            self.pool = Pool(payload, Path(folder))
            self.until.callback(self.pool.end)
        return self.pool


@contextlib.contextmanager
def crew_for(call: str, work: Work, *, workers: int, parts: Mapping[str, Any]) -> Iterator[Crew]:
    """A crew, whose workers end with the block."""
    with contextlib.ExitStack() as until:
        until.enter_context(sigterm_as_exception())
        yield Crew(call, work, workers, parts, until)


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
