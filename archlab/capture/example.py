"""An example says how a model is run once: a tensor, a tuple of arguments, a dict of keywords, or a `Call`."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..arguments import wrong


class Call:
    """An example that says how the model is run once: ``fn(model, *args, **kwargs)``.

    For models whose interesting method is not ``forward``:
    ``Call(lambda net, x: net.encode(x), image)``.
    """

    def __init__(self, fn: Callable, *args: Any, **kwargs: Any):
        if not callable(fn):
            raise TypeError(wrong("Call: fn", "a function of the model and the arguments behind it", fn))
        self.fn, self.args, self.kwargs = fn, args, kwargs


def run_example(model: nn.Module, example: Any) -> Any:
    """The output of `model` on `example`: a tensor, a tuple of arguments, a dict of keywords or a `Call`."""
    if isinstance(example, Call):
        return example.fn(model, *example.args, **example.kwargs)
    if isinstance(example, tuple):
        return model(*example)
    if isinstance(example, Mapping):
        return model(**example)
    return model(example)


def fresh(example: Any) -> Any:
    """`example` with copies of its tensors: a model may change what it is given. A tensor given twice stays one."""
    return _copied(example, lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad))


def cloned(example: Any) -> Any:
    """`fresh`, but gradients reach the tensors of `example` through the copies."""
    return _copied(example, Tensor.clone)


def _copied(example: Any, copy: Callable[[Tensor], Tensor]) -> Any:
    copies: dict[int, Tensor] = {}

    def copy_of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in copies:
            copies[id(leaf)] = copy(leaf)
        return copies[id(leaf)]

    return _mapped(copy_of, example)


def moved(example: Any, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Any:
    """`example` with its tensors on `device`; those of floating point also in `dtype`. Nothing is moved in place."""

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return _mapped(move, example)


def without_data(example: Any) -> bool:
    """Whether `example` has shapes alone: it holds tensors, and all are on the meta device."""
    tensors = tensors_given(example)
    return bool(tensors) and all(tensor.is_meta for tensor in tensors)


def varied(example: Any) -> Any:
    """`example` with noise in place of its floating-point tensors that hold one value: zeros hide much."""
    generator = torch.Generator().manual_seed(0)

    def vary(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.numel() < 2 or leaf.is_meta:
            return leaf
        if leaf.min() != leaf.max():
            return leaf
        return torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf)

    return _mapped(vary, example)


def _mapped(function: Callable[[Any], Any], example: Any) -> Any:
    if isinstance(example, Call):
        return Call(example.fn, *tree_map(function, example.args), **tree_map(function, example.kwargs))
    return tree_map(function, dict(example) if isinstance(example, Mapping) else example)


def tensors_given(example: Any) -> list[Tensor]:
    """The tensors of an example of any form, an `al.Call` among them."""
    return tensors_in((example.args, example.kwargs) if isinstance(example, Call) else example)


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists, dicts and objects (dataclasses, outputs of any class), in order."""
    found: list[Tensor] = []
    _collect(tree, found, set())
    return found


def _collect(tree: Any, found: list[Tensor], inside: set[int]) -> None:
    if isinstance(tree, Tensor):
        found.append(tree)
    elif id(tree) not in inside:  # an object may hold itself
        for item in parts_of(tree).values():
            _collect(item, found, inside | {id(tree)})


def parts_of(tree: Any) -> dict[Any, Any]:
    """What a tuple, a list, a dict or an object holds, by place or name; nothing for anything else."""
    if isinstance(tree, (tuple, list, deque)):
        return dict(enumerate(tree))
    if isinstance(tree, Mapping):
        return dict(tree)
    if hasattr(tree, "__dict__") and not isinstance(tree, (nn.Module, type)) and not callable(tree):
        return vars(tree)
    if not hasattr(type(tree), "__slots__") or isinstance(tree, (nn.Module, type)) or callable(tree):
        return {}
    slots = [given for cls in type(tree).__mro__ for given in (vars(cls).get("__slots__") or ())]
    return {name: getattr(tree, name) for name in slots if hasattr(tree, name)}
