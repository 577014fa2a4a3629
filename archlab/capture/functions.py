"""Custom autograd functions, whose backward is their own: what runs inside of one is nobody's site.

A subclass of ``torch.autograd.Function`` is one op for archlab: seen as a whole in a recorded run, a leaf of a trace.
Looked into, its forward would be differentiated in place of its backward. Torch's own are left as they are, as
checkpointing is one of them, whose forward runs a part of the model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch.autograd import Function

Apply = Callable[..., Any]


@contextmanager
def applied_by(call: Callable[[Apply, tuple, dict], Any]) -> Iterator[None]:
    """While open, ``call(apply, args, kwargs)`` is asked in place of the ``apply`` of every custom function."""
    original = vars(Function)["apply"]

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        if cls.__module__.partition(".")[0] == "torch":
            return original.__get__(None, cls)(*args, **kwargs)
        return call(_named(cls, _ORIGINAL), args, kwargs)

    Function.apply = classmethod(apply)  # type: ignore[assignment]
    try:
        yield
    finally:
        Function.apply = original


_ORIGINAL = vars(Function)["apply"]


@cache
def _named(cls: type[Function], original: Any) -> Apply:
    """``cls.apply`` as a plain function with the name of the class."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        return original.__get__(None, cls)(*args, **kwargs)

    apply.__name__ = apply.__qualname__ = cls.__name__ if cls.__name__.isidentifier() else "Function"
    apply.is_autograd_function = True  # type: ignore[attr-defined]
    return apply


def is_custom_function(func: Any) -> bool:
    """Whether `func`, of a recorded op, is the apply of a custom autograd function."""
    return getattr(func, "is_autograd_function", False)
