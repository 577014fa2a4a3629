"""Sums of two terms, however they are spelled, and concatenations: skips, branches, joins and concats."""

from collections.abc import Iterator
from math import prod

import torch

from ...capture.dataflow import RESHAPES, Flow
from ...capture.record import Execution, Op
from ...rewrite.blend import SUMS, rest_of_cat, rest_of_hstack, rest_of_stack
from ...rewrite.target import issued
from ..kinds import Kind
from ..occurrence import FOREIGN, Found
from ..ops import FILLED, HANDING_ON, SUM_NAMES, plain_name
from ..site import Skipped

_MATRIX_SUMS = ("addmm", "baddbmm")


def in_sum(op: Op, flow: Flow, counted: int) -> Iterator[Found | Skipped]:
    """What a sum of two terms is. `counted` are the ops, as bits, that count in the span of a skip."""
    name = SUM_NAMES[op.func]
    scaled = name == "add" and "alpha" in op.options
    terms = SUMS["add scaled" if scaled else name]
    if len(op.inputs) <= max(map(max, terms.terms)):
        return  # it adds a number
    first, second = values = [[op.inputs[k] for k in term] for term in terms.terms]
    constant = any(all(v in flow.record.constants for v in term) for term in values)
    if name in _MATRIX_SUMS and constant:
        return  # a linear layer with its bias
    execution, _, module = issued(op, flow)
    reason = _no_skip(op, name, execution, flow, values, constant)
    if reason:
        yield Skipped(execution.module, name, Kind.SKIP, reason, module)
        return
    call = flow.lifted.get(op)
    within = call is not None and (call.inputs != op.inputs or bool(op.options) or any(map(_given, op.positional)))

    def found(kind: Kind, number: int, **rest) -> Found:
        """The site at which the term of this number goes."""
        gone = terms.terms[number]
        damped = next((k for k in gone if op.inputs[k] not in flow.record.constants), gone[0])
        return Found(
            op.index, kind, name, op, kept=terms.rest[number], dropped=gone, damped=(damped,), inside=within, **rest
        )

    known = name == "add" and not scaled
    shortcut = _shortcut(first, second, flow)
    if shortcut is None:
        above = [_ancestors(term, flow) for term in values]
        lighter = (
            1 if _with_parameters(above[1] & ~above[0], flow) <= _with_parameters(above[0] & ~above[1], flow) else 0
        )
        yield found(Kind.JOIN, lighter, late=not known)
        return
    # The term that the other was computed from is the shortcut; the way round it is the branch.
    here, there = values[shortcut], values[1 - shortcut]
    span = (_way(there, _origin(here[0], flow), flow) & counted).bit_count()
    plain = known and any(flow.descends(v, here[0]) for v in there)
    yield found(Kind.SKIP, shortcut, span=span, late=not plain, was=Kind.JOIN if known and not plain else None)
    yield found(Kind.BRANCH, 1 - shortcut, span=span, late=not plain)


def in_stack(op: Op, flow: Flow) -> Iterator[Found | Skipped]:
    """What a stack is, each operand of which the sum or the mean of it may do without."""
    values = [_origin(v, flow) for v in op.inputs]
    below = [any(flow.descends(w, v) for w in op.inputs if w != v) for v in values]
    if not any(below):
        return
    execution, _, module = issued(op, flow)
    if not all(_sums_up(reader, op) for reader in flow.consumers.get(op.outputs[0], ())) or len(set(values)) < len(
        values
    ):
        reason = "a stack that is not summed up: without an operand it would have another shape"
    elif execution.method in FOREIGN:
        reason = FOREIGN[execution.method]
    else:
        for number, value in enumerate(values):
            above = any(flow.descends(value, w) for w in values if w != value)
            if below[number] or above:
                kind = Kind.SKIP if below[number] else Kind.BRANCH
                yield Found(
                    op.index, kind, op.name, op, kept=rest_of_stack, dropped=(number,), damped=(number,), late=True,
                    inside=op in flow.lifted,
                )  # fmt: skip
        return
    yield Skipped(execution.module, op.name, Kind.SKIP, reason, module)


def in_concatenation(op: Op, flow: Flow) -> Iterator[Found | Skipped]:
    """The operands of a concatenation that are a shorter way round than another of its operands."""
    values = [_origin(v, flow) for v in op.inputs]
    makers = {v: plain_name(made.func) for v in values if (made := flow.record.producer.get(v)) is not None}
    others = [v for v in values if makers.get(v) not in FILLED]  # that is computed from no more than a shape
    shorter = [any(_is_shorter(v, w, flow) for w in others if w != v) for v in values]
    if not any(shorter):
        return
    if len(set(values)) < len(values):
        reason = "two operands of the concatenation are the same value"
    elif "out" in op.options or len(op.out_shapes[0]) < 2:
        reason = "it writes into a tensor that it is given (out), or joins single numbers"
    elif not (op.dtype is not None and (op.dtype.is_floating_point or op.dtype.is_complex)):
        reason = "it joins integers"
    elif op.execution.method in FOREIGN:
        reason = FOREIGN[op.execution.method]
    else:
        rest = rest_of_hstack if op.func is torch.hstack else rest_of_cat
        for number in (k for k, short in enumerate(shorter) if short):
            yield Found(
                op.index, Kind.CONCAT, op.name, op, kept=rest, dropped=(number,), damped=(number,),
                inside=op in flow.lifted,
            )  # fmt: skip
        return
    yield Skipped(op.execution.module, op.name, Kind.CONCAT, reason)


def _is_shorter(value: int, other: int, flow: Flow) -> bool:
    """Whether `other` was computed from `value`, or both from one value and `other` with more layers of its own."""
    if flow.descends(other, value):
        return True
    above, there = flow.ancestors(value), flow.ancestors(other)
    own = (above & ~there & flow.parametric).bit_count()
    return bool(above & there) and own < (there & ~above & flow.parametric).bit_count()


def _sums_up(reader: Op, stack: Op) -> bool:
    """Whether an op sums a stack over the dimension that its operands lie along."""
    rank = len(stack.out_shapes[0])
    along = stack.options.get("dim", next((p for p in stack.positional if isinstance(p, int)), 0)) % rank
    if plain_name(reader.func) == "einsum":
        equation = next((p for p in reader.positional if isinstance(p, str)), "")
        given, _, made = equation.replace(" ", "").partition("->")
        parts = given.split(",")
        number = reader.inputs.index(stack.outputs[0])
        return "." not in equation and number < len(parts) and parts[number][along] not in made
    over = reader.options.get("dim", next((p for p in reader.positional if p is not None), None))
    over = [over] if isinstance(over, int) else over if isinstance(over, (tuple, list)) else []
    return plain_name(reader.func) in ("sum", "mean") and along in [dim % rank for dim in over]


def _given(value: object) -> bool:
    return value is not None


def _shortcut(first: list[int], second: list[int], flow: Flow) -> int | None:
    """The number of the term that the other one is computed from, perhaps handed on as it is; None where neither is."""
    for number, (here, there) in enumerate(((first, second), (second, first))):
        if len(here) == 1 and any(flow.descends(v, _origin(here[0], flow)) for v in there):
            return number
    return None


def _origin(value: int, flow: Flow) -> int:
    """The value that `value` is a copy of, perhaps in another shape, or itself."""
    while (op := flow.record.producer.get(value)) is not None and len(op.inputs) == 1:
        adds_zero = op.func in SUM_NAMES and 0 in op.positional and "alpha" not in op.options
        handed_on = plain_name(op.func) in HANDING_ON or op.name in RESHAPES
        if not (adds_zero or handed_on) or prod(op.in_shapes[0]) != prod(op.out_shapes[0]):
            break
        value = op.inputs[0]
    return value


def _way(values: list[int], of: int, flow: Flow) -> int:
    bits = 0
    for value in values:
        bits |= flow.ops_between(value, of)
    return bits


def _ancestors(values: list[int], flow: Flow) -> int:
    bits = 0
    for value in values:
        bits |= flow.ancestors(value)
    return bits


def _no_skip(op: Op, name: str, execution: Execution, flow: Flow, values: list[list[int]], constant: bool) -> str:
    """Why neither term of a sum can go; empty where one can. `values` are those of its terms."""
    first, second = values
    if len(op.inputs) > 2 and name in ("add", "sub", "rsub"):
        return "it writes into a tensor that it is given (out)"
    if any(_shape(op, term, name) != op.out_shapes[0] for term in SUMS[name].terms):
        return "an operand is broadcast: its shape is not the result's"
    if first == second:
        return "both operands are the same value"
    if constant:
        return "an operand is a parameter or a buffer"
    if not (op.dtype is not None and (op.dtype.is_floating_point or op.dtype.is_complex)):
        return "it adds integers"
    if execution.method in FOREIGN:
        return FOREIGN[execution.method]
    if name != "lerp" and any(map(_given, op.positional)):
        return "an operand is scaled by a number in a place that torch no longer documents"
    related = _ancestors(first, flow) & _ancestors(second, flow) or _shortcut(first, second, flow) is not None
    if not related and not any(_descend(first, v, flow) and _descend(second, v, flow) for v in flow.record.inputs):
        return "its operands have no common ancestor"
    return ""


def _descend(values: list[int], of: int, flow: Flow) -> bool:
    return any(flow.descends(value, of) for value in values)


def _shape(op: Op, term: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The shape of a term, whose operands have these numbers."""
    shapes = [op.in_shapes[k] for k in term]
    if name in _MATRIX_SUMS and len(shapes) == 2:
        return (*shapes[0][:-1], shapes[1][-1])
    return tuple(torch.broadcast_shapes(*shapes))


def _with_parameters(bits: int, flow: Flow) -> int:
    """How many of the ops in `bits` have parameters."""
    return sum(1 for op in flow.record.ops if bits >> op.index & 1 and op.params)
