"""What removing or switching one target means, on the call of an op or a module: for what is intercepted.

`graph_edits` does the same to a traced graph. Removing replaces the target's result by the operand that stays;
blending replaces it by a mixture of both. An op that works in place is edited as if it did not: its result stands for
its operand from then on, and is copied back where the operand came from outside.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.example import tensors_in
from ..capture.modes import under_autocast
from .blend import blend, damp, narrowed, widened
from .target import GRAPH_ONLY, Blend, Edit, Freeze, Narrow, Remove, Target


def perform(edit: Edit, owner: nn.Module, func: Callable, args: tuple, kwargs: dict) -> Any:
    """The edited result of ``func(*args, **kwargs)``, the op or call at the edit's target. ω is read from `owner`."""
    target = edit.target
    assert not isinstance(edit.action, GRAPH_ONLY), "only a graph can be wired otherwise"
    assert target.source is None, "what stands is not at hand here"
    operands = tensors_in((args, kwargs))
    first = operands[0]
    omega = _omega(edit, owner)
    if edit.also:
        given: dict[int, Any] = {}
        for part in edit.parts:
            weight = _omega(part, owner)
            if weight is None:
                given |= dict.fromkeys(part.target.dropped, part.target.stand_in)
            else:
                given |= {k: damp(given.get(k, operands[k]), weight, part.target.part) for k in part.target.damped}
        rest = any(isinstance(part.action, Remove) for part in edit.parts)
        args, kwargs = _exchanged((args, kwargs), given)
        result = _rest_of(target, args, kwargs) if rest else func(*args, **kwargs)
    elif target.dropped and omega is not None:
        goes = target.in_place and 0 in target.damped  # it is overwritten below; the gradient of ω needs it as it was
        damped = {k: damp(first.clone() if goes else operands[k], omega, target.part) for k in target.damped}
        args, kwargs = _exchanged((args, kwargs), damped)
        result = func(*args, **kwargs)
    elif isinstance(edit.action, Narrow):
        assert isinstance(target.kept, int)
        positions, x = getattr(owner, edit.action.positions), operands[target.kept]
        args, kwargs = _exchanged((args, kwargs), {target.kept: narrowed(x, positions, edit.action.dim)})
        result = widened(func(*args, **kwargs), x, positions, edit.action.dim)
    elif omega is None:
        if isinstance(target.kept, int):
            kept = operands[target.kept]
        else:
            args, kwargs = _exchanged((args, kwargs), dict.fromkeys(target.dropped, target.stand_in))
            kept = target.kept(*args, **kwargs)
        result = kept.to(first.dtype) if target.in_place else _recast(kept, target)
    else:
        assert isinstance(target.kept, int)
        x = operands[target.kept]
        if target.in_place:
            x = x.clone()
            args, kwargs = _exchanged((args, kwargs), {0: first.clone()})
        dim = edit.action.dim if isinstance(edit.action, Blend) else None
        result = blend(func(*args, **kwargs), x, omega, dim)
    if target.in_place:
        return result if result is first else first.copy_(result)
    return result.clone() if target.changed_later and any(result is o for o in operands) else result


def _omega(edit: Edit, owner: nn.Module) -> Any:
    """By how much an edit blends; None where it removes."""
    if isinstance(edit.action, Blend):
        return getattr(owner, edit.action.omega)
    return edit.action.omega if isinstance(edit.action, Freeze) else None


def recast(x: Tensor, dtype: torch.dtype, autocast: bool) -> Tensor:
    """`x`, which stays where an op is removed, in the `dtype` that the op was seen to give.

    Only where autocast is on or off as it was then: a model that ran under it may be moved to another dtype later.
    """
    return x.to(dtype) if under_autocast(x) == autocast else x


def _rest_of(target: Target, args: tuple, kwargs: dict) -> Tensor:
    """What the op gives of the operands that are left."""
    assert callable(target.kept)
    return _recast(target.kept(*args, **kwargs), target)


def _recast(kept: Tensor, target: Target) -> Tensor:
    return recast(kept, *target.recast) if target.recast else kept


def _exchanged(arguments: tuple[tuple, dict], new: Mapping[int, Any]) -> tuple[tuple, dict]:
    """(args, kwargs) with other values in the place of the tensors of these numbers."""
    numbers = itertools.count()

    def mapped(value: Any) -> Any:
        if isinstance(value, Tensor):
            return new.get(next(numbers), value)
        if type(value) in (tuple, list):
            return type(value)(mapped(v) for v in value)
        return {k: mapped(v) for k, v in value.items()} if type(value) is dict else value

    return mapped(arguments)
