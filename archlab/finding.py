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

What looks like a site and is not one stands in `Sites.left`, with the reason.
"""

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .capture import Capture, Execution, ModuleCall, Op, Place, capture

KINDS = ("activation", "skip", "branch", "block", "join", "gate")

Where = str | Iterable[str] | Callable[["Site"], bool] | None


def _names(**ops: Sequence[Callable]) -> dict[Callable, str]:
    return {op: name for name, group in ops.items() for op in group}


# Pointwise functions that can stand as an activation. Extend by assignment: ACTIVATIONS[my_op] = "name".
ACTIVATIONS: dict[Callable, str] = _names(
    relu=[F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_],
    relu6=[F.relu6],
    leaky_relu=[F.leaky_relu, F.leaky_relu_],
    prelu=[F.prelu, torch.prelu, Tensor.prelu],
    rrelu=[F.rrelu, F.rrelu_],
    elu=[F.elu, F.elu_],
    selu=[F.selu, F.selu_, torch.selu, torch.selu_],
    celu=[F.celu, F.celu_, torch.celu, torch.celu_],
    gelu=[F.gelu],
    silu=[F.silu],
    mish=[F.mish],
    softplus=[F.softplus],
    softsign=[F.softsign],
    logsigmoid=[F.logsigmoid],
    hardtanh=[F.hardtanh, F.hardtanh_],
    hardswish=[F.hardswish],
    hardsigmoid=[F.hardsigmoid],
    hardshrink=[F.hardshrink, torch.hardshrink, Tensor.hardshrink],
    softshrink=[F.softshrink],
    tanhshrink=[F.tanhshrink],
    threshold=[F.threshold, F.threshold_, torch.threshold, torch.threshold_],
    sigmoid=[F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_],
    tanh=[F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_],
)
SOFTMAX: dict[Callable, str] = _names(softmax=[F.softmax, torch.softmax, Tensor.softmax], softmin=[F.softmin])
# A module call made of these alone, at least one of them non-linear, is one composed activation.
_POINTWISE_NAMES = frozenset(
    "add add_ sub sub_ rsub mul mul_ div div_ pow pow_ square exp sqrt clamp clamp_ clamp_min neg erf tanh sigmoid "
    "abs minimum maximum true_divide __pow__ __rpow__ __rsub__ __rdiv__ __rtruediv__ sin cos type_as to float".split()
)
_NONLINEAR_NAMES = frozenset(
    "pow pow_ square exp sqrt clamp clamp_ clamp_min erf abs minimum maximum sin cos".split()
)
_ADDS = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__})
_MULS = frozenset(
    {torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, torch.multiply}
)
_RESHAPES = frozenset(
    "view reshape expand expand_as unsqueeze squeeze permute transpose flatten contiguous to type_as chunk split "
    "__getitem__ unbind".split()
)
_CONCATENATIONS = frozenset(
    {torch.cat, torch.concat, torch.concatenate, torch.stack, torch.hstack, torch.vstack}
)


@dataclass(frozen=True, eq=False)
class Site:
    """One removable occurrence inside one execution of its container.

    `how` is ``local`` (the container's code is rewritten), ``module`` (the called child is),
    ``intercepted`` (bypassed at run time) or empty where it was not tried.
    """

    id: str
    kind: str
    path: str  # of the container; the root is ""
    op: str
    shape: tuple[int, ...]
    calls: int
    params: int  # parameters that removal frees
    macs: int  # multiply-adds of the run that removal saves, all calls together
    how: str
    module: str | None  # path of the child that is called, for a site that is a module call
    span: int  # for adds: sites that the long way round passes over
    grad: bool  # a gradient can reach its switch
    method: str = field(repr=False)
    entry: Any = field(repr=False)
    place: Place = field(repr=False)
    keep: int = field(repr=False)  # which tensor operand stays when it is removed
    drop: int = field(repr=False)
    mutated: bool = field(repr=False)  # its output is changed in place afterwards
    inplace: bool = field(repr=False)  # it changes its input in place


@dataclass(frozen=True)
class Left:
    """Something seen and not taken: where, what, why, and how often it ran."""

    path: str
    op: str
    reason: str
    calls: int = 1


class Sites(Sequence[Site]):
    """The sites of one run, in the order they ran. A sequence; prints as a table."""

    def __init__(self, sites: Iterable[Site], left: Iterable[Left], record: Capture):
        self._sites = tuple(sites)
        self.left = tuple(left)
        self.record = record

    def __getitem__(self, index):
        return self._sites[index]

    def __len__(self) -> int:
        return len(self._sites)

    def frame(self) -> pd.DataFrame:
        """One row a site: id, kind, op, shape, calls, params, macs, their shares in the whole, span, grad, how."""
        params = max(sum(self.record.params.values()), 1)
        macs = max(sum(op.macs for op in self.record.ops), 1)
        return pd.DataFrame(
            [
                {
                    "site": s.id,
                    "kind": s.kind,
                    "op": s.op,
                    "shape": "x".join(map(str, s.shape)),
                    "calls": s.calls,
                    "params": s.params,
                    "params_share": s.params / params,
                    "macs": s.macs,
                    "macs_share": s.macs / macs,
                    "span": s.span,
                    "grad": s.grad,
                    "how": s.how,
                }
                for s in self
            ],
            columns=[
                "site", "kind", "op", "shape", "calls", "params", "params_share", "macs", "macs_share", "span",
                "grad", "how",
            ],
        )  # fmt: skip

    def left_frame(self) -> pd.DataFrame:
        """One row for each thing seen and left: path, op, reason."""
        return pd.DataFrame(
            [{"path": x.path, "op": x.op, "reason": x.reason} for x in self.left],
            columns=["path", "op", "reason"],
        )

    def __repr__(self) -> str:
        frame = self.frame()
        for column in ("params_share", "macs_share"):
            frame[column] = frame[column].map("{:.1%}".format)
        frame["macs"] = frame["macs"].map("{:,}".format)
        frame["params"] = frame["params"].map("{:,}".format)
        frame = frame.rename(columns={"params_share": "% params", "macs_share": "% MACs", "macs": "MACs"})
        counts = ", ".join(f"{n} {kind}" for kind, n in frame["kind"].value_counts(sort=False).items())
        lines = [frame.to_string(index=False)] if len(self) else []
        lines.append(
            f"{len(self)} sites ({counts or 'none'}); {len(self.left)} seen and left, see .left_frame()"
        )
        return "\n".join(lines)


def find(record: Capture, *, modules: dict[str, nn.Module]) -> Sites:
    """All sites of one captured run. `modules` maps paths to the modules of the captured model."""
    found: list[_Found] = []
    left: list[Left] = []
    flow = _Flow(record)
    for op in record.ops:
        if op.func in ACTIVATIONS or op.func in SOFTMAX or op.name in ("softmax",):
            _take(found, left, _activation(op, flow, modules))
        elif op.func in _ADDS:
            for item in _add(op, flow, modules):
                _take(found, left, item)
        elif op.func in _CONCATENATIONS and len(op.inputs) > 1:
            _take(found, left, _concatenation(op, flow))
    for call in record.calls:
        _take(found, left, _block(call, flow, modules))
        _take(found, left, _composed_activation(call, flow, modules))
    found.sort(key=lambda f: f.order)
    return Sites(_merge(found, flow), _unique(left), record)


def select(sites: Sites, *, kinds: str | Iterable[str] | None, where: Where = None) -> Sites:
    """The sites of the given `kinds` that match `where` (a glob on id, container or module path, a list of
    globs, or a function of the Site). Raises ValueError where nothing is selected, and says which sites there are."""
    kinds = check_kinds(kinds)
    if where is None or callable(where):
        matches = where or (lambda site: True)
    else:
        globs = [where] if isinstance(where, str) else list(where)
        known = [name for s in sites for name in _match_names(s)]
        for glob in globs:
            if not any(fnmatch.fnmatchcase(name, glob) for name in known):
                reasons = {f"{x.path or 'root'}: {x.op}: {x.reason}" for x in sites.left if fnmatch.fnmatchcase(x.path, glob)}
                why = f" Left there: {'; '.join(sorted(reasons))}." if reasons else ""
                raise ValueError(f"where={glob!r} matches no site.{why} {_known(sites)}")

        def matches(site: Site) -> bool:
            return any(fnmatch.fnmatchcase(name, glob) for name in _match_names(site) for glob in globs)

    taken = [s for s in sites if s.kind in kinds and matches(s)]
    if not taken:
        raise ValueError(f"no site of kind {'/'.join(kinds)} matches where={where!r}. {_known(sites)}")
    return Sites(taken, sites.left, sites.record)


def check_kinds(kinds: str | Iterable[str] | None) -> tuple[str, ...]:
    """`kinds` as a tuple; None is every kind. Raises ValueError naming an unknown one."""
    if kinds is None:
        return KINDS
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is unknown: choose from {', '.join(KINDS)}")
    if not kinds:
        raise ValueError("kinds is empty: name at least one of " + ", ".join(KINDS))
    return kinds


def _known(sites: Sites) -> str:
    if not len(sites):
        return "The model has no sites at all."
    shown = ", ".join(s.id for s in sites[:12])
    return f"The model's sites are: {shown}" + (f", … ({len(sites)} in all)" if len(sites) > 12 else "")


def _match_names(site: Site) -> tuple[str, ...]:
    return tuple(name for name in (site.id, site.path, site.module) if name is not None)


@dataclass(eq=False)
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
    keep_value: int
    drop_value: int | None  # None: the op's own work goes (activation, block)
    keep: int
    drop: int
    inplace: bool
    span: int = 0


def _take(found: list[_Found], left: list[Left], item: "_Found | Left | None") -> None:
    if isinstance(item, _Found):
        found.append(item)
    elif isinstance(item, Left):
        left.append(item)


def _unique(left: list[Left]) -> list[Left]:
    return [replace(item, calls=count) for item, count in Counter(left).items()]


class _Flow:
    """Questions about the data flow of a record: ancestry, use, gradient."""

    def __init__(self, record: Capture):
        self.record = record
        self.consumers = record.consumers()
        self._ancestors: list[int] = []  # a bit per op, an int per op
        for op in record.ops:
            bits = 1 << op.index
            for value in op.inputs:
                made = record.producer.get(value)
                if made is not None:
                    bits |= self._ancestors[made.index]
            self._ancestors.append(bits)
        self.lifted = {op: call for call in record.calls if (op := self._only_op(call)) is not None}
        self.graded = self._graded()

    def _only_op(self, call: ModuleCall) -> Op | None:
        """The op that a call of a childless wrapper consists of, if it is one op from its input to its output."""
        if call.last - call.first != 1 or call.execution is None or not call.tensor_out:
            return None
        op = self.record.ops[call.first]
        passed_on = all(v in call.inputs or v in self.record.constants for v in op.inputs)
        return op if op.call is call and passed_on and call.outputs == op.outputs[:1] else None

    def ancestors(self, value: int) -> int:
        made = self.record.producer.get(value)
        return 0 if made is None else self._ancestors[made.index]

    def descends(self, value: int, of: int) -> bool:
        """Whether `value` was computed from the value `of` (which may be an input of the model)."""
        if value == of:
            return True
        bits = self.ancestors(value)
        return any(bits >> op.index & 1 for op in self.consumers.get(of, ()))

    def ops_between(self, value: int, of: int) -> int:
        """The ops on the way from `of` to `value`, as bits."""
        below = 0
        for op in self.record.ops:
            if any(v == of or self._made_in(v, below) for v in op.inputs):
                below |= 1 << op.index
        return below & self.ancestors(value)

    def _made_in(self, value: int, bits: int) -> bool:
        made = self.record.producer.get(value)
        return made is not None and bool(bits >> made.index & 1)

    def dead_without(self, value: int, user: Op) -> list[Op]:
        """The ops whose work `user` alone needs, through its operand `value`."""
        dead: set[Op] = set()
        made = self.record.producer.get(value)
        outputs = set(self.record.outputs)
        queue = [made] if made is not None else []
        while queue:
            op = queue.pop()
            if op in dead or any(v in outputs for v in op.outputs):
                continue
            reads = [(c, v) for v in op.outputs for c in self.consumers.get(v, ()) if c is not op]
            if all(c in dead or (c is user and v == value) for c, v in reads):
                dead.add(op)
                queue.extend(m for v in op.inputs if (m := self.record.producer.get(v)) is not None)
        return list(dead)

    def changed_later(self, value: int) -> bool:
        return any(value in op.mutated for op in self.consumers.get(value, ()))

    def _graded(self) -> set[int]:
        """Values from which a gradient flows to an output."""
        graded = set(self.record.outputs)
        for op in reversed(self.record.ops):
            if (
                op.grad
                and any(v in graded for v in op.outputs)
                and op.dtype is not None
                and (op.dtype.is_floating_point or op.dtype.is_complex)
            ):
                graded.update(op.inputs)
        return graded


def _activation(op: Op, flow: _Flow, modules: dict[str, nn.Module]) -> "_Found | Left | None":
    name = ACTIVATIONS.get(op.func) or SOFTMAX.get(op.func) or op.name
    call = flow.lifted.get(op)
    execution, place = (call.execution, call.place) if call else (op.execution, op.place)
    assert execution is not None and place is not None
    path = execution.module
    if not op.in_shapes or not op.out_shapes or op.in_shapes[0] != op.out_shapes[0]:
        return Left(path, name, "its output has another shape than its input")
    if op.inputs[0] in flow.record.constants:
        return Left(path, name, "it works on a parameter, not on data")
    if execution.method == "<outside>":
        return Left(path, name, "it runs outside the model's own methods")
    gate = op.func not in ACTIVATIONS or _multiplies(op, flow)
    inplace = bool(op.mutated)
    return _Found(
        op.index, "gate" if gate else "activation", name, op.out_shapes[0], execution, place,
        call.module if call else None, op.outputs[0], op.inputs[0], None, 0, -1, inplace,
    )  # fmt: skip


def _multiplies(op: Op, flow: _Flow) -> bool:
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
            if reader.func in _MULS and len(reader.inputs) > 1:
                other = next((v for v in reader.inputs if v != value), value)
                if flow.ancestors(other) and not flow.descends(other, op.outputs[0]):
                    return True
            elif reader.name in _RESHAPES:
                values.extend(reader.outputs)
    return False


def _composed_activation(call: ModuleCall, flow: _Flow, modules: dict[str, nn.Module]) -> "_Found | None":
    """A childless module that computes a pointwise non-linearity from several ops (a tanh approximation of GELU)."""
    ops = flow.record.ops[call.first : call.last]
    if len(ops) < 2 or call.execution is None or not call.tensor_out or len(call.inputs) != 1:
        return None
    if call.in_shapes[0] != call.out_shapes[0] or any(modules[call.module].children()):
        return None
    if not all(op.name in _POINTWISE_NAMES or op.func in ACTIVATIONS for op in ops):
        return None
    if not any(op.name in _NONLINEAR_NAMES or op.func in ACTIVATIONS for op in ops):
        return None
    if any(op.params for op in ops) or call.mutates_input:
        return None
    assert call.place is not None
    name = type(modules[call.module]).__name__
    return _Found(
        ops[-1].index, "activation", name, call.out_shapes[0], call.execution, call.place, call.module,
        call.outputs[0], call.inputs[0], None, 0, -1, False,
    )  # fmt: skip


def _add(op: Op, flow: _Flow, modules: dict[str, nn.Module]) -> "list[_Found | Left]":
    call = flow.lifted.get(op)
    execution, place = (call.execution, call.place) if call else (op.execution, op.place)
    assert execution is not None and place is not None
    path = execution.module
    if len(op.inputs) != 2:
        return []  # a number is added
    a, b = op.inputs
    if op.in_shapes[0] != op.out_shapes[0] or op.in_shapes[1] != op.out_shapes[0]:
        return [Left(path, "add", "an operand is broadcast: its shape is not the result's")]
    if a == b:
        return [Left(path, "add", "both operands are the same value")]
    constant = [v in flow.record.constants for v in (a, b)]
    if any(constant):
        return [Left(path, "add", "an operand is a parameter or a buffer")]
    if not (op.dtype is not None and op.dtype.is_floating_point):
        return [Left(path, "add", "it adds integers")]
    if execution.method == "<outside>":
        return [Left(path, "add", "it runs outside the model's own methods")]
    if "alpha" in op.options or len([p for p in op.positional if p is not None]) > 0:
        return [Left(path, "add", "an operand is scaled by the add itself (alpha)")]
    shape, inplace = op.out_shapes[0], bool(op.mutated)
    module = call.module if call else None

    def found(kind: str, keep: int, drop: int, span: int) -> _Found:
        values = (a, b)
        return _Found(
            op.index, kind, "add", shape, execution, place, module, op.outputs[0], values[keep], values[drop],
            keep, drop, inplace, span,
        )  # fmt: skip

    for shortcut, residual in ((0, 1), (1, 0)):
        if flow.descends((a, b)[residual], (a, b)[shortcut]):
            way = flow.ops_between((a, b)[residual], (a, b)[shortcut])
            span = sum(
                1
                for o in flow.record.ops
                if way >> o.index & 1 and (o.func in ACTIVATIONS or o.func in _ADDS)
            )
            return [found("skip", residual, shortcut, span), found("branch", shortcut, residual, span)]
    if flow.ancestors(a) & flow.ancestors(b) or _share_input(a, b, flow):
        weights = [_weight_ops(flow.ancestors(v) & ~flow.ancestors(w), flow) for v, w in ((a, b), (b, a))]
        drop = 1 if weights[1] <= weights[0] else 0
        return [found("join", 1 - drop, drop, 0)]
    return [Left(path, "add", "its operands have no common ancestor")]


def _share_input(a: int, b: int, flow: _Flow) -> bool:
    return any(flow.descends(a, v) and flow.descends(b, v) for v in flow.record.inputs)


def _weight_ops(bits: int, flow: _Flow) -> int:
    return sum(1 for op in flow.record.ops if bits >> op.index & 1 and op.params)


def _concatenation(op: Op, flow: _Flow) -> Left | None:
    values = op.inputs
    for v in values:
        if any(w != v and flow.descends(w, v) for w in values):
            return Left(
                op.execution.module, "cat", "a concatenation skip: removing it would change the channel count"
            )
    return None


def _block(call: ModuleCall, flow: _Flow, modules: dict[str, nn.Module]) -> "_Found | Left | None":
    module = modules[call.module]
    children = call.scripted or any(module.children())
    if (
        call.execution is None
        or not children
        or type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    ):
        return None
    path, name = call.execution.module, type(module).__name__
    if call.scripted:
        return Left(call.module, name, "it is scripted: its ops cannot be seen")
    if not call.inputs or not call.outputs:
        return None
    if not call.tensor_out:
        return Left(path, name, "a module whose output is not one tensor cannot become an identity")
    if call.in_shapes[0] != call.out_shapes[0]:
        return Left(path, name, f"it changes the shape, {call.in_shapes[0]} to {call.out_shapes[0]}")
    if call.dtypes[0] != call.dtypes[1]:
        return Left(path, name, f"it changes the dtype, {call.dtypes[0]} to {call.dtypes[1]}")
    if any(shape == call.in_shapes[0] for shape in call.in_shapes[1:]):
        return Left(
            path, name, "it takes several tensors of the output's shape: no single input to stand in for it"
        )
    if call.inputs[0] == call.outputs[0]:
        return None  # it hands its input through already
    assert call.place is not None
    return _Found(
        call.last - 0.5, "block", name, call.out_shapes[0], call.execution, call.place, call.module,
        call.outputs[0], call.inputs[0], None, 0, -1, call.mutates_input,
    )  # fmt: skip


def _merge(found: list[_Found], flow: _Flow) -> list[Site]:
    """One Site for the same place in several executions of a container; numbered per container and kind."""
    groups: dict[tuple, list[_Found]] = {}
    for f in found:
        key = (f.execution.module, f.execution.entry, f.place, f.kind, f.drop, f.module)
        groups.setdefault(key, []).append(f)
    numbers: dict[tuple[str, str], int] = {}
    calls_of: dict[tuple, list[ModuleCall]] = {}
    for call in flow.record.calls:
        calls_of.setdefault((call.module, call.outputs), []).append(call)
    sites = []
    for (path, entry, place, kind, drop, module), group in groups.items():
        number = numbers.get((path, kind), 0)
        numbers[path, kind] = number + 1
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
            )
        )
    return sites


def _freed(group: list[_Found], flow: _Flow, calls_of: dict) -> tuple[int, int]:
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


def sites_of(model: nn.Module, example: Any) -> Sites:
    """Capture `model` on `example` and find every site. The model is left untouched."""
    return find(capture(model, example), modules=dict(model.named_modules()))
