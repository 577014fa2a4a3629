"""Rules for what moves and joins elements: reshapes, slices, concatenations, shuffles."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .axes import Axis, Dims, Expr, factored, fixed, piece, product, regrouped, resolved, summed
from .flow import Rule, Use
from .layer_rules import KEPT, together

APART = "is taken apart by index"
SPREAD = "has one channel, which is spread over others"


def reshaped(u: Use) -> list[Dims]:
    """view, flatten and their like: the same elements in the same order, cut otherwise."""
    made = regrouped(u.dims(u.given[0]), u.shape, u.why)
    return [made]


def permuted(u: Use) -> list[Dims]:
    """Any function that only changes the order of dimensions: it is asked on a tensor whose sizes are all different."""
    x = u.given[0]
    probe = torch.empty(tuple(range(2, 2 + x.dim())), device="meta")
    others = tuple(a for a in u.args[1:])
    order = [n - 2 for n in u.op.func(probe, *others, **{k: v for k, v in u.kwargs.items() if v is not x}).shape]
    if x in u.flow.source:
        name, own = u.flow.source[x]
        u.flow.source[u.made[0]] = name, tuple(own[n] for n in order)
    return [[u.dims(x)[n] for n in order]]


def indexed(u: Use) -> list[Dims]:
    """``x[index]``, with numbers, slices, masks and tensors."""
    x, index = u.args
    return [_indexed(u, x, index if isinstance(index, tuple) else (index,), len(u.shape))]


def _indexed(u: Use, x: Tensor, index: tuple, count: int) -> Dims:
    taken = sum(
        i.dim() if isinstance(i, Tensor) and i.dtype == torch.bool else i is not None for i in index if i is not ...
    )
    if not any(i is ... for i in index):
        index = (*index, ...)
    made: Dims = []
    advanced: int | None = None
    dims = list(u.dims(x))
    for number, item in enumerate(index):
        if item is None:
            made.append(fixed(1, KEPT))
        elif item is ...:
            for _ in range(x.dim() - taken):
                made.append(dims.pop(0))
        elif isinstance(item, slice):
            made.append(_sliced(u, dims.pop(0), item, number))
        elif isinstance(item, int):
            u.freeze([dims.pop(0)], APART)
        else:  # a tensor or a list of positions
            size = item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1
            u.freeze([dims.pop(0) for _ in range(size)], APART)
            advanced = len(made) if advanced is None else advanced
    if advanced is not None:
        extra = count - len(made)
        tensors = [i for i in index if isinstance(i, Tensor)]
        one = u.dims(tensors[0]) if len(tensors) == 1 and tensors[0].dim() == extra else None
        made[advanced:advanced] = one or [fixed(n, KEPT) for n in u.shape[advanced : advanced + extra]]
    return made


def _sliced(u: Use, expr: Expr, item: slice, number: int) -> Expr:
    start, stop, step = item.indices(expr.size)
    if step == 1:
        if start > 0:
            u.flow.traces[-1].starts.append((number, piece(expr, 0, start, u.why)))
        return piece(expr, start, max(start, stop), u.why)
    if start < step and expr.size % step == 0 and len(range(start, stop, step)) == expr.size // step:
        outer, inner = factored(expr, (expr.size // step, step), u.why)
        u.freeze([inner], APART)
        return outer
    u.freeze([expr], APART)
    return fixed(len(range(start, stop, step)), APART)


def assigned(u: Use) -> list[Dims]:
    """``x[index] = value``."""
    x, index, value = u.args
    if isinstance(value, Tensor):
        index = index if isinstance(index, tuple) else (index,)
        part = _indexed(u, x, index, value.dim())
        together(u, [part, u.dims(value)])
    return [u.dims(x)] * len(u.made)


def narrowed(u: Use) -> list[Dims]:
    """A slice of one dimension by its beginning and length."""
    x, dim, start = u.given[0], u.get(1, "dim"), u.get(2, "start")
    dims = list(u.dims(x))
    if start > 0:
        u.flow.traces[-1].starts.append((-1, piece(dims[dim], 0, start, u.why)))
    dims[dim] = piece(dims[dim], start, start + u.shape[dim], u.why)
    return [dims]


def divided(u: Use) -> list[Dims]:
    """chunk, split and the like: parts one behind the other."""
    x, dim, start, found = u.given[0], u.get(2, "dim", 0), 0, []
    for part in u.made:
        dims = list(u.dims(x))
        dims[dim] = piece(dims[dim], start, start + part.shape[dim], u.why)
        start += part.shape[dim]
        found.append(dims)
    return found


def unbound(u: Use) -> list[Dims]:
    """unbind and select: one position of a dimension."""
    dims = list(u.dims(u.given[0]))
    u.freeze([dims.pop(u.get(1, "dim", 0))], APART)
    return [dims] * len(u.made)


def index_selected(u: Use) -> list[Dims]:
    """Positions of one dimension, named by a tensor."""
    dims, dim = list(u.dims(u.given[0])), u.get(1, "dim")
    u.freeze([dims[dim]], APART)
    dims[dim] = fixed(u.shape[dim], APART)
    return [dims]


def gathered(u: Use) -> list[Dims]:
    """Elements along one dimension, each named by an index."""
    x, dim, index = u.given[0], u.get(1, "dim"), u.get(2, "index")
    dim %= x.dim()
    u.freeze([u.dims(x)[dim]], APART)
    for n, (a, b) in enumerate(zip(u.dims(x), u.dims(index), strict=True)):
        if n != dim:
            u.unify(a, b)
    return [u.dims(index)]


def joined(u: Use) -> list[Dims]:
    """cat: parts one behind the other."""
    tensors, dim = u.get(0, "tensors"), u.get(1, "dim", u.kwargs.get("axis", 0))
    tensors = [t for t in tensors if t.dim() > 1 or t.numel() or t.dim() == len(u.shape)]
    for t in tensors:
        u.copies(t)
    dims = list(u.dims(tensors[0]))
    dim %= len(dims)
    for t in tensors[1:]:
        for n, (a, b) in enumerate(zip(dims, u.dims(t), strict=True)):
            if n != dim:
                u.unify(a, b)
    dims[dim] = summed(resolved(u.dims(t)[dim]) for t in tensors)
    return [dims]


def stacked(u: Use) -> list[Dims]:
    """Tensors of one shape along a new dimension."""
    tensors, dim = u.get(0, "tensors"), u.get(1, "dim", 0)
    made = list(together(u, [u.dims(t) for t in tensors]))
    made.insert(dim % (len(made) + 1), fixed(len(tensors), APART))
    return [made]


def spread(u: Use) -> list[Dims]:
    """expand: a position becomes several."""
    x, like = u.given[0], u.given[1:]
    u.copies(x)
    goal = u.dims(like[0]) if like else [Axis(n) if n > 1 else fixed(1, KEPT) for n in u.shape]
    dims = u.dims(x)
    lead = len(u.shape) - len(dims)
    made = list(goal)
    for n, expr in enumerate(dims):
        if expr.size == u.shape[lead + n]:
            if like:
                u.unify(expr, goal[lead + n])
            made[lead + n] = expr
        else:
            u.freeze([expr], SPREAD)
    return [made]


def repeated(u: Use) -> list[Dims]:
    """repeat and tile: the whole several times, one behind the other."""
    x = u.given[0]
    u.copies(x)
    dims = [fixed(1, KEPT)] * (len(u.shape) - x.dim()) + u.dims(x)
    made: Dims = []
    for expr, size in zip(dims, u.shape, strict=True):
        if size == expr.size:
            made.append(expr)
        elif expr.size == 1:
            u.freeze([expr], SPREAD)
            made.append(Axis(size))
        else:
            made.append(product([fixed(size // expr.size, APART), resolved(expr)]))
    return [made]


def interleaved(u: Use) -> list[Dims]:
    """repeat_interleave by one number."""
    x, dim = u.given[0], u.get(2, "dim")
    dims = list(u.dims(x))
    dims[dim] = product([resolved(dims[dim]), fixed(u.shape[dim] // dims[dim].size, APART)])
    return [dims]


def padded(u: Use) -> list[Dims]:
    """F.pad: zeros are a part before and behind that stays; for any other border the dimension stays."""
    x, pads = u.given[0], u.get(1, "pad")
    constant = u.get(2, "mode", "constant") == "constant"
    dims = list(u.dims(x))
    for n in range(len(pads) // 2):
        before, after, at = pads[2 * n], pads[2 * n + 1], len(dims) - 1 - n
        if before or after:
            if not constant or min(before, after) < 0:
                u.freeze([dims[at]])
                dims[at] = fixed(u.shape[at], KEPT)
            else:
                zeros = "is a number of zeros that the code pads with"
                dims[at] = summed([fixed(before, zeros), resolved(dims[at]), fixed(after, zeros)])
    return [dims]


def rolled(u: Use) -> list[Dims]:
    """Positions turned round along a dimension, which must stay."""
    x, dims = u.given[0], u.get(2, "dims", u.get(1, "dims"))
    u.freeze([u.dims(x)[d] for d in ([dims] if isinstance(dims, int) else dims)], APART)
    return [u.dims(x)]


def shuffled(u: Use) -> list[Dims]:
    """pixel_shuffle, pixel_unshuffle, channel_shuffle."""
    x, number = u.given[0], u.get(1, "factor", next(iter(u.kwargs.values()), None))
    dims = list(u.dims(x))
    at = 1 if u.name == "channel_shuffle" else x.dim() - 3
    if u.name == "pixel_shuffle":
        dims[at], within = factored(dims[at], (dims[at].size // number**2, number**2), u.why)
        u.freeze([within], "is what a pixel_shuffle makes one channel of")
    elif u.name == "pixel_unshuffle":
        dims[at] = product([resolved(dims[at]), fixed(number**2, APART)])
    else:
        a, b = factored(dims[at], (number, dims[at].size // number), u.why)
        dims[at] = product([resolved(b), resolved(a)])
    if u.name != "channel_shuffle":
        dims[at + 1 :] = [fixed(n, KEPT) for n in u.shape[at + 1 :]]
    return [dims]


def windows(u: Use) -> list[Dims]:
    """F.unfold makes columns of patches, Tensor.unfold a dimension of windows."""
    x = u.given[0]
    dims = list(u.dims(x))
    if u.op.func is F.unfold:
        inner = fixed(u.shape[-2] // x.shape[1], "is a position in a patch")
        return [[dims[0], product([resolved(dims[1]), inner]), fixed(u.shape[-1], KEPT)]]
    dim = u.get(1, "dimension") % x.dim()
    u.freeze([dims[dim]])
    dims[dim] = fixed(u.shape[dim], KEPT)
    return [[*dims, fixed(u.shape[-1], KEPT)]]


def patched(u: Use) -> list[Dims]:
    """F.fold."""
    dims = u.dims(u.given[0])
    made, inner = factored(dims[1], (u.shape[1], dims[1].size // u.shape[1]), u.why)
    u.freeze([inner], "is a position in a patch")
    return [[dims[0], made, *(fixed(n, KEPT) for n in u.shape[2:])]]


def outer(u: Use) -> list[Dims]:
    """Every element of one vector times every one of the other."""
    return [[*u.dims(u.given[0]), *u.dims(u.given[1])]]


def named(names: str, rule: Rule) -> dict[str, Rule]:
    """The same rule for several functions, by their names."""
    return dict.fromkeys(names.split(), rule)


MOVES: dict[str, Rule] = {
    **named("view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel", reshaped),
    **named("permute transpose movedim moveaxis swapaxes swapdims t T mT H mH adjoint", permuted),
    **named("getitem", indexed),
    **named("setitem", assigned),
    **named("narrow", narrowed),
    **named("chunk split tensor_split split_with_sizes unsafe_chunk unsafe_split", divided),
    **named("unbind select", unbound),
    **named("index_select", index_selected),
    **named("gather", gathered),
    **named("cat concat concatenate", joined),
    **named("stack", stacked),
    **named("expand expand_as broadcast_to", spread),
    **named("repeat tile", repeated),
    **named("repeat_interleave", interleaved),
    **named("pad", padded),
    **named("roll", rolled),
    **named("pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle", shuffled),
    **named("unfold im2col", windows),
    **named("fold col2im", patched),
    **named("outer ger", outer),
}  # fmt: skip
