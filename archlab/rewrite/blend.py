"""The arithmetic of a switch: F(x) = (1 - w) A_o(x) + w A_t(x) (paper, eq. 3), for tensors of any dtype.

At w = 0 every function here returns the original's values exactly, at w = 1 the target's. w is a
0-d float32 tensor (or a number, for a switch that is frozen) and is cast to the dtype it meets.

Why `torch.lerp` for a ReLU as well: in `python -m studies.bench --only 'blend/*'` (its report is in reports/bench) no
rival gains on it, neither PReLU nor an autograd function that keeps a single tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SWITCH_CODE = True  # what it computes is no part of the model itself: see `capture.frames`
Omega = Tensor | float


def blend(original: Tensor, target: Tensor, omega: Omega, dim: int | None = None) -> Tensor:
    """``(1 - omega) * original + omega * target`` in the dtype of `original`; both of one shape.

    With `dim`, omega has a number for each position along this dimension.
    """
    if target.dtype != original.dtype:
        target = target.to(original.dtype)
    if dim is not None and isinstance(omega, Tensor):
        omega = omega.reshape(-1, *[1] * (original.dim() - dim % original.dim() - 1))
    if original.is_complex():  # a complex weight would get a complex gradient
        return original * _real(1 - omega, original) + target * _real(omega, original)
    if isinstance(omega, Tensor):
        omega = omega.to(original.dtype)
    return torch.lerp(original, target, omega)


def damp(x: Tensor, omega: Omega, part: tuple[int, int, int] | None = None) -> Tensor:
    """``(1 - omega) * x`` in the dtype of `x`, or so a `part` of it (dimension, from, to): what goes of a sum, on its
    way in.

    The sum itself runs as it did, so that rounding and the layout in memory are the original's.
    """
    if part is None:
        return x * _real(1 - omega, x)
    dim, start, stop = part
    shape = [x.shape[dim] if n == dim % x.dim() else 1 for n in range(x.dim())]
    here = torch.zeros(shape, device=x.device)
    here.narrow(dim, start, stop - start).fill_(1)
    return x * _real(1 - omega * here, x)


def narrowed(x: Tensor, positions: Tensor, dim: int) -> Tensor:
    """A copy of `x` at these positions along a dimension: what a function that works on some channels is given."""
    return x.index_select(dim, positions)


def widened(some: Tensor, x: Tensor, positions: Tensor, dim: int) -> Tensor:
    """What such a function makes, `some`, in place of these positions of `x`; in the dtype of `some`."""
    return x.to(some.dtype).index_copy(dim, positions, some)


def _real(factor: Omega, x: Tensor) -> Omega:
    """`factor` in the dtype of `x`, where that is real."""
    return factor.to(x.dtype) if isinstance(factor, Tensor) and not x.is_complex() else factor


@dataclass(frozen=True)
class Sum:
    """A function whose value is the sum of two terms, each of which may go.

    `terms` says which of its tensor operands each term has for itself; the first of a term's is the one to damp, as the
    function is linear in it. `rest` says what the function gives without a term: the operand of this number, or a
    function of all its arguments, None standing for the operands of the term that has gone.
    """

    terms: tuple[tuple[int, ...], tuple[int, ...]]
    rest: tuple[int | Callable[..., Tensor], int | Callable[..., Tensor]]


def _second_of_add(input, other, *, alpha=1):
    return other * alpha


def _second_of_sub(input, other, *, alpha=1):
    return other * -alpha


def _first_of_rsub(input, other, *, alpha=1):
    return input * -alpha


def _product(input, tensor1, tensor2, *, value=1):
    return tensor1 * tensor2 * value


def _quotient(input, tensor1, tensor2, *, value=1):
    return tensor1 / tensor2 * value


def _start(input, end, weight):
    return input * (1 - weight)


def _end(input, end, weight):
    return end * weight


def _input(input, left, right, *, beta=1, alpha=1):
    return input if beta == 1 else input * beta


def _matrix_product(input, left, right, *, beta=1, alpha=1):
    return torch.matmul(left, right) * alpha


SUMS = {
    "add": Sum(((0,), (1,)), (1, 0)),
    "add scaled": Sum(((0,), (1,)), (_second_of_add, 0)),
    "sub": Sum(((0,), (1,)), (_second_of_sub, 0)),
    "rsub": Sum(((0,), (1,)), (1, _first_of_rsub)),
    "addcmul": Sum(((0,), (1, 2)), (_product, 0)),
    "addcdiv": Sum(((0,), (1, 2)), (_quotient, 0)),
    "lerp": Sum(((0,), (1,)), (_end, _start)),
    "addmm": Sum(((0,), (1, 2)), (_matrix_product, _input)),
    "baddbmm": Sum(((0,), (1, 2)), (_matrix_product, _input)),
}


def rest_of_stack(tensors: Sequence[Tensor | None], dim: int = 0) -> Tensor:
    """A stack in which zeros stand for the operands that are None: its sum or mean is that of the others."""
    like = next(t for t in tensors if t is not None)
    return torch.stack([torch.zeros_like(like) if t is None else t for t in tensors], dim)


def rest_of_cat(tensors: Sequence[Tensor | int | None], dim: int = 0, axis: int | None = None) -> Tensor:
    """A concatenation without the operands that are None, and with so many zeros in place of those that are numbers."""
    along = dim if axis is None else axis
    like = next(t for t in tensors if isinstance(t, Tensor))
    whole = [_zeros(t, like, along) if isinstance(t, int) else t for t in tensors if t is not None]
    return like if len(whole) == 1 else torch.cat(whole, along)


def rest_of_hstack(tensors: Sequence[Tensor | int | None]) -> Tensor:
    """The same of an hstack of matrices, or of what has more dimensions."""
    return rest_of_cat(tensors, 1)


def _zeros(number: int, like: Tensor, along: int) -> Tensor:
    shape = list(like.shape)
    shape[along] = number
    return like.new_zeros(shape)
