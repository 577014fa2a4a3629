"""Which parts of a network can be removed: sites, read off one recorded run.

Kinds of site (paper, Fig. 9, and two that other architectures need):

=========== ===================== =====================================================
kind        original -> target    found as
=========== ===================== =====================================================
activation  s(x) -> x             an op of `ACTIVATIONS`, shape kept
gate        g(x) -> x             softmax, or an activation whose output multiplies a map
skip        G(x) -> G(x) - x      an add with one operand that is an ancestor of the other
branch      x + f(x) -> x         the same add, the other operand goes
block       G(x) -> x             a module with children, tensor in, same tensor shape out
join        a + b -> a            an add of two branches of a common ancestor
=========== ===================== =====================================================

Joins and gates are listed, but a pass takes them only where its `kinds` names them. What looks like a site and is
not one stands in `Sites.left`, with the reason.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..capture.dataflow import Flow
from ..capture.location import Place
from ..capture.record import Capture, Execution, ModuleCall, Op
from ..capture.recorder import capture
from .ops import ACTIVATIONS, ADDS, CONCATENATIONS, MULS, NONLINEAR_NAMES, POINTWISE_NAMES, RESHAPES, SOFTMAX
from .site import Left, Site, Sites

_PLAIN_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FOREIGN = {
    "<outside>": "it runs outside the model's own methods",
    "<archlab>": "an earlier pass put it there: a site that is switched or frozen",
}


def sites_of(model: nn.Module, example: Any) -> Sites:
    """Capture `model` on `example` and find every site. The model is left untouched."""
    return find(capture(model, example), modules=dict(model.named_modules()))


def find(record: Capture, *, modules: dict[str, nn.Module]) -> Sites:
    """All sites of one captured run. `modules` maps paths to the modules of the captured model."""
    flow = Flow(record)
    seen = [item for op in record.ops for item in _in_op(op, flow)]
    for call in record.calls:
        seen += [*_block(call, flow, modules[call.module]), *_composed_activation(call, flow, modules[call.module])]
    found = sorted((item for item in seen if isinstance(item, _Found)), key=lambda f: f.order)
    left = Counter(item for item in seen if isinstance(item, Left))
    return Sites(_merge(found, flow), (replace(item, calls=count) for item, count in left.items()), record)


def site_of(ops: Sequence[Op], flow: Flow, *, drop: int | None = None) -> Site:
    """A site made of any op (its occurrences in the executions of one container), for a pass that removes it.

    Its first tensor then stands for its output; with `drop`, that one of its two tensor operands goes.
    """
    found = []
    for op in ops:
        execution, place, module = _issued(op, flow)
        kept = 0 if drop is None else 1 - drop
        found.append(
            _Found(
                order=op.index, kind="activation" if drop is None else "skip", op=op.name, shape=op.out_shapes[0],
                execution=execution, place=place, module=module, result=op.outputs[0],
                drop_value=None if drop is None else op.inputs[drop], keep=kept, drop=-1 if drop is None else drop,
                inplace=bool(op.mutated), recast=_recast(op, kept),
            )
        )  # fmt: skip
    (site,) = _merge(found, flow)
    return site


def site_of_calls(calls: Sequence[ModuleCall], flow: Flow) -> Site:
    """A site made of the calls of a module at one place of its container, for a pass that replaces their output."""
    found = []
    for call in calls:
        assert call.execution is not None and call.place is not None
        found.append(
            _Found(
                order=call.last - 0.5, kind="block", op=call.module, shape=call.out_shapes[0],
                execution=call.execution, place=call.place, module=call.module, result=call.outputs[0],
            )
        )  # fmt: skip
    (site,) = _merge(found, flow)
    return site


@dataclass(eq=False, kw_only=True)
class _Found:
    """A site in the making: one occurrence, before those of several executions are merged."""

    order: float
    kind: str
    op: str
    shape: tuple[int, ...]
    execution: Execution
    place: Place
    module: str | None
    result: int  # value id of what the site makes
    drop_value: int | None = None  # the operand that goes; None: the op's own work goes (activation, block)
    keep: int = 0
    drop: int = -1
    inplace: bool = False
    recast: tuple[torch.dtype, bool] | None = None
    span: int = 0


def _in_op(op: Op, flow: Flow) -> "Iterator[_Found | Left]":
    if op.func in ACTIVATIONS or op.func in SOFTMAX:
        yield _activation(op, flow)
    elif op.name == "glu":
        yield Left(
            op.execution.module, "glu", "activation", "a gate that halves the channels: no identity can stand for it"
        )
    elif op.func in ADDS and len(op.inputs) == 2:  # otherwise a number is added
        yield from _add(op, flow)
    elif op.func in CONCATENATIONS and any(flow.descends(w, v) for v in op.inputs for w in op.inputs if w != v):
        reason = "a concatenation skip: removing it would change the channel count"
        yield Left(op.execution.module, op.name, "skip", reason)


def _issued(op: Op, flow: Flow) -> tuple[Execution, Place, str | None]:
    """Where `op` was issued. Where it is all that a child's call does: where that was called, and the child's path."""
    call = flow.lifted.get(op)
    execution, place = (call.execution, call.place) if call else (op.execution, op.place)
    assert execution is not None and place is not None
    return execution, place, call.module if call else None


def _activation(op: Op, flow: Flow) -> "_Found | Left":
    name = ACTIVATIONS.get(op.func) or SOFTMAX[op.func]
    execution, place, module = _issued(op, flow)
    if not op.in_shapes or not op.out_shapes or op.in_shapes[0] != op.out_shapes[0]:
        reason = "its output has another shape than its input"
    elif op.inputs[0] in flow.record.constants:
        reason = "it works on a parameter, not on data"
    elif execution.method in _FOREIGN:
        reason = _FOREIGN[execution.method]
    else:
        gate = op.func in SOFTMAX or _multiplies(op, flow)
        return _Found(
            order=op.index,
            kind="gate" if gate else "activation",
            op=name,
            shape=op.out_shapes[0],
            execution=execution,
            place=place,
            module=module,
            result=op.outputs[0],
            inplace=bool(op.mutated),
            recast=_recast(op, 0),
        )
    return Left(execution.module, name, "activation", reason, module)


def _recast(op: Op, kept: int) -> tuple[torch.dtype, bool] | None:
    """The dtype of the result and whether autocast is on, where operand `kept` of `op` has another dtype."""
    return None if op.dtype is None or op.in_dtypes[kept] is op.dtype else (op.dtype, op.autocast)


def _multiplies(op: Op, flow: Flow) -> bool:
    """Whether the op's output, perhaps reshaped, is a factor of a computed map that does not depend on it.

    In ``x * sigmoid(f(x))`` the sigmoid is a gate, the activation that made x is not; nor is one that is
    multiplied by a mask or a factor from outside.
    """
    values, seen = list(op.outputs), set()
    while values:
        value = values.pop()
        for reader in flow.consumers.get(value, ()):
            if reader in seen or reader is op:
                continue
            seen.add(reader)
            if reader.func in MULS and len(reader.inputs) > 1:
                other = next((v for v in reader.inputs if v != value), value)
                if flow.ancestors(other) and not flow.descends(other, op.outputs[0]):
                    return True
            elif reader.name in RESHAPES:
                values.extend(reader.outputs)
    return False


def _composed_activation(call: ModuleCall, flow: Flow, module: nn.Module) -> Iterator[_Found]:
    """A childless module that computes a pointwise non-linearity from several ops (a tanh approximation of GELU)."""
    ops = flow.record.ops[call.first : call.last]
    if len(ops) < 2 or call.execution is None or not (call.tensor_out and call.direct) or len(call.inputs) != 1:
        return
    if call.execution.method in _FOREIGN:
        return
    if call.in_shapes[0] != call.out_shapes[0] or call.mutates_input or any(module.children()):
        return
    if any(op.params or not (op.name in POINTWISE_NAMES or op.func in ACTIVATIONS) for op in ops):
        return
    if not any(op.name in NONLINEAR_NAMES or op.func in ACTIVATIONS for op in ops):
        return
    assert call.place is not None
    yield _Found(
        order=ops[-1].index,
        kind="activation",
        op=type(module).__name__,
        shape=call.out_shapes[0],
        execution=call.execution,
        place=call.place,
        module=call.module,
        result=call.outputs[0],
    )


def _add(op: Op, flow: Flow) -> "Iterator[_Found | Left]":
    execution, place, module = _issued(op, flow)
    values = op.inputs
    a, b = values

    def found(kind: str, *, drop: int, span: int = 0) -> _Found:
        return _Found(
            order=op.index,
            kind=kind,
            op="add",
            shape=op.out_shapes[0],
            execution=execution,
            place=place,
            module=module,
            result=op.outputs[0],
            drop_value=values[drop],
            keep=1 - drop,
            drop=drop,
            inplace=bool(op.mutated),
            recast=_recast(op, 1 - drop),
            span=span,
        )

    reason = _no_skip(op, execution, flow)
    if reason:
        yield Left(execution.module, "add", "skip", reason, module)
    elif flow.descends(a, b) or flow.descends(b, a):
        shortcut = 0 if flow.descends(b, a) else 1
        way = flow.ops_between(values[1 - shortcut], values[shortcut])
        span = sum(1 for o in flow.record.ops if way >> o.index & 1 and (o.func in ACTIVATIONS or o.func in ADDS))
        yield found("skip", drop=shortcut, span=span)
        yield found("branch", drop=1 - shortcut, span=span)
    else:
        only_a, only_b = flow.ancestors(a) & ~flow.ancestors(b), flow.ancestors(b) & ~flow.ancestors(a)
        yield found("join", drop=1 if _weighted(only_b, flow) <= _weighted(only_a, flow) else 0)


def _no_skip(op: Op, execution: Execution, flow: Flow) -> str:
    """Why neither operand of an add of two tensors can go; empty where one can."""
    a, b = op.inputs
    if op.in_shapes[0] != op.out_shapes[0] or op.in_shapes[1] != op.out_shapes[0]:
        return "an operand is broadcast: its shape is not the result's"
    if a == b:
        return "both operands are the same value"
    if a in flow.record.constants or b in flow.record.constants:
        return "an operand is a parameter or a buffer"
    if not (op.dtype is not None and op.dtype.is_floating_point):
        return "it adds integers"
    if execution.method in _FOREIGN:
        return _FOREIGN[execution.method]
    if "alpha" in op.options or any(p is not None for p in op.positional):
        return "an operand is scaled by the add itself (alpha)"
    related = flow.ancestors(a) & flow.ancestors(b) or flow.descends(a, b) or flow.descends(b, a)
    if not related and not any(flow.descends(a, v) and flow.descends(b, v) for v in flow.record.inputs):
        return "its operands have no common ancestor"
    return ""


def _weighted(bits: int, flow: Flow) -> int:
    """How many of the ops in `bits` have parameters."""
    return sum(1 for op in flow.record.ops if bits >> op.index & 1 and op.params)


def _block(call: ModuleCall, flow: Flow, module: nn.Module) -> "Iterator[_Found | Left]":
    plain = type(module) in _PLAIN_CONTAINERS or not (call.scripted or any(module.children()))
    if call.execution is None or not call.module or plain:  # the root is no block
        return
    reason = _no_block(call)
    if reason:
        yield Left(
            call.execution.module, type(module).__name__, "any" if call.scripted else "block", reason, call.module
        )
    elif call.inputs and call.outputs and call.inputs[0] != call.outputs[0]:  # otherwise it hands its input through
        assert call.place is not None
        yield _Found(
            order=call.last - 0.5,
            kind="block",
            op=type(module).__name__,
            shape=call.out_shapes[0],
            execution=call.execution,
            place=call.place,
            module=call.module,
            result=call.outputs[0],
            inplace=call.mutates_input,
        )


def _no_block(call: ModuleCall) -> str:
    """Why its input cannot stand for the output of a module; empty where it can."""
    if call.scripted:
        return "it is scripted: its ops cannot be seen"
    if call.execution is not None and call.execution.method in _FOREIGN:
        return _FOREIGN[call.execution.method]
    if not call.inputs or not call.outputs:
        return ""
    if not call.direct:
        return "its input is part of a tuple or dict, for which no tensor can stand"
    if not call.tensor_out:
        return "its output is not one tensor, so that no input can stand for it"
    if call.in_shapes[0] != call.out_shapes[0]:
        return f"it changes the shape, {call.in_shapes[0]} to {call.out_shapes[0]}"
    if call.dtypes[0] != call.dtypes[1]:
        return f"it changes the dtype, {call.dtypes[0]} to {call.dtypes[1]}"
    if call.mutates_input and not call.returns_input:
        return "it changes its input in place and returns another tensor"
    if any(shape == call.in_shapes[0] for shape in call.in_shapes[1:]):
        return "it takes several tensors of the output's shape: no single input to stand for it"
    return ""


def _merge(found: list[_Found], flow: Flow) -> list[Site]:
    """One Site for the same place in several executions of a container; numbered per container and kind."""
    groups: dict[tuple, list[_Found]] = {}
    for f in found:
        key = (f.execution.module, f.execution.entry, f.place, f.kind, f.drop, f.module)
        groups.setdefault(key, []).append(f)
    numbers: Counter[tuple[str, str]] = Counter()
    calls_of: dict[tuple, list[ModuleCall]] = {}
    for call in flow.record.calls:
        calls_of.setdefault((call.module, call.outputs), []).append(call)
    sites = []
    for (path, entry, place, kind, drop, module), group in groups.items():
        number = numbers[path, kind]
        numbers[path, kind] += 1
        first = group[0]
        params, macs = _freed(group, flow, calls_of)
        sites.append(
            Site(
                id=f"{path}/{kind}.{number}" if path else f"{kind}.{number}",
                kind=kind,
                path=path,
                op=first.op,
                shape=first.shape,
                calls=len(group),
                params=params,
                macs=macs,
                how="",
                module=module,
                span=first.span,
                grad=any(f.result in flow.graded for f in group),
                method=first.execution.method,
                entry=entry,
                place=place,
                keep=first.keep,
                drop=drop,
                mutated=any(flow.changed_later(f.result) for f in group),
                inplace=any(f.inplace for f in group),
                recast=next((f.recast for f in group if f.recast), None),
            )
        )
    return sites


def _freed(group: list[_Found], flow: Flow, calls_of: dict) -> tuple[int, int]:
    """Parameters and multiply-adds that go with a site: ops whose work nothing else needs."""
    dead: set[Op] = set()
    for f in group:
        user = flow.record.producer[f.result]
        if f.kind == "block":
            for call in calls_of[f.module, (f.result,)]:
                dead.update(flow.record.ops[call.first : call.last])
        elif f.drop_value is None:
            dead.add(user)
        else:
            dead.update(flow.dead_without(f.drop_value, user))
    kept = {name for op in flow.record.ops if op not in dead for name in op.params}
    gone = {name for op in dead for name in op.params} - kept
    return sum(flow.record.params.get(name, 0) for name in gone), sum(op.macs for op in dead)
