"""What a study is, and what one of its cells works with."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pandas as pd

Wanted = str | tuple[ModuleType, str]  # a row of this study, or a study's module and a row of that one


class OutOfTime(Exception):
    """Raise it in a cell whose training stopped for the time limit: the next run goes on from its folder."""


class Study(Protocol):
    """What a study module has.

    `ROWS`: names, or dicts with a "name" and whatever else JSON can write; a row stands after those it needs.
    `cell` returns a row's values, a dict of what JSON can write, with other names than "row", "preset", "seed", "stale"
    and "seconds"; they should say the steps that were trained. It may be called again after any kill, and then gets the
    folder that it worked in: give its trainings the same start, seeds set. `report` writes what a person reads.

    A row's result depends on the code that its `cell` reaches, name by name: functions, classes and constants of the
    study's module, of what that imports from beside it, and of archlab's rooms passes, measure, training, removal and
    architectures. There is nothing to list. `report`, what it alone uses, and archlab.report do not count: how a result
    is drawn may be edited, and so may comments, docstrings and imports, and files may move. A result whose code has
    changed since is stale. What a row's own dict says, the data and the rows that it needs count as well.

    Optional members:

    - `PRESETS`: the names that `preset` may have.
    - `NAME`: of the study and its report folder (default: the last part of the module's name). Results are known by
      it: the module may move.
    - `needs(row)`: rows whose cells, of the same seed, must be finished before: "row" of this study, or
      (study_module, "row") of another, which is imported for it; `scratch.needed` has them under the same. Another
      study's stand in its own folders, so that what two studies need is made once.
    - `cell_for(row)`: the function that makes this row, in place of `cell`. Where rows are of several kinds, such as
      trainings, and what is measured of them, each kind has a function of its own and depends on what that reaches.
    - `depends(row)`: what the row depends on beside that, by prefix: "archlab.capture" is all of that room. Rooms that
      read and rewrite models count only so, and modules that only a string names.
    - `seeds(row)`: with how many seeds the row runs at most, where more are asked for. What it needs must run with as
      many.
    - `resources(row, preset)`: what a cell takes of a worker of a cluster, by the names that the workers give it: a
      GPU as {"GPU": 1}. Elsewhere it says nothing.
    - `fingerprint(preset, data)`: of the data (default: names and sizes of the files in the data folder).
    - `given(row, weights)`: what identifies that which the row takes from a folder of trained weights, instead of
      training; None for nothing. Only a row that takes some gets `scratch.weights`.
    """

    ROWS: Sequence[str | Mapping[str, Any]]

    def cell(self, row: Any, preset: str, seed: int, scratch: "Scratch") -> Mapping[str, Any]: ...

    def report(self, rows: pd.DataFrame, folder: Path) -> None: ...


@dataclass(frozen=True)
class Needed:
    """A finished cell that another needs: the values it returned, and the folder it worked in."""

    values: Mapping[str, Any]
    worked_in: Path
    result: Path | None = None  # the file that holds the values

    @property
    def folder(self) -> Path:
        """Where the files are that the cell left. Raises FileNotFoundError where they did not come with its result."""
        if not self.worked_in.is_dir():
            remedy = "" if self.result is None else f"; delete {self.result}, and the row is made again with its files"
            raise FileNotFoundError(
                f"{self.worked_in}: the files of a row that this one needs are not there, as its result was made on "
                f"another machine or its scratch folder was deleted{remedy}"
            )
        return self.worked_in


@dataclass(frozen=True)
class Scratch:
    """What a cell works with: a `folder` of its own, kept between attempts; the `data` folder; what it `needed`; the
    folder of trained `weights`, for a row that takes some; a folder `shared` by all cells of all studies, for what
    takes long to make and is no result."""

    folder: Path
    data: Path | None = None
    deadline: float | None = None  # on time.monotonic
    needed: Mapping[Wanted, Needed] = field(default_factory=dict)  # by what `needs` gave
    weights: Path | None = None
    shared: Path | None = None

    def time_left_s(self) -> float | None:
        """Seconds until the cell should stop, for `fit(time_limit_s=...)`; None where there is no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
