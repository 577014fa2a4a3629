"""Running one cell: once at a time, whatever it does told in words, its attempts on record."""

import contextlib
import importlib
import os
import re
import socket
import sys
import time
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..measure.environment import conditions
from ..training.checkpoint import BadCheckpoint, CheckpointMismatch
from .cells import SCHEME, Cell, cell_for, name_of, standing
from .lease import lease
from .order import ELSEWHERE, FINISHED, OUT_OF_TIME, WAITS
from .processes import Terminated
from .results import as_json, found, obstacle, put_aside, read, results_of, values_of
from .study import Needed, OutOfTime, Scratch


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
            return f"{WAITS} {need.label}"
    if deadline is not None and time.monotonic() >= deadline:
        return OUT_OF_TIME
    if hindered := obstacle(cell.results, results_of(cell.results, cell.key)):
        return f"failed: {hindered}"
    try:
        with lease(cell.lease) as still_mine:
            if still_mine is None:
                return ELSEWHERE
            if standing(cell):  # finished by whoever held the lease before
                return FINISHED
            return _attempt(cell, deadline)
    except OSError as error:  # of the files about the cell: a full disk, a folder that may only be read
        return _failed(error)


def _attempt(cell: Cell, deadline: float | None) -> str:
    begun, before, record = time.monotonic(), _attempts(cell), _begin(cell)
    outcome, values = "interrupted", {}
    try:
        values = values_of(_made(cell, deadline), cell.label, cell.row)
        outcome = FINISHED
    except OutOfTime:
        outcome = OUT_OF_TIME
    except (KeyboardInterrupt, Terminated):
        raise
    except SystemExit as error:
        outcome = f"failed: the cell ended the program, by sys.exit({'' if error.code is None else repr(error.code)})"
    except BaseException as error:  # what is no Exception, too, must not end the others
        traceback.print_exc()
        outcome = _failed(error)
    finally:
        record |= {"ended": _now(), "seconds": time.monotonic() - begun}
        if outcome == FINISHED:
            outcome = _keep(cell, [*before, record], values)
        record["outcome"] = outcome
        with contextlib.suppress(OSError):  # it says "began", as of one that was killed
            write_whole(_path(cell, record), as_json(record), synced=False)
    return outcome


def _made(cell: Cell, deadline: float | None) -> Any:
    """What the cell's function returns, in its own folder, which holds what earlier attempts of it left."""
    plan, folder = cell.plan, cell.home / cell.content
    function = cell_for(importlib.import_module(plan.study), cell.row)
    needed = {}
    for name, need in cell.needs.items():
        result = standing(need)
        assert result is not None
        needed[name] = Needed(
            result["values"], need.home / result["content"], need.results / f"{need.key}-{result['content']}.json"
        )
    data, weights = (None if path is None else Path(path) for path in (plan.data, plan.weights))
    shared = Path(plan.scratch).parents[1] / "shared"
    scratch = Scratch(folder, data, deadline, needed, None if cell.given is None else weights, shared)
    adopted = _adopt(cell) if cell.stale == "keep" else None
    folder.mkdir(parents=True, exist_ok=True)
    left = {path.resolve() for path in folder.rglob("*")}
    while True:
        try:
            return function(cell.row, plan.preset, cell.seed, scratch)
        except BadCheckpoint as error:
            path = Path(os.path.abspath(error.path))
            if adopted is not None and isinstance(error, CheckpointMismatch):
                os.rename(folder, adopted)  # older code began this work otherwise: give it back, begin anew
                folder.mkdir()
                adopted, left = None, set()
            elif path.parent.resolve() / path.name in left:
                left.remove(path.parent.resolve() / path.name)  # once: a cell that makes such a file itself fails
                aside = put_aside(path, path.with_name(f"{path.name}.aside"))
                print(
                    f"{cell.label}: the checkpoint is kept as {aside}, the cell begins again; {error}", file=sys.stderr
                )
            else:
                raise


def _keep(cell: Cell, attempts: list[dict[str, Any]], values: dict[str, Any]) -> str:
    """Write a cell's result; "finished", or why it is not."""
    seconds = [attempt.get("seconds") for attempt in attempts]
    result = {
        "study": name_of(cell.plan.study), "row": cell.name, "preset": cell.plan.preset, "seed": cell.seed,
        "scheme": SCHEME, "key": cell.key, "content": cell.content, "sources": dict(cell.code.modules),
        "ended": attempts[-1]["ended"], "seconds": sum(s for s in seconds if isinstance(s, int | float)),
        "attempts": len(attempts), "conditions": conditions(), "values": values,
    }  # fmt: skip
    try:
        write_whole(cell.result, as_json(result))
    except (OSError, ValueError) as error:
        return _failed(error)
    return FINISHED


def _begin(cell: Cell) -> dict[str, Any]:
    """Record that an attempt began; a killed one stays as it is here."""
    record = {
        "attempt": 1 + sum(1 for _ in (cell.home / "attempts").glob("*.json")),
        "scheme": SCHEME,
        "content": cell.content,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "began": _now(),
        "outcome": "began",
    }
    write_whole(_path(cell, record), as_json(record), synced=False)  # after a power cut it is missed by nobody
    return record


def _path(cell: Cell, record: dict[str, Any]) -> Path:
    return cell.home / "attempts" / f"{record['attempt']:03d}.json"


def _attempts(cell: Cell) -> list[dict[str, Any]]:
    """The records of the attempts whose work this one may go on with: none from before the last that finished, and
    where older code does not count none of it."""
    records = [read(path) or {} for path in found(cell.home / "attempts", "*.json")]
    since = max((place + 1 for place, record in enumerate(records) if record.get("outcome") == FINISHED), default=0)
    return [one for one in records[since:] if cell.stale == "keep" or one.get("content") == cell.content]


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


def _failed(error: BaseException) -> str:
    return f"failed: {type(error).__name__}: {error}"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
