"""Where a model's code changes, and what becomes of it: the words in which passes speak to this room.

A `Target` is one op or one module call, in every execution of its container. An `Edit` is a target with an action.
Nothing here knows why something is to change: kinds of site belong to `discovery`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    `dropped` is the tensor operand that goes with it, `kept` the one that stays: of an add one of two. Where `dropped`
    is None, what goes is the op's or the module's own work, and its input stands for its output.
    """

    name: str  # in errors, and of its switch
    container: str  # path of the module whose code it is in; the root is ""
    method: str  # of the container
    entry: Any  # code object of the method's first frame
    location: Location  # in that code
    module: str | None = None  # path of the child that is called, where it is a module call
    kept: int = 0
    dropped: int | None = None
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
    """``(1 - omega) original + omega removed``, omega being the parameter of this name of the target's container."""

    omega: str


@dataclass(frozen=True)
class Freeze:
    """The same blend, with a number for ever."""

    omega: float


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


Action = Remove | Blend | Freeze | Rewire | Wrap
GRAPH_ONLY = (Rewire, Wrap)


@dataclass(frozen=True, eq=False)
class Edit:
    """A target and what becomes of it."""

    target: Target
    action: Action = Remove()


def edit_at(edits: Mapping[Location, Edit], location: Location | None) -> Edit | None:
    """The edit of what was issued at `location`: that of this very occurrence, or of every one."""
    return None if location is None else edits.get(location) or edits.get(location.every)


def issued(source: Op | ModuleCall, flow: Flow) -> tuple[Execution, Location, str | None]:
    """Where an op or a module call was issued: its container's execution, the location in it, the path of the child.

    An op that is all that a child's call does counts as issued where the child was called.
    """
    call = flow.lifted.get(source) if isinstance(source, Op) else source
    execution, location = (call.execution, call.location) if call else (source.execution, source.location)
    assert execution is not None and location is not None
    return execution, location, call.module if call else None


def target_of(
    name: str,
    sources: Sequence[Op | ModuleCall],
    flow: Flow,
    *,
    dropped: int | None = None,
    every: bool = False,
) -> Target:
    """The target that these occurrences of one op, or of one module call, in the executions of one container are.

    `dropped`: which of an op's two tensor operands goes; None: the input stands for the output. `every`: of a line in
    a loop, all occurrences, also where the loop is of another length.
    """
    execution, location, module = issued(sources[0], flow)
    location = location.every if every else location
    kept = 0 if dropped is None else 1 - dropped
    recasts = (_recast(source, kept) for source in sources if isinstance(source, Op))
    return Target(
        name=name,
        container=execution.module,
        method=execution.method,
        entry=execution.entry,
        location=location,
        module=module,
        kept=kept,
        dropped=dropped,
        in_place=any(s.mutated if isinstance(s, Op) else s.mutates_input for s in sources),
        changed_later=any(flow.changed_later(source.outputs[0]) for source in sources),
        recast=next(filter(None, recasts), None),
    )


def _recast(op: Op, kept: int) -> tuple[torch.dtype, bool] | None:
    """The dtype of the result and whether autocast is on, where operand `kept` of `op` has another dtype."""
    return None if op.dtype is None or op.in_dtypes[kept] is op.dtype else (op.dtype, op.autocast)
