"""What makes a training itself: its network, the weights it began with, its first batch, its loss and its options.

A folder that holds another training's checkpoint is refused, whichever of them differs. Floating-point numbers are
compared by a few sums, to five digits: a run that is gone on with on another machine, or with another number of
threads, may round the last bits of its data otherwise.
"""

import contextlib
import dataclasses
import dis
import functools
import hashlib
import itertools
import math
import re
import types
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..capture.copies import devices_of
from ..capture.modes import random_states_kept
from .checkpoint import BadCheckpoint, CheckpointMismatch
from .task import Task

DIGITS = 1e-5  # to which sums must agree
PERIOD = 1009  # of the weights in a sum that sees the order of numbers
CHUNK = 1 << 20  # numbers that are made float64 at once
SHOWN = 60  # characters of a value in an error, around where it differs


def start_of(model: nn.Module, task: Task, functions: Mapping[str, Any]) -> dict[str, Any]:
    """What a training of `model` begins with: fingerprints of each tensor of its state, of its first batch and of the
    functions that decide what is learned, by the names that they have for the user.

    The batch is made once more for it, with the global generators seeded and then put back.
    """
    with torch.no_grad(), random_states_kept(devices_of(model), seed=0):
        batch = fingerprint(task.batches(0))
    weights = {name: fingerprint(value) for name, value in _tensors(model.state_dict()).items()}
    return {**start_of_functions(functions), "weights": weights, "batch": batch}


def start_of_functions(functions: Mapping[str, Any]) -> dict[str, Any]:
    """The same of what has neither model nor batches: fingerprints of `functions` alone."""
    named = {name: fingerprint(function) for name, function in functions.items()}
    return {"weights": {}, "batch": fingerprint(None), "functions": named}


def difference_in_start(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str | None:
    """What differs between two of `start_of`, in words; None where nothing does.

    Raises:
        LookupError, TypeError, ValueError or AttributeError: `saved` is none.
    """
    for name in {**saved["weights"], **current["weights"]}:
        if not is_same(saved["weights"].get(name), current["weights"].get(name)):
            return f"it began with other weights ({name} differs; a network of random weights needs its seed again)"
    if not is_same(saved["batch"], current["batch"]):
        return "its first batch was another (batches(step) must return the same for the same step, in every process)"
    for name in {**saved["functions"], **current["functions"]}:
        if not is_same(saved["functions"].get(name), current["functions"].get(name)):
            return f"{name} is another function (its code, or a value that this closes over)"
    return None


def check_same(
    path: Path, saved: Mapping[str, Any], model: nn.Module, identity: Mapping[str, Any], start: Mapping[str, Any]
) -> None:
    """Check that a checkpoint is of a training of this network, with this identity and start.

    `model` may also be where the checkpoint left it, as it is when a loop calls again.

    Raises:
        CheckpointMismatch: naming the first difference.
        BadCheckpoint: it does not say what it began with.
    """
    state, before = _tensors(model.state_dict()), _tensors(saved["model"])
    difference = first_difference(signature(before), signature(state))
    difference = difference or first_difference(saved["identity"], identity)
    if not difference:
        try:
            if all(torch.equal(before[name], value.cpu()) for name, value in state.items()):
                start = {**start, "weights": saved["start"]["weights"]}
            difference = difference_in_start(saved["start"], start)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise BadCheckpoint(path, "its 'start' is not complete") from error
    if difference:
        raise CheckpointMismatch(path, difference)


def settings_of(name: str, settings: Mapping[str, Any] | None) -> dict[str, str]:
    """What the user says of a training, for its identity."""
    return {f"{name}[{key!r}]": repr(value) for key, value in (settings or {}).items()}


def signature(state: Mapping[str, Any]) -> dict[str, str]:
    """What makes two models take the same weights: the name, dtype and shape of every tensor of the state."""
    return {
        name: f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
        for name, value in _tensors(state).items()
    }


def modules_of(model: nn.Module) -> dict[str, str]:
    """The class of each module by its path, with the settings that it prints."""
    return {
        f"module {path or '(the model itself)'}": f"{type(module).__name__}({_no_address(module.extra_repr())})"
        for path, module in model.named_modules()
    }


def first_difference(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str | None:
    """Name the first key whose values differ, with both values; None where there is none."""
    for key in [*saved, *(key for key in current if key not in saved)]:
        before, now = saved.get(key, "absent"), current.get(key, "absent")
        if before != now:
            before, now = _where_they_differ(str(before), str(now))
            return f"{key} is {before} in the checkpoint and {now} here"
    return None


def fingerprint(value: Any) -> list[Any]:
    """What is in a batch, a tensor or a function, short, and as JSON can write it: a hash, then sums of each array."""
    exact, sums = hashlib.sha256(), []
    for part in _parts(value):
        if isinstance(part, Tensor):
            exact.update(f"{part.dtype}{tuple(part.shape)}".encode())
            sums += _sums(part)
        else:
            exact.update(part)
    return [exact.hexdigest()[:16], *sums]


def is_same(a: list[Any] | None, b: list[Any] | None) -> bool:
    """Whether two fingerprints are of the same value, to `DIGITS` of their sums."""
    if a is None or b is None or a[0] != b[0] or len(a) != len(b):
        return False
    pairs = zip(a[1:], b[1:], strict=True)
    return all(
        abs(x - y) <= DIGITS * max(size, other) if math.isfinite(x - y) else str(x) == str(y)
        for (x, size), (y, other) in pairs
    )


def _sums(tensor: Tensor) -> list[list[float]]:
    """Sums of the numbers, of their squares, and of the numbers times weights; each beside what it is compared to."""
    plain = squares = weighted = size = 0.0
    numbers = tensor.detach().resolve_conj()
    numbers = torch.view_as_real(numbers) if numbers.is_complex() else numbers
    for index, chunk in enumerate(numbers.reshape(-1).split(CHUNK)):
        chunk = chunk.cpu().double()
        weights = torch.arange(index * CHUNK, index * CHUNK + len(chunk)).remainder(PERIOD).double() / PERIOD
        plain += chunk.sum().item()
        squares += chunk.square().sum().item()
        weighted += (chunk * weights).sum().item()
        size += chunk.abs().sum().item()
    return [[plain, size], [squares, squares], [weighted, size]]


def _parts(value: Any, above: tuple[int, ...] = ()) -> Iterator[Tensor | bytes]:
    """The arrays of floating point in a value, and all the rest as bytes; `above` are the values that it lies in."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
        value = torch.from_numpy(value.astype(np.float64 if value.dtype.kind == "f" else np.complex128))
    if isinstance(value, Tensor):
        plain = value.layout is torch.strided and not value.is_quantized
        if plain and (value.is_floating_point() or value.is_complex()):
            yield value
        else:
            yield f"{value.dtype}{value.layout}{tuple(value.shape)}".encode()
            yield value.detach().cpu().numpy().tobytes() if plain else b""
    elif value is None or isinstance(value, str | bytes | bool | int | float | complex):
        yield f"{type(value).__name__} {value!r}".encode()
    elif id(value) in above:
        yield b"a value that it lies in"
    elif inside := _inside(value):
        yield type(value).__qualname__.encode()
        for name, item in inside.items():
            yield f"[{name!r}]".encode()
            yield from _parts(item, (*above, id(value)))
    else:  # of anything else, how it is told from others of its class is not known
        yield getattr(value, "__qualname__", type(value).__qualname__).encode()


def _inside(value: Any) -> Mapping[Any, Any] | None:
    """What a value consists of, by name or number, where that is known."""
    if isinstance(value, np.ndarray):
        numbers = value.tolist() if value.dtype.kind == "O" else value.tobytes()
        return {"dtype": str(value.dtype), "shape": value.shape, "numbers": numbers}
    if isinstance(value, Mapping):
        return value
    if isinstance(value, set | frozenset):
        return dict(enumerate(sorted(value, key=repr)))
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, functools.partial):
        return {"function": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, types.MethodType):
        return {"function": value.__func__, "self": _lasting(value.__self__)}
    if isinstance(value, types.FunctionType):
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return {
            "code": _code(value.__code__, but=value.__doc__),
            "defaults": [_lasting(default) for default in defaults],
            "around": _closed_over(value),
        }
    return None


def _code(code: types.CodeType, but: str | None = None) -> list[Any]:
    """What a function does, without where it stands and `but` for its docstring."""
    constants = [_code(c) if isinstance(c, types.CodeType) else c for c in code.co_consts if but is None or c != but]
    return [code.co_code, code.co_names, constants]


def _closed_over(function: types.FunctionType) -> dict[str, Any]:
    """What a function takes from around it and does not set itself, as a counter would be."""
    own = {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_DEREF"}
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not bound yet
            found[name] = None if name in own else _lasting(cell.cell_contents)
    return found


def _lasting(value: Any) -> Any:
    """`value`, or of one that may be filled while a training runs, as a list that is a log, its class."""
    return value if isinstance(value, Hashable | np.ndarray) else type(value)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _no_address(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _where_they_differ(before: str, now: str) -> tuple[str, str]:
    """Two values in words; of long ones, what stands around their first difference."""
    if max(len(before), len(now)) <= 2 * SHOWN:
        return before, now
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False))
    begin = max(0, sum(1 for _ in same) - SHOWN // 2)

    def around(text: str) -> str:
        return ("…" if begin else "") + text[begin : begin + SHOWN] + ("…" if len(text) > begin + SHOWN else "")

    return around(before), around(now)
