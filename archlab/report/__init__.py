"""Tables, figures and documents from DataFrames; `plots` loads at first use, as matplotlib takes long."""

from typing import TYPE_CHECKING

from ..measure.intervals import Interval
from .document import Pair, Picture, write_report
from .spread import over_runs, with_ends, with_sd
from .tables import Column, Table, table

if TYPE_CHECKING:
    from . import plots

__all__ = [
    "Column", "Interval", "Pair", "Picture", "Table", "over_runs", "plots", "table", "with_ends", "with_sd",
    "write_report",
]  # fmt: skip
