"""A thousand cells that do nothing: what the runner itself costs."""

from pathlib import Path
from typing import Any

import pandas as pd

from archlab.experiments import Scratch

NAME = "trivial"
ROWS = [f"cell {number:03d}" for number in range(1000)]


def cell(row: str, preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    return {"number": int(row.split()[1])}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Nothing: rows.csv is enough."""
