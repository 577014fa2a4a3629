"""Tables, figures and documents from DataFrames; `plots` loads at first use, as matplotlib takes long."""

from typing import TYPE_CHECKING

from .document import Picture, write_report
from .tables import Column, Table, table

if TYPE_CHECKING:
    from . import plots

__all__ = ["Column", "Picture", "Table", "plots", "table", "write_report"]
