"""The files of finished cells: what a cell may return, as JSON; written whole, never changed, read with mistrust."""

import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RESERVED = ("row", "preset", "seed", "stale", "seconds")  # columns of every table of rows, beside a cell's values
PARTS = {"values": dict, "content": str, "ended": str, "seconds": (int, float), "conditions": dict}


def values_of(returned: Any, label: str, row: Any) -> dict[str, Any]:
    """What a cell returned, as JSON can write it.

    Raises:
        TypeError: it is no dict, or JSON cannot write something in it, which is named.
        ValueError: a value has the name of a column that stands in the table already.
    """
    if not isinstance(returned, Mapping):
        raise TypeError(f"{label} returned {_described(returned)}; a cell returns a dict of values")
    values = _plain(returned, label)
    own = {} if isinstance(row, str) else {name: value for name, value in row.items() if name != "name"}
    for name, value in values.items():
        if name in RESERVED or (name in own and own[name] != value):
            whose = "every table" if name in RESERVED else "the row"
            raise ValueError(f"{label}: a value cannot be called {name!r}, which is a column of {whose}; rename it")
    return values


def as_json(content: Mapping[str, Any]) -> bytes:
    """The content of a file."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def found(folder: Path, glob: str) -> list[Path]:
    """The files in a folder that match, in order; none where it may not be looked into, of which `obstacle` speaks."""
    try:
        return sorted(folder.glob(glob))
    except OSError:
        return []


def results_of(folder: Path, key: str) -> list[Path]:
    """The results with this key, of whatever code; as `found` has them, sooner, as each cell asks for it often."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(folder / name for name in names if name.startswith(f"{key}-") and name.endswith(".json"))


def read(path: Path) -> dict[str, Any] | None:
    """What a file of ours holds; None where there is none, or where it cannot be read as such."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None  # a pipe would be waited for
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_result(path: Path) -> dict[str, Any] | None:
    """A result, or None where there is none; what is none is put aside, so that its cell runs again."""
    result = read(path)
    if result is not None and all(isinstance(result.get(name), kind) for name, kind in PARTS.items()):
        return result
    if os.path.lexists(path) and not why_unreadable(path):
        try:
            kept = f"kept as {put_aside(path, path.with_suffix('.unreadable')).name}, the cell runs again"
        except OSError as error:
            kept = f"it cannot be put aside ({error.strerror})"
        print(f"{path}: not a readable result; {kept}", file=sys.stderr)
    return None


def put_aside(path: Path, name: Path) -> Path:
    """Rename what is at `path` to `name`, or with a number after it where that is taken; how it is called now."""
    free = next(one for n in itertools.count() if not os.path.lexists(one := name.with_name(f"{name.name}{n or ''}")))
    os.rename(path, free)
    return free


def newest(results: Path, key: str) -> dict[str, Any] | None:
    """The latest result with this key, whatever code it is of."""
    all_ = [result for path in results_of(results, key) if (result := read_result(path))]
    return max(all_, key=lambda result: result["ended"]) if all_ else None


def obstacle(results: Path, files: Iterable[Path]) -> str | None:
    """Why no result could be kept in the folder `results`, or not be known to be there; None where all is well.

    A cell should not run for hours to find that out.
    """
    for path in (results, *files):
        if why := why_unreadable(path):
            return f"{path} cannot be read ({why})"
    probe = results / f".{os.getpid()}.probe"
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"1")
    except OSError as error:
        return f"{results} cannot be written to ({error.strerror})"
    finally:
        try:
            probe.unlink(missing_ok=True)
        except OSError:
            pass
    return None


def why_unreadable(path: Path) -> str | None:
    """Why what is there may not be looked into; None where there is nothing, or it may."""
    try:
        if path.is_dir():
            os.listdir(path)
        elif path.is_file():
            path.open("rb").close()
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _plain(value: Any, at: str) -> Any:
    """`value` with numbers of NumPy and torch made Python's.

    Raises:
        TypeError: naming what JSON cannot write.
        ValueError: two keys are the same in writing.
    """
    if isinstance(value, Mapping):
        plain = {str(key): _plain(item, f"{at}[{key!r}]") for key, item in value.items()}
        if len(plain) < len(value):
            raise ValueError(f"{at}: two of its keys are written the same; JSON has only strings as keys")
        return plain
    if isinstance(value, list | tuple):
        return [_plain(item, f"{at}[{index}]") for index, item in enumerate(value)]
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except ValueError as error:  # half a character, or a number of thousands of digits
            raise TypeError(f"{at} cannot be written: {error}") from error
        return value
    raise TypeError(
        f"{at} is of type {type(value).__name__}: a cell returns numbers, strings, lists and dicts of these"
    )


def _described(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
