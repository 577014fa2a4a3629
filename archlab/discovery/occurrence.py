"""One occurrence of a site, as it is found in a recorded run, before those of one line of code are merged."""

from collections.abc import Callable
from dataclasses import dataclass

from ..capture.dataflow import Flow
from ..capture.location import Location
from ..capture.record import Execution, ModuleCall, Op
from ..rewrite.target import issued
from .kinds import Kind

# Methods of executions that are none of the model's own code, and why nothing there is a site.
FOREIGN = {
    "<outside>": "it runs outside the model's own methods",
    "<hook>": "a hook computes it",
    "<unregistered>": "a module that is no registered part of the model computes it",
    "<scripted>": "a scripted part runs it, whose code stays as it is",
    "<torch>": "torch computes it around a module's call",
    "<archlab>": "an earlier pass put it there: a site that is switched or frozen",
}


@dataclass(eq=False)
class Found:
    """One occurrence of a site.

    `kept`, `dropped`, `damped` and `part` are as for `rewrite.target.Target`. What stands for the result is operand
    `kept` of `source`, or of `reader` where that is another op. `late` sites are of forms that were not known at first:
    they are numbered behind the others, so that the ids in older recipes mean what they meant; `was` is what it was
    known as.
    """

    order: float
    kind: Kind
    op: str
    source: Op | ModuleCall
    kept: int | Callable = 0
    reader: Op | None = None
    dropped: tuple[int, ...] = ()
    damped: tuple[int, ...] = ()
    part: tuple[int, int, int] | None = None
    span: int = 0
    late: bool = False
    was: Kind | None = None
    parts: frozenset[Op] = frozenset()  # the ops that it is made up of, where these are no sites of their own
    inside: bool = False  # issued in the code of a child that does nothing else, which is called otherwise

    @property
    def result(self) -> int:
        """The value that the site makes."""
        return self.source.outputs[0]

    @property
    def stands(self) -> int | None:
        """The value that stands for the result where the site is removed; None where that is computed."""
        read = self.reader or self.source
        return read.inputs[self.kept] if isinstance(self.kept, int) and self.part is None else None

    def issued(self, flow: Flow) -> tuple[Execution, Location, str | None]:
        """As `rewrite.target.issued`."""
        return issued(self.source, flow, inside=self.inside)
