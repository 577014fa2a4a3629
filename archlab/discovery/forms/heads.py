"""Heads of an attention: parts of what it weighs, each of which reaches its output through columns of its own."""

from collections.abc import Iterator

from ...capture.dataflow import RESHAPES, Flow
from ...capture.record import Op
from ...rewrite.target import issued
from ..kinds import Kind
from ..occurrence import FOREIGN, Found
from ..ops import HANDING_ON, POINTWISE, SOFTMAX, plain_name
from ..site import Skipped

_WHOLE = "multi_head_attention_forward"  # with its projections
_PRODUCTS = ("matmul", "bmm")
_LAYERS = frozenset("linear addmm conv1d conv2d matmul mm".split())
_BETWEEN = RESHAPES | HANDING_ON | POINTWISE | frozenset(
    "dropout getitem split chunk unbind cat layer_norm rms_norm mean rsqrt reshape masked_fill masked_fill_ where "
    "normalize repeat_interleave".split()
)  # fmt: skip


def heads_in(flow: Flow) -> Iterator[Found | Skipped]:
    """The heads of all attentions of a record, one behind the other."""
    for op in flow.record.ops:
        name = plain_name(op.func)
        if name == "scaled_dot_product_attention":
            yield from _heads(op, 2, flow)
        elif name == _WHOLE:
            yield from _heads_of_whole(op, flow)
        elif op.func in SOFTMAX and len(op.out_shapes[0]) == 4:
            product = _weighing(op, flow)
            if product is not None:
                yield from _heads(product, 1, flow)


def head_count(op: Op, number: int) -> int:
    """How many heads the values have that an attention weighs, its operand of this number."""
    return op.in_shapes[number][-3]


def repeats(value: int, flow: Flow) -> int:
    """How many queries share a head of these values, where the code repeats it for each."""
    made = flow.record.producer.get(value)
    if made is not None and made.name in RESHAPES | {"reshape"}:
        spread = flow.record.producer.get(made.inputs[0])
        shape = spread.in_shapes[0] if spread is not None and spread.name == "expand" else ()
        if spread is not None and len(shape) == 5 and shape[2] == 1:
            return spread.out_shapes[0][2]
    return 1


def of_head(group: list[Found], flow: Flow) -> tuple[int, int]:
    """How many parameters and multiply-adds go with a head: its share of the layers before and behind."""
    params: dict[str, int] = {}
    macs = 0
    for f in group:
        op, part = f.source, f.part
        assert isinstance(op, Op) and part is not None
        heads = op.in_shapes[f.damped[0]][part[0]] // (part[2] - part[1])
        whole = plain_name(op.func) == _WHOLE
        before, behind = ([op], []) if whole else (_nearest(op, flow, back=True), _nearest(op, flow, back=False))
        macs += sum(other.macs for other in {op, *before, *behind}) // heads
        for layer in (*before, *behind):
            for name, shape in zip(layer.names, layer.in_shapes, strict=True):
                added = len(shape) == 1 and (layer in behind or str(name).endswith("out_proj.bias"))
                if name in flow.record.params and not added:
                    params[name] = flow.record.params[name] // heads
    return sum(params.values()), macs


def _nearest(op: Op, flow: Flow, *, back: bool) -> list[Op]:
    """The layers that make what an attention is given, or read what it gives."""
    found, seen, open_ = [], {op}, [op]
    while open_:
        here = open_.pop()
        if back:
            near = [made for v in here.inputs if (made := flow.record.producer.get(v)) is not None]
        else:
            near = [reader for v in here.outputs for reader in flow.consumers.get(v, ())]
        for other in near:
            if other in seen:
                continue
            seen.add(other)
            if plain_name(other.func) in _LAYERS and other.params:
                found.append(other)
            elif plain_name(other.func) in (*_PRODUCTS, "einsum") and back:  # of queries and keys
                found.append(other)
                open_.append(other)
            elif plain_name(other.func) in _BETWEEN | _LAYERS or other.func in SOFTMAX:
                open_.append(other)
    return found


def _weighing(softmax: Op, flow: Flow) -> Op | None:
    """The product in which the shares that `softmax` makes weigh values."""
    values = list(softmax.outputs)
    while values:
        value = values.pop()
        for reader in flow.consumers.get(value, ()):
            name = plain_name(reader.func)
            if name in _PRODUCTS and len(reader.inputs) == 2 and reader.inputs[0] == value:
                return reader if len(reader.in_shapes[1]) == 4 else None
            if name in HANDING_ON or name == "dropout":
                values.extend(reader.outputs)
    return None


def _heads(op: Op, number: int, flow: Flow) -> Iterator[Found | Skipped]:
    execution, _, module = issued(op, flow, inside=True)
    if len(op.in_shapes[number]) != 4 or head_count(op, number) < 2:
        return
    if execution.method in FOREIGN:
        yield Skipped(execution.module, op.name, Kind.HEAD, FOREIGN[execution.method], module)
        return
    times = repeats(op.inputs[number], flow)
    for head in range(head_count(op, number) // times):
        part = (-3, head * times, (head + 1) * times)
        yield Found(op.index, Kind.HEAD, op.name, op, dropped=(number,), damped=(number,), part=part, inside=True)


def _heads_of_whole(op: Op, flow: Flow) -> Iterator[Found | Skipped]:
    """Those of torch's own, which is one function with its projections: columns of the last of these."""
    execution, _, module = issued(op, flow, inside=True)
    number = next((k for k, name in enumerate(op.names) if (name or "").endswith("out_proj.weight")), None)
    heads = op.positional[4] if len(op.positional) > 4 else op.options.get("num_heads")
    reason = ""
    if execution.method in FOREIGN:
        reason = FOREIGN[execution.method]
    elif number is None or not isinstance(heads, int):
        reason = "its last projection is no layer of its own"
    if reason:
        yield Skipped(execution.module, op.name, Kind.HEAD, reason, module)
        return
    assert number is not None and isinstance(heads, int)
    size = op.in_shapes[number][1] // heads
    for head in range(heads if heads > 1 else 0):
        part = (1, head * size, (head + 1) * size)
        yield Found(op.index, Kind.HEAD, op.name, op, dropped=(number,), damped=(number,), part=part, inside=True)
