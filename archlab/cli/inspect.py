"""The commands that look at a model without timing it: `archlab sites` and `archlab cost`."""

import json
import sys
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from ..capture.example import Call
from ..markup import csv_of
from ..measure.costs import cost, in_words
from ..measure.fvcore import fvcore_cost
from ..passes.survey import sites
from .options import (
    SHOWN,
    Args,
    AsCsv,
    AsJson,
    Factory,
    High,
    Inputs,
    Kinds,
    Method,
    Trace,
    Train,
    Where,
    WrongUsage,
    make_both,
    one_format,
    readable_errors,
    show,
    without_data_first,
    words_of,
)
from .parsing import make_example


def sites_command(
    factory: Factory,
    inputs: Inputs,
    high: High = 1,
    call: Method = "forward",
    args: Args = None,
    train: Train = False,
    kinds: Kinds = "",
    where: Where = None,
    skipped: Annotated[
        bool,
        typer.Option("--skipped", help="Also what looked like a site and is none, and why.", rich_help_panel=SHOWN),
    ] = False,
    left: Annotated[bool, typer.Option("--left", hidden=True)] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    trace: Trace = False,
) -> None:
    """List every part of a model that can be removed: activations, skips, branches, blocks.

    Each has an id, the shape it works on, how often it runs, the parameters
    and multiply-adds that go with it, and how it would be taken out.

      archlab sites torchvision.models:vit_b_16 --input 1,3,224,224 --skipped
      archlab sites torchvision.models:resnet18 --input 1,3,224,224 \\
        --kinds block,skip --where "layer3*"
      archlab sites mynet:Translator --args layers=2 \\
        --input 1,12:int64 --input 1,9:int64 --high 999 --json

    --csv --skipped writes what was skipped, not the sites; --json holds both.
    """
    if left:
        print("archlab: --left is --skipped now; the old word goes with the next release", file=sys.stderr)
    skipped = skipped or left
    one_format(as_json, as_csv)
    with readable_errors(trace):
        model, on_meta = make_both(factory, args, train, inputs, high, call, device="meta")
        wanted = words_of(kinds) if kinds else None
        found = without_data_first(
            lambda example: sites(model, example, kinds=wanted, where=where or None),
            on_meta,
            lambda: make_example(inputs, method=call, high=high),
        )
    if as_json:
        others = found.skipped_frame().to_dict("records")
        report = {"sites": found.frame().to_dict("records"), "skipped": others}
        print(json.dumps(report | {"left": others}, indent=1))  # the old word, for this release
    elif as_csv:
        print(csv_of(found.skipped_frame() if skipped else found.frame()), end="")
    else:
        frame = found.frame()
        empty = [column for column in ("module", "same_as") if not frame[column].any()]
        show(frame.drop(columns=["params", "macs", "span", "grad", *empty]))
        counts = ", ".join(f"{n} {kind}" for kind, n in frame["kind"].value_counts(sort=False).items())
        print(f"{len(found)} sites: {counts}" if counts else "no sites")
        if skipped:
            print("\nskipped:")
            show(found.skipped_frame())
        elif found.skipped:
            print(f"{len(found.skipped)} skipped; --skipped says why")


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
        model, on_meta = make_both(factory, args, train, inputs, high, call, device="meta")

        def with_data() -> tuple | Call:
            return make_example(inputs, method=call, high=high)

        counted = without_data_first(lambda example: cost(model, example, convention=convention), on_meta, with_data)
        opinion = fvcore_cost(model, with_data()) if fvcore else None
    modules = counted.by_module(depth)
    if as_json:
        report = counted.frame().to_dict("records")[0]
        report |= {"uncounted": counted.uncounted, "unknown": counted.unknown}
        report |= {"modules": modules.to_dict("records")} if depth else {}
        report |= {"fvcore": asdict(opinion)} if opinion else {}
        print(json.dumps(report, indent=1))
    elif as_csv:
        frame = modules if depth else counted.frame()
        print(csv_of(frame.assign(fvcore_macs=opinion.macs) if opinion else frame), end="")
    else:
        print(counted)
        if opinion:
            uncounted = in_words(opinion.uncounted) or "nothing"
            print(f"by fvcore    {opinion.macs:>15,}   (MACs; it did not count: {uncounted})")
        if depth:
            show(modules)
