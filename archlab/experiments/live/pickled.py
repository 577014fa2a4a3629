"""What a worker is sent: a model, a task and what goes with them, which are live objects, often made in a notebook.

cloudpickle takes along what plain pickle cannot: functions and classes of a script or a notebook, lambdas, and what
they close over. So a worker imports nothing of the user's script, and needs no ``if __name__ == "__main__"`` there.
"""

import types
from collections.abc import Iterator, Mapping
from typing import Any

import cloudpickle

DEEPEST = 6  # levels into what cannot be pickled, to name what of it


def pickled(call: str, whole: Any, parts: Mapping[str, Any], *, remedy: str) -> bytes:
    """`whole` as bytes.

    Args:
        call: The user's call, for errors.
        whole: What a worker is sent.
        parts: What it consists of, by the names that they have for the user.
        remedy: What to do where a part must stay as it is.

    Raises:
        TypeError: it cannot be pickled, naming what of which part.

    >>> import threading
    >>> pickled("scores", None, {}, remedy="leave workers=0") == cloudpickle.dumps(None)
    True
    >>> lock = threading.Lock()
    >>> pickled("scores", lock, {"task.loss": {"lock": lock}}, remedy="leave workers=0")
    Traceback (most recent call last):
    TypeError: scores: workers get copies of the model and the task, but task.loss['lock'], a lock, cannot be pickled: \
cannot pickle '_thread.lock' object; make it inside the function that uses it, or leave workers=0
    """
    try:
        return cloudpickle.dumps(whole)
    except Exception as error:  # whatever a class of the user's raises
        found = [name_value for name_value in parts.items() if _why_not(name_value[1]) is not None]
        name, value = _innermost(*found[0]) if found else ("something in it", whole)
        raise TypeError(
            f"{call}: workers get copies of the model and the task, but {name}, a {type(value).__name__}, cannot be "
            f"pickled: {_why_not(value)}; make it inside the function that uses it, or {remedy}"
        ) from error


def _why_not(value: Any) -> str | None:
    """Why a value cannot be pickled; None where it can."""
    try:
        cloudpickle.dumps(value)
    except Exception as error:
        return str(error) or type(error).__name__
    return None


def _innermost(name: str, value: Any) -> tuple[str, Any]:
    """What in a value that cannot be pickled is to blame, as far as that can be seen."""
    for _ in range(DEEPEST):
        inside = next(((n, v) for n, v in _inside(name, value) if _why_not(v) is not None), None)
        if inside is None:
            break
        name, value = inside
    return name, value


def _inside(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What goes along with a value, by name."""
    if isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, types.MethodType):
        yield f"the object of {name}", value.__self__
    elif isinstance(value, types.FunctionType):
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield f"{variable!r}, used in {name}", cell.cell_contents
        used = {n: value.__globals__[n] for n in value.__code__.co_names if n in value.__globals__}
        yield from ((f"{variable!r}, used in {name}", item) for variable, item in used.items())
    else:
        yield from ((f"{name}.{key}", item) for key, item in getattr(value, "__dict__", {}).items())
