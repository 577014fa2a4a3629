"""Whose code a Python frame runs: a model's, or that of torch and archlab between a model and what it calls.

One rule for the whole library. All files of archlab are its own, wherever they lie below the package and whatever
they are called, but for those whose classes are put into models: such a file says ``MODEL_CODE = True``.
"""

import inspect
import os
import sys
import types
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import torch
import torch.fx
from torch import nn

MODULE_CALL = nn.Module._call_impl.__code__


def _folder(package: str) -> str:
    """The folder of a package, with the separator: torchvision's begins like torch's."""
    file = sys.modules[package].__file__
    assert file is not None
    return str(Path(file).parent) + os.sep


_TORCH, _FX, _ARCHLAB = _folder("torch"), _folder("torch.fx"), _folder(__name__.partition(".")[0])
# Files of torch that stand between a model's code and the op it issues, beside torch.fx; its layers' are a model's.
_TORCH_PLUMBING = frozenset(
    {
        nn.functional.__file__,
        torch._tensor.__file__,  # type: ignore[attr-defined]
        torch.overrides.__file__,
        torch._jit_internal.__file__,  # type: ignore[attr-defined]
        nn.modules.module.__file__,
        # What torch.compiler.disable puts around a function, as around code that is intercepted.
        os.path.join(_TORCH, "_compile.py"),
        os.path.join(_TORCH, "_dynamo", "eval_frame.py"),
    }
)


def is_module_call(frame: Any) -> bool:
    """Whether `frame` is torch's, of the call of a module: its local ``self`` is that module."""
    return frame.f_code is MODULE_CALL


def is_plumbing(frame: Any) -> bool:
    """Whether a location passes over `frame`: torch's and archlab's own, between those of a model."""
    return _is_torch_plumbing(frame.f_code.co_filename) or is_tracing(frame)


def is_tracing(frame: Any) -> bool:
    """Whether `frame` runs code of those who trace: torch.fx and archlab."""
    return _is_below(frame.f_code.co_filename, _FX) or is_own(frame)


def is_own(frame: Any) -> bool:
    """Whether `frame` runs code of archlab that is no part of a model."""
    return _is_below(frame.f_code.co_filename, _ARCHLAB) and not frame.f_globals.get("MODEL_CODE", False)


def is_of_switch(frame: Any) -> bool:
    """Whether `frame` runs the arithmetic of a switch: such a file says ``SWITCH_CODE = True``."""
    return frame.f_globals.get("SWITCH_CODE", False)


def asks_for_a_model(frame: Any) -> bool:
    """Whether `frame`, which asks something of a tensor, is a model's code: neither torch's nor archlab's own."""
    return not (_is_below(frame.f_code.co_filename, _TORCH) or is_own(frame))


def defines(cls: type, code: Any) -> bool:
    """Whether `code` is the body of a method of `cls`, decorated or not."""
    for base in cls.__mro__:
        method = base.__dict__.get(code.co_name)
        method = getattr(method, "__func__", method)
        if getattr(inspect.unwrap(method), "__code__", None) is code if callable(method) else False:
            return True
    return False


def is_own_method(value: Any, module: nn.Module) -> TypeGuard[types.MethodType]:
    """Whether `value`, which `module` holds, is a method of this very module, as its class has it."""
    bound = isinstance(value, types.MethodType) and value.__self__ is module
    return bound and getattr(type(module), value.__name__, None) is value.__func__


def method_called(module: nn.Module) -> str:
    """The name of the method that a call of `module` runs: ``forward``, or which one it set that to when it was made,
    ``self.forward = self.forward_slicing``."""
    forward = vars(module).get("forward")
    return forward.__name__ if is_own_method(forward, module) else "forward"


def is_library(filename: str) -> bool:
    """Whether a file is torch's or archlab's, not a model's."""
    return _is_below(filename, _TORCH) or _is_below(filename, _ARCHLAB)


@lru_cache(1024)  # files of generated code have names without end
def _is_torch_plumbing(filename: str) -> bool:
    return filename in _TORCH_PLUMBING


@lru_cache(1024)
def _is_below(filename: str, folder: str) -> bool:
    return filename.startswith(folder)
