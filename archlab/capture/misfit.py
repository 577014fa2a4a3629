"""A model that fails on its example: where in the model, and what about the example does not fit it."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..arguments import shown
from ..errors import add_note
from .example import Call, tensors_given, tensors_in
from .modes import failed_in

_FORMS = "a tensor, a tuple of arguments, a dict of keyword arguments, or an al.Call"


def refuse_half_without_data(model: nn.Module, example: Any) -> None:
    """Raise ValueError where the model is on the meta device and the example is not, or the other way round.

    Torch computes some ops so, and fails in others.
    """
    weights = [*model.parameters(), *model.buffers()]
    tensors = tensors_given(example)
    for tensor in tensors:
        if weights and all(weight.is_meta is not tensor.is_meta for weight in weights):
            raise ValueError(_elsewhere(weights[0], tensor))


@contextmanager
def misfits_told(model: nn.Module, example: Any, doing: str) -> Iterator[None]:
    """Say of what `model` raises on `example` while open where that was; `doing` says what archlab did.

    Raises:
        TypeError: the example, or something in it, is of another kind than models take.
        ValueError: the example is of another dtype or device than the model, or empty.
        RuntimeError: the model ends the program.
        What the model raises, with a note, where nothing is seen to be wrong with the example.
    """
    try:
        yield
    except Exception as error:
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in tensors_given(example))
        note = f"raised in {failed_in(error)}: {doing} on the example, {shapes or 'which holds no tensor'}"
        add_note(error, note)
        told = _misfit(model, example, error)
        if told is None:
            raise
        add_note(told, note)
        raise told from error
    except SystemExit as error:
        raise RuntimeError(f"the model ends the program: SystemExit({error.code!r}), in {failed_in(error)}") from error


def _misfit(model: nn.Module, example: Any, error: Exception) -> Exception | None:
    """The error that says what is wrong with the example, or None where that is not seen."""
    said = f"the model raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if isinstance(example, Call) and len(example.args) == 1 and not example.kwargs:
        (example,) = example.args  # what is handed on alone, which passes do with an example of any form
    given = _given(example)
    leaves = given if isinstance(given, (tuple, dict)) else (given,)
    arrays = [x for x in tree_leaves(leaves) if type(x).__module__ == "numpy" and getattr(x, "shape", ())]
    if arrays:
        return TypeError(f"example must hold tensors, got {shown(arrays[0])}; torch.from_numpy makes one of it. {said}")
    if not isinstance(example, Tensor | tuple | dict | Call) and not tensors_in(example):
        return TypeError(f"example must be {_FORMS}, got {shown(example)}. {said}")
    if isinstance(example, list) and isinstance(error, TypeError | AttributeError):
        return TypeError(
            f"example must be {_FORMS}, got a list, which is handed on as one argument; give a tuple of arguments. "
            + said
        )
    tensors = tensors_in(given)
    weights = [p for p in model.parameters() if p.is_floating_point()][:1]
    for weight, tensor in itertools.product(weights, tensors):
        if tensor.device != weight.device:
            return ValueError(f"{_elsewhere(weight, tensor)}. {said}")
        other = tensor.is_floating_point() and tensor.dtype is not weight.dtype
        if other or ("type" in str(error) and not tensor.is_floating_point() and not tensor.is_complex()):
            return ValueError(
                f"example must be of the model's dtype, {weight.dtype}, where it meets weights, got a tensor of "
                f"{tensor.dtype}; cast it with .to({weight.dtype}). {said}"
            )
    if not all(tensor.numel() for tensor in tensors):
        return ValueError(f"example must hold values, got an empty tensor; give a batch of one or more. {said}")
    return None


def _elsewhere(weight: Tensor, tensor: Tensor) -> str:
    device = str(weight.device)
    moved = f"move it with .to({device!r})" if not tensor.is_meta else "give one that holds values"
    return f"example must be on the model's device, {device}, got a tensor on {tensor.device}; {moved}"


def _given(example: Any) -> Any:
    return (example.args, example.kwargs) if isinstance(example, Call) else example
