"""Rules for what multiplies channels with weights, or with each other: layers, products of matrices, norms, gates."""

from typing import Any

from torch import Tensor

from .axes import Dims, Expr, factored, fixed, product, resolved, summed
from .flow import Use

KEPT = "is a position, no channel"


def linear(u: Use) -> list[Dims]:
    """``x @ weight.T + bias``."""
    x, weight, bias = u.get(0, "input"), u.get(1, "weight"), u.get(2, "bias")
    u.contracted(x, x.dim() - 1, weight, 1)
    out = u.dims(weight)[0]
    if bias is not None:
        u.unify(u.dims(bias)[0], out)
        u.copies(bias)
    u.makes(out, weight)
    u.numbers(weight, in_features=u.dims(x)[-1], out_features=out)
    return [[*u.dims(x)[:-1], out]]


def convolution(u: Use) -> list[Dims]:
    """A convolution of any rank, plain, grouped, depthwise or transposed."""
    transposed = "transpose" in u.name
    x, weight, bias = u.get(0, "input"), u.get(1, "weight"), u.get(2, "bias")
    groups = u.get(6, "groups", 1)
    at = x.dim() - weight.dim() + 1
    channels, spatial = u.dims(x)[at], u.dims(x)[at + 1 :]
    u.freeze([*spatial, *u.dims(weight)[2:]], KEPT)
    rows, columns = u.dims(weight)[:2]
    if transposed:
        out = _transposed(u, channels, x, at, weight, groups)
    elif groups == 1:
        u.contracted(x, at, weight, 1)
        out = rows
    else:
        apart, within = factored(channels, (groups, channels.size // groups), u.why)
        u.unify(within, columns)
        if columns.size > 1:
            u.reads(within, weight, 1)
        else:
            u.copies(weight)
        u.unify(apart, factored(rows, (groups, rows.size // groups), u.why)[0])
        out = rows
    if groups > 1:
        u.numbers(weight, groups=factored(channels, (groups, channels.size // groups), u.why)[0])
    if bias is not None:
        u.unify(u.dims(bias)[0], out)
        u.copies(bias)
    u.makes(out, weight)
    u.numbers(weight, in_channels=channels, out_channels=out)
    return [[*u.dims(x)[:at], out, *(fixed(n, KEPT) for n in u.shape[at + 1 :])]]


def _transposed(u: Use, channels: Expr, x: Tensor, at: int, weight: Tensor, groups: int) -> Expr:
    rows, columns = u.dims(weight)[:2]
    u.unify(channels, rows)
    apart, within = factored(channels, (groups, channels.size // groups), u.why)
    if within.size > 1:
        u.reads(within, weight, 0)
        if groups > 1:
            u.flow.unpreservable.append((apart, "is the number of groups of a transposed convolution"))
    else:
        u.copies(weight)
    return columns if groups == 1 else product([resolved(apart), resolved(columns)])


def deformable(u: Use) -> list[Dims]:
    """torchvision's deform_conv2d, whose offsets stay."""
    x, weight, bias = u.get(0, "input"), u.get(1, "weight"), u.get(4, "bias")
    u.freeze([e for t in u.given if t is not x and t is not weight and t is not bias for e in u.dims(t)])
    if weight.shape[1] != x.shape[1]:
        u.freeze([u.dims(x)[1], *u.dims(weight)])
    else:
        u.contracted(x, 1, weight, 1)
    out = u.dims(weight)[0]
    if bias is not None:
        u.unify(u.dims(bias)[0], out)
    u.makes(out, weight)
    u.numbers(weight, in_channels=u.dims(x)[1], out_channels=out)
    return [[u.dims(x)[0], out, *(fixed(n, KEPT) for n in u.shape[2:])]]


def embedding(u: Use) -> list[Dims]:
    """Rows of a table: their length may change, not their number."""
    index, weight = u.get(0, "input"), u.get(1, "weight")
    u.freeze([u.dims(weight)[0]], "is the number of entries of a table")
    out = u.dims(weight)[1]
    u.copies(weight)
    u.makes(out, weight)
    u.numbers(weight, embedding_dim=out)
    return [[*u.dims(index), out]]


def normalized(u: Use) -> list[Dims]:
    """Batch and instance norm: each channel by itself."""
    x = u.get(0, "input")
    channels = u.dims(x)[1]
    for tensor in u.given:
        if tensor is not x:
            u.unify(u.dims(tensor)[0], channels)
            u.copies(tensor)
    u.numbers(u.get(3, "weight"), num_features=channels)
    return [u.dims(x)]


def layer_norm(u: Use) -> list[Dims]:
    """Layer and RMS norm: over the last dimensions together."""
    x, shape = u.get(0, "input"), u.get(1, "normalized_shape")
    over = u.dims(x)[x.dim() - len(shape) :]
    u.flow.uniform += [(e, "is normalised over, and a norm sees copies") for e in over]
    for tensor in u.given[1:]:
        for mine, other in zip(u.dims(tensor), over, strict=True):
            u.unify(mine, other)
        u.copies(tensor)
    u.numbers(u.given[1] if len(u.given) > 1 else None, normalized_shape=list(over))
    return [u.dims(x)]


def group_norm(u: Use) -> list[Dims]:
    """The channels of each group together."""
    x, groups = u.get(0, "input"), u.get(1, "num_groups")
    channels = u.dims(x)[1]
    apart, within = factored(channels, (groups, channels.size // groups), u.why)
    u.freeze([apart], "is the number of groups of a norm")
    u.flow.uniform.append((within, "is normalised over, and a norm sees copies"))
    for tensor in u.given[1:]:
        u.unify(u.dims(tensor)[0], channels)
        u.copies(tensor)
    u.numbers(u.given[1] if len(u.given) > 1 else None, num_channels=channels)
    return [u.dims(x)]


def prelu(u: Use) -> list[Dims]:
    """One slope for all, or one a channel."""
    x, weight = u.get(0, "input"), u.get(1, "weight")
    if weight.numel() > 1:
        u.unify(u.dims(weight)[0], u.dims(x)[1])
        u.numbers(weight, num_parameters=u.dims(x)[1])
        u.copies(weight)
    return [u.dims(x)]


# --- products --------------------------------------------------------------------------------------


def matmul(u: Use) -> list[Dims]:
    """matmul, mm, bmm and mv."""
    return [product_of(u, u.get(0, "input"), u.get(1, "other", u.kwargs.get("mat2")))]


def product_of(u: Use, a: Tensor, b: Tensor) -> Dims:
    """What ``a @ b`` is made of."""
    inner = b.dim() - 2 if b.dim() > 1 else 0
    u.contracted(a, a.dim() - 1, b, inner)
    batch = together(u, [u.dims(a)[:-2], u.dims(b)[:-2]])
    rows = u.dims(a)[-2:-1] if a.dim() > 1 else []
    columns = u.dims(b)[-1:] if b.dim() > 1 else []
    if b in u.flow.source and columns:
        u.makes(columns[0], b)
    elif a in u.flow.source and rows:
        u.makes(rows[0], a)
    return [*batch, *rows, *columns]


def added_product(u: Use) -> list[Dims]:
    """addmm, baddbmm and the like."""
    bias, (a, b) = u.get(0, "input"), (u.get(n, f"mat{n}", u.kwargs.get(f"batch{n}")) for n in (1, 2))
    u.copies(bias)
    return [together(u, [u.dims(bias), product_of(u, a, b)])]


def together(u: Use, operands: list[Dims]) -> Dims:
    """The dimensions of what operands make element by element, with those of one position spread."""
    made: Dims = []
    for back in range(1, max(map(len, operands), default=0) + 1):
        here = [dims[-back] for dims in operands if len(dims) >= back]
        size = max((e.size for e in here if e.size != 1), default=1)
        whole = [e for e in here if e.size == size]
        u.freeze([e for e in here if e.size != size], "has one channel, which is spread over others")
        for other in whole[1:]:
            u.unify(whole[0], other)
        made.insert(0, whole[0] if whole else fixed(size, KEPT))
    return made


def einsum(u: Use) -> list[Dims]:
    """Any equation without an ellipsis: letters are dimensions."""
    equation, operands = u.args[0].replace(" ", ""), u.given
    left, _, right = equation.partition("->")
    if "..." in equation or not right:
        return u.flow.unknown(u)
    axes: dict[str, Expr] = {}
    for letters, tensor in zip(left.split(","), operands, strict=True):
        for letter, expr in zip(letters, u.dims(tensor), strict=True):
            u.unify(axes.setdefault(letter, expr), expr)
    for number, (letters, tensor) in enumerate(zip(left.split(","), operands, strict=True)):
        others = [t for n, t in enumerate(operands) if n != number]
        for at, letter in enumerate(letters):
            if letter in right:
                continue
            if tensor in u.flow.source:
                u.reads(axes[letter], tensor, at)
            elif not any(t in u.flow.source for t in others):
                u.flow.unpreservable.append((axes[letter], "is summed over by what is no parameter"))
        if tensor in u.flow.source:
            u.copies(tensor) if all(letter in right for letter in letters) else None
            for letter in letters:
                if letter in right and not any(letter in other for other in left.split(",") if other is not letters):
                    u.makes(axes[letter], tensor)
    return [[axes[letter] for letter in right]]


def attention(u: Use) -> list[Dims]:
    """scaled_dot_product_attention: heads may be fewer for keys and values than for queries."""
    q, k, v = (u.get(n, name) for n, name in enumerate(("query", "key", "value")))
    mask = u.get(3, "attn_mask")
    a, b, c = u.dims(q), u.dims(k), u.dims(v)
    u.unify(a[-1], b[-1])
    u.flow.unpreservable.append((a[-1], "is what queries and keys are compared by"))
    u.freeze([a[-2], b[-2]], KEPT)
    u.unify(b[-2], c[-2])
    for x, y, z in zip(a[:-2], b[:-2], c[:-2], strict=True):
        u.unify(y, z)
        if x.size != y.size and y.size > 1:
            x, _ = factored(x, (y.size, x.size // y.size), u.why)
            u.freeze([_], "is the number of queries that share a key")
        if x.size == y.size:
            u.unify(x, y)
    if mask is not None:
        together(u, [u.dims(mask), [*a[:-2], a[-2], b[-2]]])
    return [[*a[:-1], c[-1]]]


def multi_head_attention(u: Use) -> list[Dims]:
    """torch's own, in which heads and channels of the stream are one number."""
    q, k, v = u.args[:3]
    heads = u.get(4, "num_heads")
    stream = u.dims(q)[-1]
    apart, within = factored(stream, (heads, stream.size // heads), u.why)
    u.freeze([apart], f"is the number of heads of {u.path}")
    for tensor in (q, k, v):
        u.freeze(u.dims(tensor)[:-1], KEPT)
    u.flow.unpreservable.append((within, f"is what {u.path} compares queries and keys by"))
    packed, bias, out, out_bias = u.get(5, "w"), u.get(6, "b"), u.get(11, "out_proj_weight"), u.get(12, "out_proj_bias")
    separate = u.kwargs.get("use_separate_proj_weight", False)
    weights = [u.kwargs[f"{n}_proj_weight"] for n in "qkv"] if separate else [packed]
    for number, weight in enumerate(weights):
        if separate:
            u.unify(u.dims(weight)[0], stream)
        else:
            gate_rows(u, weight, 3, stream)
        u.unify(u.dims(weight)[1], u.dims((q, k, v)[number])[-1])
        u.reads(u.dims(weight)[1], weight, 1)
        u.makes(u.dims(weight)[0], weight)
    if not separate:
        u.unify(u.dims(k)[-1], stream)
        u.unify(u.dims(v)[-1], stream)
    if bias is not None:
        gate_rows(u, bias, 3, stream)
        u.copies(bias)
    for extra in (u.get(7, "bias_k"), u.get(8, "bias_v")):
        if extra is not None:
            u.unify(u.dims(extra)[-1], stream)
    u.unify(u.dims(out)[0], stream)
    u.unify(u.dims(out)[1], stream)
    u.reads(u.dims(out)[1], out, 1)
    if out_bias is not None:
        u.unify(u.dims(out_bias)[0], stream)
        u.copies(out_bias)
    u.makes(u.dims(out)[0], out)
    u.numbers(out, in_features=stream, out_features=stream)
    u.numbers(packed, embed_dim=stream, head_dim=within, kdim=u.dims(k)[-1], vdim=u.dims(v)[-1])
    return [u.dims(q), *([fixed(n, KEPT) for n in t.shape] for t in u.made[1:])]


# --- recurrent gates -------------------------------------------------------------------------------

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(u: Use) -> list[Dims]:
    """A recurrent layer over time: (input, state, weights, …); of packed sequences (data, sizes, state, weights, …)."""
    packed = isinstance(u.args[3], (list, tuple))
    x, state, weights = (u.args[0], *u.args[2:4]) if packed else u.args[:3]
    bias, layers = (u.args[4], u.args[5]) if packed else (u.args[3], u.args[4])
    both = u.args[8] if packed else u.args[7]
    each, directions = (4 if bias else 2), (2 if both else 1)
    if len(weights) != each * layers * directions:  # projections
        return u.flow.unknown(u)
    states = state if isinstance(state, (list, tuple)) else [state]
    hidden = u.dims(states[0])[-1]
    for other in states:
        u.unify(u.dims(other)[-1], hidden)
        u.freeze(u.dims(other)[:-1], KEPT)
    given = u.dims(x)[-1]
    for layer in range(layers):
        for direction in range(directions):
            start = (layer * directions + direction) * each
            cell_weights(u, given, hidden, weights[start : start + each], GATES[u.name])
        given = summed([resolved(hidden)] * directions)
    u.makes(hidden)
    u.numbers(weights[0], input_size=u.dims(x)[-1], hidden_size=hidden)
    return [
        [*(fixed(n, KEPT) for n in u.made[0].shape[:-1]), given],
        *([*(fixed(n, KEPT) for n in t.shape[:-1]), hidden] for t in u.made[1:]),
    ]


def gate_rows(u: Use, weight: Tensor, times: int, channels: Expr) -> None:
    """The rows of `weight` are those `channels`, several times one behind the other."""
    number, each = factored(u.dims(weight)[0], (times, channels.size), u.why)
    u.freeze([number], "is taken apart by index")
    u.unify(each, channels)


def cell_weights(u: Use, given: Expr, hidden: Expr, weights: Any, gates: int) -> None:
    """The weights of one layer of gates: of the input, of the state, and their biases."""
    for number, weight in enumerate(weights):
        gate_rows(u, weight, gates, hidden)
        if weight.dim() == 2:
            u.unify(u.dims(weight)[1], (given, hidden)[number])
            u.reads(u.dims(weight)[1], weight, 1)
        else:
            u.copies(weight)


def cell(u: Use) -> list[Dims]:
    """One step: (input, state, weights of the input, of the state, biases)."""
    x, state, *weights = u.args
    states = state if isinstance(state, (list, tuple)) else [state]
    hidden = u.dims(states[0])[-1]
    for other in states:
        u.unify(u.dims(other)[-1], hidden)
    cell_weights(u, u.dims(x)[-1], hidden, [w for w in weights if w is not None], GATES[u.name.removesuffix("_cell")])
    u.makes(hidden, weights[0])
    u.numbers(weights[0], input_size=u.dims(x)[-1], hidden_size=hidden)
    return [[*u.dims(x)[:-1], hidden] for _ in u.made]


LAYERS = {
    "linear": linear,
    **{f"conv{n}d": convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": convolution for n in (1, 2, 3)},
    "deform_conv2d": deformable,
    "embedding": embedding,
    **dict.fromkeys(("batch_norm", "instance_norm"), normalized),
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    "group_norm": group_norm,
    "prelu": prelu,
    **dict.fromkeys(("matmul", "bmm", "mm", "rmatmul", "mv"), matmul),
    **dict.fromkeys(("addmm", "baddbmm"), added_product),
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head_attention,
    **dict.fromkeys(GATES, recurrent),
    **{f"{name}_cell": cell for name in GATES},
}
