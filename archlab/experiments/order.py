"""Pieces of work, each after those it needs, in a number of places at once; what others work on is waited for."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

FINISHED, ELSEWHERE, OUT_OF_TIME = "finished", "running elsewhere", "out of time"  # how a piece ends, or "failed: …"
WAITS = "waits for"  # so begins the outcome of what lacks another
POLL_S, ELSEWHERE_S = 0.02, 0.5  # between looks at what runs here, and at what another runner runs


class Ordered(Protocol):
    """What is put in order: a cell of a study, say."""

    @property
    def label(self) -> str: ...

    @property
    def needs(self) -> Mapping[Any, Any]: ...


Piece = TypeVar("Piece", bound=Ordered)


def in_order(
    pieces: Sequence[Piece],
    places: int,
    deadline: float | None,
    begin: Callable[[Piece, int], Callable[[], str | None]],
    *,
    standing: Callable[[Piece], Any],
    held: Callable[[Piece], bool],
    tell: Callable[[Piece, str], Any],
) -> dict[Piece, str]:
    """Begin pieces, each after those it needs and at most as many at once as there are `places`, and wait for all.

    What another runner runs is waited for, and run if that one gives it up.

    Args:
        pieces: Each stands after those that it needs.
        places: How many may run at once.
        deadline: On `time.monotonic`, when to begin no more; None for no limit.
        begin: Is given a piece and the number of a free place, and returns a function that says how the piece ended,
            or None while it runs.
        standing: Whether the piece is done.
        held: Whether somebody is seen to work on it.
        tell: Is called with a piece and how it ended, or that it is waited for.

    Returns:
        How each ended: "finished", or why not.
    """
    outcomes: dict[Piece, str] = {}
    waiting, running, awaited = list(pieces), {}, set()
    free = list(range(places))
    while waiting or running:
        before = len(waiting), len(running)
        for piece in list(waiting):
            if not free:
                break
            lost = [need for need in piece.needs.values() if outcomes.get(need, FINISHED) != FINISHED]
            late, elsewhere = deadline is not None and time.monotonic() >= deadline, held(piece)
            if standing(piece):
                outcome = FINISHED
            elif lost:
                outcome = f"{WAITS} {lost[0].label}"
            elif late:
                outcome = ELSEWHERE if elsewhere else OUT_OF_TIME
            elif elsewhere:
                if piece not in awaited:
                    awaited.add(piece)
                    tell(piece, f"{ELSEWHERE}, waiting for it")
                continue
            elif any(need not in outcomes for need in piece.needs.values()):
                continue
            else:
                waiting.remove(piece)
                slot = free.pop(0)
                running[piece] = slot, begin(piece, slot)
                continue
            waiting.remove(piece)
            outcomes[piece] = outcome
            tell(piece, outcome)
        for piece, (slot, ended) in list(running.items()):
            if (outcome := ended()) is not None:
                del running[piece]
                free.append(slot)
                if outcome == ELSEWHERE:  # another runner took it in the last moment
                    waiting.insert(0, piece)
                else:
                    outcomes[piece] = outcome
                    tell(piece, outcome)
        if before == (len(waiting), len(running)):
            time.sleep(POLL_S if running else ELSEWHERE_S)
    return outcomes
