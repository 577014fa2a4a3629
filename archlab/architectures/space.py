"""The architectures of a supernet: which options there are where, and what each costs."""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..arguments import wrong
from ..names import closest

Architecture = dict[str, Any]  # by position, the option


@dataclass(frozen=True)
class Position:
    """Where there is a choice: a module of the original, by its path."""

    name: str
    kind: str
    options: tuple[Any, ...]
    original: Any


@dataclass(frozen=True, eq=False)
class Place:
    """A module of the supernet that computes one of several: `indices` are those of the position's options in it.

    `above` are the places that it is inside of, all in their first option.
    """

    path: str
    position: str
    indices: dict[Any, int]
    above: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Space:
    """The architectures of a supernet, with their costs. Prints as a table of the options.

    An architecture is a dict of one option for each position, which is named by the path of a module in the original.
    A position inside a module that is left out makes no difference, and has its original option then.

    Attributes:
        positions: Where there is a choice, in the order of the model.
        places: The modules of the supernet that choose, outermost first.
        fixed_macs: Multiply-adds outside them.
        place_macs: By place and index, those inside, without places further inside.
        fixed_params: Parameters outside, by name, with how many numbers they hold.
        place_params: Likewise by place and index.
        macs_range: The multiply-adds of the smallest architecture and of the largest.
    """

    positions: tuple[Position, ...]
    places: tuple[Place, ...]
    fixed_macs: int = 0
    place_macs: dict[tuple[str, int], int] = field(default_factory=dict)
    fixed_params: dict[str, int] = field(default_factory=dict)
    place_params: dict[tuple[str, int], dict[str, int]] = field(default_factory=dict)
    macs_range: tuple[int, int] = (0, 0)

    @property
    def options(self) -> dict[str, tuple[Any, ...]]:
        """The options of each position."""
        return {position.name: position.options for position in self.positions}

    @property
    def original(self) -> Architecture:
        """The architecture of the model that the supernet was made of."""
        return {position.name: position.original for position in self.positions}

    @property
    def size(self) -> int:
        """How many combinations of options there are."""
        return math.prod(len(position.options) for position in self.positions)

    def indices(self, architecture: Mapping[str, Any]) -> dict[str, int]:
        """The index that each place has in a complete architecture."""
        return {place.path: place.indices[architecture[place.position]] for place in self.places}

    def computed(self, architecture: Mapping[str, Any]) -> Iterator[tuple[Place, int]]:
        """The places that a complete architecture computes, with their indices."""
        indices = self.indices(architecture)
        for place in self.places:
            if not any(indices[path] for path in place.above):
                yield place, indices[place.path]

    def complete(self, architecture: Mapping[str, Any]) -> Architecture:
        """The architecture with the original option where it names none, and where it makes no difference.

        Raises:
            TypeError: for what is no dict.
            ValueError: for a position or an option that is not there.
        """
        if not isinstance(architecture, Mapping):
            raise TypeError(wrong("architecture", "a dict of options by position", architecture))
        options = self.options
        for name, option in architecture.items():
            if name not in options:
                raise ValueError(f"architecture: there is no choice at {name!r}; {closest(str(name), options)}")
            if option not in options[name] or isinstance(option, bool):
                rule = f"one of {', '.join(map(repr, options[name]))}"
                raise ValueError(wrong(f"architecture: the option at {name}", rule, option))
        return self.canonical({**self.original, **architecture})

    def canonical(self, architecture: Architecture) -> Architecture:
        """The same network by one name: the original option where it makes no difference."""
        reached = {place.position for place, _ in self.computed(architecture)}
        return {p.name: architecture[p.name] if p.name in reached else p.original for p in self.positions}

    def draw(self, generator: random.Random) -> Architecture:
        """One option for each position, all alike likely."""
        return self.canonical({p.name: p.options[generator.randrange(len(p.options))] for p in self.positions})

    def macs(self, architecture: Mapping[str, Any]) -> int:
        """The multiply-adds of an architecture, which are those of its parts."""
        chosen = self.complete(architecture)
        return self.fixed_macs + sum(self.place_macs[place.path, index] for place, index in self.computed(chosen))

    def params(self, architecture: Mapping[str, Any]) -> int:
        """The numbers in parameters of an architecture; shared ones count once."""
        found = dict(self.fixed_params)
        for place, index in self.computed(self.complete(architecture)):
            found |= self.place_params[place.path, index]
        return sum(found.values())

    def frame(self) -> pd.DataFrame:
        """One row an option: position, kind, option, original, and macs and params with it alone changed."""
        rows = [
            {"position": p.name, "kind": p.kind, "option": option, "original": option == p.original,
             "macs": self.macs({p.name: option}), "params": self.params({p.name: option})}
            for p in self.positions for option in p.options
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["position", "kind", "option", "original", "macs", "params"])

    def __repr__(self) -> str:
        least, most = self.macs_range
        told = f"{len(self.positions)} positions, {self.size:,} architectures of {least:,} to {most:,} MACs"
        return f"{self.frame().to_string(index=False)}\n{told}"
