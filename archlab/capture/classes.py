"""Code of a model that asks a module for its very class: ``type(layer) is Block``.

A rewritten module has a class of its own. It is derived from the class that the module had and equals it, so that
``isinstance``, ``==`` and dicts keyed by class go on as before. Only ``is`` can tell the two apart.
"""

import dis
import types
from collections.abc import Iterator
from functools import cache

from torch import nn

from .frames import is_library


def exact_classes_asked(model: nn.Module) -> str:
    """Where the code of `model` compares a class with ``is``, as ``Net.forward, line 12``; empty where it does not.

    Read are the methods of its modules' classes, and the functions that these name.
    """
    return next(filter(None, (_asked_in(cls) for cls in dict.fromkeys(type(m) for m in model.modules()))), "")


@cache
def _asked_in(cls: type) -> str:
    seen: set[types.CodeType] = set()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] not in ("torch", "builtins", "archlab"):
            for value in vars(base).values():
                for function in _functions_of(value):
                    line = _line(function, seen)
                    if line:
                        return line
    return ""


def _functions_of(value: object) -> Iterator[types.FunctionType]:
    """The plain functions that a class attribute or a global stands for: a method's, a property's, a wrapped one."""
    for inner in (value, *(getattr(value, name, None) for name in ("__func__", "fget", "func", "__wrapped__"))):
        if isinstance(inner, types.FunctionType):
            yield inner


def _line(function: types.FunctionType, seen: set[types.CodeType]) -> str:
    """Where `function`, or one that it names, compares a class with ``is``; empty for none."""
    if function.__code__ in seen or is_library(function.__code__.co_filename):
        return ""
    for code in _nested(function.__code__):
        seen.add(code)
        line = _compared(code)
        if line:
            return f"{function.__qualname__}, line {line}"
        for name in code.co_names:
            for named in _functions_of(function.__globals__.get(name)):
                told = _line(named, seen)
                if told:
                    return told
    return ""


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _compared(code: types.CodeType) -> int:
    """The line with the first ``is`` of code that takes a class (``type``, ``__class__``) somewhere; 0 for none."""
    starts, line = dict(dis.findlinestarts(code)), 0
    taken, compared, before = False, 0, None
    for step in dis.get_instructions(code):
        line = starts.get(step.offset) or line
        if step.opname == "IS_OP" and before is not None and before.argval is not None:  # not ``is None``
            compared = compared or line
        taken |= step.argval in ("type", "__class__") and step.opname.startswith("LOAD_")
        before = step
    return compared if taken else 0
