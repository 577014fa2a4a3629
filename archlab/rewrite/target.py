"""Where a model's code changes, and what becomes of it: the words in which passes speak to this room.

A `Target` is one op or one module call, in every execution of its container. An `Edit` is a target with an action.
Nothing here knows why something is to change: kinds of site belong to `discovery`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch

from ..capture.dataflow import Flow
from ..capture.location import Location
from ..capture.record import Execution, ModuleCall, Op

NOWHERE = Location((), 0)


class How(str, Enum):
    """How a target was rewritten, or why it was not. A string, so that JSON can write it."""

    LOCAL = "local"  # its container's code is rewritten
    MODULE = "module"  # the child that is called is rewritten itself
    INTERCEPTED = "intercepted"  # bypassed at run time
    BYPASSED = "bypassed"  # intercepted, and its op may still be computed
    GONE = "gone"  # what contains it was removed
    REFUSED = "refused"  # no way is sound

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Target:
    """One op or module call that is to change, in every execution of one container.

    `dropped` are the tensor operands that go with it: of an add one of two. Where there are none, what goes is the op's
    or the module's own work. `kept` is what then stands for its output.
    """

    name: str  # in errors, and of its switch
    container: str  # path of the module whose code it is in; the root is ""
    method: str  # of the container
    entry: Any  # code object of the method's first frame
    location: Location  # in that code
    module: str | None = None  # path of the child that is called, where it is a module call
    kept: int | Callable = 0  # the operand of this number, or a function of the arguments, with stand-ins
    source: Location | None = None  # of the op that `kept` is an operand of, where that is another one
    dropped: tuple[int, ...] = ()
    damped: tuple[int, ...] = ()  # those of them that a switch scales: the op is linear in them
    part: tuple[int, int, int] | None = None  # what goes of these: along a dimension, from a position to another
    stand_in: int | None = None  # what `kept`, where it is a function, is given for each of them
    in_place: bool = False  # it changes its first operand in place
    changed_later: bool = False  # what it makes is changed in place afterwards
    recast: tuple[torch.dtype, bool] | None = None  # `edits.recast`, where what stays has another dtype

    @property
    def key(self) -> tuple[str, Any, Location]:
        """Two targets with one key are at the same op: two operands of one add."""
        return self.container, self.entry, self.location


@dataclass(frozen=True)
class Remove:
    """What stays stands for what the target makes."""


@dataclass(frozen=True)
class Blend:
    """``(1 - omega) original + omega removed``, omega being the parameter of this name of the target's container.

    With `channels`, a dimension and how many positions it has, there is an omega for each of these.
    """

    omega: str
    channels: tuple[int, int] | None = None

    @property
    def dim(self) -> int | None:
        """The dimension along which omega differs."""
        return self.channels and self.channels[0]


@dataclass(frozen=True)
class Freeze:
    """The same blend, with a number for ever."""

    omega: float


@dataclass(frozen=True)
class Narrow:
    """The target works on the positions `kept` along the dimension `dim` alone; elsewhere what stays stands for it. The
    positions are a buffer of this name of the target's container."""

    positions: str
    kept: tuple[int, ...]
    dim: int


@dataclass(frozen=True)
class Rewire:
    """Where the target's output was read, that of the call at `source` of the same container is: as it is, or passed
    through the child `through` first. Only a graph can be edited so."""

    source: Location
    through: str | None = None


@dataclass(frozen=True)
class Wrap:
    """The call gets its first input through the child `before`, or gives its output through the child `after`, which is
    also given what went into the child `before` of the call at `source`. Only in a graph."""

    before: str | None = None
    after: str | None = None
    source: Location = NOWHERE


Action = Remove | Blend | Freeze | Narrow | Rewire | Wrap
GRAPH_ONLY = (Rewire, Wrap)


@dataclass(frozen=True, eq=False)
class Edit:
    """A target and what becomes of it; `also` are the edits of other operands of the same op."""

    target: Target
    action: Action = Remove()
    also: "tuple[Edit, ...]" = ()

    @property
    def parts(self) -> "tuple[Edit, ...]":
        return self, *self.also


def together(first: Edit, second: Edit) -> Edit | None:
    """Both edits of one op in one: of several operands that it gives its `kept` without, or of several parts of one.
    None where it cannot do."""
    parts = [part.target.part for part in (*first.parts, second)]
    if None not in parts:
        return replace(first, also=(*first.also, second)) if len({*parts}) == len(parts) else None
    kept, other = first.target.kept, second.target.kept
    if isinstance(kept, int) or kept is not other or {*GRAPH_ONLY} & {type(first.action), type(second.action)}:
        return None
    taken = {number for part in first.parts for number in part.target.dropped}
    return None if taken & {*second.target.dropped} else replace(first, also=(*first.also, second))


def edit_at(edits: Mapping[Location, Edit], location: Location | None) -> Edit | None:
    """The edit of what was issued at `location`: that of this very occurrence, or of every one."""
    return None if location is None else edits.get(location) or edits.get(location.every)


def issued(source: Op | ModuleCall, flow: Flow, *, inside: bool = False) -> tuple[Execution, Location, str | None]:
    """Where an op or a module call was issued: its container's execution, the location in it, the path of the child.

    An op that is all that a child's call does counts as issued where the child was called, or `inside` of it.
    """
    call = source if isinstance(source, ModuleCall) else None if inside else flow.lifted.get(source)
    execution, location = (call.execution, call.location) if call else (source.execution, source.location)
    assert execution is not None and location is not None
    return execution, location, call.module if call else None


def target_of(
    name: str,
    sources: Sequence[Op | ModuleCall],
    flow: Flow,
    *,
    kept: int | Callable = 0,
    source: Location | None = None,
    dropped: tuple[int, ...] = (),
    damped: tuple[int, ...] = (),
    part: tuple[int, int, int] | None = None,
    every: bool = False,
    inside: bool = False,
) -> Target:
    """The target that these occurrences of one op, or of one module call, in the executions of one container are.

    `kept`, `source`, `dropped`, `damped`, `part`: as for `Target`. `every`: of a line in a loop, all occurrences, also
    where the loop is of another length. `inside`: as for `issued`.
    """
    execution, location, module = issued(sources[0], flow, inside=inside)
    recasts = (_recast(op, kept, dropped) for op in sources if isinstance(op, Op) and source is None)
    return Target(
        name=name,
        container=execution.module,
        method=execution.method,
        entry=execution.entry,
        location=location.every if every else location,
        module=module,
        kept=kept,
        source=source.every if source is not None and every else source,
        dropped=dropped,
        damped=damped,
        part=part,
        in_place=any(_changes_first(s) if isinstance(s, Op) else s.mutates_input for s in sources),
        changed_later=any(flow.changed_later(source.outputs[0]) for source in sources),
        recast=next(filter(None, recasts), None),
    )


def _changes_first(op: Op) -> bool:
    """Whether `op` changes its first operand in place; a batch norm in training changes others, its statistics."""
    return not {*op.inputs[:1]}.isdisjoint(op.mutated)


def _recast(op: Op, kept: int | Callable, dropped: tuple[int, ...]) -> tuple[torch.dtype, bool] | None:
    """The dtype of the result and whether autocast is on, where what stays of `op` has another dtype."""
    left = kept if isinstance(kept, int) else next(k for k in range(len(op.inputs)) if k not in dropped)
    return None if op.dtype is None or op.in_dtypes[left] is op.dtype else (op.dtype, op.autocast)
