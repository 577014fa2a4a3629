"""``python -m studies.bench``: what switches, `sites`, `cost` and the data cost, as ratios within one run.

Variants are measured in turns (A B A B): medians with p10 and p90. Output: ``reports/bench/{rows.csv,report.md}``.
About 4 minutes on one CPU core; ``--smoke`` takes half a minute and says only that everything runs.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from archlab.measure.environment import conditions
from archlab.report.tables import table

from .cases import COLUMNS, FULL, GROUPS, SMOKE, Setup
from .measuring import clock

ABOUT = """\
`python -m studies.bench`. Each row is a ratio of two times, taken in turns in one run: median, p10 – p90, and as
*base* the median time below the line. **step**: forward and backward of the magnification baseline's training loss,
without the optimizer, with switches at ω = 0.5; *residual blocks* are the sites of Table 1, *everywhere* all sites of
the kind. **blend**: a residual block of the decoder, its ReLU blended by archlab or by a rival. **sites**: over one
forward pass without gradients. **cost**: fvcore's time over archlab's. **data**: samples made over samples trained on.
"""


def main(
    only: Annotated[str, typer.Option(help="glob on rows, as 'step/fp32/*' or 'sites/*'")] = "*",
    out: Annotated[
        Path | None, typer.Option(help="where the report goes; default: reports/bench, none with --only or --smoke")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: the first GPU, where there is one")] = None,
    threads: Annotated[int, typer.Option(help="of the CPU; with more than 1 the wall clock is read")] = 1,
    smoke: Annotated[bool, typer.Option(help="one turn of small cases, to see that it runs")] = False,
) -> None:
    """Measure, print each row as it is there, then write rows.csv and report.md."""
    torch.set_num_threads(threads)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    setup, rows = Setup(where, SMOKE if smoke else FULL, only), []
    made, begun, load = machine(setup), time.monotonic(), os.getloadavg()[0]
    for group in GROUPS:
        for row in group(setup):
            print(f"{row['what']}: {row['median']:.3g} {row['aim']} {row['note']}".rstrip(), flush=True)
            rows.append(row)
    if not rows:
        raise typer.BadParameter(f"--only {only!r} matches no row")
    if out is None and (smoke or only != "*"):
        return  # the report of a whole run stays
    frame, out = pd.DataFrame(rows, columns=list(COLUMNS)), out or Path("reports/bench")
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "rows.csv", index=False)
    made["minutes"] = f"{(time.monotonic() - begun) / 60:.1f}"
    made["load average"] = f"{load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end, this run included"
    (out / "report.md").write_text(report(frame, made), encoding="utf-8")


def machine(setup: Setup) -> dict[str, Any]:
    """What is measured on, and by which clock."""
    return conditions() | {
        "measured on": f"{setup.device}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "clock": clock(setup.device)[0],
        "effort": "smoke" if setup.effort is SMOKE else "full",
        "date": time.strftime("%Y-%m-%d"),
    }


def report(rows: pd.DataFrame, made: Mapping[str, Any]) -> str:
    """The report in Markdown: the rows, what is said of some, and the conditions `made` they were measured under."""
    shown = pd.DataFrame(
        {
            "row": rows["what"],
            "ratio": rows["ratio_of"],
            "median": rows["median"],
            "p10 – p90": [f"{low:.2f} – {high:.2f}" for low, high in zip(rows["p10"], rows["p90"], strict=True)],
            "aim": rows["aim"],
            "met": rows["met"].map({True: "yes", False: "**no**"}),
            "base [ms]": rows["base_ms"],
            "repeats": rows["repeats"],
        }
    )
    notes = [f"- {row.what}: {row.note}" for row in rows.itertuples() if row.note]
    parts = [
        "# Bench: what archlab costs",
        ABOUT.rstrip(),
        table(shown, digits={"median": 2, "base [ms]": 0}).markdown(),
        *(["## Notes", "\n".join(notes)] if notes else []),
        "## Conditions",
        "\n".join(f"- {name}: {value}" for name, value in made.items() if value is not None),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    typer.run(main)
