"""What one op or one module call of a recorded run is: a site of some kind, something skipped with the reason, or
nothing of interest.

One function a kind: it looks at a single occurrence and yields `Found` or `Skipped`; `find` gathers them. Everything is
read off the record; class names and module names never decide.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ..capture.dataflow import RESHAPES, Flow
from ..capture.functions import is_custom_function
from ..capture.record import Execution, ModuleCall, Op
from ..rewrite.target import issued
from .kinds import Kind
from .ops import ACTIVATIONS, ADDS, CONCATENATIONS, MULS, NONLINEAR_NAMES, POINTWISE_NAMES, SOFTMAX
from .site import ANY, Skipped

_PLAIN_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Methods of executions that are none of the model's own code.
_FOREIGN = {
    "<outside>": "it runs outside the model's own methods",
    "<hook>": "a hook computes it",
    "<archlab>": "an earlier pass put it there: a site that is switched or frozen",
}


@dataclass(eq=False)
class Found:
    """One occurrence of a site, before those of several executions are merged."""

    order: float
    kind: Kind
    op: str
    source: Op | ModuleCall
    dropped: int | None = None  # which operand goes; None: the op's or module's own work
    span: int = 0

    @property
    def result(self) -> int:
        """The value that the site makes."""
        return self.source.outputs[0]


def in_op(op: Op, flow: Flow) -> Iterator[Found | Skipped]:
    """What an op is."""
    if op.func in ACTIVATIONS or op.func in SOFTMAX:
        yield _activation(op, flow)
    elif is_custom_function(op.func):
        reason = "a custom autograd function: what it computes cannot be seen"
        yield Skipped(op.execution.module, op.name, Kind.ACTIVATION, reason)
    elif op.name == "glu":
        reason = "a gate that halves the channels: no identity can stand for it"
        yield Skipped(op.execution.module, "glu", Kind.ACTIVATION, reason)
    elif op.func in ADDS and len(op.inputs) == 2:  # otherwise a number is added
        yield from _add(op, flow)
    elif op.func in CONCATENATIONS and any(flow.descends(w, v) for v in op.inputs for w in op.inputs if w != v):
        reason = "a concatenation skip: removing it would change the channel count"
        yield Skipped(op.execution.module, op.name, Kind.SKIP, reason)


def in_call(call: ModuleCall, flow: Flow, module: nn.Module) -> Iterator[Found | Skipped]:
    """What a call of `module` is."""
    yield from _block(call, module)
    yield from _composed_activation(call, flow, module)


# --- activations and gates ----------------------------------------------------------------------


def _activation(op: Op, flow: Flow) -> Found | Skipped:
    name = ACTIVATIONS.get(op.func) or SOFTMAX[op.func]
    execution, _, module = issued(op, flow)
    if not op.in_shapes or not op.out_shapes or op.in_shapes[0] != op.out_shapes[0]:
        reason = "its output has another shape than its input"
    elif op.inputs[0] in flow.record.constants:
        reason = "it works on a parameter, not on data"
    elif execution.method in _FOREIGN:
        reason = _FOREIGN[execution.method]
    else:
        gate = op.func in SOFTMAX or _multiplies(op, flow)
        return Found(op.index, Kind.GATE if gate else Kind.ACTIVATION, name, op)
    return Skipped(execution.module, name, Kind.ACTIVATION, reason, module)


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


def _composed_activation(call: ModuleCall, flow: Flow, module: nn.Module) -> Iterator[Found]:
    """A childless module that computes a pointwise non-linearity from several ops (a tanh approximation of GELU)."""
    ops = flow.record.ops[call.first : call.last]
    if len(ops) < 2 or call.execution is None or not (call.tensor_out and call.direct) or len(call.inputs) != 1:
        return
    if call.execution.method in _FOREIGN:
        return
    if call.in_shapes[0] != call.out_shapes[0] or call.mutates_input or call.hooked or any(module.children()):
        return
    if any(op.params or not (op.name in POINTWISE_NAMES or op.func in ACTIVATIONS) for op in ops):
        return
    if not any(op.name in NONLINEAR_NAMES or op.func in ACTIVATIONS for op in ops):
        return
    yield Found(ops[-1].index, Kind.ACTIVATION, type(module).__name__, call)


# --- adds: skips, branches, joins ---------------------------------------------------------------


def _add(op: Op, flow: Flow) -> Iterator[Found | Skipped]:
    execution, _, module = issued(op, flow)
    a, b = op.inputs
    reason = _no_skip(op, execution, flow)
    if reason:
        yield Skipped(execution.module, "add", Kind.SKIP, reason, module)
    elif flow.descends(a, b) or flow.descends(b, a):
        # The operand that the other was computed from is the shortcut; the way round it is the branch.
        shortcut = 0 if flow.descends(b, a) else 1
        way = flow.ops_between(op.inputs[1 - shortcut], op.inputs[shortcut])
        span = sum(1 for o in flow.record.ops if way >> o.index & 1 and (o.func in ACTIVATIONS or o.func in ADDS))
        yield Found(op.index, Kind.SKIP, "add", op, dropped=shortcut, span=span)
        yield Found(op.index, Kind.BRANCH, "add", op, dropped=1 - shortcut, span=span)
    else:
        only_a, only_b = flow.ancestors(a) & ~flow.ancestors(b), flow.ancestors(b) & ~flow.ancestors(a)
        lighter = 1 if _with_parameters(only_b, flow) <= _with_parameters(only_a, flow) else 0
        yield Found(op.index, Kind.JOIN, "add", op, dropped=lighter)


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


def _with_parameters(bits: int, flow: Flow) -> int:
    """How many of the ops in `bits` have parameters."""
    return sum(1 for op in flow.record.ops if bits >> op.index & 1 and op.params)


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
