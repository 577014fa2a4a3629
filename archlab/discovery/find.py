"""Which parts of a network can be removed: sites, read off one recorded run.

What each op and module call is, `detect` says; here the occurrences of one line of code are merged, numbered, and what
goes with each is counted.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

from torch import nn

from ..capture.dataflow import Flow
from ..capture.record import Capture, ModuleCall, Op
from ..capture.recorder import capture
from ..rewrite.target import target_of
from .detect import Found, in_call, in_op
from .kinds import Kind
from .loops import by_line
from .site import Site, Sites, Skipped


def sites_of(model: nn.Module, example: Any) -> Sites:
    """Capture `model` on `example` and find every site. The model is left untouched."""
    return find(capture(model, example), modules=dict(model.named_modules()))


def find(record: Capture, *, modules: dict[str, nn.Module]) -> Sites:
    """All sites of one recorded run. `modules` maps paths to the modules of the recorded model."""
    flow = Flow(record)
    seen = [item for op in record.ops for item in in_op(op, flow)]
    seen += [item for call in record.calls for item in in_call(call, flow, modules[call.module])]
    found = sorted((item for item in seen if isinstance(item, Found)), key=lambda f: f.order)
    skipped = Counter(item for item in seen if isinstance(item, Skipped))
    return Sites(_merged(found, flow), (replace(item, calls=count) for item, count in skipped.items()), record)


def _merged(found: list[Found], flow: Flow) -> list[Site]:
    """One Site for the same line in several executions of a container; numbered per container and kind."""
    groups = by_line(found, flow)
    numbers: Counter[tuple[str, Kind]] = Counter()
    calls_of: dict[tuple, list[ModuleCall]] = {}
    for call in flow.record.calls:
        calls_of.setdefault((call.module, call.outputs), []).append(call)
    sites = []
    for (path, _, location, kind, dropped, _), group in groups.items():
        name = f"{path}/{kind}.{numbers[path, kind]}" if path else f"{kind}.{numbers[path, kind]}"
        numbers[path, kind] += 1
        params, macs = _freed(group, flow, calls_of)
        sites.append(
            Site(
                id=name,
                kind=kind,
                op=group[0].op,
                shape=group[0].source.out_shapes[0],
                calls=len(group),
                params=params,
                macs=macs,
                span=group[0].span,
                grad=any(f.result in flow.graded for f in group),
                target=target_of(
                    name, [f.source for f in group], flow, dropped=dropped, every=location.occurrence is None
                ),
            )
        )
    return sites


def _freed(group: list[Found], flow: Flow, calls_of: dict) -> tuple[int, int]:
    """Parameters and multiply-adds that go with a site: ops whose work nothing else needs."""
    dead: set[Op] = set()
    for f in group:
        if f.kind is Kind.BLOCK:
            assert isinstance(f.source, ModuleCall)
            for call in calls_of[f.source.module, f.source.outputs[:1]]:
                dead.update(flow.record.ops[call.first : call.last])
            continue
        user = flow.record.producer[f.result]
        if f.dropped is None:
            dead.add(user)
        else:
            dead.update(flow.dead_without(user.inputs[f.dropped], user))
    kept = {name for op in flow.record.ops if op not in dead for name in op.params}
    gone = {name for op in dead for name in op.params} - kept
    return sum(flow.record.params.get(name, 0) for name in gone), sum(op.macs for op in dead)
