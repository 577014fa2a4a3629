"""What the commands share: their options, the model and example that these name, tables, errors in one line."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, TypeVar

import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from ..capture.example import Call
from ..discovery.kinds import KINDS, UNLISTED
from ..names import printable
from .parsing import Unusable, check_call, in_words, make_example, make_model

Found = TypeVar("Found")
INPUT = "The model and its input"
SITES = "Which sites"
SHOWN = "What is shown"
PRINTED = "How it is printed"


class WrongUsage(typer.TyperException):
    """What was asked cannot be done; the message is one line."""

    exit_code = 2


Factory = Annotated[
    str,
    typer.Argument(
        metavar="PACKAGE.MODULE:FACTORY",
        help="A function or a class that makes the model; imported, from this folder first.",
        show_default=False,
    ),
]
Inputs = Annotated[
    list[str],
    typer.Option(
        "--input",
        metavar="INPUT",
        help="An argument of the model; say it again for the next. A shape 1,3,224,224; a shape with a dtype "
        "2,12:int64; a number 10.0; name=INPUT for a keyword argument.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
High = Annotated[
    int,
    typer.Option(min=0, max=2**62, help="Largest value of integer inputs, such as token ids.", rich_help_panel=INPUT),
]
Method = Annotated[str, typer.Option("--call", help="The method that runs the model.", rich_help_panel=INPUT)]
Args = Annotated[
    list[str] | None,
    typer.Option(
        "--args",
        metavar="NAME=VALUE",
        help="A keyword argument of the factory; say it again for the next.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Train = Annotated[bool, typer.Option("--train", help="In train mode, not in eval mode.", rich_help_panel=INPUT)]
AsJson = Annotated[bool, typer.Option("--json", help="As one JSON object.", rich_help_panel=PRINTED)]
AsCsv = Annotated[bool, typer.Option("--csv", help="As one CSV table.", rich_help_panel=PRINTED)]
Trace = Annotated[bool, typer.Option("--traceback", help="Where an error came from.", rich_help_panel=PRINTED)]


Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Only sites whose id or module path matches; say it again for more.",
        show_default=False,
        rich_help_panel=SITES,
    ),
]
Kinds = Annotated[
    str,
    typer.Option(
        metavar="KIND,KIND",
        help=f"Only these: {', '.join(KINDS)}. Only where named: {', '.join(UNLISTED)}.",
        rich_help_panel=SITES,
    ),
]


def words_of(text: str) -> list[str]:
    """The words between commas."""
    return [word.strip() for word in text.split(",")]


def make_both(
    factory: str,
    args: list[str] | None,
    train: bool,
    inputs: list[str],
    high: int,
    method: str,
    device: str = "cpu",
) -> tuple[nn.Module, tuple | Call]:
    """The model and the example that the command line names, the latter on `device`."""
    torch.manual_seed(0)
    model = make_model(factory, args or ()).train(train)
    example = make_example(inputs, method=method, high=high, device=device)
    check_call(model, method, example)
    return model, example


def without_data_first(
    look: Callable[[Any], Found], on_meta: tuple | Call, with_data: Callable[[], tuple | Call]
) -> Found:
    """What `look` finds on an example: on one without data, or where the model does not run so, on one with data.

    Raises Unusable where the latter is needed, and there is no memory for it.
    """
    try:
        return look(on_meta)
    except Exception as error:
        if not place_in_the_model(error):
            raise
        try:
            example = with_data()
        except Unusable as too_large:
            raise Unusable(f"{too_large}. Without data the model does not run: {in_words(error)}") from error
    return look(example)


def place_in_the_model(error: Exception) -> str:
    """Where in the model this was raised, as capture notes it; empty where the model did not raise it."""
    return next(iter(getattr(error, "__notes__", ())), "")


@contextmanager
def readable_errors(
    trace: bool, *, failed: str = "the model does not run on this input", wrong: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """What is wrong with what was asked becomes WrongUsage; what is printed meanwhile goes to standard error.

    Args:
        trace: Print the traceback, too.
        failed: How an error begins that the user's own code raised.
        wrong: Which errors, beside ValueError, say what is wrong with what was asked.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except Exception as error:
        if trace:
            traceback.print_exc()
        if place := place_in_the_model(error):
            raise WrongUsage(f"{failed}: {in_words(error)}; {place}") from error
        if isinstance(error, (ValueError, ModuleNotFoundError, *wrong)):  # the second names an extra not installed
            raise WrongUsage(str(error)) from error
        raise


def one_format(as_json: bool, as_csv: bool) -> None:
    """Raise WrongUsage where both formats are asked for."""
    if as_json and as_csv:
        raise WrongUsage("--json and --csv: choose one")


_TITLES = {
    "params_share": "% params", "macs_share": "% MACs", "macs": "MACs", "self_ms": "time [ms]", "self_share": "% time",
    "bar": "",
}  # fmt: skip
_LONG = ("site", "module", "path", "how", "reason")  # columns whose text may go on in the next line


def show(frame: pd.DataFrame) -> None:
    """`frame` as a table, as wide as it needs where the output is no terminal."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in map(str, frame):
        title = _TITLES.get(name, name)
        side = "right" if pd.api.types.is_numeric_dtype(frame[name]) else "left"
        table.add_column(title, justify=side, overflow="fold", no_wrap=name not in _LONG)
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(name, value) for name, value in zip(map(str, frame), row, strict=True)))
    width = None if sys.stdout.isatty() else 10_000
    Console(markup=False, highlight=False, emoji=False, width=width).print(table)


def _cell(name: str, value: Any) -> str:
    if name.endswith("_share"):
        return f"{100 * value:.1f}"
    if name.endswith("_ms"):
        return f"{value:,.3f}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))
