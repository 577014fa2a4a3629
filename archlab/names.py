"""Names that a user gives: chosen by a glob, a list of globs or a function, and an error where one is unknown.

Sites, modules, layers and widths are all chosen so; rules and words are the same everywhere.
"""

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from .arguments import shown, wrong
from .errors import add_note

Item = TypeVar("Item")
Where = str | Iterable[str] | Callable[[Any], bool] | None
MOST = 12  # names in an error; of more, those nearest to what was asked for


def closest(name: str, known: Iterable[str], *, most: int = MOST) -> str:
    """The names in `known` for an error about `name`, as words: all of a few, else those that are most like it.

    >>> closest("layer5", ["layer1", "layer2", "conv1"])
    'there are layer1, layer2, conv1'
    >>> closest("layer5", [], most=3)
    'there is none'
    """
    names = list(dict.fromkeys(known))
    if not names:
        return "there is none"
    if len(names) == 1:
        return f"there is {names[0]}"
    if len(names) <= most:
        return f"there are {', '.join(names)}"
    near = difflib.get_close_matches(name, names, n=most, cutoff=0.3) or names[:most]
    return f"there are {', '.join(near)}, … ({len(names)} in all)"


def printable(text: str) -> str:
    """`text` with what is no visible character written as Python writes it: names may hold what steers a terminal.

    >>> printable("block\\x1b[2J.conv")
    'block\\\\x1b[2J.conv'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def globs_of(where: Any) -> list[str]:
    """The globs in `where`, which is one or a list of them. Raises TypeError for anything else."""
    globs = [where] if isinstance(where, str) else list(where) if isinstance(where, Iterable) else [where]
    for glob in globs:
        if not isinstance(glob, str):
            raise TypeError(wrong("where", "a glob, a list of globs or a function", where))
    return globs


def _is_true_of(where: Callable[[Any], Any], item: Any) -> bool:
    try:
        return bool(where(item))
    except Exception as error:
        add_note(error, f"raised by where={shown(where)}, which archlab asked of {shown(item)}")
        raise


def matches(names: Iterable[str | None], glob: str) -> bool:
    """Whether one of the `names` that a thing has matches the glob."""
    return any(name is not None and fnmatch.fnmatchcase(name, glob) for name in names)


def picked(items: Iterable[Item], where: Where, names: Callable[[Item], Iterable[str | None]]) -> list[Item]:
    """The items that `where` picks: all for None, those of which a function is true, or one of whose names matches."""
    if where is None:
        return list(items)
    if callable(where) and not isinstance(where, type):
        return [item for item in items if _is_true_of(where, item)]
    globs = globs_of(where)
    return [item for item in items if any(matches(names(item), glob) for glob in globs)]


def chosen(
    items: Sequence[Item], where: Where, *, names: Callable[[Item], Iterable[str | None]], what: str
) -> list[Item]:
    """As `picked`. Raises ValueError where a glob matches none of the items, or nothing is chosen at all.

    `what` says in the error what the items are, in the singular.

    >>> chosen(["conv1", "conv2", "fc"], "conv*", names=lambda item: [item], what="layer")
    ['conv1', 'conv2']
    """
    taken = picked(items, where, names)
    there = [next(name for name in names(item) if name is not None) for item in items]
    for glob in () if where is None or callable(where) else globs_of(where):
        if not any(matches(names(item), glob) for item in items):
            raise ValueError(f"where={glob!r} matches no {what}; {closest(glob, there)}")
    if not taken and where is not None:
        raise ValueError(f"where is true of no {what}; {closest('', there)}")
    return taken
