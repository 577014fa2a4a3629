"""The arithmetic of a switch: F(x) = (1 - w) A_o(x) + w A_t(x) (paper, eq. 3), for tensors of any dtype.

At w = 0 every function here returns the original's values exactly, at w = 1 the target's. w is a
0-d float32 tensor (or a number, for a switch that is frozen) and is cast to the dtype it meets.

Why `torch.lerp` for a ReLU as well: in `python -m studies.bench --only 'blend/*'` (its report is in reports/bench) no
rival gains on it, neither PReLU nor an autograd function that keeps a single tensor.
"""

import torch
from torch import Tensor

Omega = Tensor | float


def blend(original: Tensor, target: Tensor, omega: Omega) -> Tensor:
    """``(1 - omega) * original + omega * target`` in the dtype of `original`; both of one shape."""
    if target.dtype != original.dtype:
        target = target.to(original.dtype)
    if isinstance(omega, Tensor):
        omega = omega.to(original.dtype)
    return torch.lerp(original, target, omega)


def damp(a: Tensor, b: Tensor, omega: Omega, drop: int) -> Tensor:
    """``a + b`` with the leaving operand (number `drop`, 0 or 1) times ``1 - omega``.

    The operands keep their order: the layout of a sum in memory is that of its first operand, and kernels that come
    later may round otherwise on another.
    """
    share = 1 - omega
    if isinstance(share, Tensor):
        share = share.to((a, b)[drop].dtype)
    return a * share + b if drop == 0 else a + b * share


def damp_into(like: Tensor, a: Tensor, b: Tensor, omega: Omega, drop: int) -> Tensor:
    """`damp` for an add that worked in place on `like`: the result has its dtype, as there."""
    return damp(a, b, omega, drop).to(like.dtype)
