"""What a trade-off measured: its frame, and what a person reads of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...arguments import choice
from ...measure.intervals import Interval, interval
from ...report.spread import with_ends, with_sd
from ...report.tables import Table, digits_of, table
from ...report.trade_off_page import write_trade_off

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTROL, ORIGINAL = "control", "original"  # beside the methods
COLUMNS = ("method", "budget", "lam", "seed", "steps", "sites", "params", "macs")
UNKNOWN = Interval(math.nan, math.nan, math.nan)  # of what is compared with nothing


@dataclass(frozen=True, eq=False)
class TradeOff:
    """What `trade_off` or `lambda_path` measured.

    Attributes:
        frame: Tidy, a row a method, budget and seed: method, budget (the share that may stay; 1 of the control) or lam
            (0 of the control), seed, steps (of training, in all), sites (removed; channels, where these were
            learned), params, macs, each quality. The original, not trained on, is method "original".
        measure: What the budgets are of; "lam" of a path over λ.
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

    @property
    def varied(self) -> str:
        """The column of what is varied: "budget" or "lam"."""
        return "lam" if self.measure == "lam" else "budget"

    @property
    def heading(self) -> str:
        """What is varied, in words: of a table's column, and of an axis."""
        return "λ" if self.varied == "lam" else f"budget ({self.measure})"

    def summary(self, quality: str | None = None) -> pd.DataFrame:
        """One row a method and budget or λ: mean and sd over the seeds, the change from the control of the same seed.

        Args:
            quality: which; None: the first.

        Returns:
            method, budget or lam, steps, seeds, sites, macs, mean, sd, change, low, high: the change from the control
            trained as long with the same batches, and its 95 % interval over the seeds (Student's t, paired; NaN with
            one seed).
        """
        quality = self.qualities[0] if quality is None else quality
        choice("quality", quality, self.qualities)
        controls = self.frame[self.frame["method"] == CONTROL].set_index(["steps", "seed"])[quality]
        rows = []
        for (method, point, steps), part in self.frame.groupby(["method", self.varied, "steps"], sort=False):
            values, control = part.set_index("seed")[quality], controls.get(steps, pd.Series(dtype=float))
            row = {"method": method, self.varied: point, "steps": steps, "seeds": len(part)}
            row |= {"sites": part["sites"].mean()}
            row |= {"macs": part["macs"].mean(), "mean": values.mean(), "sd": values.std()}
            both = values.index.intersection(control.index)
            change = interval(values[both], control[both]) if method not in (CONTROL, ORIGINAL) else UNKNOWN
            rows.append(row | dict(zip(("change", "low", "high"), change, strict=True)))
        return pd.DataFrame(rows)

    def table(self, quality: str | None = None) -> Table:
        """`summary` as a table to print: `.markdown()`, `.latex()`, `.html()`, `.save(folder)`."""
        quality = self.qualities[0] if quality is None else quality
        found = self.summary(quality)
        of = self.heading
        shown = pd.DataFrame(
            {
                "method": found["method"],
                of: found[self.varied] if self.varied == "budget" else found["lam"].map("{:g}".format),
                "steps": found["steps"],
                "sites gone": found["sites"],
                "MACs [M]": found["macs"] / 1e6,
                quality: [with_sd(mean, sd) for mean, sd in zip(found["mean"], found["sd"], strict=True)],
                "against the control": [
                    with_ends(Interval(*row)) for row in found[["change", "low", "high"]].itertuples(index=False)
                ],
            }
        )
        if not self._differ_in_steps():
            shown = shown.drop(columns="steps")
        places = max(2, digits_of(shown["MACs [M]"]) - 1)  # three digits of the largest
        return table(shown, digits={"MACs [M]": places, "sites gone": 1} | ({of: 2} if self.varied == "budget" else {}))

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

    def plot(self, quality: str | None = None, ax: "Axes | None" = None, *, x: str | None = None) -> "Axes":
        """The curve of each method: means over the seeds, with their standard deviations.

        Args:
            quality: which; None: the first.
            ax: where to draw; default: a new figure of one paper column.
            x: "macs" (of the budgets' curves the default), "removed", the share of the multiply-adds that is gone,
                "budget", what may stay (the default where no run has fewer multiply-adds), or of a path over λ "lam",
                the default there: a line, with its standard deviations, beside the control's and the original's.
        """
        from ...report import plots  # at first use, as matplotlib takes long to import

        quality = self.qualities[0] if quality is None else quality
        choice("quality", quality, self.qualities)
        known = ("lam" if self.varied == "lam" else "budget", "macs", "removed")
        cheaper = self.varied == "budget" and self.frame["macs"].nunique() > 1
        x = known[cheaper] if x is None else x
        choice("plot: x", x, known)
        way = self.better.get(quality)
        if x == "lam":
            return self._over_lam(quality, f"{quality} ({way} is better)" if way else quality, ax)
        axis, values, better = self._axis(x)
        frame = self.frame.assign(**{axis: values})
        frame["point"] = [self._name(*row) for row in frame[["method", self.varied, "steps"]].itertuples(index=False)]
        return plots.tradeoff(
            frame, x=axis, y=quality, label="point", group="method", over="seed",
            better={axis: better, quality: way}, ax=ax,
        )  # fmt: skip

    def _over_lam(self, quality: str, named: str, ax: "Axes | None") -> "Axes":
        """A line over λ; what has no λ is level."""
        from ...report import plots

        found = self.summary(quality).rename(columns={"lam": "λ", "mean": named})
        learned = found[~found["method"].isin((CONTROL, ORIGINAL))].sort_values("λ")
        ax = plots.curve(learned, x="λ", y=named, ax=ax, name="learned")
        ax.errorbar(learned["λ"], learned[named], yerr=learned["sd"].fillna(0.0), fmt="o", markersize=4, color="C0")
        for method, style in ((CONTROL, "--"), (ORIGINAL, ":")):
            level = found.loc[found["method"] == method, named].iloc[0]
            ax.axhline(level, color="0.5", linewidth=0.8, linestyle=style, zorder=0, label=method)
        ax.set_xscale("log")
        ax.legend(fontsize=plots.FONT - 1, frameon=False)
        return ax

    def _axis(self, x: str) -> tuple[str, pd.Series, str]:
        """The name of an axis, the rows' values on it, and which way it is better."""
        if x == "budget":
            return self.heading, self.frame["budget"], "lower"
        if x == "macs":
            return "MACs [M]", self.frame["macs"] / 1e6, "lower"
        whole = self.frame.loc[self.frame["method"] == ORIGINAL, "macs"].iloc[0]
        return "MACs removed [%]", 100 - 100 * self.frame["macs"] / max(whole, 1), "higher"

    def _differ_in_steps(self) -> bool:
        """Whether rows that were trained were not trained equally long, as with warm starts."""
        return self.frame.loc[self.frame["method"] != ORIGINAL, "steps"].nunique() > 1

    def _name(self, method: str, point: float, steps: int) -> str:
        """What stands beside a point."""
        if method == CONTROL and self._differ_in_steps():
            return f"{method}, {steps} steps"
        return method if method in (CONTROL, ORIGINAL) else f"{method} {point:g}"
