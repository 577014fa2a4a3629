"""The command line of a study."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from ..arguments import number
from ..errors import TRY_AGAIN
from .cells import cells_of
from .executors.by_name import EXECUTORS, executor_for
from .executors.scheduler import NoScheduler
from .runner import NOT_CHOSEN, plan_for, run


def command(study: str | ModuleType | None = None) -> None:
    """The command line of a study: of the one that `python -m` runs, whose file ends in

        if __name__ == "__main__":
            command()

    Exit status: 0 finished, 1 a cell failed, the report could not be written or no scheduler answers, 2 wrong usage, 75
    the time limit came first (call it again), 143 stopped by SIGTERM.

    Args:
        study: Another than the one that runs: its module, or that one's name.

    Raises:
        ValueError: the file runs by its path, so that Python does not know what module it is.
    """
    if study is None:
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is None:
            raise ValueError(f"{sys.argv[0]} runs by its path; run it as a module: python -m package.study")
        study = str(spec.name)
    name = study if isinstance(study, str) else study.__name__
    module = importlib.import_module(name)
    presets = getattr(module, "PRESETS", ("smoke", "cpu", "gpu", "paper"))

    def main(
        preset: Annotated[str, typer.Option(help=f"How much: {', '.join(presets)}.")] = presets[0],
        data: Annotated[Path | None, typer.Option(help="Folder of images; default: what the study ships.")] = None,
        seeds: Annotated[int, typer.Option(help="Run every row with so many seeds.")] = 1,
        time_limit: Annotated[float | None, typer.Option(help="Minutes; the next call goes on.")] = None,
        workers: Annotated[int, typer.Option(help="Processes, a cell each; 0: here, one by one.")] = 0,
        cell_limit: Annotated[
            float | None, typer.Option(help="Minutes, after which a cell that runs is killed.")
        ] = None,
        executor: Annotated[str | None, typer.Option(help=f"{', '.join(EXECUTORS)}; default: by the others.")] = None,
        scheduler: Annotated[
            str | None, typer.Option(help="Of a Dask cluster, whose workers run the cells: tcp://host:8786.")
        ] = None,
        stale: Annotated[str, typer.Option(help="Results of older code: keep (and mark) or rerun.")] = "keep",
        only: Annotated[str, typer.Option(help="Glob on row names.")] = "*",
        out: Annotated[Path, typer.Option(help="Where reports go.")] = Path("reports"),
        scratch: Annotated[Path, typer.Option(help="Where checkpoints go.")] = Path("scratch"),
        weights: Annotated[Path | None, typer.Option(help="Trained weights, which rows take and do not train.")] = None,
        partial: Annotated[bool, typer.Option(help="Report what is there, if others are missing.")] = False,
    ) -> None:
        cell_limit_s = None if cell_limit is None else 60 * cell_limit
        try:
            number("--time-limit", time_limit, low=0, optional=True, finite=False)
            number("--cell-limit", cell_limit, above=0, optional=True)
            executor_for(executor, workers, cell_limit_s, scheduler)
            cells_of(plan_for(name, preset, data, seeds, stale, out, scratch, weights))
        except (ValueError, ModuleNotFoundError) as error:
            raise typer.BadParameter(str(error)) from error
        try:
            rows = run(
                name, preset=preset, data=data, seeds=seeds, workers=workers, executor=executor, scheduler=scheduler,
                stale=stale, only=only, out=out, scratch=scratch, weights=weights, cell_limit_s=cell_limit_s,
                time_limit_s=None if time_limit is None else 60 * time_limit, partial=partial,
            )  # fmt: skip
        except NoScheduler as error:
            print(error, file=sys.stderr)
            raise typer.Exit(1) from error
        kept = int(rows["stale"].to_numpy().sum()) if len(rows) else 0
        if kept:
            print(f"{kept} rows are of older code and marked stale; --stale rerun makes them anew", file=sys.stderr)
        missing = rows.attrs["missing"]
        if missing:
            told = "the report is of part" if partial and len(rows) else "no report yet"
            print(f"{told}: {len(missing)} cells are missing, {len(rows)} are there", file=sys.stderr)
            asked = [why for why in missing.values() if why != NOT_CHOSEN]
            if asked:
                raise typer.Exit(1 if any(why.startswith(("failed", "killed")) for why in asked) else TRY_AGAIN)
        if rows.attrs["unwritten"]:
            raise typer.Exit(1)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=module.__doc__)(main)
    app()
