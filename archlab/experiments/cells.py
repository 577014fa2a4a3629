"""The cells of a study: what makes each one itself, and where its result stands.

    <out>/cells/<key>-<content>.json    the result: written whole, never changed
    <scratch>/<key>/<content>/          what the cell keeps between attempts: checkpoints
    <scratch>/<key>/attempts/*.json     when each attempt began, and how it ended
    <scratch>/<key>/lease.json          held while one runs

`key` says what was asked (study, row, preset, seed, data, given weights); `content` adds the code and the cells that
were needed.
Neither depends on where a file lies or what a module is called. A result that tells another `SCHEME` is of an archlab
that named cells otherwise: it does not count, and `run` says so.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ..arguments import choice, whole
from ..names import closest
from .dependencies import Code, code_of
from .provenance import data_fingerprint, digest
from .results import RESERVED, found, newest, read, read_result
from .study import Wanted

SCHEME = 2  # how keys and contents are made, in every result and attempt; 1 had the names of modules in them


@dataclass(frozen=True)
class Plan:
    """What one run was asked for. JSON can write it: a worker gets it so."""

    study: str  # its module, as for import
    preset: str
    data: str | None
    seeds: int
    stale: str  # "keep" | "rerun"
    out: str
    scratch: str
    weights: str | None = None


@dataclass(frozen=True, eq=False)
class Cell:
    """One row of a study with one seed. `plan` is that of its own study."""

    plan: Plan
    name: str
    row: Any
    seed: int
    key: str
    content: str
    code: Code
    given: str | None  # what it takes from the folder of weights
    below: Sequence[str]  # that, and what the cells take that it needs, and theirs
    needs: Mapping[Wanted, "Cell"]  # as the row's `needs` gave them
    results: Path
    home: Path
    stale: str

    @property
    def label(self) -> str:
        return f"{self.name} (seed {self.seed})"

    @property
    def lease(self) -> Path:
        """Held by whoever runs it."""
        return self.home / "lease.json"

    @property
    def result(self) -> Path:
        """What it makes."""
        return self.results / f"{self.key}-{self.content}.json"


def plan_of(study: str, asked: Plan) -> Plan:
    """The plan of `study` for what was `asked` of another: its folders stand beside that one's."""
    out, scratch = (
        str(Path(folder).parents[1] / name_of(study) / asked.preset) for folder in (asked.out, asked.scratch)
    )
    return replace(asked, study=study, out=out, scratch=scratch)


def name_of(study: str) -> str:
    """The name of a study and of its folder: `NAME` in its module, or the last part of the module's own."""
    return getattr(importlib.import_module(study), "NAME", study.rpartition(".")[2])


def cell_for(module: ModuleType, row: Any) -> Callable[..., Mapping[str, Any]]:
    """The function that makes a row: what the study's own `cell_for` gives, or its `cell`."""
    return module.cell_for(row) if hasattr(module, "cell_for") else module.cell


def of_another_scheme(cells: Iterable[Cell]) -> list[str]:
    """The keys under which an archlab of another `SCHEME` left results or begun work in the folders of `cells`."""
    cells = list(cells)
    left = [path for folder in {cell.results for cell in cells} for path in found(folder, "*.json")]
    left += [path for folder in {cell.home.parent for cell in cells} for path in found(folder, "*/attempts/*.json")]
    told = {path: read(path) or {"scheme": SCHEME} for path in left}
    keys = {said.get("key", path.parents[1].name) for path, said in told.items() if said.get("scheme") != SCHEME}
    return sorted(keys - {cell.key for cell in cells})  # where both schemes give one key, what lies there is stale


def cells_of(plan: Plan) -> list[Cell]:
    """All cells of a study, in the order of its rows.

    Raises:
        ValueError: no study, a preset that it does not have, or rows that do not add up.
    """
    module = importlib.import_module(plan.study)
    named = _rows_of(module, plan)
    data = getattr(module, "fingerprint", lambda preset, data: data_fingerprint(data))(
        plan.preset, None if plan.data is None else Path(plan.data)
    )
    codes: dict[tuple[str, ...], Code] = {}
    cells: dict[tuple[str, int], Cell] = {}
    others = {plan.study: cells}  # the cells of each study, as far as they are known
    for name, row in named.items():
        code = _code_for(module, row, codes)
        given = module.given(row, Path(plan.weights)) if plan.weights and hasattr(module, "given") else None
        for seed in range(seeds_of(module, row, plan.seeds)):
            needs = _needs_of(module, plan, name, row, seed, others)
            asked = {"study": name_of(plan.study), "row": row, "preset": plan.preset, "seed": seed, "data": data}
            below = sorted({one for need in needs.values() for one in need.below} | ({given} if given else set()))
            if below:  # a result that depends on other weights is another's, not an older one
                asked["weights"] = below
            key = f"{re.sub(r'[^A-Za-z0-9.]+', '-', name).strip('-')}-{seed}-{digest(asked)[:8]}"
            under = [(standing(need) or {"content": need.content})["content"] for need in needs.values()]
            content = digest({"key": key, "code": code.hash, "needs": sorted(under)})
            results, home = Path(plan.out) / "cells", Path(plan.scratch) / key
            cells[name, seed] = Cell(
                plan, name, row, seed, key, content, code, given, below, needs, results, home, plan.stale
            )
    return list(cells.values())


def _rows_of(module: ModuleType, plan: Plan) -> dict[str, Any]:
    """The rows of a study by name, checked."""
    if not hasattr(module, "ROWS"):
        raise ValueError(f"{plan.study}: no study; a study has ROWS, cell and report (see archlab.Study)")
    choice("preset", plan.preset, getattr(module, "PRESETS", (plan.preset,)))
    named = {row if isinstance(row, str) else row["name"]: row for row in module.ROWS}
    if len(named) < len(module.ROWS):
        raise ValueError(f"{plan.study}.ROWS: names must differ, got {[*named]} for {len(module.ROWS)} rows")
    for name, row in named.items():
        if taken := [] if isinstance(row, str) else [key for key in row if key in RESERVED]:
            raise ValueError(f"{plan.study}.ROWS: {taken[0]!r} of {name!r} is a column of every table; rename it")
    return named


def _code_for(module: ModuleType, row: Any, codes: dict[tuple[str, ...], Code]) -> Code:
    """The code that a row's result depends on; `codes` are those that are known, as many rows have the same."""
    function, more = cell_for(module, row), tuple(module.depends(row)) if hasattr(module, "depends") else ()
    asks = (function.__module__, function.__qualname__, *more)
    if asks not in codes:
        codes[asks] = code_of(function, more)
    return codes[asks]


def _needs_of(
    module: ModuleType, plan: Plan, name: str, row: Any, seed: int, others: dict[str, dict[tuple[str, int], Cell]]
) -> dict[Wanted, Cell]:
    """The cells that must be finished before that of a row and seed; studies met on the way join `others`."""
    needs: dict[Wanted, Cell] = {}
    for wanted in module.needs(row) if hasattr(module, "needs") else ():
        study, its_row = (plan.study, wanted) if isinstance(wanted, str) else (wanted[0].__name__, wanted[1])
        if study not in others:
            others[study] = {(c.name, c.seed): c for c in cells_of(plan_of(study, plan))}
        if (its_row, seed) not in others[study]:
            before, its = dict.fromkeys(row for row, _ in others[study]), f"{its_row!r} of {name_of(study)}"
            raise ValueError(
                f"{plan.study}: row {name!r} needs {its} with seed {seed}, which that row does not run with; see "
                f"seeds(row) of {name_of(study)}"
                if its_row in before
                else f"{plan.study}: row {name!r} needs {its}, where no such row stands before it; "
                f"{closest(its_row, before)}"
            )
        needs[wanted] = others[study][its_row, seed]
    return needs


def seeds_of(module: ModuleType, row: Any, asked: int) -> int:
    """How many seeds a row runs with: as many as were asked for, or the fewer that its study says."""
    if not hasattr(module, "seeds"):
        return asked
    most = module.seeds(row)
    whole(f"{module.__name__}.seeds({row!r})", most, least=1)
    return min(asked, most)


def standing(cell: Cell) -> dict[str, Any] | None:
    """The result that counts for a cell.

    Returns:
        What its file holds, with "stale" saying whether its code has changed since; None where there is none yet.
    """
    fresh = read_result(cell.result)
    if fresh is not None or cell.stale == "rerun":
        return fresh and {**fresh, "stale": False}
    older = newest(cell.results, cell.key)
    return older and {**older, "stale": True}
