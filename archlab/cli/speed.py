"""The commands that measure time: `archlab speed` and `archlab profile`."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
import typer
from torch import nn

from ..markup import csv_of
from ..measure.breakdown import breakdown
from ..measure.costs import cost, in_words
from ..measure.speed import Speed, speed
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
    WrongUsage,
    make_both,
    one_format,
    readable_errors,
    show,
)

MEASURED = "How it is measured"
CHARTS = (".png", ".pdf", ".svg", ".jpg")
BAR = 24  # characters of the longest

Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="cpu, cuda or cuda:1; default: the first GPU, where there is one.",
        show_default=False,
        rich_help_panel=MEASURED,
    ),
]
Precision = Annotated[
    Literal["fp32", "tf32", "fp16", "bf16"],
    typer.Option(
        help="fp32, without TF32; tf32, with it; fp16 and bf16: model and inputs cast as a whole.",
        rich_help_panel=MEASURED,
    ),
]
ChannelsLast = Annotated[
    bool, typer.Option("--channels-last", help="Images and filters in this memory format.", rich_help_panel=MEASURED)
]
Seconds = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="For how long a model is measured, in at least three runs; before, it is warmed up for as long at most.",
        rich_help_panel=MEASURED,
    ),
]


def speed_command(
    factories: Annotated[
        list[str],
        typer.Argument(
            metavar="PACKAGE.MODULE:FACTORY",
            help="What makes the model; of several, all are run interleaved on the same input.",
            show_default=False,
        ),
    ],
    inputs: Inputs,
    high: High = 1,
    call: Method = "forward",
    args: Args = None,
    device: Device = None,
    precision: Precision = "fp32",
    mode: Annotated[
        Literal["eager", "compile", "graph"],
        typer.Option(help="As it is; by torch.compile; as a CUDA graph that is replayed.", rich_help_panel=MEASURED),
    ] = "eager",
    channels_last: ChannelsLast = False,
    seconds: Seconds = 2.0,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    trace: Trace = False,
) -> None:
    """Measure how long one run of a model takes: median, 10th and 90th percentile, items per second.

    In eval mode and without gradients, after warming up. Several models are
    interleaved, A B A B, so that they share whatever the machine does.

      archlab speed torchvision.models:resnet18 --input 1,3,224,224
      archlab speed torchvision.models:resnet18 torchvision.models:resnet34 \\
        --input 4,3,224,224 --channels-last --seconds 5
      archlab speed studies.motion.network.models:baseline --call stream \\
        --input 1,3,384,384 --input 1,32,192,192 --input 10.0 --json

    --csv writes one row a model; --json also the conditions.
    """
    one_format(as_json, as_csv)
    with readable_errors(trace):
        models: dict[str, nn.Module] = {}
        example: Any = None
        for index, factory in enumerate(factories):
            again = factories[:index].count(factory)
            name = f"{factory} ({again + 1})" if again else factory
            models[name], example = make_both(factory, args, False, inputs, high, call)
        found = speed(
            models,
            dict.fromkeys(models, example),
            device=_device(device),
            precision=precision,
            mode=mode,
            memory_format="channels_last" if channels_last else None,
            seconds=seconds,
        )
    if as_json:
        print(json.dumps({"models": _records(found.frame()), "conditions": found.conditions}, indent=1))
    elif as_csv:
        print(csv_of(found.frame()), end="")
    else:
        print(found)
        print("\n" + _conditions(found))


def profile_command(
    factory: Factory,
    inputs: Inputs,
    high: High = 1,
    call: Method = "forward",
    args: Args = None,
    device: Device = None,
    precision: Precision = "fp32",
    channels_last: ChannelsLast = False,
    seconds: Seconds = 2.0,
    depth: Annotated[int, typer.Option(min=1, help="So many levels of modules.", rich_help_panel=SHOWN)] = 2,
    chart: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Also a bar chart of the times, as {', '.join(CHARTS)}.",
            show_default=False,
            rich_help_panel=SHOWN,
        ),
    ] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    trace: Trace = False,
) -> None:
    """Show where in a model its parameters, multiply-adds and time are, module by module.

    Each row is without the rows below it that are parts of it, so that the
    rows add up to the whole: the row of a module that has its parts listed is
    what it does between them.

      archlab profile torchvision.models:resnet18 --input 1,3,224,224
      archlab profile torchvision.models:resnet18 --input 1,3,224,224 \\
        --depth 1 --chart resnet18.png
      archlab profile studies.motion.network.models:baseline --call stream \\
        --input 1,3,384,384 --input 1,32,192,192 --input 10.0 --csv

    Timing the parts takes time itself; the run as a whole, without that, is
    measured beside it. --csv writes a row a module, --json also the rest.
    """
    one_format(as_json, as_csv)
    if chart is not None and chart.suffix.lower() not in CHARTS:
        raise WrongUsage(f"--chart {chart}: name a file that ends in {', '.join(CHARTS)}")
    if chart is not None and not chart.parent.is_dir():
        raise WrongUsage(f"--chart {chart}: there is no folder {chart.parent}")
    with readable_errors(trace):
        model, example = make_both(factory, args, False, inputs, high, call)
        counted = cost(model, example)
        found = speed(
            model,
            example,
            device=_device(device),
            precision=precision,
            memory_format="channels_last" if channels_last else None,
            seconds=seconds,
            by_module=depth,
        )
        parts = breakdown(model, counted, found, depth)
        if chart is not None:
            from ..report import plots  # matplotlib takes longer to import than all of archlab

            plots.save(plots.breakdown(parts, value="self_ms", title="time [ms]"), chart)
    whole = parts[["params", "macs", "macs_share", "self_ms", "self_share"]].sum()
    if as_json:
        report = {
            "modules": _records(parts),
            "sum": _records(whole.to_frame().T)[0],
            "whole": _records(found.frame())[0],
            "unknown": counted.unknown,
        }
        print(json.dumps(report | {"conditions": found.conditions}, indent=1))
    elif as_csv:
        print(csv_of(parts), end="")
    else:
        longest = max(parts["self_share"])
        parts["bar"] = ["█" * round(BAR * share / longest) for share in parts["self_share"]]
        last = {"module": "sum", "type": "", "bar": "", **whole.to_dict()}
        shown = pd.concat([parts, pd.DataFrame([last])], ignore_index=True)
        shown = shown.astype({"params": int, "macs": int})
        show(shown[["module", "type", "params", "macs", "macs_share", "self_ms", "self_share", "bar"]])
        print("each row is without the rows below it that are parts of it; times: means of the middle half of the runs")
        if counted.unknown:
            print(f"MACs: without {in_words(counted.unknown)}, for which there is no formula")
        print()
        print(found)


def _device(named: str | None) -> str:
    return named or ("cuda" if torch.cuda.is_available() else "cpu")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON can write them."""
    return json.loads(frame.to_json(orient="records", double_precision=15))


def _conditions(found: Speed) -> str:
    known = {name: value for name, value in found.conditions.items() if value is not None}
    return "\n".join(f"{name}: {value}" for name, value in known.items())
