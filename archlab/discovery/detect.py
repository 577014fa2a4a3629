"""What is of interest in a recorded run: sites of each kind, and what is skipped, with the reason.

Everything is read off the record; class names and module names never decide. What one op is, `sums`, `activations`,
`norms` and `heads` say; here they are gathered, and what a module call is.
"""

from collections.abc import Iterator
from itertools import chain

from torch import nn

from ..capture.dataflow import Flow
from ..capture.functions import is_custom_function
from ..capture.record import ModuleCall, Op
from .forms.activations import known_activation, spelled_activations
from .forms.heads import heads_in
from .forms.norms import norms_in
from .forms.sums import in_concatenation, in_stack, in_sum
from .kinds import Kind
from .occurrence import FOREIGN, Found
from .ops import ACTIVATIONS, CONCATENATIONS, NONLINEAR, POINTWISE, SOFTMAX, STACKS, SUM_NAMES, plain_name
from .site import ANY, Skipped

_PLAIN_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def seen_in(flow: Flow, modules: dict[str, nn.Module]) -> Iterator[Found | Skipped]:
    """What is in a record, in no order. `modules` maps paths to the modules of the recorded model."""
    counted = sum(1 << op.index for op in flow.record.ops if op.func in ACTIVATIONS or op.func in SUM_NAMES)
    parts: set[Op] = set()  # of activations that are made up of several ops
    for call in flow.record.calls:
        yield from _block(call, modules[call.module])
        if _is_composed(call, flow, modules[call.module]):
            ops = flow.record.ops[call.first : call.last]
            parts.update(ops)
            yield Found(ops[-1].index, Kind.ACTIVATION, type(modules[call.module]).__name__, call)
    spelled = list(spelled_activations(flow, parts))
    parts.update(op for item in spelled if isinstance(item, Found) for op in item.parts)
    in_ops = (_unless_part(item, op, parts) for op in flow.record.ops for item in _in_op(op, flow, counted))
    for item in chain(in_ops, spelled, norms_in(flow, modules), heads_in(flow)):
        yield _unless_scripted(item)


def _unless_part(item: Found | Skipped, op: Op, parts: set[Op]) -> Found | Skipped:
    """`item`, or why it is no site: a GELU without its tanh, or without the sum in it, is no activation any more."""
    if not (isinstance(item, Found) and op in parts):
        return item
    return Skipped(op.execution.module, item.op, item.kind, "a part of an activation that is a site as a whole")


def _unless_scripted(item: Found | Skipped) -> Found | Skipped:
    """`item`, or why it is no site: the call of a module that is scripted or traced, and runs one op."""
    if not (isinstance(item, Found) and isinstance(item.source, Op) and item.source.scripted):
        return item
    return Skipped(item.source.execution.module, item.op, item.kind, FOREIGN["<scripted>"])


def _in_op(op: Op, flow: Flow, counted: int) -> Iterator[Found | Skipped]:
    if op.func in ACTIVATIONS or op.func in SOFTMAX:
        yield known_activation(op, flow)
    elif is_custom_function(op.func):
        reason = "a custom autograd function: what it computes cannot be seen"
        yield Skipped(op.execution.module, op.name, Kind.ACTIVATION, reason)
    elif op.name == "glu":
        reason = "a gate that halves the channels: no identity can stand for it"
        yield Skipped(op.execution.module, "glu", Kind.ACTIVATION, reason)
    elif op.func in SUM_NAMES:
        yield from in_sum(op, flow, counted)
    elif op.func in STACKS:
        yield from in_stack(op, flow)
    elif op.func in CONCATENATIONS:
        yield from in_concatenation(op, flow)


def _is_composed(call: ModuleCall, flow: Flow, module: nn.Module) -> bool:
    """Whether a childless module computes a pointwise non-linearity from several ops (a tanh approximation of GELU)."""
    ops = flow.record.ops[call.first : call.last]
    if len(ops) < 2 or call.execution is None or not (call.tensor_out and call.direct) or len(call.inputs) != 1:
        return False
    if call.execution.method in FOREIGN or call.scripted:
        return False
    if call.in_shapes[0] != call.out_shapes[0] or call.mutates_input or call.hooked or any(module.children()):
        return False
    if any(op.params or not (plain_name(op.func) in POINTWISE or op.func in ACTIVATIONS) for op in ops):
        return False
    return any(plain_name(op.func) in NONLINEAR or op.func in ACTIVATIONS for op in ops)


# --- blocks -------------------------------------------------------------------------------------


def _block(call: ModuleCall, module: nn.Module) -> Iterator[Found | Skipped]:
    plain = type(module) in _PLAIN_CONTAINERS or not (call.scripted or any(module.children()))
    if call.execution is None or not call.module or plain:  # the root is no block
        return
    reason = _no_block(call)
    if reason:
        kind = ANY if call.scripted else Kind.BLOCK
        yield Skipped(call.execution.module, type(module).__name__, kind, reason, call.module)
    elif call.inputs and call.outputs and call.inputs[0] != call.outputs[0]:  # otherwise it hands its input through
        yield Found(call.last - 0.5, Kind.BLOCK, type(module).__name__, call)


def _no_block(call: ModuleCall) -> str:
    """Why its input cannot stand for the output of a module; empty where it can."""
    if call.scripted:
        return "it is scripted: its code stays as it is"
    if call.execution is not None and call.execution.method in FOREIGN:
        return FOREIGN[call.execution.method]
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
