"""The cells of a study: what makes each one itself, where its result stands, and running one.

    <out>/cells/<key>-<content>.json    the result: written whole, never changed
    <scratch>/<key>/<content>/          what the cell keeps between attempts: checkpoints
    <scratch>/<key>/attempts/*.json     when each attempt began, and how it ended
    <scratch>/<key>/lease.json          held while one runs

`key` says what was asked (study, row, preset, seed, data); `content` adds the code and the cells that were needed.
Neither hangs on where a file lies or what a module is called. A result that tells another `SCHEME` is of an archlab
that named cells otherwise: it does not count, and `run` says so.
"""

import importlib
import json
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

from ..arguments import choice
from ..files import write_whole
from ..measure.environment import conditions
from ..names import closest
from ..training.checkpoint import CheckpointMismatch
from .dependencies import Code, code_of
from .lease import lease
from .provenance import data_fingerprint, digest
from .study import Needed, OutOfTime, Scratch, Wanted

FINISHED = "finished"
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
    needs: Mapping[Wanted, "Cell"]  # as the row's `needs` gave them
    results: Path
    home: Path
    stale: str

    @property
    def label(self) -> str:
        return f"{self.name} (seed {self.seed})"


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
    left = [path for folder in {cell.results for cell in cells} for path in folder.glob("*.json")]
    left += [path for folder in {cell.home.parent for cell in cells} for path in folder.glob("*/attempts/*.json")]
    told = {path: _read(path) or {"scheme": SCHEME} for path in left}
    keys = {said.get("key", path.parents[1].name) for path, said in told.items() if said.get("scheme") != SCHEME}
    return sorted(keys - {cell.key for cell in cells})  # where both schemes give one key, what lies there is stale


def cells_of(plan: Plan) -> list[Cell]:
    """All cells of a study, in the order of its rows.

    Raises:
        ValueError: no study, a preset that it does not have, or rows that do not add up.
    """
    module = importlib.import_module(plan.study)
    if not hasattr(module, "ROWS"):
        raise ValueError(f"{plan.study}: no study; a study has ROWS, cell and report (see archlab.Study)")
    choice("preset", plan.preset, getattr(module, "PRESETS", (plan.preset,)))
    named = {row if isinstance(row, str) else row["name"]: row for row in module.ROWS}
    if len(named) < len(module.ROWS):
        raise ValueError(f"{plan.study}.ROWS: names must differ, got {[*named]} for {len(module.ROWS)} rows")
    data = getattr(module, "fingerprint", lambda preset, data: data_fingerprint(data))(
        plan.preset, None if plan.data is None else Path(plan.data)
    )
    codes: dict[tuple[str, ...], Code] = {}
    cells: dict[tuple[str, int], Cell] = {}
    others: dict[str, dict[tuple[str, int], Cell]] = {plan.study: cells}
    for name, row in named.items():
        function, more = cell_for(module, row), tuple(module.depends(row)) if hasattr(module, "depends") else ()
        asks = (function.__module__, function.__qualname__, *more)
        if asks not in codes:
            codes[asks] = code_of(function, more)
        code = codes[asks]
        for seed in range(plan.seeds):
            asked = {"study": name_of(plan.study), "row": row, "preset": plan.preset, "seed": seed, "data": data}
            key = f"{re.sub(r'[^A-Za-z0-9.]+', '-', name).strip('-')}-{seed}-{digest(asked)[:8]}"
            needs = {}
            for wanted in module.needs(row) if hasattr(module, "needs") else ():
                study, its_row = (plan.study, wanted) if isinstance(wanted, str) else (wanted[0].__name__, wanted[1])
                if study not in others:
                    others[study] = {(c.name, c.seed): c for c in cells_of(plan_of(study, plan))}
                if (its_row, seed) not in others[study]:
                    before = dict.fromkeys(row for row, _ in others[study])
                    raise ValueError(
                        f"{plan.study}: row {name!r} needs {its_row!r} of {name_of(study)}, where no such row stands "
                        f"before it; {closest(its_row, before)}"
                    )
                needs[wanted] = others[study][its_row, seed]
            under = [(standing(need) or {"content": need.content})["content"] for need in needs.values()]
            content = digest({"key": key, "code": code.hash, "needs": sorted(under)})
            results, home = Path(plan.out) / "cells", Path(plan.scratch) / key
            cells[name, seed] = Cell(plan, name, row, seed, key, content, code, needs, results, home, plan.stale)
    return list(cells.values())


def standing(cell: Cell) -> dict[str, Any] | None:
    """The result that counts for a cell.

    Returns:
        What its file holds, with "stale" saying whether its code has changed since; None where there is none yet.
    """
    fresh = _read_result(cell.results / f"{cell.key}-{cell.content}.json")
    if fresh is not None or cell.stale == "rerun":
        return fresh and {**fresh, "stale": False}
    older = [result for path in cell.results.glob(f"{cell.key}-*.json") if (result := _read_result(path))]
    return {**max(older, key=lambda result: result["ended"]), "stale": True} if older else None


def run_cell(cell: Cell, deadline: float | None) -> str:
    """Run one cell, unless that is done, under way elsewhere, or out of time.

    Args:
        cell: What it needs must be finished.
        deadline: On `time.monotonic`; None for no limit.

    Returns:
        "finished", or why it is not.
    """
    if standing(cell):
        return FINISHED
    for need in cell.needs.values():
        if not standing(need):
            return f"waits for {need.label}"
    if deadline is not None and time.monotonic() >= deadline:
        return "out of time"
    with lease(cell.home / "lease.json") as still_mine:
        if still_mine is None:
            return "running elsewhere"
        if standing(cell):  # finished by whoever held the lease before
            return FINISHED
        return _attempt(cell, deadline)


def _attempt(cell: Cell, deadline: float | None) -> str:
    plan = cell.plan
    function = cell_for(importlib.import_module(plan.study), cell.row)
    record = _begin(cell)
    adopted = _adopt(cell) if cell.stale == "keep" else None
    outcome, values, begun = "interrupted", {}, time.monotonic()
    try:
        folder = cell.home / cell.content
        needed = {}
        for name, need in cell.needs.items():
            result = standing(need)
            assert result is not None
            needed[name] = Needed(result["values"], need.home / result["content"])
        scratch = Scratch(folder, None if plan.data is None else Path(plan.data), deadline, needed)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            values = function(cell.row, plan.preset, cell.seed, scratch)
        except CheckpointMismatch:  # older code began this work otherwise: give it back, begin anew
            if adopted is None:
                raise
            os.rename(folder, adopted)
            folder.mkdir()
            values = function(cell.row, plan.preset, cell.seed, scratch)
        values = _plain(values, cell.label)
        outcome = FINISHED
    except OutOfTime:
        outcome = "out of time"
    except Exception as error:
        traceback.print_exc()
        outcome = f"failed: {type(error).__name__}: {error}"
    finally:
        record |= {"ended": _now(), "seconds": time.monotonic() - begun, "outcome": outcome}
        write_whole(cell.home / "attempts" / f"{record['attempt']:03d}.json", _json(record))
    if outcome == FINISHED:
        attempts = [_read(path) or {} for path in sorted((cell.home / "attempts").glob("*.json"))]
        result = {
            "study": name_of(plan.study), "row": cell.name, "preset": plan.preset, "seed": cell.seed, "scheme": SCHEME,
            "key": cell.key, "content": cell.content, "sources": dict(cell.code.modules), "ended": record["ended"],
            "seconds": sum(attempt.get("seconds", 0.0) for attempt in attempts), "attempts": len(attempts),
            "conditions": conditions(), "values": values,
        }  # fmt: skip
        write_whole(cell.results / f"{cell.key}-{cell.content}.json", _json(result))
    return outcome


def _begin(cell: Cell) -> dict[str, Any]:
    """Record that an attempt began; a killed one stays as it is here."""
    number = 1 + sum(1 for _ in (cell.home / "attempts").glob("*.json"))
    record = {
        "attempt": number,
        "scheme": SCHEME,
        "content": cell.content,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    record |= {"began": _now(), "outcome": "began"}
    write_whole(cell.home / "attempts" / f"{number:03d}.json", _json(record))
    return record


def _adopt(cell: Cell) -> Path | None:
    """Let unfinished work that older code began be gone on with: rename the newest to this cell's; its old path."""
    folder = cell.home / cell.content
    if folder.exists() or not cell.home.exists():
        return None
    begun = [p for p in cell.home.iterdir() if re.fullmatch("[0-9a-f]{16}", p.name)]
    begun = [p for p in begun if not (cell.results / f"{cell.key}-{p.name}.json").exists()]
    if not begun:
        return None
    newest = max(begun, key=lambda p: p.stat().st_mtime)
    os.rename(newest, folder)
    print(f"{cell.label}: the code has changed; going on from what it had begun ({newest.name})", file=sys.stderr)
    return newest


def _read_result(path: Path) -> dict[str, Any] | None:
    """A result, or None where there is none; an unreadable one is put aside, so that its cell runs again."""
    result = _read(path)
    if result is not None and {"values", "content", "ended", "seconds", "conditions"} <= result.keys():
        return result
    if path.exists():
        aside = path.with_suffix(".unreadable")
        os.replace(path, aside)
        print(f"{path}: not a readable result; kept as {aside.name}, the cell runs again", file=sys.stderr)
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _plain(value: Any, at: str) -> Any:
    """`value` with numbers of NumPy and torch made Python's.

    Raises:
        TypeError: naming what JSON cannot write.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{at}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{at}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    raise TypeError(
        f"{at} is of type {type(value).__name__}: a cell returns numbers, strings, lists and dicts of these"
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
