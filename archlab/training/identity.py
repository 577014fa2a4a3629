"""What makes a training itself: its network, the weights it began with, its first batch, its loss and its options.

A folder that holds another training's checkpoint is refused, whichever of them differs. Floating-point numbers are
compared by a few sums, to five digits: a run that is gone on with on another machine, or with another number of
threads, may round the last bits of its data otherwise.

Of the user's own code, all that a function or a module reaches by name counts: what it closes over, globals, helpers,
attributes. Not what it sets itself while it runs, as a counter or a log, and not the code of installed packages.
"""

import contextlib
import dataclasses
import dis
import functools
import hashlib
import inspect
import itertools
import math
import re
import sys
import sysconfig
import types
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from ..capture.copies import devices_of
from ..capture.frames import is_library
from ..capture.modes import random_states_kept
from .checkpoint import BadCheckpoint, CheckpointMismatch, unsaved_buffers
from .task import Task

DIGITS = 1e-5  # to which sums must agree
PERIOD = 1009  # of the weights in a sum that sees the order of numbers
CHUNK = 1 << 20  # numbers that are made float64 at once
SHOWN = 60  # characters of a value in an error, around where it differs
# What a function that fills a list, a dict or a set calls.
FILLING = {"add", "append", "clear", "extend", "insert", "pop", "popleft", "remove", "setdefault", "update"}
SUBSCRIPTS = ("STORE_SUBSCR", "DELETE_SUBSCR")
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def start_of(model: nn.Module, task: Task, functions: Mapping[str, Any]) -> dict[str, Any]:
    """What a training of `model` begins with: fingerprints of each tensor of its state, of its first batch and of the
    functions that decide what is learned, by the names that they have for the user.

    The batch is made once more for it, with the global generators seeded and then put back.
    """
    with torch.no_grad(), random_states_kept(devices_of(model), seed=0):
        batch = fingerprint(task.batches(0))
    weights = {name: fingerprint(value) for name, value in _state(model).items()}
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
            return f"{name} is another function (its code, or a function or value that this takes from around it)"
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
    """The class of each module by its path, with the settings that it prints; of those that the user wrote, attributes
    and code, too."""
    classes = {type(module) for module in model.modules()}
    codes = {cls: [f"code {fingerprint(_methods(cls))[0]}"] if _is_users(cls) else [] for cls in classes}
    found = {}
    for path, module in model.named_modules():
        cls, told = type(module), [_no_address(module.extra_repr())]
        if codes[cls] or isinstance(module, _Loss):  # of torch's losses nothing is printed
            told += [f"{name}={value!r}" for name, value in _attributes(module).items() if _is_plain(value)]
        told = [*filter(None, told), *codes[cls]]
        found[f"module {path or '(the model itself)'}"] = f"{cls.__name__}({', '.join(told)})"
    return found


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
    for part in _parts(value, (), set()):
        if isinstance(part, Tensor):
            exact.update(f"{part.dtype}{tuple(part.shape)}".encode())
            sums += _sums(part)
        else:
            exact.update(part)
    return [exact.hexdigest()[:16], *sums]


def brief(value: Any) -> str:
    """A fingerprint as one word, for a setting: another machine may round the last digits of its sums otherwise."""
    exact, *sums = fingerprint(value)
    return " ".join([exact, *(f"{number:.3g}" for number, _ in sums)])


def weights_of(model: nn.Module) -> str:
    """A hash of all numbers in the state of a model, to the bit."""
    exact = hashlib.sha256()
    for name, value in _state(model).items():
        exact.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if _has_plain_values(value):
            exact.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return exact.hexdigest()[:16]


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


def _parts(value: Any, above: tuple[int, ...], met: set[int]) -> Iterator[Tensor | bytes]:
    """The arrays of floating point in a value, and all the rest as bytes.

    `above` are the values that it lies in, `met` the functions and objects that were told before, which many may reach.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
        value = torch.from_numpy(value.astype(np.float64 if value.dtype.kind == "f" else np.complex128))
    if isinstance(value, Tensor):
        plain = _has_plain_values(value)
        if plain and (value.is_floating_point() or value.is_complex()):
            yield value
        else:
            yield f"{value.dtype}{value.layout}{tuple(value.shape)}".encode()
            yield value.detach().cpu().numpy().tobytes() if plain else b""
    elif _is_plain(value):
        yield f"{type(value).__name__} {value!r}".encode()
    elif id(value) in above or id(value) in met:
        yield b"a value that was told before"
    elif inside := _inside(value):
        yield type(value).__qualname__.encode()
        if _is_users(value) or _is_users(type(value)):
            met.add(id(value))
        for name, item in inside.items():
            yield f"[{name!r}]".encode()
            yield from _parts(item, (*above, id(value)), met)
    else:  # of anything else, how it is told from others of its class is not known
        yield getattr(value, "__qualname__", type(value).__qualname__).encode()


def _has_plain_values(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor can be read as they are; on the meta device it has none."""
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


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
        return {"function": value.__func__, "self": value.__self__}
    if isinstance(value, types.FunctionType):
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        around = {**dict(enumerate(defaults)), **_closed_over(value), **(_globals(value) if _is_users(value) else {})}
        return {"code": _code(value.__code__, but=value.__doc__), "around": _lasting(around, [value])}
    if isinstance(value, nn.Module):  # a teacher, say; what is in training may be trained beside
        learns = value.training and any(parameter.requires_grad for parameter in value.parameters())
        return {"modules": modules_of(value), "state": {} if learns else _tensors(value.state_dict())}
    if isinstance(value, type):
        return {"name": value.__qualname__, "methods": _methods(value)} if _is_users(value) else None
    return {"class": type(value), **_attributes(value)} if _is_users(type(value)) else None


def _code(code: types.CodeType, but: str | None = None) -> list[Any]:
    """What a function does, without where it stands and `but` for its docstring."""
    constants = [_code(c) if isinstance(c, types.CodeType) else c for c in code.co_consts if but is None or c != but]
    return [code.co_code, code.co_names, constants]


def _closed_over(function: types.FunctionType) -> dict[str, Any]:
    """What a function closes over and does not set itself, as a counter would be."""
    own = _names(function, "STORE_DEREF")
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not bound yet
            found[name] = None if name in own else cell.cell_contents
    return found


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """What a function takes from its module, as `_closed_over` does; of what is not the user's, the name."""
    taken = _names(function, "LOAD_GLOBAL", "LOAD_NAME") - _names(function, "STORE_GLOBAL")
    found = {name: function.__globals__[name] for name in sorted(taken) if name in function.__globals__}
    functions = types.FunctionType, type
    return {
        name: value.__qualname__ if isinstance(value, functions) and not _is_users(value) else value
        for name, value in found.items()
        if not isinstance(value, types.ModuleType)
    }


def _attributes(value: Any) -> dict[str, Any]:
    """What an object keeps, but for what the user's methods set while it runs."""
    methods = _methods(type(value))
    later = {"training"}.union(*(_names(way, "STORE_ATTR") for name, way in methods.items() if name != "__init__"))
    kept = getattr(value, "__dict__", {}).items()
    return _lasting({n: item for n, item in kept if n not in later and not n.startswith("_")}, methods.values())


def _methods(cls: type) -> dict[str, types.FunctionType]:
    """The functions of the classes that are the user's own, of `cls` and those it is derived from."""
    found = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items() if _is_users(base) else ():
            function = inspect.unwrap(getattr(value, "fget", None) or getattr(value, "__func__", value))
            if isinstance(function, types.FunctionType) and _is_users(function):
                found[name] = function
    return found


def _is_users(value: Any) -> bool:
    """Whether a function or a class is the user's own code, and not that of an installed package."""
    if isinstance(value, types.FunctionType):
        file = value.__code__.co_filename
    elif isinstance(value, type):
        module = sys.modules.get(value.__module__)
        if value.__module__ == "__main__" or module is None:
            return True
        file = getattr(module, "__file__", None) or ""
    else:
        return False
    return bool(file) and not file.startswith((*INSTALLED, "<eval_with_key>")) and not is_library(file)


def _names(function: types.FunctionType, *ops: str) -> set[str]:
    """The names that instructions of a function have, and of those within it."""
    return {name for code in _codes(function.__code__) for op, name in _steps(code) if op in ops}


@functools.lru_cache(4096)  # a class of modules may have thousands of them
def _steps(code: types.CodeType) -> list[tuple[str, Any]]:
    """The instructions that name something, and those that fill a container."""
    named = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", *SUBSCRIPTS)
    return [(step.opname, step.argval) for step in dis.get_instructions(code) if step.opname in named]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _lasting(values: Mapping[str, Any], functions: Iterable[types.FunctionType]) -> dict[str, Any]:
    """`values` as they are; where one of the `functions` fills containers, as a list that is a log, their classes."""
    codes = [code for function in functions for code in _codes(function.__code__)]
    fills = any(FILLING & {*code.co_names} or any(op in SUBSCRIPTS for op, _ in _steps(code)) for code in codes)
    return {
        name: type(value).__qualname__ if fills and not isinstance(value, Hashable | np.ndarray) else value
        for name, value in values.items()
    }


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bytes | bool | int | float | complex)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's state, with the buffers that are in no state dict."""
    return _tensors({**unsaved_buffers(model), **model.state_dict()})


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
