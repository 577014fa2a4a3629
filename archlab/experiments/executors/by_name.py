"""Where cells run, by name. An executor is one function, and a line in `EXECUTORS`.

It is given cells in an order in which each stands after those it needs, a number of workers and the time (of
`time.monotonic`) at which to stop, and returns how each cell ended: "finished", or why not.
"""

import functools
from collections.abc import Callable
from typing import Any

from ...arguments import number, shown, text, whole
from ...names import closest
from ..cells import Cell
from .cluster import cluster
from .local import here, processes
from .scheduler import check_address, check_installed

MOST_WORKERS = 1_024  # more cannot be meant
Executor = Callable[..., dict[Cell, str]]

EXECUTORS: dict[str, Executor] = {"here": here, "processes": processes, "dask": cluster}


def executor_for(
    name: str | None, workers: int, cell_limit_s: float | None = None, scheduler: str | None = None
) -> Executor:
    """The executor of that name; without one, "dask" for a scheduler, `here` for no workers and no limit, `processes`
    else.

    Raises:
        ValueError: no such executor; fewer workers than none; a limit that cannot be or cannot be kept; a scheduler
            without what runs cells there, or the other way round.
        ModuleNotFoundError: for "dask", where distributed is not installed.
    """
    whole("workers", workers, least=0, most=MOST_WORKERS)
    text("executor", name or "")
    check_address("scheduler", scheduler)
    number("cell_limit_s", cell_limit_s, above=0, optional=True)
    name = name or ("dask" if scheduler is not None else "processes" if workers or cell_limit_s else "here")
    if name not in EXECUTORS:
        raise ValueError(f"executor: there is no {name!r}; {closest(name, EXECUTORS)}")
    execute, given = EXECUTORS[name], dict[str, Any]()
    if (execute is cluster) != (scheduler is not None):
        rule = "needs the address of a Dask scheduler" if execute is cluster else "takes none"
        raise ValueError(f"scheduler: the executor {name!r} {rule}, got {shown(scheduler)}")
    if execute is cluster:
        check_installed()
        given["scheduler"] = scheduler
    if cell_limit_s is not None:
        if execute not in (processes, cluster):
            raise ValueError(f"cell_limit_s: {name!r} cannot stop a cell that hangs; 'processes' and 'dask' can")
        given["cell_limit_s"] = cell_limit_s
    return functools.partial(execute, **given) if given else execute
