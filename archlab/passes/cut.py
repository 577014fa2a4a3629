"""What a removed operand of a concatenation takes along: the channels with which later layers read it.

Where zeros stand for the operand, a layer that multiplies its channels with weights and sums over them gives the same
without these channels: they are cut, and the operand is left out. That is followed through archlab's record of widths
(`width`), in which the operand's channels are an axis of their own from the concatenation on. Where what lies between
makes something else of zeros (a norm with a bias), or other channels depend on these, nothing is cut: zeros stay.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ..arguments import wrong
from ..capture.record import Op
from ..capture.recorder import capture
from ..discovery.kinds import Kind
from ..discovery.site import Site
from ..rewrite.target import Edit, Freeze, Target
from .checks import Observed
from .heads.cut import heads_cut
from .width.axes import Axis, Dims, Expr, Product, leaves, resolved, size_with
from .width.choose import resizing_for
from .width.flow import Flow, Rule, Use
from .width.layer_rules import convolution, linear, normalized, prelu
from .width.move_rules import MOVES, assigned, joined, padded
from .width.resize import Resizing, checked
from .width.rules import RULES, elementwise, like_first, over_positions, reduced

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


@dataclass(frozen=True)
class Cuts:
    """What removed operands of concatenations become: `resizing` cuts the channels of those that are left out.

    `zeros`: site -> how many zeros stand for it in the others' place; 0 where it is multiplied with zero, as how wide
    it is is not given by layers. `reasons` says why, by site.
    """

    resizing: Resizing = field(default_factory=lambda: Resizing({}))
    zeros: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def edit(self, site: Site) -> Edit | None:
        """How `site` is removed; None where that is done once its channels are cut."""
        number = self.zeros.get(site.id)
        if number is None:
            return None if site.kind is Kind.HEAD else Edit(site.target)
        return Edit(replace(site.target, stand_in=number)) if number else Edit(site.target, Freeze(1.0))

    def options(self) -> dict[str, Any]:
        """As a recipe holds it: nothing where nothing was concatenated."""
        found = {"tensors": self.resizing.tensors, "numbers": self.resizing.numbers, "zeros": self.zeros}
        return {"cuts": found} if any(found.values()) else {}

    def of(self, seen: Observed) -> Observed:
        """What was seen of a model, with the gradients of the channels that stay."""
        gradients = dict(seen.gradients or {})
        for name, dims in self.resizing.tensors.items():
            for dim, index in dims.items() if name in gradients else ():
                taken = torch.tensor(index, device=gradients[name].device)
                gradients[name] = gradients[name].index_select(int(dim), taken)
        return seen if seen.gradients is None else replace(seen, gradients=gradients)


def cuts_in(value: Any) -> Cuts:
    """The `Cuts` of what a recipe says. Raises ValueError for what is none."""
    if not (isinstance(value, Mapping) and set(value) == {"tensors", "numbers", "zeros"}):
        raise ValueError(wrong("discard: cuts", "an object of tensors, numbers and zeros", value))
    zeros = value["zeros"]
    if not (isinstance(zeros, dict) and all(type(n) is int and 0 <= n < 2**31 for n in zeros.values())):
        raise ValueError(wrong("discard: the zeros of cuts", "how many by site", zeros))
    numbers = value["numbers"]
    return Cuts(checked(value["tensors"], {}, numbers) if value["tensors"] else Resizing({}), zeros)


def cuts_for(
    model: nn.Module, example: Any, removed: Sequence[Site], every: Iterable[Site], frozen: Collection[str]
) -> Cuts:
    """What becomes of those of the `removed` sites that are operands of concatenations or heads: cut, where that is
    sound. `every` are all sites, `frozen` ids of those that are blended for good."""
    if any(site.kind is Kind.HEAD for site in removed):
        others = [site for site in removed if site.kind is Kind.CONCAT]
        zeros = uncut(model, example, others, "heads are removed in the same step") if others else Cuts()
        resizing, reasons = heads_cut(model, example, removed, every, frozen)
        return Cuts(resizing, zeros.zeros | dict.fromkeys(reasons, 0), zeros.reasons | reasons)
    sites = [site for site in removed if site.kind is Kind.CONCAT]
    if not sites:
        return Cuts()
    found = _Followed(model, example, sites)
    reasons: dict[str, str] = {}
    while True:  # a site that cannot be cut is left as zeros, and the others are asked again
        axes = [axis for site in sites if site.id not in reasons for axis in found.axes(site, reasons)]
        offender = found.first_unsound(set(axes))
        if offender is None:
            break
        blamed, reason = offender
        more = {s.id for s in sites if s.id not in reasons and blamed & set(found.axes(s, {}))}
        reasons |= dict.fromkeys(more or {s.id for s in sites}, reason)
    resizing = resizing_for(model, found.flow, {axis: [] for axis in axes})
    zeros = {site.id: found.width(site) for site in sites if site.id in reasons}
    return Cuts(resizing, zeros, reasons)


def uncut(model: nn.Module, example: Any, removed: Iterable[Site], reason: str) -> Cuts:
    """The same with nothing cut, for the `reason`."""
    sites = [site for site in removed if site.kind in (Kind.CONCAT, Kind.HEAD)]
    found = _Followed(model, example, [site for site in sites if site.kind is Kind.CONCAT])
    zeros = {s.id: found.width(s) if s.kind is Kind.CONCAT else 0 for s in sites}
    return Cuts(Resizing({}), zeros, dict.fromkeys(zeros, reason))


class _Followed:
    """A run in which the channels of removed operands are axes of their own behind the concatenation."""

    def __init__(self, model: nn.Module, example: Any, sites: Collection[Site]):
        self.sites = sites
        self.own: dict[str, list[Axis]] = {site.id: [] for site in sites}
        self.given: dict[str, list[Expr]] = {site.id: [] for site in sites}
        self.at: dict[int, list[int]] = {}  # index of a concatenation -> the operands that go
        self.flow = Flow(RULES | dict.fromkeys(("cat", "concat", "concatenate"), self._joined))
        self.flow.close(capture(model, example, self.flow))

    def _joined(self, u: Use) -> list[Dims]:
        dim = u.get(1, "dim", u.kwargs.get("axis", 0))
        before = {}
        for site in self.sites:
            if _is_at(u.op, site.target):
                (number,) = site.target.dropped
                tensor = u.given[number]
                before[tensor] = dims = u.dims(tensor)
                self.at.setdefault(u.op.index, []).append(number)
                self.given[site.id].append(dims[dim])
                self.own[site.id].append(Axis(dims[dim].size))
                replaced = list(dims)
                replaced[dim] = self.own[site.id][-1]
                self.flow.dims[tensor] = replaced
        try:
            return joined(u)
        finally:
            for tensor, dims in before.items():
                self.flow.dims[tensor] = dims

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
        """How many channels of the operand layers make, whatever the input; 0 where they do not."""
        held = self.flow.held()
        made = all(axis in held for expr in self.given[site.id] for axis in leaves(expr))
        return self.given[site.id][0].size if made and self.given[site.id] else 0

    def first_unsound(self, gone: set[Axis]) -> tuple[set[Axis], str] | None:
        """The first op that needs positions of the axes `gone` to be there: which, and why. None where none does."""
        zero: set[int] = set()  # values that are zero wherever they have such positions
        for trace in self.flow.traces:
            op, name = trace.op, trace.name.strip("_")
            rule = RULES.get(name)
            made = {axis for dims in trace.made for axis in _within(dims, gone)}
            data = [k for k, dims in enumerate(trace.given) if _within(dims, gone) and op.names[k] is None]
            if not made and not data:
                continue
            axes = made.union(*(_within(trace.given[k], gone) for k in data))
            where = f"{trace.name} in {op.call.module if op.call else op.execution.module}".removesuffix(" in ")
            clean = [op.inputs[k] in zero for k in data if k not in self.at.get(op.index, ())]
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
        for name, dims in self.flow.params.items():
            if not all(size_with(expr, dict.fromkeys(gone, 0)) for expr in dims):
                return _within(dims, gone), f"nothing would be left of {name}"
        return None


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
