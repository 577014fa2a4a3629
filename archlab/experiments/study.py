"""What a study is, and what one of its cells works with."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd


class OutOfTime(Exception):
    """Raise it in a cell whose training stopped for the time limit: the next run goes on from its folder."""


class Study(Protocol):
    """What a study module has.

    `ROWS`: names, or dicts with a "name" and whatever else JSON can write; a row stands after those it needs.
    `cell` returns a row's values; they should say the steps that were trained. Optional members:

    - `PRESETS`: the names that `preset` may have.
    - `NAME`: of the report folder (default: the last part of the module's name).
    - `needs(row)`: names of rows whose cells, of the same seed, must be finished before: of this study, or of another
      as "package.study:row". Another study's stand in its own folders, so that what two studies need is made once.
    - `depends(row)`: the modules whose code the row's result depends on (default: the study module and all that
      it imports of its own package and of archlab). Name few for a long training.
    - `fingerprint(preset, data)`: of the data (default: names and sizes of the files in the data folder).
    """

    ROWS: Sequence[str | Mapping[str, Any]]

    def cell(self, row: Any, preset: str, seed: int, scratch: "Scratch") -> Mapping[str, Any]: ...

    def report(self, rows: pd.DataFrame, folder: Path) -> None: ...


@dataclass(frozen=True)
class Needed:
    """A finished cell that another needs: the values it returned, and the folder it worked in."""

    values: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True)
class Scratch:
    """What a cell works with: a `folder` of its own, kept between attempts; the `data` folder; what it `needed`."""

    folder: Path
    data: Path | None = None
    deadline: float | None = None  # on time.monotonic
    needed: Mapping[str, Needed] = field(default_factory=dict)  # by the name that `needs` gave

    def time_left_s(self) -> float | None:
        """Seconds until the cell should stop, for `fit(time_limit_s=...)`; None where there is no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
