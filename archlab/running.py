"""Run a study: each cell once, whatever is killed in between; then its rows as a table.

A study is a module with `ROWS`, `cell(row, preset, seed, scratch) -> dict` and `report(rows, folder)`. A cell is
one row with one seed. What it depends on (row, preset, seed, data, code, the cells it needs) is hashed; a cell
whose hash has a result is not run again.

    reports/<study>/<preset>/cells/*.json    one result a file, written whole and never changed
    reports/<study>/<preset>/rows.csv        derived from them
    scratch/<study>/<preset>/<cell>/         checkpoints, attempts, lease: may be deleted between runs
"""

import fnmatch
import importlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pandas as pd
import torch

from archlab.checkpoints import write_whole
from archlab.leasing import lease
from archlab.sourcing import data_fingerprint, digest, imported_by, source_hashes

STALE = ("keep", "rerun")
EXIT = {"finished": 0, "failed": 1, "out of time": 75, "busy": 76}  # of a worker; 75 is the shell's "try again"


class OutOfTime(Exception):
    """Raise it in a cell whose training stopped for the time limit: the next run goes on from its folder."""


class Study(Protocol):
    """What a study module has.

    `ROWS`: names, or dicts with a "name" and whatever JSON can write; a row after those that it needs. Optional:
    `NAME` (of the report folder; default: the module's), `needs(row)` (names of rows whose cells of the same seed
    must be finished before), `depends(row)` (the modules whose code this row's result depends on; default: the
    study and all that it imports of its package and archlab), `fingerprint(preset, data)` (default: file names
    and sizes of the data folder).
    """

    ROWS: Sequence[str | Mapping[str, Any]]

    def cell(self, row: Any, preset: str, seed: int, scratch: "Scratch") -> Mapping[str, Any]: ...

    def report(self, rows: pd.DataFrame, folder: Path) -> None: ...


@dataclass(frozen=True)
class Scratch:
    """What a cell works with: its own `folder` (kept between attempts: checkpoints), the `data` folder, its time."""

    folder: Path
    data: Path | None = None
    deadline: float | None = None  # on time.monotonic
    needed: Mapping[str, "Needed"] = field(default_factory=dict)  # by row name

    def time_left_s(self) -> float | None:
        """Seconds until the cell should stop, for `fit(time_limit_s=...)`; None where there is no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True)
class Needed:
    """A finished cell that another needs: the values it returned and the folder it worked in."""

    values: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True)
class Cell:
    """One row of a study with one seed, and where its things lie."""

    name: str
    row: Any
    seed: int
    key: str  # of what was asked: row, preset, seed, data
    content: str  # of the key and the code and the cells it needs: the cell's identity
    sources: Mapping[str, str]
    results: Path
    home: Path

    @property
    def result_path(self) -> Path:
        return self.results / f"{self.key}-{self.content}.json"

    @property
    def folder(self) -> Path:
        return self.home / self.content


@dataclass(frozen=True)
class Plan:
    """What one call of `run` was asked for; a worker gets it as JSON."""

    study: str
    preset: str
    data: str | None
    seeds: int
    stale: str
    out: str
    scratch: str


def run(
    study: str,
    *,
    preset: str,
    data: str | Path | None = None,
    seeds: int = 1,
    time_limit_s: float | None = None,
    workers: int = 0,
    stale: str = "keep",
    only: str | None = None,
    out: str | Path = "reports",
    scratch: str | Path = "scratch",
) -> pd.DataFrame:
    """Run what is missing of the study module named `study` and return its rows, one a finished cell.

    With all cells finished, `report(rows, folder)` is called with the folder `out`/<study>/<preset>; until then
    only rows.csv is written there. `rows.attrs` holds "missing" {cell: why} and "conditions".

    - `seeds`: each row with seeds 0 … seeds-1.
    - `time_limit_s` stops between cells, and inside those that mind `scratch.time_left_s()`; the next call goes on.
    - `workers` 0 runs the cells here, one after another; otherwise that many processes at once, one cell each. A
      cell that fails or is killed is named in "missing"; the others go on.
    - `stale`: what to do with a result whose code has changed since. "keep" (the default: an hour of training is
      not thrown away for an edit) takes it and marks the row; "rerun" computes it anew. The file stays either way.
    - `only`: a glob on row names; what they need runs as well.
    """
    if stale not in STALE:
        raise ValueError(f"stale must be one of {', '.join(STALE)}, got {stale!r}")
    if seeds < 1 or workers < 0:
        raise ValueError(f"seeds must be at least 1 and workers at least 0, got {seeds} and {workers}")
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    module = importlib.import_module(study)
    name = getattr(module, "NAME", study.rpartition(".")[2])
    folder = Path(out) / name / preset
    plan = Plan(study, preset, None if data is None else str(data), seeds, stale, str(folder), str(Path(scratch) / name / preset))
    chosen = _chosen(module, seeds, only)
    if workers:
        missing = _in_workers(plan, module, chosen, workers, deadline)
    else:
        missing = {}
        for row_name, seed in chosen:
            outcome = run_cell(plan, row_name, seed, deadline)
            if outcome != "finished":
                missing[f"{row_name} seed {seed}"] = outcome
    rows = collect(plan, [pair for pair in chosen if f"{pair[0]} seed {pair[1]}" not in missing])
    rows.attrs["missing"] = missing
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "rows.csv", rows.to_csv(index=False).encode())
    if not missing:
        module.report(rows, folder)
    return rows
