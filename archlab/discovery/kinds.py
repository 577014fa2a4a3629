"""The kinds of site: what each is called, and what removing it means (paper, Fig. 9, and six more).

=========== ===================== =====================================================
kind        original -> target    found as
=========== ===================== =====================================================
activation  s(x) -> x             an op of `ACTIVATIONS`, or a composed function of one tensor
skip        G(x) -> G(x) - x      a sum (`SUM_NAMES`) with one term that is an ancestor of the other
branch      x + f(x) -> x         the same sum, the other term goes
block       G(x) -> x             a module with children, tensor in, same tensor shape out
join        a + b -> a            an add of two branches of a common ancestor
gate        g(x) -> x             softmax, or an activation whose output multiplies a map
concat      [a, b] -> [a, 0]      an operand of a concatenation that is the shorter way round: a U-Net's long skip
norm        n(x) -> x             an op of `NORMS`, or a module that scales its input by a root of its statistics
head        a + b + c -> a + b    one of the heads that an attention adds up; with grouped queries all of a group
=========== ===================== =====================================================

A new kind is a line here, a function in `forms` that `detect` asks, and a colour in `report.plots`.
"""

from collections.abc import Iterable
from enum import Enum

from ..arguments import shown, wrong


class Kind(str, Enum):
    """A kind of site. A string, so that JSON, frames and users' scripts can write it."""

    ACTIVATION = "activation"
    SKIP = "skip"
    BRANCH = "branch"
    BLOCK = "block"
    JOIN = "join"
    GATE = "gate"
    CONCAT = "concat"
    NORM = "norm"
    HEAD = "head"

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]


KINDS = tuple(kind.value for kind in Kind)
# Kinds that only a pass whose `kinds` names them takes: of a join neither operand is the shortcut, without a gate
# values are no longer shares, without a concatenation's operand a decoder no longer sees what its encoder saw, and
# without norms nothing holds the size of what the layers behind get; heads are many.
BY_NAME_ONLY = (Kind.JOIN, Kind.GATE, Kind.CONCAT, Kind.NORM, Kind.HEAD)
UNLISTED = (Kind.NORM, Kind.HEAD)  # of these, what is listed only by name as well, as there are so many
LISTED = tuple(kind for kind in Kind if kind not in UNLISTED)
BY_DEFAULT = tuple(kind for kind in Kind if kind not in BY_NAME_ONLY)


def kinds_of(named: str | Iterable[str]) -> tuple[Kind, ...]:
    """`named`, one kind or several, as kinds.

    Raises:
        ValueError: for none, and naming an unknown one.
        TypeError: for what are no names.

    >>> kinds_of("skip"), kinds_of(["block", "gate"])
    ((<Kind.SKIP: 'skip'>,), (<Kind.BLOCK: 'block'>, <Kind.GATE: 'gate'>))
    """
    if not isinstance(named, Iterable | None):
        raise TypeError(wrong("kinds", f"one or several of {', '.join(KINDS)}", named))
    given = (named,) if isinstance(named, str) else tuple(named or ())
    for kind in given:
        if kind not in KINDS:
            raise ValueError(f"kind {shown(kind)} is unknown: choose from {', '.join(KINDS)}")
    if not given:
        raise ValueError(f"kinds names nothing: choose at least one of {', '.join(KINDS)}; got {named!r}")
    return tuple(Kind(kind) for kind in given)
