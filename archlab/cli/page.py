"""The command that makes pages of studies' reports: `archlab page`."""

from pathlib import Path
from typing import Annotated

import typer

from ..report.study.page import write_index, write_readme, write_study
from ..report.study.report import reports_in
from .options import Trace, WrongUsage, readable_errors


def page_command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A study's folder, such as reports/widths, with report.md in it or below; or one of many such.",
            show_default=False,
        ),
    ],
    x: Annotated[str | None, typer.Option(help="The heading of the cost in its main table; default: by name.")] = None,
    y: Annotated[str | None, typer.Option(help="The heading of the quality in it; default: by name.")] = None,
    readme: Annotated[
        bool, typer.Option("--readme", help="Also write FOLDER/README.md: each study's headline and first picture.")
    ] = False,
    trace: Trace = False,
) -> None:
    """Make one HTML page of each study's report, and an index over several.

    A page is the file index.html beside report.md, and stands alone: it can
    be mailed, and opens without a network. It has the report's words, its
    tables (sortable), its pictures, its main table as points that tell
    their names, how each ω moved and which sites went, and every row.
    """
    with readable_errors(trace, wrong=(OSError,)):
        studies = reports_in(folder)
        if not studies:
            raise WrongUsage(f"{folder}: no report.md there or below; a study writes it when its cells are finished")
        written = [write_study(study, x=x, y=y) for study in studies]
        if len(studies) > 1:
            written.append(write_index(folder, studies))
        if readme:
            written.append(write_readme(folder, studies))
    for path in written:
        print(path)
