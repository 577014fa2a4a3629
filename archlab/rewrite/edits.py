"""What removing or switching one target means, on the call of an op or a module: for what is intercepted.

`graph_edits` does the same to a traced graph. Removing replaces the target's result by the operand that stays;
blending replaces it by a mixture of both. An op that works in place is edited as if it did not: its result stands for
its operand from then on, and is copied back where the operand came from outside.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.example import tensors_in
from ..capture.modes import under_autocast
from .blend import blend, damp, damp_into
from .target import GRAPH_ONLY, Blend, Edit, Freeze, Target


def perform(edit: Edit, owner: nn.Module, func: Callable, args: tuple, kwargs: dict) -> Any:
    """The edited result of ``func(*args, **kwargs)``, the op or call at the edit's target. ω is read from `owner`."""
    target, action = edit.target, edit.action
    assert not isinstance(action, GRAPH_ONLY), "only a graph can be wired otherwise"
    operands = tensors_in((args, kwargs))
    first = operands[0]
    omega = None
    if isinstance(action, Blend):
        omega = getattr(owner, action.omega)
    elif isinstance(action, Freeze):
        omega = action.omega
    if target.dropped is not None:
        a, b = operands
        kept = operands[target.kept]
        if omega is None:
            result = kept.to(first.dtype) if target.in_place else _recast(kept, target)
        elif target.in_place:
            a = a if kept is first else a.clone()  # it is overwritten below; the gradient of omega needs it as it was
            result = damp_into(first, a, b, omega, target.dropped)
        else:
            result = damp(a, b, omega, target.dropped)
    elif omega is None:
        result = _recast(first, target)
    else:
        x = first.clone() if target.in_place else first
        if target.in_place:
            args, kwargs = _swap(args, kwargs, first, x.clone())
        result = blend(func(*args, **kwargs), x, omega)
    if target.in_place and result is not first:
        return first.copy_(result)
    return result.clone() if target.changed_later and any(result is o for o in operands) else result


def recast(x: Tensor, dtype: torch.dtype, autocast: bool) -> Tensor:
    """`x`, which stays where an op is removed, in the `dtype` that the op was seen to give.

    Only where autocast is on or off as it was then: a model that ran under it may be moved to another dtype later.
    """
    return x.to(dtype) if under_autocast(x) == autocast else x


def _recast(kept: Tensor, target: Target) -> Tensor:
    return recast(kept, *target.recast) if target.recast else kept


def _swap(args: tuple, kwargs: dict, old: Tensor, new: Tensor) -> tuple[tuple, dict]:
    return tuple(new if a is old else a for a in args), {k: new if v is old else v for k, v in kwargs.items()}
