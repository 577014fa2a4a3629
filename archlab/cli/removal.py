"""The commands that work on a model and its task: `archlab scores` and `archlab remove`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
import typer
from torch import nn

from ..errors import TRY_AGAIN
from ..files import write_whole
from ..markup import csv_of
from ..names import closest
from ..passes.serialization import save
from ..removal.budget import check_budget, check_shares
from ..removal.candidates import ALL
from ..removal.greedy import remove_at_random, remove_greedily
from ..removal.learn import Removal, learn_to_remove
from ..removal.probe.alone import untouched_qualities
from ..removal.scores import COLUMNS, SAVED_MS, scores
from ..report.removal_page import GONE, by_site
from ..report.tables import Table, digits_of, table
from ..training.task import Task
from .options import (
    SHOWN,
    Args,
    AsCsv,
    AsJson,
    Kinds,
    Trace,
    Where,
    WrongUsage,
    one_format,
    readable_errors,
    show,
    words_of,
)
from .parsing import make_job, named_value

METHODS: dict[str, Callable[..., Removal]] = {
    "learned": learn_to_remove,
    "greedy": remove_greedily,
    "one-shot": partial(remove_greedily, rescore=False),
    "random": remove_at_random,
}
# What the command says by options of its own, or always.
OWN = (
    "kinds",
    "where",
    "granularity",
    "budget",
    "at_most_loss",
    "rescore",
    "folder",
    "time_limit_s",
    "evaluate",
    "progress",
)
FORMS: dict[str, Callable[[Table], str]] = {
    ".csv": Table.csv, ".md": Table.markdown, ".tex": Table.latex, ".html": Table.html
}  # fmt: skip
SAVINGS = ("params", "macs", SAVED_MS)
GOES, DONE = "What goes", "How it is done"

Job = Annotated[
    str,
    typer.Argument(
        metavar="PACKAGE.MODULE:TASK",
        help="A function that returns the model and its al.Task; imported, from this folder first.",
        show_default=False,
    ),
]


def scores_command(
    job: Job,
    args: Args = None,
    kinds: Kinds = ALL,
    where: Where = None,
    sort: Annotated[
        str,
        typer.Option(metavar="COLUMN", help="By this column, the best first.", rich_help_panel=SHOWN),
    ] = "loss_per_saving",
    batches: Annotated[int, typer.Option(min=1, help="Of the task, that the loss is measured on.")] = 8,
    latency: Annotated[bool, typer.Option("--latency", help="Also the milliseconds that each site costs.")] = False,
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Kept there, site by site: the same command goes on.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Also as a file: {', '.join(FORMS)}.", rich_help_panel=SHOWN),
    ] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    trace: Trace = False,
) -> None:
    """Score each site by what its removal alone costs and saves, without training.

    The model is what the function returns, trained; quality and loss are the
    task's. Cheapest first: the change of the loss by what is saved.

      archlab scores studies.guides.denoiser:trained --kinds block
      archlab scores mynet:job --where "encoder*" --sort delta_accuracy \\
        --folder scored --out scores.tex
    """
    one_format(as_json, as_csv)
    if out is not None and out.suffix not in FORMS:
        raise WrongUsage(f"--out {out}: name a file that ends in {', '.join(FORMS)}")
    with _readable(trace):
        model, task = _job(job, args)
        wanted = ALL if kinds == ALL else words_of(kinds)
        _check_column(sort, model, task, latency)
        found = scores(model, task, kinds=wanted, where=where or None, batches=batches, latency=latency, folder=folder)
        # More is better of what is saved, and of a quality that the task says nothing of.
        more = sort in SAVINGS or sort not in COLUMNS
        way = found.attrs["better"].get(sort, "higher" if more else "lower")
        found = found.sort_values(sort, ascending=way == "lower", kind="stable", ignore_index=True)
        if out is not None:
            numbers = found.select_dtypes("float")
            made = table(found, better={}, digits={name: digits_of(numbers[name]) for name in numbers})
            write_whole(out, FORMS[out.suffix](made).rstrip().encode() + b"\n")
    if as_json:
        rows = json.loads(found.to_json(orient="records", double_precision=15))
        print(json.dumps({"scores": rows, **{name: found.attrs[name] for name in _ATTRIBUTES}}, indent=1))
    elif as_csv:
        print(csv_of(found), end="")
    else:
        untouched = found.attrs["untouched"]
        empty = [] if found["module"].any() else ["module"]
        show(found.drop(columns=[*empty, *untouched]))
        told = ", ".join(f"{name} {value:.4g}" for name, value in untouched.items())
        print(f"{len(found)} sites; the untouched model has {told}")
        for name, why in (("refused", "cannot be rewritten"), ("resolved", "cannot go together with others")):
            if left_out := found.attrs[name]:
                print(f"{len(left_out)} left out, which {why}; --json says which")


_ATTRIBUTES = ("untouched", "refused", "resolved")


def remove_command(
    job: Job,
    args: Args = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MEASURE=SHARE",
            help="What may stay, as macs=0.6: of macs, params, activations, latency_ms, sites; say it again for more.",
            show_default=False,
            rich_help_panel=GOES,
        ),
    ] = None,
    at_most_loss: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUALITY=CHANGE",
            help="Instead: by how much a quality may get worse before tuning, as accuracy=0.01.",
            show_default=False,
            rich_help_panel=GOES,
        ),
    ] = None,
    kinds: Kinds = ALL,
    where: Where = None,
    method: Annotated[
        Literal["learned", "greedy", "one-shot", "random"],
        typer.Option(help="How it is decided what goes.", rich_help_panel=GOES),
    ] = "learned",
    granularity: Annotated[
        Literal["site", "channel"],
        typer.Option(help="What goes by itself; channels are of --kinds activation.", rich_help_panel=GOES),
    ] = "site",
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of al.learn_to_remove or, by method, al.remove_greedily, al.remove_at_random: lr=1e-3.",
            show_default=False,
            rich_help_panel=DONE,
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="MINUTES", help="The same command goes on.", show_default=False, rich_help_panel=DONE
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where all is written, and gone on from.", rich_help_panel=DONE)
    ] = Path("removal"),
    trace: Trace = False,
) -> None:
    """Remove what the task can do without, down to a budget, and train the rest on.

    Into the folder go thin.safetensors, for al.load; index.html, a page on what
    went; its tables as Markdown, LaTeX and CSV; and checkpoints: a command that
    was killed goes on when it is given again.

      archlab remove studies.guides.denoiser:trained --kinds block \\
        --budget macs=0.6 --set lr=1e-3 --set lr_omega=0.03
      archlab remove mynet:job --at-most-loss accuracy=0.01 --method greedy \\
        --set tune_steps=2000 --time-limit 60 --out thin
    """
    with _readable(trace):
        goal = _goal(budget, at_most_loss)
        given = dict(named_value("--set", text, "lr=1e-3") for text in options or ())
        if set_here := [name for name in given if name in OWN]:
            raise WrongUsage(f"--set {set_here[0]}: say it by an option of the command, as --help lists them")
        if granularity == "channel":
            if method != "learned":
                raise WrongUsage(f"--granularity channel: it goes with --method learned, got --method {method}")
            given["granularity"] = granularity
        model, task = _job(job, args)
        removal = METHODS[method](
            model, task, kinds=ALL if kinds == ALL else words_of(kinds), where=where or None, **goal,
            folder=out / "checkpoints", evaluate=True, time_limit_s=None if time_limit is None else 60 * time_limit,
            **given,
        )  # fmt: skip
        if removal.finished:
            removal.report(out)
            save(removal.model, out / "thin.safetensors")
    print(removal)
    if not removal.finished:
        raise typer.Exit(TRY_AGAIN)
    show(_went(removal.decisions))
    print(f"written to {out}: index.html, thin.safetensors, table.*, sites.*")


def _went(decisions: pd.DataFrame) -> pd.DataFrame:
    """The sites that went, those of channels at least in part, and what goes with them."""
    if "channel" not in decisions:
        return decisions.loc[decisions["removed"], ["site", "params", "macs"]]
    sites = by_site(decisions)
    return sites.loc[sites[GONE] > 0, ["site", "channels", GONE]]


@contextmanager
def _readable(trace: bool) -> Iterator[None]:
    """Also of a wrong type may be what was asked: values of options are Python's."""
    with readable_errors(trace, failed="the model or its task fails", wrong=(TypeError,)):
        yield


def _job(job: str, args: list[str] | None) -> tuple[nn.Module, Task]:
    """The model and the task that the command line names; random weights are the same each time."""
    torch.manual_seed(0)
    return make_job(job, args or ())


def _goal(budget: list[str] | None, at_most_loss: list[str] | None) -> dict[str, Any]:
    """How much is to go: checked before the model is made, which may take long."""
    if bool(budget) == bool(at_most_loss):
        given = "both are given" if budget else "neither is given"
        raise WrongUsage(f"--budget macs=0.6 or --at-most-loss accuracy=0.01 says how much is to go; {given}")
    if budget:
        shares = dict(named_value("--budget", text, "macs=0.6") for text in budget)
        check_budget(shares)
        return {"budget": shares}
    falls = dict(_quality(text) for text in at_most_loss or ())
    check_shares("at_most_loss", falls, "accuracy=0.01")
    return {"at_most_loss": falls}


def _quality(text: str) -> tuple[str, Any]:
    """As `named_value`, of a quality, whose name may hold anything."""
    name, _, value = text.rpartition("=")
    return name, named_value("--at-most-loss", f"change={value}", "accuracy=0.01")[1]


def _check_column(sort: str, model: nn.Module, task: Task, latency: bool) -> None:
    """Raise WrongUsage where the scores have no such column: before they are measured."""
    known = [name for name in COLUMNS if latency or name != SAVED_MS]
    if sort not in known:
        names = untouched_qualities(task, model, COLUMNS)
        known += [column for name in names for column in (name, f"delta_{name}")]
        if sort not in known:
            raise WrongUsage(f"--sort {sort!r}: there is no such column; {closest(sort, known)}")
