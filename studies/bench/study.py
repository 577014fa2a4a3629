"""How fast: what switches, `sites`, `cost` and the data generator cost, each as a ratio within one run.

``python -m studies.bench --preset smoke|cpu|gpu [--only GLOB]``

Variants are interleaved (A B A B): medians with p10 and p90. cpu takes about 5 minutes on one core, gpu measures on the
first GPU; smoke takes a minute and says only that everything runs. Output: ``reports/bench/<preset>/``.
"""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from archlab.experiments import Scratch
from archlab.report import Column, table, write_report

from .cases import CASES, FULL, SMOKE, Setup
from .interleave import clock, one_thread

NAME = "bench"
PRESETS = ("smoke", "cpu", "gpu")
ROWS = [{"name": name} for name in CASES]
COLUMNS = (
    Column("row", "row"), Column("ratio_of", "ratio"), Column("median", "median", digits=2),
    Column("spread", "p10 – p90"), Column("aim", "aim"), Column("met_in_words", "met"),
    Column("base_ms", "base", unit="ms", digits=0), Column("repeats", "repeats", digits=0),
)  # fmt: skip
ABOUT = (
    "Each row is a ratio of two times, interleaved in one run: median, p10 – p90, and as *base* the median time below "
    "the line. **step**: forward and backward of the magnification baseline's training loss, without the optimizer, "
    "with switches at ω = 0.5; *residual blocks* are the sites of Table 1, *everywhere* all sites of the kind. "
    "**blend**: a residual block of the decoder, its ReLU blended by archlab or by a rival. **sites**: over one "
    "forward pass without gradients. **cost**: fvcore's time over archlab's. **data**: samples made over samples "
    "trained on."
)


def depends(row: dict[str, Any]) -> list[str]:
    """The rooms that read and rewrite models, where their time is measured."""
    rooms = {"data": (), "cost": ("capture",)}.get(row["name"].partition("/")[0], ("capture", "rewrite", "discovery"))
    return [f"archlab.{room}" for room in rooms]


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """One ratio, and how it was measured. Raises ValueError at the preset gpu where there is none."""
    if preset == "gpu" and not torch.cuda.is_available():
        raise ValueError("preset gpu: torch finds no CUDA device here; use the preset cpu")
    setup = Setup(torch.device("cuda" if preset == "gpu" else "cpu"), SMOKE if preset == "smoke" else FULL)
    with one_thread():  # so that waiting, and what else runs on the machine, is no time
        values = CASES[row["name"]](setup)
        cores = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
        return values | {"measured_on": f"{setup.device}, {cores}", "clock": clock(setup.device)[0],
                         "load": os.getloadavg()[0]}  # fmt: skip


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md and report.md."""
    ranges = [f"{low:.2f} – {high:.2f}" for low, high in zip(rows["p10"], rows["p90"], strict=True)]
    words = rows["met"].map({True: "yes", False: "**no**"})
    shown = table(rows.assign(spread=ranges, met_in_words=words), columns=COLUMNS)
    notes = [f"{row['row']}: {row['note']}" for row in rows.to_dict("records") if row["note"]]
    measured = ", ".join(dict.fromkeys(f"{row['clock']} on {row['measured_on']}" for row in rows.to_dict("records")))
    smoke = rows.attrs["conditions"]["preset"] == "smoke"
    write_report(
        rows, folder, "Bench: what archlab costs",
        "This preset shows that everything runs; its numbers say nothing." if smoke else "", ABOUT, shown,
        *(["## Notes", notes] if notes else []),
        command="python -m studies.bench", tables={"table": shown},
        about=f"{measured}, one thread; load average {rows['load'].min():.1f} to {rows['load'].max():.1f}, this run "
        "included.",
    )  # fmt: skip
