"""Models and inputs named in words, as a command line gives them, and errors that say which word was wrong."""

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import nn

from ..capture.copies import refuse_wrappers
from ..capture.example import Call
from ..names import closest
from ..training.task import Task


class Unusable(ValueError):
    """A word that names nothing usable; the message quotes it and says what is expected there."""


MODEL, JOB = "a function or a class that makes the model", "a function that returns the model and its task"


def make_model(factory: str, options: Iterable[str] = ()) -> nn.Module:
    """The model that `factory` makes, named as ``package.module:factory`` and imported, the current folder first.

    `factory` is a function, a class or a model itself; `options` are its keyword arguments as ``name=value``, read
    as Python literals where they are such. Raises Unusable where a name leads nowhere, the factory raises, or what
    it makes is no module.

    >>> make_model("torch.nn:Linear", ["in_features=4", "out_features=2"])
    Linear(in_features=4, out_features=2, bias=True)
    """
    made, told = _made(factory, options, nn.Module, MODEL)
    if not isinstance(made, nn.Module):
        raise Unusable(f"{told} returns {type(made).__name__}, not a torch.nn.Module")
    return _readable(made, told)


def make_job(name: str, options: Iterable[str] = ()) -> tuple[nn.Module, Task]:
    """The model and its task that `name` leads to, ``package.module:task``, imported as by `make_model`.

    It is a function that returns both, whose keyword arguments are the `options`, or a tuple of them. Raises Unusable
    where a name leads nowhere, the function raises, or what it returns is something else.
    """
    made, told = _made(name, options, tuple, JOB)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module)):
        there = "a tuple of others" if isinstance(made, tuple) else f"of type {type(made).__name__}"
        raise Unusable(f"{told} is {there}, not the model and its task: return (model, al.Task(…))")
    model, task = made
    if not isinstance(task, Task):
        raise Unusable(f"{told}: the task is of type {type(task).__name__}: return (model, al.Task(…))")
    return _readable(model, told), task


def _made(name: str, options: Iterable[str], ready: type, wanted: str) -> tuple[Any, str]:
    """What `name` leads to where it is `ready`, else what that returns; and how it was called, for errors."""
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise Unusable(f"{name!r} names no factory: write package.module:factory, as torchvision.models:resnet18")
    found = _attribute(_imported(module), path, module)
    if isinstance(found, ready):
        return found, name
    if not callable(found):
        raise Unusable(f"{name} is of type {type(found).__name__}: name {wanted}")
    given = dict(named_value("--args", text, "num_classes=10") for text in options)
    told = f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
    try:
        return found(**given), told
    except (Exception, SystemExit) as error:
        raise Unusable(f"{told} raises {in_words(error)}") from error


def make_example(inputs: Iterable[str], *, method: str = "forward", high: int = 1, device: str = "cpu") -> tuple | Call:
    """What runs a model's `method` once on the inputs named, each as `parse_input` reads it.

    ``name=`` before an input makes it a keyword argument.

    >>> [x if isinstance(x, float) else x.shape for x in make_example(["1,3,8,8", "10.0"])]
    [torch.Size([1, 3, 8, 8]), 10.0]
    """
    positional, named = [], {}
    for text in inputs:
        name, value = re.fullmatch(r"(?:([A-Za-z_]\w*)=)?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        if name is None:
            positional.append(parse_input(value, high=high, device=device))
        else:
            named[name] = parse_input(value, high=high, device=device)
    if method == "forward" and not named:
        return tuple(positional)

    def enter(net: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (net if method == "forward" else getattr(net, method))(*args, **kwargs)

    return Call(enter, *positional, **named)


def parse_input(text: str, *, high: int = 1, device: str = "cpu") -> Any:
    """One argument: a shape ``1,3,224,224``, with a dtype ``2,12:int64``, or a number (also True, False, None).

    A shape becomes a tensor of normal random numbers, for integers of numbers from 0 to `high`, for bool of True;
    the same ones each time; on the device "meta" there are none, and any shape is as small. A single length is
    written ``5,``. Raises Unusable for anything else, and for what there is no memory for.

    >>> parse_input("2,3:int64", high=9).shape, parse_input("10.0"), parse_input("5,").dtype
    (torch.Size([2, 3]), 10.0, torch.float32)
    """
    shape, colon, dtype = text.partition(":")
    if not colon and "," not in text:
        return _number(text)
    if not re.fullmatch(r"\s*[1-9]\d*\s*(,\s*[1-9]\d*\s*)*,?\s*", shape):
        raise _no_input(text)
    sizes = [int(size) for size in shape.split(",") if size.strip()]
    kind = _dtype(dtype, text) if colon else torch.float32
    try:
        return torch.empty(sizes, dtype=kind, device=device) if device == "meta" else _filled(sizes, kind, high)
    except (RuntimeError, OverflowError, TypeError) as error:  # which of them, depends on how large it is
        size = f"{prod(sizes) * kind.itemsize / 2**30:,.1f} GiB"
        why = str(error).strip().split("\n")[0][:120]
        raise Unusable(f"--input {text!r}: no tensor of {size} can be made here: {why}") from error


def check_call(model: nn.Module, method: str, example: tuple | Call) -> None:
    """Raise Unusable where `model` has no such method, or it does not take so many inputs or these names."""
    found = getattr(model, method, None)
    name = f"{type(model).__name__}.{method}"
    if not callable(found):
        known = [known for known in _public_names(model) if callable(getattr(model, known))]
        raise Unusable(f"the model has no method {name}; {closest(method, known)}")
    args, kwargs = (example.args, example.kwargs) if isinstance(example, Call) else (example, {})
    signature = inspect.signature(found)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        inputs = "1 input" if len(args) + len(kwargs) == 1 else f"{len(args) + len(kwargs)} inputs"
        taken = ", ".join(signature.parameters)
        raise Unusable(f"{name}({taken}) was given {inputs}: {error}") from error


def in_words(error: BaseException) -> str:
    """The error on one line, with its type before it."""
    text = one_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(text: str) -> str:
    """`text` with every run of white space as one blank."""
    return " ".join(text.split())


def _readable(model: nn.Module, told: str) -> nn.Module:
    try:
        refuse_wrappers(model)
    except TypeError as error:
        raise Unusable(f"{told}: {error}") from error
    return model


def _imported(name: str) -> Any:
    folder = os.getcwd()
    if folder not in sys.path[:1]:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            hint = f"; name it as for import: {name[:-3].replace('/', '.')}" if name.endswith(".py") else ""
            raise Unusable(f"there is no module {name!r}, here or where Python looks{hint}") from error
        raise Unusable(f"importing {name} raises {in_words(error)}") from error
    except (Exception, SystemExit) as error:
        raise Unusable(f"importing {name!r} raises {in_words(error)}") from error


def _attribute(module: Any, path: str, name: str) -> Any:
    found = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise Unusable(f"{name} has no {path!r}; {closest(part, _public_names(found))}")
        found = getattr(found, part)
    return found


def _public_names(found: Any) -> list[str]:
    return [name for name in dir(found) if not name.startswith("_")]


def named_value(option: str, text: str, example: str) -> tuple[str, Any]:
    """``name=value`` behind an option, the value as a Python literal where it is one. Raises Unusable."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise Unusable(f"{option} {text!r}: write name=value, as {example}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _number(text: str) -> int | float | bool | None:
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        raise _no_input(text) from None
    if not (value is None or isinstance(value, int | float)):
        raise _no_input(text)
    return value


def _no_input(text: str) -> Unusable:
    return Unusable(
        f"--input {text!r}: write a shape of sizes above 0 (1,3,224,224), a shape with a dtype (2,12:int64) "
        "or a number (10.0)"
    )


def _dtype(name: str, text: str) -> torch.dtype:
    dtype = getattr(torch, name.strip(), None)
    if not isinstance(dtype, torch.dtype):
        raise Unusable(f"--input {text!r}: torch has no dtype {name!r}; int64, float32, bfloat16 or bool are such")
    return dtype


def _filled(shape: list[int], dtype: torch.dtype, high: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if dtype is torch.bool:
        return torch.ones(shape, dtype=dtype)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, high + 1, shape, generator=generator).to(dtype)
