"""What `by_passes` writes of its rows: the networks, their differences sample by sample, the plot."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from archlab.report import Column, Picture, plots, table, write_report

from .. import columns
from ..evaluate.paired import TOLD, differences

TRAINED = "baseline as trained"  # Table 1's, which all others begin with
PROPOSED = "proposed"  # the network to be beaten
LONG = "trained on"
PAIRS = [("20 channels", PROPOSED), *((f"20 channels, {LONG}", other) for other in (f"{PROPOSED}, {LONG}", TRAINED))]


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, against.md, tradeoff.png and report.md."""
    flops, ssim = columns.COSTS[1], columns.SSIM
    quality = [replace(column, change=False) for column in columns.QUALITY]
    large = [replace(column, name=f"{column.name}_large", title=f"{column.title}, 192") for column in quality]
    shown = [Column("row", "network"), *columns.COSTS, *quality, *large, *columns.BESIDE_SSIM]
    found = table(rows, columns=shown, over="seed")
    names = {flops.name: flops.heading, ssim.name: ssim.heading}
    ax = plots.tradeoff(
        rows.rename(columns=names), x=flops.heading, y=ssim.heading, label="row", over="seed",
        better={flops.heading: "lower", ssim.heading: "higher"},
    )  # fmt: skip
    plots.save(ax, folder / "tradeoff.png")
    apart = differences(rows, PAIRS)
    write_report(
        rows, folder, "Fewer FLOPs than the proposed network, by passes", _about(rows), found,
        Picture("tradeoff.png", "SSIM against FLOPs; bars are standard deviations over the seeds"),
        "## Sample by sample", TOLD, apart,
        command=f"python -m {__package__}.by_passes", tables={"table": found, "against": apart},
    )  # fmt: skip


def _about(rows: pd.DataFrame) -> str:
    """What the networks are, and how long each was trained."""
    first = {row["row"]: row for row in rows.to_dict("records")}
    short, long = first["20 channels"], first[f"20 channels, {LONG}"]
    return (
        "*16 channels*: all nine blocks of the decoder stay; *20 channels*: the four that cost the loss most to lose. "
        "Neither has residual blocks in its encoder. These and *proposed*, to which other passes lead, start from the "
        f"trained baseline and have {short['steps']:,.0f} steps of {short['batch']:.0f} samples. *Trained on*: for "
        f"{long['steps']:,.0f} steps more of {long['batch']:.0f} samples. None has a perceptual loss. "
        f"*{TRAINED.capitalize()}*: Table 1's, after {first[TRAINED]['steps']:,.0f} steps of eight samples. ±: "
        "standard deviation over three seeds, which differ in their samples; rows without it have one. "
        f"{columns.BESIDE_SSIM_TOLD} SSIM and LPIPS also on samples of 192 pixels, which only the baseline as trained "
        "was trained on, for its last fifth."
    )
