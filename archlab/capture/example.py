"""An example says how a model is run once: a tensor, a tuple of arguments, a dict of keywords, or a `Call`."""

import copy
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
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
    """`example` with copies of its tensors and of objects in it (a cache): a model may change what it is given. What is
    given twice stays one."""
    return _copied(example, lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad))


def cloned(example: Any) -> Any:
    """`fresh`, but gradients reach the tensors of `example` through the copies."""
    return _copied(example, Tensor.clone)


def _copied(example: Any, tensor_copied: Callable[[Tensor], Tensor]) -> Any:
    copies: dict[int, Any] = {}  # also what deepcopy knows of: of a cache the tensors are copied in the same way

    def copy_of(leaf: Any) -> Any:
        if id(leaf) in copies:
            return copies[id(leaf)]
        if isinstance(leaf, Tensor):
            copies[id(leaf)] = tensor_copied(leaf)
        elif is_plain_object(leaf) and not callable(leaf):
            for part in _inside(leaf):
                copies.setdefault(id(part), tensor_copied(part) if isinstance(part, Tensor) else part)
            return copied_or_same(leaf, copies)
        return copies.get(id(leaf), leaf)

    return _mapped(copy_of, example)


def copied_or_same(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy; of what cannot be copied, as a lock or a process group, the thing itself."""
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, RuntimeError):
        return value


def _inside(thing: Any) -> Iterator[Tensor | nn.Module]:
    """The tensors and modules that an object holds, however deep."""
    seen, left = set[int](), [thing]
    while left:
        part = left.pop()
        if isinstance(part, Tensor | nn.Module):
            yield part
        elif id(part) not in seen:
            seen.add(id(part))
            left += parts_of(part).values()


# Libraries whose objects change for reasons of their own, as loggers and locks do, or are no containers of state.
_NOT_LOOKED_INTO = {"torch", "numpy"} | set(sys.stdlib_module_names) - {"types", "argparse"}  # namespaces are theirs
_NO_OBJECTS = (nn.Module, Tensor, type, FunctionType, ModuleType, list, tuple, dict, set, frozenset, deque)


def is_plain_object(value: Any) -> bool:
    """Whether `value` is an object of somebody's own class with attributes, neither a module nor a container."""
    own = type(value).__module__.partition(".")[0] not in _NOT_LOOKED_INTO
    return own and not isinstance(value, _NO_OBJECTS) and isinstance(getattr(value, "__dict__", None), dict)


def moved(example: Any, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Any:
    """`example` with its tensors on `device`; those of floating point also in `dtype`. Nothing is moved in place."""

    def move(leaf: Tensor) -> Tensor:
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return _copied(example, move)


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
