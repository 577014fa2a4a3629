"""The command line: `archlab sites`, `cost`, `speed`, `profile`, for models named as package.module:factory.

What is asked for goes to standard output and nothing else does: what a model prints while it is made or run goes to
standard error. Exit status: 0 done, 1 archlab itself failed, 2 what was asked cannot be done (one line says why).
"""

import json
import sys
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from .. import __version__
from ..discovery.site import KINDS
from ..discovery.survey import sites
from ..measure.costs import cost
from ..measure.fvcore import fvcore_cost
from .options import (
    SHOWN,
    Args,
    AsCsv,
    AsJson,
    Factory,
    High,
    Inputs,
    Method,
    Trace,
    Train,
    WrongUsage,
    named,
    one_format,
    readable_errors,
    show,
)
from .parsing import in_words, one_line
from .speed import profile_command, speed_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Which parts of my network can go, and what does each cost?

A model is named by what makes it: torchvision.models:resnet18, or, for a
file mynet.py in this folder, mynet:Net. It is run on random inputs of the
shapes given; no weights and no data are needed.

  archlab sites torchvision.models:resnet18 --input 1,3,224,224
  archlab cost torchvision.models:resnet18 --input 1,3,224,224 --depth 1
  archlab speed torchvision.models:resnet18 --input 1,3,224,224
  archlab profile torchvision.models:resnet18 --input 1,3,224,224

archlab sites --help and so on show all that a command can do.""",
)


def main() -> None:
    """The console script: errors in one line on standard error, their traceback before it where it was asked for."""
    try:
        status = app(standalone_mode=False)
    except typer.TyperException as error:
        if message := one_line(error.format_message()):  # none where help was printed
            print(f"archlab: {message}", file=sys.stderr)
        status = error.exit_code
    except Exception as error:
        print(f"archlab: failed with {in_words(error)} (a defect of archlab; --traceback says where)", file=sys.stderr)
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


@app.command("sites")
def sites_command(
    factory: Factory,
    inputs: Inputs,
    high: High = 1,
    call: Method = "forward",
    args: Args = None,
    train: Train = False,
    kinds: Annotated[
        str, typer.Option(metavar="KIND,KIND", help=f"Only these: {', '.join(KINDS)}.", rich_help_panel=SHOWN)
    ] = "",
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Only sites whose id or module path matches; say it again for more.",
            show_default=False,
            rich_help_panel=SHOWN,
        ),
    ] = None,
    left: Annotated[
        bool,
        typer.Option("--left", help="Also what looked like a site and is none, and why.", rich_help_panel=SHOWN),
    ] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    trace: Trace = False,
) -> None:
    """List every part of a model that can be removed: activations, skips, branches, blocks.

    Each has an id, the shape it works on, how often it runs, the parameters
    and multiply-adds that go with it, and how it would be taken out.

      archlab sites torchvision.models:vit_b_16 --input 1,3,224,224 --left
      archlab sites torchvision.models:resnet18 --input 1,3,224,224 \\
        --kinds block,skip --where "layer3*"
      archlab sites mynet:Translator --args layers=2 \\
        --input 1,12:int64 --input 1,9:int64 --high 999 --json

    --csv --left writes what was left, not the sites; --json holds both.
    """
    one_format(as_json, as_csv)
    with readable_errors(trace):
        model, example = named(factory, args, train, inputs, high, call)
        wanted = [kind.strip() for kind in kinds.split(",")] if kinds else None
        found = sites(model, example, kinds=wanted, where=where or None)
    if as_json:
        told = {"sites": found.frame().to_dict("records"), "left": found.left_frame().to_dict("records")}
        print(json.dumps(told, indent=1))
    elif as_csv:
        print((found.left_frame() if left else found.frame()).to_csv(index=False), end="")
    else:
        frame = found.frame()
        show(frame.drop(columns=["params", "macs", "span", "grad"]))
        counts = ", ".join(f"{n} {kind}" for kind, n in frame["kind"].value_counts(sort=False).items())
        print(f"{len(found)} sites: {counts}" if counts else "no sites")
        if left:
            print("\nseen and left:")
            show(found.left_frame())
        elif found.left:
            print(f"{len(found.left)} seen and left; --left says why")


@app.command("cost")
def cost_command(
    factory: Factory,
    inputs: Inputs,
    high: High = 1,
    call: Method = "forward",
    args: Args = None,
    train: Train = False,
    convention: Annotated[
        Literal["macs", "paper"],
        typer.Option(
            help="What counts: macs, multiply-adds alone; paper, these, bias adds and ReLU outputs.",
            rich_help_panel=SHOWN,
        ),
    ] = "macs",
    depth: Annotated[
        int | None,
        typer.Option(min=1, help="Also by module, so many levels deep.", show_default=False, rich_help_panel=SHOWN),
    ] = None,
    fvcore: Annotated[
        bool,
        typer.Option("--fvcore", help="Also fvcore's count, and what it did not count.", rich_help_panel=SHOWN),
    ] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    trace: Trace = False,
) -> None:
    """Count what one run of a model costs: parameters, multiply-adds, activations, memory.

    Nothing is computed where the model can run without data (on torch's meta
    device), so any resolution is cheap; "how" says whether that was so. A
    multiply and its add count as one.

      archlab cost torchvision.models:resnet18 --input 1,3,1080,1920 --depth 2
      archlab cost torchvision.models:resnet18 --args num_classes=10 \\
        --input 1,3,224,224 --fvcore
      archlab cost studies.motion.network.models:baseline --call stream \\
        --input 1,3,384,384 --input 1,32,192,192 --input 10.0 \\
        --convention paper --json

    --csv writes one row, or with --depth a row for each module.
    """
    one_format(as_json, as_csv)
    if as_csv and depth and fvcore:
        raise WrongUsage("--csv writes one table: give --depth or --fvcore, not both")
    with readable_errors(trace):
        model, example = named(factory, args, train, inputs, high, call)
        counted = cost(model, example, convention=convention)
        opinion = fvcore_cost(model, example) if fvcore else None
    modules = counted.by_module(depth)
    if as_json:
        told = {**counted.frame().to_dict("records")[0], "uncounted": counted.uncounted}
        told |= {"modules": modules.to_dict("records")} if depth else {}
        told |= {"fvcore": asdict(opinion)} if opinion else {}
        print(json.dumps(told, indent=1))
    elif as_csv:
        frame = modules if depth else counted.frame()
        print((frame.assign(fvcore_macs=opinion.macs) if opinion else frame).to_csv(index=False), end="")
    else:
        print(counted)
        if opinion:
            skipped = ", ".join(f"{name} x{count}" for name, count in opinion.uncounted.items())
            print(f"by fvcore    {opinion.macs / 1e9:>15.3f}   (MACs [G]; it did not count: {skipped or 'nothing'})")
        if depth:
            show(modules)


app.command("speed")(speed_command)
app.command("profile")(profile_command)
