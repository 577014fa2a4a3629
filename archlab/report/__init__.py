"""Tables, plots and documents from DataFrames; `plots` is imported where it is needed, as matplotlib takes long."""

from .tables import Table, table

__all__ = ["Table", "table"]
