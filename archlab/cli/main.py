"""The command line: `archlab sites`, `cost`, `speed`, `profile`, for models named as package.module:factory, `scores`
and `remove`, for a model and its task, and `page`, for reports of studies.

What is asked for goes to standard output and nothing else does: what a model prints while it is made or run goes to
standard error. Exit status: 0 done, 1 archlab itself failed, 2 what was asked cannot be done (one line says why), 75
the time limit came first (give the command again).
"""

import sys
from typing import Annotated

import typer

from .. import __version__
from ..names import printable
from .inspect import cost_command, sites_command
from .page import page_command
from .parsing import in_words, one_line
from .removal import remove_command, scores_command
from .speed import profile_command, speed_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Which parts of my network can go, and what does each cost?

A model is named by what makes it: torchvision.models:resnet18, or, for a
file mynet.py in this folder, mynet:Net. It is run on random inputs of the
shapes given; no weights and no data are needed. For scores and remove, name
a function that returns the trained model and its al.Task.

  archlab sites torchvision.models:resnet18 --input 1,3,224,224
  archlab cost torchvision.models:resnet18 --input 1,3,224,224 --depth 1
  archlab speed torchvision.models:resnet18 --input 1,3,224,224
  archlab profile torchvision.models:resnet18 --input 1,3,224,224
  archlab scores studies.guides.denoiser:trained --kinds block
  archlab remove studies.guides.denoiser:trained --budget macs=0.6
  archlab page reports/widths

archlab sites --help and so on show all that a command can do.""",
)


def main() -> None:
    """The console script: errors in one line on standard error, their traceback before it where it was asked for."""
    try:
        status = app(standalone_mode=False)
    except typer.TyperException as error:
        if message := one_line(error.format_message()):  # none where help was printed
            print(f"archlab: {printable(message)}", file=sys.stderr)
        status = error.exit_code
    except Exception as error:
        print(
            f"archlab: failed with {printable(in_words(error))} (a defect of archlab; --traceback says where)",
            file=sys.stderr,
        )
        status = 1
    sys.exit(status)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _front(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


app.command("sites")(sites_command)
app.command("cost")(cost_command)
app.command("speed")(speed_command)
app.command("profile")(profile_command)
app.command("scores")(scores_command)
app.command("remove")(remove_command)
app.command("page")(page_command)
