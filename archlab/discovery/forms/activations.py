"""Activations, however they are spelled: a function that is known as one, or several that together make one value of
each value (``x * sigmoid(x)``, ``where(x > 0, x, 0.1 * x)``, ``log1p(exp(x))``)."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ...capture.dataflow import RESHAPES, Flow
from ...capture.record import Op
from ...rewrite.target import issued
from ..kinds import Kind
from ..occurrence import FOREIGN, Found
from ..ops import ACTIVATIONS, CLOSING, LINEAR, MULS, NONLINEAR, POINTWISE, REDUCTIONS, SOFTMAX, plain_name
from ..site import Skipped

_MADE_OF_SHAPE = frozenset("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty".split())
_SCALES = frozenset("mul rmul imul multiply div divide truediv itruediv true_divide".split())
_BY_NUMBERS = _SCALES | frozenset("add radd iadd sub isub rsub neg negative".split())
_OFF_ZERO = 0.1  # a clamp to at least a smaller number than this keeps off zero, and is no activation
_FAR = 24  # so many pointwise ops are looked over for the other end of an activation


def known_activation(op: Op, flow: Flow) -> Found | Skipped:
    """What an op of `ACTIVATIONS` or `SOFTMAX` is."""
    name = ACTIVATIONS.get(op.func) or SOFTMAX[op.func]
    execution, _, module = issued(op, flow)
    if not op.in_shapes or not op.out_shapes or op.in_shapes[0] != op.out_shapes[0]:
        reason = "its output has another shape than its input"
    elif op.inputs[0] in flow.record.constants:
        reason = "it works on a parameter, not on data"
    elif op.mutated and op.mutated[0] != op.inputs[0]:
        reason = "it writes its result into another tensor that it is given (out=)"
    elif execution.method in FOREIGN:
        reason = FOREIGN[execution.method]
    else:
        gate = op.func in SOFTMAX or _multiplies(op, flow)
        late = name == "log_softmax"
        return Found(op.index, Kind.GATE if gate else Kind.ACTIVATION, name, op, late=late)
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


def spelled_activations(flow: Flow, inside: set[Op]) -> Iterator[Found | Skipped]:
    """Activations that are no known function. Ops in `inside` are parts of modules that are activations as a whole."""
    ways = _Ways(flow)
    taken = set(inside)
    # 1. Two ways round that meet again, the outermost first: they are one activation with all that lies on them.
    for op in reversed(flow.record.ops):
        root = ways.root.get(op)
        closing = plain_name(op.func) in CLOSING and sum(v in ways.given for v in op.inputs) > 1
        if op not in taken and root is not None and closing:
            last = ways.scaled(op)
            parts = ways.between(last, root)
            taken |= parts
            for item in _judged(last, root, parts, ways):
                # A product with itself is nothing without one of its factors; a sum may be a residual one.
                whole = isinstance(item, Found) and op.func in MULS
                yield replace(item, parts=frozenset(parts)) if whole else item
    # 2. Functions of one tensor, each with those that follow it directly.
    for op in flow.record.ops:
        if op in taken or plain_name(op.func) not in NONLINEAR:
            continue
        if op in ways.root:
            last, root = ways.followed(op, taken), ways.before(op)
            parts = ways.between(last, root)
            taken |= parts
            yield from _judged(last, root, parts, ways)
        elif ways.trained(op):
            execution, _, module = issued(op, flow)
            several = "it makes one map of several, or of another shape"
            reason = several if ways.data(op) else "it works on a parameter, not on data"
            yield Skipped(execution.module, plain_name(op.func), Kind.ACTIVATION, reason, module)


class _Ways:
    """For each pointwise op of a record, its root: the nearest value that all its data is made of, value by value."""

    def __init__(self, flow: Flow):
        self.flow = flow
        self.given = set(flow.record.inputs)  # and all that is computed from the inputs
        self.learned: set[int] = {v for v, name in flow.record.constants.items() if name in flow.record.params}
        for op in flow.record.ops:
            if plain_name(op.func) not in _MADE_OF_SHAPE and any(v in self.given for v in op.inputs):
                self.given.update(op.outputs)
            if any(v in self.learned for v in op.inputs):
                self.learned.update(op.outputs)
        self.root: dict[Op, int] = {}
        for op in flow.record.ops:
            root = self._root(op)
            if root is not None:
                self.root[op] = root

    def data(self, op: Op) -> dict[int, None]:
        """The operands of `op` that are computed from the model's inputs."""
        return dict.fromkeys(v for v in op.inputs if v in self.given)

    def trained(self, op: Op) -> bool:
        return any(v in self.learned for v in op.inputs)

    def _root(self, op: Op) -> int | None:
        known = op.func in ACTIVATIONS or plain_name(op.func) in POINTWISE | CLOSING
        data = self.data(op)
        if (
            not known
            or not data
            or any(shape != op.out_shapes[0] for shape, v in zip(op.in_shapes, op.inputs, strict=True) if v in data)
        ):
            return None
        first, *others = (self.line(v, op) for v in data)
        return next((v for v in first if all(v in other for other in others)), None)

    def line(self, value: int, op: Op) -> list[int]:
        """`value`, the root of the op that made it, the root of the one that made that: as far as `op` can see."""
        found = [value]
        while len(found) < _FAR:
            made = self.flow.record.producer.get(found[-1])
            if made not in self.root or issued(made, self.flow)[0] is not issued(op, self.flow)[0]:
                break
            found.append(self.root[made])
        return found

    def near(self, value: int) -> set[int]:
        """`value` and the data that it is made of by a few pointwise ops, broadcast or not."""
        found = {value}
        for _ in range(4):
            made = {self.flow.record.producer.get(v) for v in found} - {None}
            pointwise = [op for op in made if op is not None and plain_name(op.func) in POINTWISE | CLOSING]
            found |= {v for op in pointwise for v in self.data(op)}
        return found

    def between(self, op: Op, root: int) -> set[Op]:
        """The ops from the value `root` to `op`, and `op` itself."""
        found, open_ = {op}, [op]
        while open_:
            for value in self.data(open_.pop()):
                made = self.flow.record.producer.get(value)
                if value != root and made is not None and made not in found:
                    found.add(made)
                    open_.append(made)
        return found

    def before(self, op: Op) -> int:
        """What `op` works on, before that was negated, scaled or shifted by numbers for it alone."""
        root = self.root[op]
        while len(self.flow.consumers[root]) == 1 and root not in self.flow.record.outputs:
            made = self.flow.record.producer.get(root)
            if made not in self.root or len(made.inputs) > 1 or plain_name(made.func) not in _BY_NUMBERS:
                break
            if issued(made, self.flow)[0] is not issued(op, self.flow)[0]:
                break
            root = self.root[made]
        return root

    def scaled(self, op: Op) -> Op:
        """The last of the ops that scale what `op` makes by numbers, one behind another."""
        while (reader := self._only_reader(op)) is not None:
            if len(reader.inputs) > 1 or plain_name(reader.func) not in _SCALES:
                break
            op = reader
        return op

    def _only_reader(self, op: Op) -> Op | None:
        """The op that alone reads what `op` makes, where that is a pointwise one of the same code."""
        readers = self.flow.consumers.get(op.outputs[0], ())
        if len(readers) != 1 or op.outputs[0] in self.flow.record.outputs:
            return None
        (reader,) = readers
        same = self.root.get(reader) == op.outputs[0] and issued(reader, self.flow)[0] is issued(op, self.flow)[0]
        return reader if same else None

    def followed(self, op: Op, taken: Iterable[Op]) -> Op:
        """The last of the functions of one tensor that follow `op` one behind another, perhaps scaled in between."""
        last = op
        while (reader := self._only_reader(op)) is not None:
            name = plain_name(reader.func)
            if reader in taken or name not in POINTWISE or reader.func in ACTIVATIONS:
                break
            op = reader
            last = reader if name in NONLINEAR else last
        return last


def _judged(op: Op, root: int, parts: set[Op], ways: _Ways) -> Iterator[Found | Skipped]:
    """The function that `op` ends and `parts` make up, as a site or as skipped."""
    flow = ways.flow
    execution, _, module = issued(op, flow)
    if op.outputs[0] not in flow.graded:  # nothing that is learned depends on it
        return
    names = dict.fromkeys(
        ACTIVATIONS.get(o.func, plain_name(o.func))
        for o in sorted(parts, key=lambda o: o.index)
        if o.func in ACTIVATIONS or plain_name(o.func) not in LINEAR or o is op
    )
    inner = [name for name in names if name != plain_name(op.func)]
    name = f"{plain_name(op.func)}({'+'.join(inner)})" if inner else plain_name(op.func)
    reader = next(o for o in sorted(parts, key=lambda o: o.index) if root in o.inputs)
    kept = reader.inputs.index(root)
    if root in op.inputs:
        reader, kept = None, op.inputs.index(root)
    read = reader or op
    if not (op.dtype is not None and op.dtype.is_floating_point) or read.in_dtypes[kept] is not op.dtype:
        reason = "its output has another dtype than its input"
    elif execution.method in FOREIGN:
        reason = FOREIGN[execution.method]
    elif any(_keeps_off_zero(part) for part in parts):
        reason = "it keeps its input off zero, for a division or a logarithm"
    elif _normalizes(op, root, ways):
        reason = "a part of a norm or of shares: what it makes is summed up and divides again"
    elif _from_statistic(op, root, ways):
        reason = "it works on a statistic that scales a map"
    else:
        gate = _multiplies(op, flow)
        call = flow.lifted.get(op)
        within = call is not None and call.inputs != op.inputs
        yield Found(
            op.index,
            Kind.GATE if gate else Kind.ACTIVATION,
            name,
            op,
            kept=kept,
            reader=reader,
            late=True,
            inside=within,
        )
        return
    yield Skipped(execution.module, name, Kind.ACTIVATION, reason, module)


def _keeps_off_zero(op: Op) -> bool:
    if plain_name(op.func) not in ("clamp", "clip", "clamp_min", "maximum", "fmax"):
        return False
    numbers = [op.options.get("min"), *op.positional[1:2]]
    return any(isinstance(n, (int, float)) and not isinstance(n, bool) and 0 < n < _OFF_ZERO for n in numbers)


def _normalizes(op: Op, root: int, ways: _Ways) -> bool:
    """Whether what `op` makes, or its like, is summed up and put together again with what it was made of.

    A norm that only follows an activation is not its business, but an exponential that is divided by its own sum is.
    """
    flow, made_of = ways.flow, ways.near(root)
    shares = plain_name(op.func) in ("exp", "exp2")
    for total in _reach(op.outputs, flow, through=POINTWISE | RESHAPES, to=REDUCTIONS):
        for meeting in _reach(total.outputs, flow, through=POINTWISE | RESHAPES, to=POINTWISE):
            others = [v for v in ways.data(meeting) if not flow.descends(v, total.outputs[0])]
            others = [v for v in others if shares or not flow.descends(v, op.outputs[0])]
            if any(ways.near(v) & made_of for v in others):
                return True
    for meeting in _reach(op.outputs, flow, through=frozenset(), to=POINTWISE) if shares else ():
        made = [flow.record.producer.get(v) for v in ways.data(meeting)]
        totals = [o for o in made if o is not None and plain_name(o.func) in REDUCTIONS]
        if any(ways.near(v) & made_of for total in totals for v in total.inputs):
            return True
    return False


def _from_statistic(op: Op, root: int, ways: _Ways) -> bool:
    """Whether `root` is a mean or the like, and what `op` makes of it scales a larger map."""
    flow, value = ways.flow, root
    for _ in range(_FAR):
        made = flow.record.producer.get(value)
        if made is None or not made.inputs:
            return False
        if plain_name(made.func) in REDUCTIONS:
            break
        if plain_name(made.func) not in POINTWISE | RESHAPES or len(ways.data(made)) != 1:
            return False
        (value,) = ways.data(made)
    scalers = _reach(op.outputs, flow, through=POINTWISE | RESHAPES, to=POINTWISE)
    return any(len(ways.data(o)) > 1 and o.out_shapes[0] != op.out_shapes[0] for o in scalers)


def _reach(values: Iterable[int], flow: Flow, *, through: frozenset[str], to: frozenset[str]) -> Iterator[Op]:
    """The ops named in `to` that read one of `values` or what ops named in `through` make of them, not too far off."""
    open_, seen = list(values), set()
    while open_ and len(seen) < _FAR:
        value = open_.pop(0)
        for reader in flow.consumers.get(value, ()):
            if reader in seen:
                continue
            seen.add(reader)
            if plain_name(reader.func) in to:
                yield reader
            if plain_name(reader.func) in through or reader.name in through:
                open_.extend(reader.outputs)
