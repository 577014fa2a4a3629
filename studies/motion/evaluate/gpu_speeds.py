"""How fast the networks are on a GPU, measured once by `al.speed`: for reports that are made where there is none."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

FILE = Path(__file__).with_name("gpu_speeds.json")
LIKE_THE_PAPER = ("fp32", "eager")  # the precision and mode that reproduce the paper's ratios
SAME_DESIGN = {"proposed": "scaled A"}  # another loss, no other network


def gpu_speeds() -> pd.DataFrame:
    """A row a network, precision and mode: network, precision, mode, fps, median_ms, p10_ms, p90_ms, runs."""
    return pd.DataFrame(_measured()["speeds"])


def gpu_fps(networks: "pd.Series[str]") -> "pd.Series[float]":
    """Frames a second of each of `networks`, in fp32 without graphs; NaN where it was not measured."""
    speeds = gpu_speeds()
    found = speeds[(speeds["precision"] == LIKE_THE_PAPER[0]) & (speeds["mode"] == LIKE_THE_PAPER[1])]
    return networks.replace(SAME_DESIGN).map(found.set_index("network")["fps"]).astype(float)


def gpu_conditions() -> str:
    """What they were measured on, in words."""
    facts = _measured()["facts"]
    return (
        f"one {facts['device']}, torch {facts['torch']}, {LIKE_THE_PAPER[0]} {LIKE_THE_PAPER[1]}, "
        f"{facts['memory_format']}, one streamed frame of {facts['frame']}, networks interleaved (commit "
        f"{facts['commit']}, {facts['date']})"
    )


@cache
def _measured() -> dict[str, Any]:
    return json.loads(FILE.read_text())
