"""Normalisation: modules that are a norm as a whole, however they compute it, and torch's functions in other code."""

from collections.abc import Iterator

from torch import nn

from ...capture.dataflow import RESHAPES, Flow
from ...capture.record import ModuleCall, Op
from ...rewrite.target import issued
from ..kinds import Kind
from ..occurrence import FOREIGN, Found
from ..ops import HANDING_ON, LINEAR, MULS, NONLINEAR, NORMS, REDUCTIONS, plain_name
from ..site import Skipped

_ROOTS = frozenset("sqrt rsqrt pow float_power".split())
_ROOTED = frozenset("norm vector_norm linalg_vector_norm std std_mean".split())  # statistics that are roots themselves
_DIVIDES = frozenset("div divide truediv itruediv true_divide".split())
_SCALES = frozenset(plain_name(function) for function in MULS) | _DIVIDES
_MOVES = RESHAPES | HANDING_ON | frozenset("movedim moveaxis swapaxes unflatten".split())


def norms_in(flow: Flow, modules: dict[str, nn.Module]) -> Iterator[Found | Skipped]:
    """The norms of a record. `modules` maps paths to the modules of the recorded model."""
    inside: set[Op] = set()
    for call in flow.record.calls:
        found = _of_module(call, flow, modules[call.module])
        if found is not None:
            inside.update(flow.record.ops[call.first : call.last])
            yield found
    for op in flow.record.ops:
        if op.func in NORMS and op not in inside:
            yield _of_function(op, flow)


def _of_module(call: ModuleCall, flow: Flow, module: nn.Module) -> Found | Skipped | None:
    """What the call of a childless module is that does nothing but normalise its input; None where it does not."""
    ops = flow.record.ops[call.first : call.last]
    if call.execution is None or call.scripted or any(module.children()) or not (call.inputs and ops):
        return None
    known = [op for op in ops if op.func in NORMS]
    if len(known) > 1 or not _normalises(call, ops):
        return None
    name = NORMS[known[0].func] if known else type(module).__name__
    lone = next((op for op in ops if flow.lifted.get(op) is call), None)
    if call.execution.method in FOREIGN:
        reason = FOREIGN[call.execution.method]
    elif not call.direct or call.mutates_input:
        reason = "its input is part of a tuple or dict, or changed in place"
    elif call.in_shapes[0] != call.out_shapes[0]:
        reason = "its output has another shape than its input"
    elif call.dtypes[0] != call.dtypes[1] and lone is None:
        reason = f"it changes the dtype, {call.dtypes[0]} to {call.dtypes[1]}"
    else:
        return Found(call.last - 0.5, Kind.NORM, name, lone or call)
    return Skipped(call.execution.module, name, Kind.NORM, reason, call.module)


def _of_function(op: Op, flow: Flow) -> Found | Skipped:
    """What a call of one of torch's norms is, in the code of a module that does more."""
    name = NORMS[op.func]
    execution, _, module = issued(op, flow)
    if not any(flow.descends(op.inputs[0], given) for given in flow.record.inputs):
        reason = "it works on a parameter, not on data"
    elif execution.method in FOREIGN:
        reason = FOREIGN[execution.method]
    else:
        return Found(op.index, Kind.NORM, name, op, inside=op in flow.lifted)
    return Skipped(execution.module, name, Kind.NORM, reason, module)


def _normalises(call: ModuleCall, ops: list[Op]) -> bool:
    """Whether the ops of a call shift and scale its one input, by a root of its own statistics among others.

    Each value that is made of the input is a map (the input, shifted, scaled or moved), a power of a map, of which only
    statistics are made, or a statistic.
    """
    maps, powers, statistics, roots = {call.inputs[0]}, set[int](), set[int](), set[int]()
    scaled = False
    for op in ops:
        name = plain_name(op.func)
        mine = [v for v in op.inputs if v in maps]
        made_of = {v for v in op.inputs if v in maps | powers | statistics}
        if any(v in call.inputs[1:] for v in op.inputs):
            return False
        if not made_of:  # of parameters and numbers alone
            continue
        if op.func in NORMS or name == "normalize":
            if op.inputs[0] not in maps:
                return False
            maps.update(op.outputs)
            scaled = True
        elif name in REDUCTIONS:
            statistics.update(op.outputs)
            roots.update(op.outputs if name in _ROOTED or made_of & roots else ())
        elif (mine and name in NONLINEAR) or (len(mine) > 1 and name in _SCALES) or made_of & powers:
            if name not in NONLINEAR | LINEAR | _MOVES:
                return False
            powers.update(op.outputs)
        elif mine and (name in LINEAR | _MOVES or name == "addcmul"):
            if name in _DIVIDES and op.inputs[0] not in maps:
                return False  # a reciprocal
            scaled |= name in _SCALES | {"addcmul"} and bool(made_of & roots)
            maps.update(op.outputs)
        elif not mine and name in NONLINEAR | LINEAR | _MOVES:
            statistics.update(op.outputs)
            roots.update(op.outputs if name in _ROOTS or made_of & roots else ())
        else:
            return False
    return scaled and call.tensor_out and call.outputs[0] in maps
