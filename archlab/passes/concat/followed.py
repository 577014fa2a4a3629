"""A run in which the channels of operands of concatenations can be told from all others, and what needs them.

The operand's channels are an axis of their own from the concatenation on (see `width`). Without it zeros stand there:
what makes zeros of zeros may lose them, and a layer that multiplies them with weights and sums over them.
"""

import math
from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from typing import Any

from torch import nn

from ...capture import dataflow
from ...capture.record import Capture, Op
from ...capture.recorder import capture
from ...discovery.site import Site
from ...rewrite.target import Target
from ..width.axes import Axis, Dims, Expr, Product, Sum, leaves, resolved, size_with
from ..width.flow import Flow, Rule, Use
from ..width.layer_rules import convolution, linear, normalized, prelu
from ..width.move_rules import MOVES, assigned, joined, padded
from ..width.rules import RULES, elementwise, like_first, over_positions, reduced

# Functions of one tensor that make zero of zero; those of two that do where one is zero, or both are.
_OF_ZERO = frozenset(
    "abs neg pos relu relu6 gelu silu elu selu celu leaky_relu hardswish tanh softsign mish hardshrink softshrink "
    "tanhshrink rrelu sin tan expm1 log1p erf sqrt square sign floor ceil round dropout dropout1d dropout2d dropout3d "
    "float double half bfloat16 to type_as contiguous clone detach real imag conj zeros_like tril triu div true_divide "
    "truediv itruediv idiv".split()
)
_PRODUCTS = frozenset("mul rmul imul multiply".split())
_SUMS = frozenset("add radd iadd sub rsub isub maximum minimum fmax fmin".split())
_STATISTICS = frozenset("mean sum amax amin max min norm".split())


class Followed:
    """A run in which the channels of the operands that `sites` are can be told from all others."""

    def __init__(self, model: nn.Module, example: Any, sites: Collection[Site], run: Callable[..., Capture] = capture):
        self.sites = sites
        self.own: dict[str, list[Expr]] = {site.id: [] for site in sites}
        self.given: dict[str, list[Expr]] = {site.id: [] for site in sites}
        self.at: dict[int, dict[str, int]] = {}  # index of a concatenation -> the operand that each site is there
        self.copies: list[tuple[Axis, Axis]] = []  # (axis of one site, what it is in the operand that another one is)
        self.flow = Flow(RULES | dict.fromkeys(("cat", "concat", "concatenate"), self._joined))
        self.record = run(model, example, self.flow)
        self.flow.close(self.record)

    def _joined(self, u: Use) -> list[Dims]:
        dim = u.get(1, "dim", u.kwargs.get("axis", 0))
        before = {}
        for site in self.sites:
            if _is_at(u.op, site.target):
                (number,) = site.target.dropped
                tensor = u.given[number]
                before[tensor] = dims = u.dims(tensor)
                self.at.setdefault(u.op.index, {})[site.id] = number
                self.given[site.id].append(dims[dim])
                self.own[site.id].append(self._of_its_own(dims[dim]))
                replaced = list(dims)
                replaced[dim] = self.own[site.id][-1]
                self.flow.dims[tensor] = replaced
        try:
            return joined(u)
        finally:
            for tensor, dims in before.items():
                self.flow.dims[tensor] = dims

    def _of_its_own(self, expr: Expr) -> Expr:
        """Axes for an operand, which remember what they are copies of where that is another site's."""
        theirs = {axis for exprs in self.own.values() for own in exprs for axis in leaves(own)}
        if theirs.isdisjoint(leaves(expr)):
            return Axis(expr.size)

        def copied(part: Expr) -> Expr:
            part = resolved(part)
            if isinstance(part, Sum):
                return Sum(tuple(map(copied, part.parts)))
            if isinstance(part, Product):
                return Product(tuple(map(copied, part.factors)))
            copy = Axis(part.size)
            if part in theirs:
                self.copies.append((part, copy))
            return copy

        return copied(expr)

    def axes(self, site: Site, reasons: dict[str, str]) -> list[Axis]:
        """The axes without which nothing is left of the operand; none, and the reason, where it must stay."""
        found: list[Axis] = []
        for own in self.own[site.id]:
            emptied = _emptied(own)
            if emptied is None:
                reasons[site.id] = f"it {next((axis.why for axis in leaves(own) if axis.why), 'must stay')}"
                return []
            found += emptied
        if not found:
            reasons[site.id] = f"{site.op} has no rule by which its channels could be followed"
        return found

    def width(self, site: Site) -> int:
        """How many channels of the operand layers make, whatever the input; 0 where they do not, or where it is of
        several widths."""
        made = all(axis in self.held for expr in self.given[site.id] for axis in leaves(expr))
        sizes = {expr.size for expr in self.given[site.id]}
        return sizes.pop() if made and len(sizes) == 1 else 0

    def is_damped(self, site: Site) -> bool:
        """Whether the operand, if its site alone is removed, is still computed, and multiplied with zero."""
        return not self._gone(site) and not self.width(site)

    def freed(self, site: Site) -> tuple[int, int]:
        """How many parameters and multiply-adds of later layers go with the operand, if its site alone is removed.

        That is without those of ops that nothing needs then. Code that computes with the number of channels cannot be
        seen; of it `cuts_for` leaves more.
        """
        gone = self._gone(site)
        if not gone:
            return 0, 0
        sizes = dict.fromkeys(gone, 0)
        ops = self.record.ops
        uses = {(ops[n], ops[n].inputs[at[site.id]]) for n, at in self.at.items() if site.id in at}
        dead = self._values.dead_without(uses)
        left = [trace for trace in map(self.flow.traces.__getitem__, self._numbers(gone)) if trace.op not in dead]
        names = {name for trace in left for name in trace.op.params if name in self.flow.params}
        params = sum(_lost(self.flow.params[name], sizes)[0] for name in names)
        macs = 0
        for trace in left:
            if trace.op.macs:  # in proportion to its weights, which are its second operand
                lost, whole = _lost(trace.given[1], sizes)
                macs += trace.op.macs * lost // whole
        return params, macs

    def _gone(self, site: Site) -> set[Axis]:
        """The axes that go with the operand, if its site alone is removed; none where it must stay."""
        gone = set(self.axes(site, {}))
        for origin, copy in self.copies:  # in the order of the run: what a copy is of comes before
            if not size_with(origin, dict.fromkeys(gone, 0)):
                emptied = _emptied(copy)
                gone = gone.union(emptied) if gone and emptied is not None else set()
        return set() if self.first_unsound(gone, [site]) is not None else gone

    def first_unsound(self, gone: set[Axis], removed: Iterable[Site]) -> tuple[set[Axis], str] | None:
        """The first op that needs positions of the axes `gone` to be there, where the sites `removed` go: which, and
        why. None where none does."""
        ids = {site.id for site in removed}
        zero: set[int] = set()  # values that are zero wherever they have such positions
        for number in self._numbers(gone):
            trace = self.flow.traces[number]
            op, name = trace.op, trace.name.strip("_")
            rule = RULES.get(name)
            made = {axis for dims in trace.made for axis in _within(dims, gone)}
            data = [k for k, dims in enumerate(trace.given) if _within(dims, gone) and op.names[k] is None]
            joined_here = self.at.get(op.index, {})
            at = [k for site, k in joined_here.items() if site in ids]
            data += [k for site, k in joined_here.items() if k not in data and _within(self.own[site], gone)]
            if not made and not data:
                continue
            axes = made.union(*(_within(trace.given[k], gone) for k in data))
            where = f"{trace.name} in {op.call.module if op.call else op.execution.module}".removesuffix(" in ")
            clean = [op.inputs[k] in zero for k in data if k not in at]
            if rule in (linear, convolution):
                if not all(clean):
                    return axes, f"{where} reads something else than zero there, which a norm or an offset made"
                if data and made and len(op.inputs) == 2:  # each channel by itself, without a bias
                    zero.update(op.outputs)
            elif op.index in self.at or (made and rule in _LOCAL):
                if all(clean) if op.index in self.at else _is_zero(op, name, clean):
                    zero.update(op.outputs)
            elif data:
                return axes, f"{where} sees all channels together"
        for name in dict.fromkeys(name for axis in gone for name, _ in self.held.get(axis, ())):
            dims = self.flow.params[name]
            if not all(size_with(expr, dict.fromkeys(gone, 0)) for expr in dims):
                return _within(dims, gone), f"nothing would be left of {name}"
        return None

    @cached_property
    def _values(self) -> dataflow.Flow:
        return dataflow.Flow(self.record)

    @cached_property
    def held(self) -> dict[Axis, list[tuple[str, int]]]:
        """As `Flow.held`, once the run is over."""
        return self.flow.held()

    @cached_property
    def _traces_with(self) -> dict[Axis, list[int]]:
        """The numbers of the traces in which an axis is."""
        found: dict[Axis, list[int]] = {}
        for number, trace in enumerate(self.flow.traces):
            for axis in {axis for dims in (*trace.given, *trace.made) for expr in dims for axis in leaves(expr)}:
                found.setdefault(axis, []).append(number)
        return found

    def _numbers(self, axes: Iterable[Axis]) -> list[int]:
        """Those of the traces in which any of `axes` is, in the order of the run."""
        return sorted({number for axis in axes for number in self._traces_with.get(axis, ())})


_LOCAL: tuple[Rule | None, ...] = (
    elementwise, like_first, over_positions, reduced, normalized, prelu, *dict.fromkeys(MOVES.values()),
)  # fmt: skip


def _is_zero(op: Op, name: str, clean: list[bool]) -> bool:
    """Whether an op makes zero at the positions where those of its inputs are zero that are `clean`."""
    if name in _PRODUCTS:
        return any(clean)
    if not clean or not all(clean):
        return False
    numbers = [n for n in (*op.positional, op.options.get("other")) if n is not None]
    rule = RULES[name]
    if rule is elementwise and name in _SUMS:
        return len(clean) == len(op.inputs) and not any(numbers)
    if rule is normalized:
        return len(op.inputs) == 1  # without weights and kept statistics
    if rule is padded:
        return not op.options.get("value", op.positional[3] if len(op.positional) > 3 else None)
    if rule in (elementwise, like_first):
        return name in _OF_ZERO and len(clean) == len(op.inputs) and op.positional[:1] in ((None,), ())
    return name in _STATISTICS if rule is reduced else rule is not assigned


def _is_at(op: Op, target: Target) -> bool:
    same = (op.execution.module, op.execution.entry) == (target.container, target.entry)
    return same and target.location in (op.location, op.location.every)


def _within(dims: Dims, axes: set[Axis]) -> set[Axis]:
    """Which of `axes` are in `dims`."""
    return {axis for expr in dims for axis in leaves(expr) if axis in axes}


def _emptied(expr: Expr) -> list[Axis] | None:
    """The axes without which `expr` has no positions; None where some must stay."""
    expr = resolved(expr)
    if isinstance(expr, Axis):
        return None if expr.why else [expr]
    if isinstance(expr, Product):
        return next((found for factor in expr.factors if (found := _emptied(factor)) is not None), None)
    parts = [_emptied(part) for part in expr.parts]
    return None if None in parts else [axis for part in parts for axis in part or ()]


def _lost(dims: Dims, sizes: dict[Axis, int]) -> tuple[int, int]:
    """How many elements a tensor of `dims` loses where axes have these sizes, and how many it has."""
    whole = math.prod(expr.size for expr in dims)
    return whole - math.prod(size_with(expr, sizes) for expr in dims), whole
