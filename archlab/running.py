"""Run a study: each cell once, whatever is killed in between; then its rows as a table.

A study is a module with `ROWS`, `cell` and `report` (see `Study`). One file a finished cell, from which
`reports/<study>/<preset>/rows.csv` is derived; what cells keep while they run lies in `scratch/`.
"""

import fnmatch
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from .cells import FINISHED, Cell, Plan, cells_of, name_of, run_cell, standing
from .checkpoints import write_whole

STALE = ("keep", "rerun")
NOT_CHOSEN = "not chosen by only"
TRY_AGAIN = 75  # the exit status, by convention, of what may succeed when it is called again


def run(
    study: str,
    *,
    preset: str,
    data: str | Path | None = None,
    seeds: int = 1,
    time_limit_s: float | None = None,
    workers: int = 0,
    stale: str = "keep",
    only: str = "*",
    out: str | Path = "reports",
    scratch: str | Path = "scratch",
) -> pd.DataFrame:
    """Run what is missing of the study module named `study`; return its rows, one a finished cell.

    With every cell of the study finished, its `report(rows, folder)` is called, the folder being
    `out`/<study>/<preset>; until then only rows.csv stands there. Columns: row, what a row's dict says, preset,
    seed, the cell's values, stale, seconds; rows.csv leaves out columns of lists and dicts, which stand in the cells'
    files. `rows.attrs` holds "missing" {cell: why}, "folders" {row: where its first seed worked} and "conditions"
    (preset, data, seeds, wall time, device, versions, commit).

    - `seeds`: every row with the seeds 0 … seeds-1.
    - `time_limit_s` stops between cells, and inside those that mind `scratch.time_left_s()`; the next call goes on.
    - `workers`: 0 runs the cells here, one after another; else so many processes at once, each with one cell, a
      GPU each where there are several. A cell that fails or is killed is named in "missing"; the others go on.
    - `stale`: a result whose code has changed since. "keep" (the default: an hour of training is not thrown away
      for an edit) takes it and marks the row; "rerun" makes a new one. The old file stays either way.
    - `only`: a glob on row names; these run, and the rows that they need.

    Raises ValueError for an unknown preset or option, a missing data folder, and rows that do not add up.

    >>> _ = Path("letters.py").write_text('''
    ... ROWS = ["a", "b"]
    ... def cell(row, preset, seed, scratch):
    ...     return {"code": ord(row)}
    ... def report(rows, folder):
    ...     rows.to_csv(folder / "table.csv")
    ... ''')
    >>> sys.path.insert(0, ".")
    >>> run("letters", preset="smoke")[["row", "preset", "seed", "code"]]
      row preset  seed  code
    0   a  smoke     0    97
    1   b  smoke     0    98
    """
    plan = _plan(study, preset, data, seeds, workers, stale, out, scratch)
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    cells = cells_of(plan)
    chosen = _chosen(cells, only, plan.study)
    cells = [cell if cell in chosen else replace(cell, stale="keep") for cell in cells]
    if workers:
        outcomes = _in_workers(chosen, workers, deadline)
    else:
        outcomes = {cell: _told(cell, run_cell(cell, deadline)) for cell in chosen}
    outcomes |= {cell: FINISHED if standing(cell) else NOT_CHOSEN for cell in cells if cell not in outcomes}
    rows = _rows(plan, cells)
    rows.attrs["missing"] = {cell.label: outcome for cell, outcome in outcomes.items() if outcome != FINISHED}
    plain = [name for name in rows if not rows[name].map(lambda value: isinstance(value, list | dict)).any()]
    write_whole(Path(plan.out) / "rows.csv", rows[plain].to_csv(index=False).encode())
    if not rows.attrs["missing"]:
        importlib.import_module(study).report(rows, Path(plan.out))
    return rows


def command(study: str) -> None:
    """The command line of a study. Its file ends in `if __name__ == "__main__": command("studies.motion.table1")`.

    Exit status: 0 finished, 1 a cell failed, 2 wrong usage, 75 the time limit came first (call it again).
    """
    module = importlib.import_module(study)
    presets = getattr(module, "PRESETS", ("smoke", "cpu", "gpu", "paper"))

    def main(
        preset: Annotated[str, typer.Option(help=f"How much: {', '.join(presets)}.")] = "smoke",
        data: Annotated[Path | None, typer.Option(help="Folder of images; default: what the study ships.")] = None,
        seeds: Annotated[int, typer.Option(help="Run every row with so many seeds.")] = 1,
        time_limit: Annotated[float | None, typer.Option(help="Minutes; the next call goes on.")] = None,
        workers: Annotated[int, typer.Option(help="Processes, a cell each; 0: here, one by one.")] = 0,
        stale: Annotated[str, typer.Option(help="Results of older code: keep (and mark) or rerun.")] = "keep",
        only: Annotated[str, typer.Option(help="Glob on row names.")] = "*",
        out: Annotated[Path, typer.Option(help="Where reports go.")] = Path("reports"),
        scratch: Annotated[Path, typer.Option(help="Where checkpoints go.")] = Path("scratch"),
    ) -> None:
        try:
            cells_of(_plan(study, preset, data, seeds, workers, stale, out, scratch))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        rows = run(
            study, preset=preset, data=data, seeds=seeds, workers=workers, stale=stale, only=only, out=out,
            scratch=scratch, time_limit_s=None if time_limit is None else 60 * time_limit,
        )  # fmt: skip
        kept = int(rows["stale"].to_numpy().sum()) if len(rows) else 0
        if kept:
            print(f"{kept} rows are of older code and marked stale; --stale rerun makes them anew", file=sys.stderr)
        missing = rows.attrs["missing"]
        if missing:
            print(f"no report yet: {len(missing)} cells are missing, {len(rows)} are there", file=sys.stderr)
            asked = [why for why in missing.values() if why != NOT_CHOSEN]
            if asked:
                raise typer.Exit(1 if any(why.startswith(("failed", "killed")) for why in asked) else TRY_AGAIN)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=module.__doc__)(main)
    app()


def _plan(study, preset, data, seeds, workers, stale, out, scratch) -> Plan:
    if stale not in STALE:
        raise ValueError(f"stale must be one of {', '.join(STALE)}, got {stale!r}")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    if data is not None and not Path(data).is_dir():
        raise ValueError(f"data: {data} is no folder")
    folders = (str(Path(folder) / name_of(study) / preset) for folder in (out, scratch))
    return Plan(study, preset, None if data is None else str(data), seeds, stale, *folders)


def _chosen(cells: Iterable[Cell], only: str, study: str) -> list[Cell]:
    """The cells whose row matches, and before each what it needs, of whatever study."""
    cells = list(cells)
    wanted = {cell for cell in cells if fnmatch.fnmatchcase(cell.name, only)}
    if not wanted:
        raise ValueError(f"only={only!r} matches no row of {study}: {', '.join(dict.fromkeys(c.name for c in cells))}")
    ordered: dict[Cell, None] = {}

    def add(cell: Cell) -> None:
        for need in cell.needs.values():
            add(need)
        ordered[cell] = None

    for cell in cells:
        if cell in wanted:
            add(cell)
    return list(ordered)


def _told(cell: Cell, outcome: str) -> str:
    result = standing(cell)
    took = f", {result['seconds']:.0f} s" + (", stale" if result["stale"] else "") if result else ""
    print(f"{cell.label}: {outcome}{took}", file=sys.stderr, flush=True)
    return outcome


def _rows(plan: Plan, cells: Iterable[Cell]) -> pd.DataFrame:
    """One row a finished cell, in the order of the study's rows."""
    rows, results, folders = [], [], {}
    for cell in cells:
        if (result := standing(cell)) is not None:
            said = {} if isinstance(cell.row, str) else {k: v for k, v in cell.row.items() if k != "name"}
            last = {"stale": result["stale"], "seconds": result["seconds"]}
            rows.append(
                {"row": cell.name, **said, "preset": plan.preset, "seed": cell.seed, **result["values"], **last}
            )
            results.append(result)
            folders.setdefault(cell.name, str(cell.home / result["content"]))
    frame = pd.DataFrame(rows)
    frame.attrs["folders"] = folders
    made: dict[str, Any] = {"preset": plan.preset, "data": Path(plan.data).name if plan.data else "default"}
    made |= {"seeds": plan.seeds, "wall_s": sum(result["seconds"] for result in results)}
    for name in results[0]["conditions"] if results else ():
        values = dict.fromkeys(result["conditions"].get(name) for result in results)
        made[name] = ", ".join(str(value) for value in values if value is not None) or None
    frame.attrs["conditions"] = made
    return frame


def _in_workers(cells: list[Cell], workers: int, deadline: float | None) -> dict[Cell, str]:
    """Run cells in processes of their own, at most `workers` at once, each after those it needs."""
    outcomes: dict[Cell, str] = {}
    waiting, running = list(cells), {}
    free = list(range(workers))
    try:
        while waiting or running:
            for cell in list(waiting):
                lost = [need for need in cell.needs.values() if outcomes.get(need, FINISHED) != FINISHED]
                if standing(cell):
                    outcome = FINISHED
                elif lost:
                    outcome = f"waits for {lost[0].label}"
                elif deadline is not None and time.monotonic() >= deadline:
                    outcome = "out of time"
                elif free and all(outcomes.get(need) == FINISHED for need in cell.needs.values()):
                    waiting.remove(cell)
                    slot = free.pop(0)
                    running[cell] = slot, _spawn(cell, slot, workers, deadline)
                    continue
                else:
                    continue
                waiting.remove(cell)
                outcomes[cell] = _told(cell, outcome)
            for cell, (slot, process) in list(running.items()):
                if process.poll() is not None:
                    del running[cell]
                    free.append(slot)
                    outcomes[cell] = _told(cell, _outcome(cell, process.returncode))
            time.sleep(0.02)
    finally:
        for _, process in running.values():
            process.terminate()
    return outcomes


def _spawn(cell: Cell, slot: int, workers: int, deadline: float | None) -> subprocess.Popen:
    given = {
        "plan": asdict(cell.plan),
        "key": cell.key,
        "left_s": None if deadline is None else deadline - time.monotonic(),
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    gpus = gpus or [str(index) for index in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    cell.home.mkdir(parents=True, exist_ok=True)
    with open(cell.home / "log.txt", "ab") as log:
        code = "from archlab.running import _work; _work()"
        return subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(given)], stdout=log, stderr=subprocess.STDOUT, env=environment
        )


def _work() -> None:
    """What a worker process does: one cell, found again by its key; its outcome goes to a file beside the log."""
    given = json.loads(sys.argv[1])
    plan = Plan(**given["plan"])
    deadline = None if given["left_s"] is None else time.monotonic() + given["left_s"]
    (cell,) = [cell for cell in cells_of(plan) if cell.key == given["key"]]
    outcome = run_cell(cell, deadline)
    write_whole(cell.home / "outcome.txt", outcome.encode())


def _outcome(cell: Cell, status: int) -> str:
    told = cell.home / "outcome.txt"
    if status == 0 and told.exists():
        return told.read_text(encoding="utf-8")
    how = f"killed by signal {-status}" if status < 0 else f"failed with exit status {status}"
    return f"{how}; see {cell.home / 'log.txt'}"
