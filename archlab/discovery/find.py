"""Which parts of a network can be removed: sites, read off one recorded run.

What each op and module call is, `detect` says; here the occurrences of one line of code are merged, numbered, and what
goes with each is counted.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

from torch import nn

from ..capture.dataflow import Flow
from ..capture.record import Capture, Execution, ModuleCall, Op
from ..capture.recorder import capture
from ..rewrite.target import issued, target_of
from .detect import seen_in
from .forms.heads import of_head
from .kinds import UNLISTED, Kind
from .loops import by_line, in_every_run, without_last_operands
from .occurrence import Found
from .site import Site, Sites, Skipped


def sites_of(model: nn.Module, example: Any) -> Sites:
    """Capture `model` on `example` and find every site. The model is left untouched."""
    return find(capture(model, example), modules=dict(model.named_modules()))


def find(record: Capture, *, modules: dict[str, nn.Module]) -> Sites:
    """All sites of one recorded run. `modules` maps paths to the modules of the recorded model."""
    flow = Flow(record)
    seen = list(seen_in(flow, modules))
    found = sorted((item for item in seen if isinstance(item, Found)), key=lambda f: f.order)
    found, more = without_last_operands(found, flow)
    skipped = Counter([*(item for item in seen if isinstance(item, Skipped)), *more])
    return Sites(_merged(found, flow), (replace(item, calls=count) for item, count in skipped.items()), record)


def _merged(found: list[Found], flow: Flow) -> list[Site]:
    """One Site for the same line in several executions of a container; numbered per container and kind."""
    groups = list(by_line(found, flow).items())
    names = _names(groups)
    groups = in_every_run(groups, flow)
    freed = _Freed(flow)
    removals = [frozenset((f.result, f if f.stands is None else f.stands) for f in group) for _, group in groups]
    first_that: dict[frozenset, str] = {}  # removes the same; one that is listed, where there is one
    for unlisted in (False, True):
        for removal, name, (_, group) in zip(removals, names, groups, strict=True):
            if (group[0].kind in UNLISTED) is unlisted:
                first_that.setdefault(removal, name)
    sites = []
    for ((_, _, location, *_), group), name, removal in zip(groups, names, removals, strict=True):
        first, same = group[0], first_that[removal]
        params, macs = freed.by(group) if first.part is None else of_head(group, flow)
        target = target_of(
            name,
            [f.source for f in group],
            flow,
            kept=first.kept,
            source=first.reader and issued(first.reader, flow)[1],
            dropped=first.dropped,
            damped=first.damped,
            part=first.part,
            every=location.occurrence is None,
            inside=first.inside,
        )
        sites.append(
            Site(
                id=name,
                kind=first.kind,
                op=first.op,
                shape=first.source.out_shapes[0],
                calls=len(group),
                params=params,
                macs=macs,
                span=first.span,
                grad=any(f.result in flow.graded for f in group),
                same_as="" if same == name else same,
                values=tuple((f.stands, f.result) for f in group),
                target=target,
            )
        )
    return sites


def _names(groups: list[tuple[tuple, list[Found]]]) -> list[str]:
    """The id of each: its container, its kind, and its number there. The late ones are numbered behind the others."""
    numbers: Counter[tuple[str, Kind]] = Counter()
    names = {}
    for late in (False, True):
        for (path, *_), group in groups:
            first = group[0]
            if late is first.late:
                names[id(group)] = f"{path}/{first.kind}.{numbers[path, first.kind]}".removeprefix("/")
                numbers[path, first.kind] += 1
            elif first.late and first.was is not None:
                numbers[path, first.was] += 1
    return [names[id(group)] for _, group in groups]


class _Freed:
    """What goes with a site: ops whose work nothing else needs, their parameters and their multiply-adds."""

    def __init__(self, flow: Flow):
        self.flow = flow
        self.readers: dict[str, set[Op]] = {}  # of each parameter
        for op in flow.record.ops:
            for name in op.params:
                self.readers.setdefault(name, set()).add(op)
        self.calls: dict[tuple, list[ModuleCall]] = {}
        for call in flow.record.calls:
            self.calls.setdefault((call.module, call.outputs), []).append(call)

    def by(self, group: list[Found]) -> tuple[int, int]:
        """How many parameters and multiply-adds go with the site that these are the occurrences of."""
        record = self.flow.record
        dead: set[Op] = set()
        uses: set[tuple[Op, int]] = set()
        for f in group:
            if f.dropped and isinstance(f.source, Op):
                uses.update((f.source, f.source.inputs[number]) for number in f.dropped)
                continue
            work = [f.source] if isinstance(f.source, Op) else self._ops_of(f.source)
            dead.update(work)
            uses.update((op, value) for op in work for value in op.inputs)
        dead |= self.flow.dead_without(uses, kept=[f.stands for f in group if f.stands is not None])
        dead = self._going(dead, {f.issued(self.flow)[0] for f in group})
        gone = {name for op in dead for name in op.params if self.readers[name] <= dead}
        return sum(record.params.get(name, 0) for name in gone), sum(op.macs for op in dead)

    def _ops_of(self, source: ModuleCall) -> list[Op]:
        """The ops of a call, and of others by the same name that made the same."""
        calls = self.calls[source.module, source.outputs[:1]]
        return [op for call in calls for op in self.flow.record.ops[call.first : call.last]]

    def _going(self, dead: set[Op], changed: set[Execution]) -> set[Op]:
        """Those of the `dead` ops that go where the code of the executions `changed` is: what it computes itself, and
        the calls that it makes for nothing else. Other code goes on computing what nothing needs any more."""
        calls: dict[int, bool] = {}

        def goes(op: Op) -> bool:
            if op.execution in changed:
                return True
            call = op.call
            while call is not None and call.execution not in changed:
                call = call.parent
            if call is None:
                return False
            if id(call) not in calls:
                made = [self.flow.record.producer.get(value) for value in call.outputs]
                calls[id(call)] = bool(made) and all(op in dead for op in made)
            return calls[id(call)]

        return {op for op in dead if goes(op)}
