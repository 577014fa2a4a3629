"""What each dimension of each tensor of a run is made of, and which parameters make and read it.

Widths are followed through archlab's own record of one run: every op has a rule (`rules`, `layer_rules`) that says what
its outputs' dimensions are made of, given its inputs'; see `axes`. Dimensions of parameters begin as axes of their own,
those of inputs and of constants are fixed. Where an op wants two dimensions equal, they are unified, so that in the end
an axis stands for everything that can only change together. An op without a rule freezes what goes through it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ...capture.example import tensors_in
from ...capture.record import Capture, Op
from .axes import Axis, Dims, Expr, fixed, freeze, is_fixed, leaves, unify


@dataclass(frozen=True)
class Use:
    """One call of an op, as a rule sees it."""

    flow: "Flow"
    op: Op
    name: str  # of the function, without underscores
    args: tuple
    kwargs: dict
    result: Any

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """The argument at a position, or of a name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def given(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        return tensors_in((self.args, self.kwargs))

    @property
    def made(self) -> list[Tensor]:
        """The tensors that the op made."""
        return tensors_in(self.result)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first tensor that it made."""
        return tuple(self.made[0].shape)

    @property
    def path(self) -> str:
        """Of the module that the op is, or in whose code it stands."""
        return self.op.call.module if self.op.call is not None else self.op.execution.module

    @property
    def why(self) -> str:
        """A reason for what this op cannot have changed."""
        return f"goes through {self.name} in {self.path or 'the model itself'}, where it cannot be followed"

    def dims(self, tensor: Tensor) -> Dims:
        """The dimensions of a tensor."""
        return self.flow.dims_of(tensor)

    def unify(self, a: Expr, b: Expr) -> None:
        """Say that both are the same channels."""
        unify(a, b, self.why)

    def freeze(self, exprs: Sequence[Expr], why: str = "") -> None:
        """Say that these must stay; by default because this op cannot be followed."""
        for expr in exprs:
            freeze(expr, why or self.why)

    def contracted(self, a: Tensor, dim_a: int, b: Tensor, dim_b: int) -> None:
        """Dimensions of `a` and `b` are multiplied and summed over: where one is a parameter's, it reads the other."""
        expr = self.dims(a)[dim_a]
        self.unify(expr, self.dims(b)[dim_b])
        self.reads(expr, b, dim_b) if b in self.flow.source else self.reads(expr, a, dim_a)

    def reads(self, expr: Expr, weight: Tensor, dim: int) -> None:
        """Say that `weight` multiplies these channels along its dimension `dim` and sums over them."""
        if weight in self.flow.source:
            name, order = self.flow.source[weight]
            self.flow.read.add((name, order[dim]))
            self.flow.copied |= {(name, d) for d in order if d != order[dim]}
        else:
            self.flow.unpreservable.append((expr, "is summed over by what is no parameter"))

    def copies(self, tensor: Tensor | None) -> None:
        """Say that this parameter has a number for each of its channels, which copies of a channel share."""
        if tensor is not None and tensor in self.flow.source:
            name, order = self.flow.source[tensor]
            self.flow.copied |= {(name, dim) for dim in order}

    def makes(self, expr: Expr, weight: Tensor | None = None) -> None:
        """The layer that this op is, or that holds the weight, makes these channels."""
        name = self.flow.source[weight][0] if weight is not None and weight in self.flow.source else None
        path = self.path if name is None else name.rpartition(".")[0]
        self.flow.makes.setdefault(path, []).append(expr)

    def numbers(self, weight: Tensor | None, **exprs: Any) -> None:
        """Attributes that the layer keeps beside its weights: of the module called, and of that which holds these."""
        paths = {self.path}
        if weight is not None and weight in self.flow.source:
            paths.add(self.flow.source[weight][0].rpartition(".")[0])
        for path in paths:
            self.flow.numbers.setdefault(path, {}).update(exprs)


@dataclass
class Trace:
    """What an op made: the dimensions of each output, and where slices begin in what it was given."""

    op: Op
    name: str
    given: list[Dims]
    made: list[Dims]
    starts: list[tuple[int, Expr]] = field(default_factory=list)  # (number of the index, what lies before it)


Rule = Callable[[Use], "list[Dims]"]


class Flow:
    """Follows a run as `capture`'s watcher."""

    def __init__(self, rules: dict[str, Rule]):
        self.rules = rules
        self.dims: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.source: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor -> the parameter it is, and its order of dims
        self.params: dict[str, Dims] = {}
        self.values: dict[int, Dims] = {}  # by number in the record
        self.traces: list[Trace] = []
        self.makes: dict[str, list[Expr]] = {}  # layer -> channels that it makes
        self.numbers: dict[str, dict[str, Any]] = {}  # module -> attribute -> what it counts
        self.read: set[tuple[str, int]] = set()  # (parameter, dimension) that are multiplied with channels and summed
        self.copied: set[tuple[str, int]] = set()  # that stand for channels
        self.unpreservable: list[tuple[Expr, str]] = []  # no copies of these channels leave the function as it is
        self.uniform: list[tuple[Expr, str]] = []  # only copies of all of them equally often do

    def dims_of(self, tensor: Tensor) -> Dims:
        """The dimensions of a tensor; of one that no op made, such as the input, they stay."""
        if tensor not in self.dims:
            self.dims[tensor] = [fixed(n, "is coupled with the input itself, or with a constant") for n in tensor.shape]
        return self.dims[tensor]

    def __call__(self, op: Op, args: tuple, kwargs: dict, result: Any) -> None:
        for tensor, name in zip(tensors_in((args, kwargs)), op.names, strict=True):
            if name is not None and tensor not in self.dims:
                if tensor.is_floating_point() or tensor.is_complex():
                    self.params.setdefault(name, [Axis(n) for n in tensor.shape])
                    self.dims[tensor] = self.params[name]
                    self.source[tensor] = (name, tuple(range(tensor.dim())))
        name = function_name(op)
        use = Use(self, op, name.strip("_"), args, kwargs, result)
        given = [self.dims_of(t) for t in use.given]
        trace = Trace(op, name, given, [])
        self.traces.append(trace)
        rule = self.rules.get(use.name)
        shapes = [list(t.shape) for t in use.made]
        try:
            trace.made = rule(use) if rule is not None else self.unknown(use)
        except Exception:  # arguments in a form that the rule does not know: as if there were none
            trace.made = []
        if [[e.size for e in dims] for dims in trace.made] != shapes:
            trace.made = self.unknown(use)
        for tensor, dims in zip(use.made, trace.made, strict=True):
            self.dims[tensor] = dims
        self.values |= dict(zip(op.outputs, trace.made, strict=False))

    def unknown(self, use: Use) -> list[Dims]:
        """What an op without a rule makes: nothing that can change, as nothing that it was given can."""
        given = [self.dims_of(tensor) for tensor in use.given]
        for dims in given:
            use.freeze(dims)
        for tensor in use.given:
            use.copies(tensor)
        why = use.why if any(is_fixed(e) for dims in given for e in dims) else ""
        return [[fixed(n, why or "is a constant of the code") for n in t.shape] for t in use.made]

    def held(self) -> dict[Axis, list[tuple[str, int]]]:
        """For each axis, the dimensions of parameters that it is a part of: (parameter, dimension)."""
        found: dict[Axis, list[tuple[str, int]]] = {}
        for name, dims in self.params.items():
            for dim, expr in enumerate(dims):
                for axis in dict.fromkeys(leaves(expr)):
                    found.setdefault(axis, []).append((name, dim))
        return found

    def close(self, record: Capture) -> None:
        """The model's outputs keep their channels."""
        assert len(self.traces) == len(record.ops), "each op has one trace"
        for value in record.outputs:
            made = record.producer.get(value)
            if value in self.values:
                found = [self.values[value]]
            else:
                found = self.traces[made.index].given if made is not None else []  # an alias of what was changed
            for expr in (expr for dims in found for expr in dims):
                freeze(expr, "makes the channels of the output")


def function_name(op: Op) -> str:
    """The name of an op's function; of a property that of the property."""
    name = getattr(op.func.__self__, "__name__", op.name) if op.name == "__get__" else op.name  # type: ignore[attr-defined]
    return name.partition(".")[0]  # an op of a library is named with its overload


def uncalled_layers(model: nn.Module, record: Capture) -> list[str]:
    """Paths of the modules with weights of their own that the run did not reach."""
    called, read = record.reached()
    held = {name.rpartition(".")[0] for name in read}
    weighty = {
        path for path, m in model.named_modules() if any(p is not None and p.dim() > 1 for p in m._parameters.values())
    }
    return [path for path, _ in model.named_modules() if path in weighty and path not in called and path not in held]
