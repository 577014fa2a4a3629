"""What a trade-off measured: its frame, and what a person reads of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...arguments import choice
from ...report.tables import Table, table
from ...report.trade_off_page import write_trade_off

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTROL, ORIGINAL = "control", "original"  # beside the methods
COLUMNS = ("method", "budget", "seed", "sites", "params", "macs")
CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class TradeOff:
    """What `trade_off` measured.

    Attributes:
        frame: Tidy, a row a method, budget and seed: method, budget (the share that may stay; 1 of the control), seed,
            sites (removed), params, macs, each quality. The original, not trained on, is method "original".
        measure: What the budgets are of.
        better: By quality, which way it is better.
        settings: What was asked for, the model's class first.
        conditions: What the numbers depend on beside the code: date, device, versions, threads, commit.
    """

    frame: pd.DataFrame
    measure: str
    better: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def qualities(self) -> list[str]:
        """The names of the qualities."""
        return [str(name) for name in self.frame if name not in COLUMNS]

    def summary(self, quality: str | None = None) -> pd.DataFrame:
        """One row a method and budget: mean and sd over the seeds, and the change from the control of the same seed.

        Args:
            quality: which; None: the first.

        Returns:
            method, budget, seeds, sites, macs, mean, sd, change, low, high: the change from the control trained as long
            with the same batches, and its 95 % interval over the seeds (Student's t, paired; NaN with one seed).
        """
        quality = self.qualities[0] if quality is None else quality
        choice("quality", quality, self.qualities)
        control = self.frame[self.frame["method"] == CONTROL].set_index("seed")[quality]
        rows = []
        for (method, budget), part in self.frame.groupby(["method", "budget"], sort=False):
            values = part.set_index("seed")[quality]
            row = {"method": method, "budget": budget, "seeds": len(part), "sites": part["sites"].mean()}
            row |= {"macs": part["macs"].mean(), "mean": values.mean(), "sd": values.std()}
            apart = (values - control).dropna()
            rows.append(row | (_interval(apart) if method not in (CONTROL, ORIGINAL) else {}))
        return pd.DataFrame(rows)

    def table(self, quality: str | None = None) -> Table:
        """`summary` as a table to print: `.markdown()`, `.latex()`, `.html()`, `.save(folder)`."""
        quality = self.qualities[0] if quality is None else quality
        found = self.summary(quality)
        shown = pd.DataFrame(
            {
                "method": found["method"],
                f"{self.measure} left": found["budget"],
                "sites gone": found["sites"],
                "MACs [M]": found["macs"] / 1e6,
                quality: [_with_sd(mean, sd) for mean, sd in zip(found["mean"], found["sd"], strict=True)],
                "against the control": [
                    _with_interval(*row) for row in found[["change", "low", "high"]].itertuples(index=False)
                ],
            }
        )
        return table(shown, digits={"MACs [M]": 2, f"{self.measure} left": 2, "sites gone": 1})

    def report(self, folder: str | Path) -> Path:
        """Write a page for people, ``index.html``: curves, tables, every run, settings, conditions.

        It stands alone, as that of `Removal.report` does. Beside it stand its tables as Markdown, LaTeX and CSV.

        Args:
            folder: Where to write; it is made. A report that is there already is replaced.

        Returns:
            The path of the page.
        """
        return write_trade_off(folder, self)

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table().html()

    def plot(self, quality: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """The curve of each method: means over the seeds, with their standard deviations.

        Args:
            quality: which; None: the first.
            ax: where to draw; default: a new figure of one paper column.
        """
        from ...report import plots  # at first use, as matplotlib takes long to import

        quality = self.qualities[0] if quality is None else quality
        choice("quality", quality, self.qualities)
        frame = self.frame.assign(**{"MACs [M]": self.frame["macs"] / 1e6})
        frame["point"] = [
            method if method in (CONTROL, ORIGINAL) else f"{method} {share:g}"
            for method, share in zip(frame["method"], frame["budget"], strict=True)
        ]
        better = {"MACs [M]": "lower", quality: self.better.get(quality, "higher")}
        return plots.tradeoff(
            frame, x="MACs [M]", y=quality, label="point", group="method", over="seed", better=better, ax=ax
        )


def _interval(apart: pd.Series) -> dict[str, float]:
    """Mean of paired differences, and its interval."""
    from scipy import stats  # at first use, as it takes long to import

    n, mean = len(apart), float(apart.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * apart.std() / math.sqrt(n)) if n > 1 else math.nan
    return {"change": mean, "low": mean - half, "high": mean + half}


def _with_sd(mean: float, sd: float) -> str:
    return f"{mean:.4g}" if math.isnan(sd) else f"{mean:.4g} ± {sd:.2g}"


def _with_interval(change: float, low: float, high: float) -> str:
    if math.isnan(change):
        return ""
    return f"{change:+.3g}" + ("" if math.isnan(low) else f" ({low:+.2g} to {high:+.2g})")
