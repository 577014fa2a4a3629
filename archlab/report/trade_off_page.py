"""What is told of a trade-off, quality against cost over methods, budgets and seeds, on a page for people.

It sees the frames only, never a model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from .chart import Chart, Line, Point
from .page import Section, named, write_page
from .tables import Table, table


class TradedOff(Protocol):
    """What is told of a trade-off; `archlab.removal.curves.curve.TradeOff` describes each."""

    @property
    def frame(self) -> pd.DataFrame: ...
    @property
    def measure(self) -> str: ...
    @property
    def varied(self) -> str: ...
    @property
    def heading(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def conditions(self) -> Mapping[str, Any]: ...
    @property
    def better(self) -> Mapping[str, str]: ...
    @property
    def qualities(self) -> Sequence[str]: ...
    def summary(self, quality: str | None = None) -> pd.DataFrame: ...
    def table(self, quality: str | None = None) -> Table: ...


def write_trade_off(folder: str | Path, found: TradedOff) -> Path:
    """Write a page on a trade-off into `folder`, and its tables: ``table``, one more a further quality, and ``runs``.

    Args:
        folder: As for `write_page`.
        found: What is told.

    Returns:
        The path of the page.
    """
    names = ["table", *(f"table_{number}" for number in range(2, len(found.qualities) + 1))]
    tables = {name: found.table(quality) for name, quality in zip(names, found.qualities, strict=True)}
    runs = table(found.frame)
    sections = [
        *(Section(quality, [_curves(found, quality), tables[name]])
          for name, quality in zip(names, found.qualities, strict=True)),
        Section(f"Every run ({len(found.frame)})", [runs], folded=True),
        Section("Settings of the call", [named(found.settings, "setting", "value")]),
        Section("Conditions", [named(found.conditions, "condition", "value")]),
    ]  # fmt: skip
    methods = [str(method) for method in dict.fromkeys(found.frame["method"])]
    seeds = found.frame["seed"].nunique()
    lead = (
        f"{', '.join(methods)}; {seeds} seed{'s' if seeds > 1 else ''}. A change is that from the control, which was "
        "trained as long on the same batches, with its 95 % interval over the seeds."
    )
    title = f"{found.settings['model']}: quality against {'λ' if found.varied == 'lam' else found.measure}"
    return write_page(folder, title, lead, sections, tables={**tables, "runs": runs})


def _curves(found: TradedOff, quality: str) -> Chart:
    """The means of each method over its budgets, joined, with their standard deviations; and each run.

    They stand over MACs, or over what was varied, where no run has fewer.
    """
    cheaper = found.frame["macs"].nunique() > 1
    x, unit = ("macs", 1e6) if cheaper else (found.varied, 1)
    axis = "MACs [M]" if cheaper else found.heading
    lines = []
    for method, rows in found.summary(quality).groupby("method", sort=False):
        name, runs = str(method), found.frame[found.frame["method"] == method]
        means = [
            Point(row[x] / unit, row["mean"], low=row["mean"] - row["sd"], high=row["mean"] + row["sd"])
            for row in rows.sort_values(x).to_dict("records")
        ]
        dots = [
            Point(row[x] / unit, row[quality], _said(row, found.varied, quality)) for row in runs.to_dict("records")
        ]
        lines += [Line(name, means, name), Line(name, dots, name, joined=False)]
    way = f" ({found.better[quality]} is better)" if quality in found.better else ""
    return Chart("Each run; lines join the means, bars are standard deviations", axis, quality + way, lines)


def _said(run: Mapping[str, Any], varied: str, quality: str) -> str:
    """What one run is, where it is pointed at."""
    sites = f"{run['sites']} site{'' if run['sites'] == 1 else 's'} gone"
    which = f"{run['method']}, {'λ' if varied == 'lam' else varied} {run[varied]:g}, seed {run['seed']}"
    return f"{which}: {sites}, {run['macs'] / 1e6:.4g} M MACs, {quality} {run[quality]:.4g}"
