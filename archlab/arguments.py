"""What a caller gives, checked where it enters: one wording for all errors, "<offender> must be <rule>, got <value>".

Each checker takes the offender as `name`: the argument, after the function's name where several have one of that name.
What is of a wrong type is a TypeError, what is out of range a ValueError. `remedy` adds what to do, where the rule does
not say so itself. Models and examples are checked by `capture`, which reads them; tasks check themselves.
"""

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

_SHOWN = 80  # characters of a value in an error


def shown(value: Any) -> str:
    """`value` for an error: briefly, and of what is large (arrays, tables, modules) what it is.

    >>> shown("adam"), shown(0.5), shown([1] * 100)
    ("'adam'", '0.5', 'a list of 100')
    """
    kind = type(value)
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, type):
        dtype = f" of {value.dtype}" if hasattr(value, "dtype") else ""
        return f"a {kind.__module__.partition('.')[0]}.{kind.__name__}{dtype} and shape {tuple(shape)}"
    if isinstance(value, type) or inspect.isroutine(value):
        return getattr(value, "__qualname__", repr(value))
    try:
        text = repr(value)
    except Exception:  # whatever a caller's class does
        text = ""
    if 0 < len(text) <= _SHOWN and "\n" not in text and " at 0x" not in text:
        return text
    try:
        return f"a {kind.__name__} of {len(value)}"
    except Exception:  # it has no length, or says so when it is asked
        return f"a {kind.__name__}"


def wrong(name: str, rule: str, value: Any, remedy: str = "") -> str:
    """The words of an error.

    >>> wrong("fit: lr", "a finite number above 0", -1)
    'fit: lr must be a finite number above 0, got -1'
    """
    return f"{name} must be {rule}, got {shown(value)}" + (f"; {remedy}" if remedy else "")


def number(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    optional: bool = False,
    finite: bool = True,
    remedy: str = "",
) -> None:
    """Check that `value` is a real number from `low` to `high`, more than `above`, and finite; None, if `optional`.

    Raises:
        TypeError: for what is no number. A bool, a tensor and a string are none.
        ValueError: for NaN, and for a number that is out of range.

    >>> number("tau", 2, low=0, high=1)
    Traceback (most recent call last):
    ValueError: tau must be a number from 0 to 1, got 2
    """
    if value is None and optional:
        return
    if low > -math.inf and high < math.inf:
        rule = f"a number from {low:g} to {high:g}"
    else:
        rule = "a finite number" if finite else "a number"
        rule += f" of at least {low:g}" if low > -math.inf else f" above {above:g}" if above > -math.inf else ""
        rule += f" up to {high:g}" if high < math.inf else ""
    rule += " or None" if optional else ""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(wrong(name, rule, value, _unquoted(value) or remedy))
    try:
        size = float(value)
    except OverflowError:
        size = math.inf
    if not (low <= size <= high and size > above) or (finite and not math.isfinite(size)):
        raise ValueError(wrong(name, rule, value, remedy))


def whole(
    name: str, value: Any, *, least: int = 1, most: int | None = None, optional: bool = False, remedy: str = ""
) -> None:
    """Check that `value` is a whole number of at least `least`, and `most` at most; None, if `optional`.

    Raises:
        TypeError: for what is no whole number; 3.0 is none.
        ValueError: for one out of range.

    >>> whole("steps", 0)
    Traceback (most recent call last):
    ValueError: steps must be a whole number of at least 1, got 0
    """
    if value is None and optional:
        return
    rule = f"a whole number of at least {least}" + (" or None" if optional else "")
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(wrong(name, rule, value, _unquoted(value) or remedy))
    if int(value) < least:
        raise ValueError(wrong(name, rule, value, remedy))
    if most is not None and int(value) > most:
        raise ValueError(wrong(name, f"{most} at most", value, remedy))


def choice(name: str, value: Any, known: Iterable[Any]) -> None:
    """Check that `value` is one of `known`.

    Raises:
        ValueError: naming them.

    >>> choice("init", "zero", ("fresh", "preserve"))
    Traceback (most recent call last):
    ValueError: init must be one of 'fresh', 'preserve', got 'zero'
    """
    known = list(known)
    if not (value is None or isinstance(value, str | Real)) or value not in known:
        raise ValueError(wrong(name, f"one of {', '.join(map(repr, known))}", value))


def flag(name: str, value: Any) -> None:
    """Check that `value` is True or False. Raises TypeError: "no" would be true."""
    if not isinstance(value, bool):
        raise TypeError(wrong(name, "True or False", value))


def text(name: str, value: Any, rule: str = "a string") -> None:
    """Check that `value` is a string. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(wrong(name, rule, value))


def file(name: str, value: Any) -> None:
    """Check that `value` may be the path of a file, which need not be there.

    Raises:
        TypeError: for what is no path.
        ValueError: for an empty one, and for a folder.
    """
    _path(name, value, "the path of a file")
    if os.path.isdir(str(value)):
        raise ValueError(wrong(name, "the path of a file", value, "which is a folder"))


def folder(name: str, value: Any, *, optional: bool = False) -> None:
    """Check that `value` may be the path of a folder, which need not be there; None, if `optional`.

    Raises:
        TypeError: for what is no path.
        ValueError: for an empty one, and for a file.
    """
    if value is None and optional:
        return
    rule = "the path of a folder" + (", or None" if optional else "")
    _path(name, value, rule)
    if os.path.isfile(str(value)):
        raise ValueError(wrong(name, rule, value, "which is a file"))


def _path(name: str, value: Any, rule: str) -> None:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(wrong(name, rule, value))
    if not os.fspath(value) or "\0" in str(value):
        raise ValueError(wrong(name, rule, value, "'.' is the present one" if rule.count("folder") else ""))


def function(name: str, value: Any, *takes: str, optional: bool = False, remedy: str = "") -> None:
    """Check that `value` can be called with so many arguments, each named in words; None, if `optional`.

    Raises:
        TypeError: for what cannot.

    >>> function("Task: loss", 0.5, "the model", "a batch")
    Traceback (most recent call last):
    TypeError: Task: loss must be a function of the model and a batch, got 0.5
    """
    if value is None and optional:
        return
    rule = f"a function of {' and '.join(takes)}" if takes else "a function that takes nothing"
    rule += ", or None" if optional else ""
    if not callable(value):
        raise TypeError(wrong(name, rule, value, remedy))
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some that are built in have none
        return
    try:
        signature.bind(*takes)
    except TypeError as error:
        raise TypeError(wrong(name, rule, value, f"{shown(value)}{signature}: {error}")) from None


def numbers(name: str, values: Any, check: Callable[[float], None]) -> list[float]:
    """The different ones of a list or an array of numbers, to twelve digits, in their order; each is checked.

    Raises:
        TypeError: for what is no list.
        ValueError: for an empty one.
    """
    rule = "a list of one number or more"
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise TypeError(wrong(name, rule, values))
    given = [plain(value) for value in values]
    if not given:
        raise ValueError(wrong(name, rule, values))
    found: dict[str, float] = {}
    for value in given:
        check(value)
        found.setdefault(f"{value:.12g}", float(value))
    return list(found.values())


def plain(value: Any) -> Any:
    """The number in a tensor or an array of no dimensions; everything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _unquoted(value: Any) -> str:
    """What to do about a number that is quoted, or in a tensor."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return ""
        return "write it without quotes"
    return "take the number out of it by .item()" if hasattr(value, "item") else ""
