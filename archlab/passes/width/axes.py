"""What a tensor dimension is made of: axes, laid one behind the other (`Sum`) or nested in row-major order (`Product`).

The 96 channels behind a fused qkv layer are ``Product(3, 4 heads, 8)``, those behind a concatenation ``Sum(a, b)``.
Two dimensions that must stay equal are unified: an axis that is found to consist of others is replaced by these, in
all dimensions at once. What cannot be expressed so is frozen, with the reason.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


class Axis:
    """Positions that stand or fall by themselves. `now`: what it was found to be; `why`: the reason it must stay."""

    def __init__(self, size: int, why: str = ""):
        self.size, self.why = size, why
        self.now: Expr | None = None


@dataclass(frozen=True)
class Sum:
    """Parts one behind the other."""

    parts: "tuple[Expr, ...]"

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


@dataclass(frozen=True)
class Product:
    """Factors in row-major order: the last runs fastest."""

    factors: "tuple[Expr, ...]"

    @property
    def size(self) -> int:
        return math.prod(factor.size for factor in self.factors)


Expr = Axis | Sum | Product
Dims = list[Expr]


def fixed(size: int, why: str) -> Axis:
    """An axis that no layer made, and that nothing changes."""
    return Axis(size, why)


def resolved(expr: Expr) -> Expr:
    """`expr` in terms of what is known now: an `Axis` that is nothing else, or a flat `Sum` or `Product` of such."""
    if isinstance(expr, Axis):
        if expr.now is None:
            return expr
        expr.now = resolved(expr.now)
        return expr.now
    if isinstance(expr, Sum):
        return summed(map(resolved, expr.parts))
    return product(map(resolved, expr.factors))


def summed(parts: Iterable[Expr]) -> Expr:
    """The sum, flat and without empty parts."""
    flat: list[Expr] = []
    for part in parts:
        flat += part.parts if isinstance(part, Sum) else [part]
    flat = [part for part in flat if part.size]
    return flat[0] if len(flat) == 1 else Sum(tuple(flat)) if flat else fixed(0, "is empty")


def product(factors: Iterable[Expr]) -> Expr:
    """The product; factors of one position that cannot become more are left out."""
    flat: list[Expr] = []
    for factor in factors:
        flat += factor.factors if isinstance(factor, Product) else [factor]
    flat = [f for f in flat if not (f.size == 1 and isinstance(f, Axis) and f.why)] or flat[:1]
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def leaves(expr: Expr) -> Iterator[Axis]:
    """The axes that `expr` consists of, in order."""
    expr = resolved(expr)
    if isinstance(expr, Axis):
        yield expr
    else:
        for part in expr.parts if isinstance(expr, Sum) else expr.factors:
            yield from leaves(part)


def freeze(expr: Expr, why: str) -> None:
    """Say of all axes of `expr` why they must stay, where that is not said yet."""
    for axis in leaves(expr):
        axis.why = axis.why or why


def is_fixed(expr: Expr) -> bool:
    """Whether no axis of `expr` may change."""
    return all(axis.why for axis in leaves(expr))


def reason(expr: Expr) -> str:
    """Why `expr` must stay: of its innermost axis that must."""
    return next((axis.why for axis in reversed(list(leaves(expr))) if axis.why), "")


def unify(a: Expr, b: Expr, why: str) -> None:
    """From now on `a` and `b` are the same; where that cannot be said, both are frozen for the reason `why`."""
    a, b = resolved(a), resolved(b)
    if a is b:
        return
    if a.size != b.size:
        freeze(a, why)
        freeze(b, why)
    elif isinstance(a, Axis) and isinstance(b, Axis):
        b.why, a.now = b.why or a.why, b
    elif isinstance(a, Axis) or isinstance(b, Axis):
        axis, other = (a, b) if isinstance(a, Axis) else (b, a)
        assert isinstance(axis, Axis)
        if any(leaf is axis for leaf in leaves(other)):
            freeze(other, why)
            return
        if axis.why:
            freeze(other, axis.why)
        axis.now = other
    elif isinstance(a, Sum) or isinstance(b, Sum):
        for low, high in _pieces({*_starts(a), *_starts(b), a.size}):
            unify(piece(a, low, high, why), piece(b, low, high, why), why)
    else:
        sizes = _common([f.size for f in a.factors], [f.size for f in b.factors])
        if sizes is None:
            freeze(a, why)
            freeze(b, why)
            return
        for x, y in zip(factored(a, sizes, why), factored(b, sizes, why), strict=True):
            unify(x, y, why)


def _starts(expr: Expr) -> list[int]:
    parts = expr.parts if isinstance(expr, Sum) else (expr,)
    return [sum(p.size for p in parts[:n]) for n in range(len(parts))]


def _pieces(bounds: Iterable[int]) -> list[tuple[int, int]]:
    cuts = sorted(set(bounds))
    return list(pairwise(cuts))


def _common(a: Sequence[int], b: Sequence[int]) -> list[int] | None:
    """Sizes into which both factorisations can be split, from the right; None where they cross."""
    inner = sorted({math.prod(a[n:]) for n in range(len(a))} | {math.prod(b[n:]) for n in range(len(b))} | {1})
    if any(large % small for small, large in pairwise(inner)):
        return None
    return [large // small for small, large in pairwise(inner)][::-1]


def piece(expr: Expr, low: int, high: int, why: str) -> Expr:
    """The positions from `low` to `high` (exclusive). Axes that are cut become sums."""
    expr = resolved(expr)
    if (low, high) == (0, expr.size):
        return expr
    if isinstance(expr, Axis):
        if expr.why:
            return fixed(high - low, expr.why)
        parts = [Axis(low), Axis(high - low), Axis(expr.size - high)]
        expr.now = summed(parts)
        return parts[1]
    if isinstance(expr, Sum):
        found, start = [], 0
        for part in expr.parts:
            first, last = max(low - start, 0), min(high - start, part.size)
            if first < last:
                found.append(piece(part, first, last, why))
            start += part.size
        return summed(found)
    outer, inner = expr.factors[0], product(expr.factors[1:])
    share = inner.size
    if low // share == (high - 1) // share:  # within one position of the outermost factor
        freeze(outer, "is taken apart by index")
        return piece(inner, low % share, (high - 1) % share + 1, why)
    if low % share == 0 == high % share:
        return product([piece(outer, low // share, high // share, why), inner])
    freeze(expr, why)
    return fixed(high - low, why)


def factored(expr: Expr, sizes: Sequence[int], why: str) -> Dims:
    """`expr` as a product of factors of these sizes. Axes that are split become products."""
    found: Dims = []
    for size in reversed(sizes[1:]):
        expr, inner = _split(expr, size, why)
        found.append(inner)
    return [*reversed([*found, expr])][: len(sizes)] if sizes else []


def _split(expr: Expr, inner: int, why: str) -> tuple[Expr, Expr]:
    """`expr` as (what is outside, a factor of the size `inner`)."""
    expr = resolved(expr)
    outer = expr.size // inner
    if inner == 1:
        return expr, fixed(1, "is one position")
    if outer == 1:
        return fixed(1, "is one position"), expr
    if isinstance(expr, Axis) and not expr.why:
        a, b = Axis(outer), Axis(inner)
        expr.now = Product((a, b))
        return a, b
    if isinstance(expr, Product):
        *before, last = expr.factors
        if last.size == inner:
            return product(before), last
        if last.size < inner and inner % last.size == 0:
            out, within = _split(product(before), inner // last.size, why)
            return out, product([within, last])
        if last.size % inner == 0:
            out, within = _split(last, inner, why)
            return product([*before, out]), within
    if isinstance(expr, Sum) and all(part.size % inner == 0 for part in expr.parts):
        halves = [_split(part, inner, why) for part in expr.parts]
        for _, within in halves[1:]:
            unify(halves[0][1], within, why)
        return summed(resolved(out) for out, _ in halves), resolved(halves[0][1])
    freeze(expr, why)
    return fixed(outer, reason(expr)), fixed(inner, reason(expr))


def regrouped(dims: Dims, shape: Sequence[int], why: str) -> Dims:
    """What a tensor of `dims` is made of after a reshape to `shape`, in row-major order."""
    found: Dims = []
    old, new = list(dims), list(shape)
    while old or new:
        if old and new and old[0].size == new[0]:
            found.append(old.pop(0))
            new.pop(0)
            continue
        if new and new[0] == 1:
            found.append(fixed(new.pop(0), "is one position"))
            continue
        if old and old[0].size == 1:
            freeze(old.pop(0), "its one channel is taken away by a reshape")
            continue
        taken, sizes = [old.pop(0)], [new.pop(0)]
        while math.prod(e.size for e in taken) != math.prod(sizes):
            if math.prod(e.size for e in taken) < math.prod(sizes):
                taken.append(old.pop(0))
            else:
                sizes.append(new.pop(0))
        found += factored(product(resolved(e) for e in taken), sizes, why)
    return found


def size_with(expr: Expr, sizes: Mapping[Axis, int]) -> int:
    """The size of `expr` where axes have these sizes."""
    expr = resolved(expr)
    if isinstance(expr, Axis):
        return sizes.get(expr, expr.size)
    if isinstance(expr, Sum):
        return sum(size_with(part, sizes) for part in expr.parts)
    return math.prod(size_with(factor, sizes) for factor in expr.factors)


def positions(expr: Expr, kept: Mapping[Axis, Sequence[int]]) -> list[int]:
    """The old positions that the new ones of `expr` are made of, where axes are made of these."""
    expr = resolved(expr)
    if isinstance(expr, Axis):
        return list(kept.get(expr, range(expr.size)))
    found: list[int] = []
    if isinstance(expr, Sum):
        start = 0
        for part in expr.parts:
            found += [start + p for p in positions(part, kept)]
            start += part.size
        return found
    found = [0]
    for factor in expr.factors:
        inner = positions(factor, kept)
        found = [p * factor.size + q for p in found for q in inner]
    return found


def scaled_axes(expr: Expr, first: Collection[Axis] = ()) -> list[Axis]:
    """The free axes by which the size of `expr` is changed: of each product the innermost that is free, or one that is
    among the `first`."""
    expr = resolved(expr)
    if isinstance(expr, Axis):
        return [] if expr.why else [expr]
    if isinstance(expr, Sum):
        return list(dict.fromkeys(axis for part in expr.parts for axis in scaled_axes(part, first)))
    factors = sorted(reversed(expr.factors), key=lambda factor: not any(axis in first for axis in leaves(factor)))
    for factor in factors:
        found = scaled_axes(factor, first)
        if any(axis.size > 1 for axis in found):
            return found
    return []


def products(expr: Expr) -> list[list[Axis]]:
    """The axes of each product in `expr`, outermost first."""
    expr = resolved(expr)
    if isinstance(expr, Sum):
        return [found for part in expr.parts for found in products(part)]
    return [list(leaves(expr))] if isinstance(expr, Product) else []
