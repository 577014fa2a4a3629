"""The arithmetic of a switch: F(x) = (1 - w) A_o(x) + w A_t(x) (paper, eq. 3), for tensors of any dtype.

At w = 0 every function here returns the original's values exactly, at w = 1 the target's. w is a
0-d float32 tensor (or a number, for a switch that is frozen) and is cast to the dtype it meets.
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


def damp(kept: Tensor, dropped: Tensor, omega: Omega) -> Tensor:
    """``kept + (1 - omega) * dropped``: the add whose second operand is leaving."""
    share = 1 - omega
    if isinstance(share, Tensor):
        share = share.to(dropped.dtype)
    return kept + dropped * share


def damp_into(like: Tensor, kept: Tensor, dropped: Tensor, omega: Omega) -> Tensor:
    """`damp` for an add that worked in place on `like`: the result has its dtype, as there."""
    return damp(kept, dropped, omega).to(like.dtype)
