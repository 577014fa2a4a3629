"""JSON from a file that anybody may have written: read within bounds, or refused in words.

The library's parser takes a key twice, numbers that are none (NaN, 1e999), and any size and depth.
"""

import json
import math
from typing import Any

MOST_CHARACTERS = 2**24  # a recipe of a thousand sites has a hundredth of that
MOST_LEVELS = 32
MOST_DIGITS = 30
MOST = 2**17  # of a width, a count or a factor: what is larger is no network's


def strict_json(text: str | bytes) -> Any:
    """What JSON `text` holds. Raises ValueError, in words, for what is not well-formed, twice there, or out of bounds.

    >>> strict_json('{"a": 1}')
    {'a': 1}
    >>> strict_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: 'a' is there twice
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters, and may have {MOST_CHARACTERS:,}")
    if not text.strip():
        raise ValueError("it is empty")
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MOST_LEVELS} levels") from None
    _check(value, MOST_LEVELS)
    return value


def within_bounds(name: str, value: Any) -> None:
    """Raise ValueError where a number in `value` is larger than any that a network has."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            within_bounds(name, item)
    elif isinstance(value, int | float) and abs(value) > MOST:
        raise ValueError(f"{name} holds {value:.6g}: a number may be at most {MOST:,}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"{key!r} is there twice")
        made[key] = value
    return made


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number has {len(digits):,} digits")
    return int(digits)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _check(value: Any, levels: int) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is too large")
    if isinstance(value, dict | list):
        if not levels:
            raise ValueError(f"it is nested deeper than {MOST_LEVELS} levels")
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, levels - 1)
