"""Options given flat, as `fit(net, task, steps=10, lr=0.1)`, and kept in groups: one frozen dataclass a group.

A field's name is the keyword. Its default is that of an option which the function does not name in its signature, so
that each default stands in one place.
"""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from ..names import closest


def check_names(call: str, options: Mapping[str, Any], *groups: type, but: Collection[str] = ()) -> None:
    """Check that every option belongs to one of the `groups` and is none of `but`.

    Raises:
        TypeError: for another name, as Python does for an unknown keyword, with the names that are closest.
    """
    known = [name for group in groups for name in names_of(group) if name not in but]
    for name in options:
        if name not in known:
            raise TypeError(f"{call} has no option {name!r}; {closest(name, known)}")


def names_of(group: type) -> list[str]:
    """The names of a group's options."""
    return [field.name for field in fields(group)]


def pick(group: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that belong to `group`."""
    return {name: options[name] for name in names_of(group) if name in options}
