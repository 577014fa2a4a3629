"""Run a study: each cell once, whatever is killed in between; then its rows as a table.

A study is a module with `ROWS`, `cell` and `report` (see `Study`). One file a finished cell, from which
`reports/<study>/<preset>/rows.csv` is derived; what cells keep while they run lies in `scratch/`.
"""

import errno
import fnmatch
import importlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from ..arguments import choice, flag, folder, number, text, whole, wrong
from ..errors import add_note
from ..files import write_whole
from ..markup import csv_of
from .cells import Cell, Plan, cells_of, name_of, of_another_scheme, standing
from .executors.by_name import executor_for
from .lease import lease
from .order import ELSEWHERE_S, FINISHED
from .processes import sigterm_as_exception
from .results import RESERVED

CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STALE = ("keep", "rerun")
MOST_SEEDS = 10_000  # more cannot be meant
NOT_CHOSEN = "not chosen by only"


def run(
    study: str | ModuleType,
    *,
    preset: str,
    data: str | Path | None = None,
    seeds: int = 1,
    time_limit_s: float | None = None,
    workers: int = 0,
    executor: str | None = None,
    scheduler: str | None = None,
    cell_limit_s: float | None = None,
    stale: str = "keep",
    only: str = "*",
    out: str | Path = "reports",
    scratch: str | Path = "scratch",
    weights: str | Path | None = None,
    partial: bool = False,
) -> pd.DataFrame:
    """Run what is missing of a study, and return its rows; with every cell finished, write its report.

    Several may run one study in the same folders at once: each runs what no other does and waits for the rest. A
    finished study needs no folder that can be written to.

    Args:
        study: Its module, or that one's name.
        preset: How much; one of the study's `PRESETS`.
        data: Folder of the data; None for what the study ships.
        seeds: Every row runs with the seeds 0 … seeds-1, or the first of them where its study says so.
        time_limit_s: Stops between cells, and inside those that mind `scratch.time_left_s()`; the next call goes on.
        workers: 0 runs the cells here, one after another; else so many processes at once, each with one cell, a GPU
            each where there are several. A cell that fails or is killed is named in "missing"; the others go on.
        executor: A name in `archlab.experiments.executors.by_name.EXECUTORS`; None: by the options about it.
        scheduler: The address of a Dask scheduler (tcp://host:8786), whose workers run the cells, wherever these see
            the same folders and have archlab. A cell takes of its worker what the study's `resources` says, is gone
            on with by another where its worker dies, and ends with this call. `workers` then limits how many cells are
            given away at once; 0 does not. Needs ``pip install 'archlab[cluster]'``.
        cell_limit_s: A cell that runs longer, as one that hangs does, is killed and named; the others go on. With it
            cells run in processes, one at once where `workers` is 0.
        stale: What happens to a result whose code has changed since. "keep" takes it and marks the row, as an hour of
            training is not thrown away for an edit; "rerun" makes a new one. The old file stays either way.
        only: A glob on row names; these run, and the rows that they need.
        out: The folder of reports, this one's being `out`/<study>/<preset>. Until all cells are finished, only
            rows.csv and the cells' files stand there, unless `partial`; rows.csv leaves out columns of lists and
            dicts, and has a quote before text that a spreadsheet would compute.
        scratch: The folder of checkpoints.
        weights: A folder of trained weights, which rows take instead of training. Results from them are others than
            those of the study's own trainings; both stay.
        partial: Write the report of the rows that are there, though others are missing; it names these. One that needs
            a row that is missing raises what its study does there.

    Returns:
        A row a finished cell, with the columns row, what a row's dict says, preset, seed, the cell's values, stale,
        seconds. `attrs` holds "missing" {cell: why}, "folders" {row: where its first seed worked}, "conditions"
        (preset, data, weights, seeds, wall time, device, versions, commit) and "unwritten": why rows.csv or the report
        could not be written.

    Raises:
        ValueError: an unknown preset or option, a missing data folder, or rows that do not add up.
        ConnectionError: no scheduler answers.

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
    number("time_limit_s", time_limit_s, low=0, optional=True, finite=False)
    text("only", only, "a glob on row names")
    flag("partial", partial)
    plan = plan_for(study, preset, data, seeds, stale, out, scratch, weights)
    execute = executor_for(executor, workers, cell_limit_s, scheduler)
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    cells = cells_of(plan)
    chosen = _chosen(cells, only, plan.study)
    if weights is not None and all(cell.given is None for cell in chosen):
        raise ValueError(wrong("weights", f"a folder with weights that a row of {plan.study} takes", str(weights)))
    cells = [cell if cell in chosen else replace(cell, stale="keep") for cell in cells]
    if older := of_another_scheme([*cells, *chosen]):
        print(
            f"{len(older)} cells are of an older archlab, which named them otherwise ({', '.join(older[:3])}"
            f"{', …' if len(older) > 3 else ''}); they stay and do not count here: the archlab that began them can "
            "finish and report them",
            file=sys.stderr,
        )
    with sigterm_as_exception():
        outcomes = execute(chosen, workers, deadline)
    outcomes |= {cell: FINISHED if standing(cell) else NOT_CHOSEN for cell in cells if cell not in outcomes}
    for cell in cells:
        if outcomes[cell] == FINISHED and not standing(cell):
            outcomes[cell] = "finished by code that was edited after this run began; run again"
    rows = _rows(plan, cells)
    rows.attrs["missing"] = {cell.label: outcome for cell, outcome in outcomes.items() if outcome != FINISHED}
    due = len(rows) > 0 if partial else not rows.attrs["missing"]
    writers = (_write_rows, *([_report] if due else []))
    rows.attrs["unwritten"] = [why for write in writers if (why := _tried(write, plan, rows))]
    return rows


def _tried(write: Callable[[Plan, pd.DataFrame], None], plan: Plan, rows: pd.DataFrame) -> str | None:
    """Write something that results are shown by; None, or why a full disk or a locked folder did not let it."""
    try:
        write(plan, rows)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        print(f"not written: {error}", file=sys.stderr)
        return str(error)
    return None


def _write_rows(plan: Plan, rows: pd.DataFrame) -> None:
    """Write rows.csv, unless it is there as it should be."""
    plain = [name for name in rows if not rows[name].map(lambda value: isinstance(value, list | dict)).any()]
    path, content = Path(plan.out) / "rows.csv", csv_of(rows[plain]).encode()
    if not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)


def _report(plan: Plan, rows: pd.DataFrame) -> None:
    """Write the study's report of the rows that are there."""
    with _alone(Path(plan.scratch)):
        try:
            importlib.import_module(plan.study).report(rows, Path(plan.out))
        except Exception as error:
            if rows.attrs["missing"]:
                add_note(error, f"{plan.study}.report was given part of the rows, and may need one that is missing")
            raise


@contextmanager
def _alone(scratch: Path) -> Iterator[None]:
    """While open, no other runner that works in the folder reports."""
    mine = None
    while mine is None:
        with ExitStack() as stack:
            try:
                mine = stack.enter_context(lease(scratch / "report.json")) if scratch.is_dir() else True
            except OSError:  # it can only be read, or is full: nobody works there
                mine = True
            if mine is not None:
                yield
            else:
                time.sleep(ELSEWHERE_S)


def plan_for(study, preset, data, seeds, stale, out, scratch, weights=None) -> Plan:
    """What `run` is asked for, checked.

    Raises:
        ValueError: an option that it does not take.
    """
    study = _named(study)
    text("preset", preset)
    whole("seeds", seeds, least=1, most=MOST_SEEDS)
    choice("stale", stale, STALE)
    for name, value in (("out", out), ("scratch", scratch)):
        folder(name, value)
    for name, value in (("data", data), ("weights", weights)):
        folder(name, value, optional=True)
        if value is not None and not Path(value).is_dir():
            raise ValueError(wrong(name, "a folder that is there", str(value)))
    out, scratch = (str(Path(path) / name_of(study) / preset) for path in (out, scratch))
    data, weights = (None if path is None else str(path) for path in (data, weights))
    return Plan(study, preset, data, seeds, stale, out, scratch, weights)


def _named(study: Any) -> str:
    """The name of a study's module, which is imported. Raises TypeError or ValueError for what is none."""
    if not isinstance(study, str | ModuleType):
        raise TypeError(wrong("study", "a module or its name", study))
    name = study if isinstance(study, str) else study.__name__
    try:
        importlib.import_module(name)
    except (ModuleNotFoundError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the study imports is not there
        raise ValueError(wrong("study", "the name of a module, as for import", name, str(error))) from error
    return name


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


def _rows(plan: Plan, cells: Iterable[Cell]) -> pd.DataFrame:
    """One row a finished cell, in the order of the study's rows."""
    rows, results, folders = [], [], {}
    for cell in cells:
        if (result := standing(cell)) is not None:
            said = {} if isinstance(cell.row, str) else {k: v for k, v in cell.row.items() if k != "name"}
            values = {name: value for name, value in result["values"].items() if name not in RESERVED}
            last = {"stale": result["stale"], "seconds": result["seconds"]}
            rows.append({"row": cell.name, **said, "preset": plan.preset, "seed": cell.seed, **values, **last})
            results.append(result)
            folders.setdefault(cell.name, str(cell.home / result["content"]))
    frame = pd.DataFrame(rows)
    frame.attrs["folders"] = folders
    made: dict[str, Any] = {"preset": plan.preset, "data": Path(plan.data).name if plan.data else "default"}
    made |= {"weights": Path(plan.weights).name} if plan.weights else {}
    made |= {"seeds": plan.seeds, "wall_s": sum(result["seconds"] for result in results)}
    for name in results[0]["conditions"] if results else ():
        values = [result["conditions"].get(name) for result in results]
        made[name] = ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or None
    frame.attrs["conditions"] = made
    return frame
