"""A tidy DataFrame as a table to print: changes against a base row, best values in bold, four formats.

It sees DataFrames only, never a model. pandas writes LaTeX and CSV, tabulate Markdown; what is made here is
the text of each cell. Cells and headings may hold anything (module names, say): no format takes
it for tags, a new line or a formula. (Markdown's emphasis is left: studies use it.)
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ..arguments import choice, flag, text, whole, wrong
from ..files import write_whole
from ..markup import Html, csv_of, escaped, html_table
from ..measure.intervals import METHODS, Interval
from ..names import printable
from .spread import is_number, over_runs, plain_numbers, with_ends, with_sd

Better = Literal["higher", "lower"]
WAYS = ("higher", "lower")
MOST_DIGITS = 30
_MARKDOWN = str.maketrans({"\\": r"\\", "|": r"\|", "<": r"\<"})
# What LaTeX reads otherwise, and what its usual fonts lack.
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "✗": r"$\times$"}
    | {"Δ": r"$\Delta$", "ω": r"$\omega$", "λ": r"$\lambda$", "τ": r"$\tau$", "α": r"$\alpha$", "≤": r"$\leq$"}
)


@dataclass(frozen=True)
class Column:
    """A column of tables and figures: which value of a row it shows, and how.

    Args:
        name: of the value in a row.
        title: what stands above it, before the unit.
        unit: in which it is.
        digits: decimals; None: 3 for floats, 0 for whole numbers.
        better: which values are to be preferred, where some are.
        change: whether, where there is a base row, its change against that is shown in parentheses.

    >>> Column("flops_g", "FLOPs", unit="G").heading
    'FLOPs [G]'
    """

    name: str
    title: str
    unit: str = ""
    digits: int | None = None
    better: Better | None = None
    change: bool = False

    def __post_init__(self):
        text("Column: name", self.name)
        text("Column: title", self.title)
        text("Column: unit", self.unit)
        whole("Column: digits", self.digits, least=0, most=MOST_DIGITS, optional=True)
        choice("Column: better", self.better, (*WAYS, None))
        flag("Column: change", self.change)

    @property
    def heading(self) -> str:
        return f"{self.title} [{self.unit}]" if self.unit else self.title


@dataclass(frozen=True, eq=False)
class Table:
    """A table ready to print.

    Attributes:
        frame: The values it was made from.
        cells: Their text.
        best: Where bold stands.
        sds: The standard deviations of values that are means over runs.
    """

    frame: pd.DataFrame
    cells: pd.DataFrame
    best: pd.DataFrame
    sds: pd.DataFrame | None = None

    def markdown(self) -> str:
        """GitHub's Markdown."""
        shown = self._marked(lambda cell: _lines(cell.translate(_MARKDOWN), "<br>"), "**{}**")
        return shown.to_markdown(index=False, disable_numparse=True, colalign=self._sides())

    def latex(self) -> str:
        """A LaTeX ``tabular`` with booktabs rules."""
        shown = self._marked(lambda cell: _not_an_option(_lines(cell, " ").translate(_LATEX)), r"\textbf{{{}}}")
        form = "".join(side[0] for side in self._sides())
        return shown.to_latex(index=False, escape=False, column_format=form)

    def html(self) -> str:
        """An HTML ``<table>``."""
        shown = self._marked(escaped, "<b>{}</b>")
        rows = [[Html(cell) for cell in row] for row in shown.itertuples(index=False)]
        right = [number for number, side in enumerate(self._sides()) if side == "right"]
        return html_table([Html(name) for name in shown.columns], rows, right=right)

    def csv(self) -> str:
        """The values behind the table, unrounded, as `csv_of` writes them; behind means their deviations, "… sd"."""
        if self.sds is None:
            return csv_of(self.frame)
        columns = []
        for values, sds in zip(_columns(self.frame), _columns(self.sds), strict=True):
            columns += [values] + ([sds.rename(f"{sds.name} sd")] if sds.notna().any() else [])
        return csv_of(pd.concat(columns, axis="columns"))

    def save(self, folder: str | Path, name: str = "table") -> None:
        """Write ``<name>.md`` and ``<name>.tex`` into `folder`."""
        for ending, content in ((".md", self.markdown()), (".tex", self.latex())):
            write_whole(Path(folder, name + ending), (content.rstrip() + "\n").encode())

    def __repr__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        return self.html()

    def _sides(self) -> list[str]:
        return ["right" if is_number(column) else "left" for column in _columns(self.frame)]

    def _marked(self, escape: Callable[[str], str], bold: str) -> pd.DataFrame:
        """The cells and headings, escaped, the best ones bold."""
        made = []
        for cells, marks in zip(_columns(self.cells), _columns(self.best), strict=True):
            texts = [escape(cell) for cell in cells]
            made.append([bold.format(cell) if mark else cell for cell, mark in zip(texts, marks, strict=True)])
        shown = pd.DataFrame(dict(enumerate(made)), index=self.cells.index)
        return shown.set_axis([escape(str(name)) for name in self.cells.columns], axis="columns")


def check_columns(frame: pd.DataFrame, names: Iterable[str], *, numeric: Iterable[str] = ()) -> None:
    """Check that `frame` is a DataFrame with these columns; those in `numeric` hold numbers.

    Raises:
        TypeError: no DataFrame.
        ValueError: a column is not there, or holds no numbers.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(wrong("frame", "a pandas.DataFrame", frame))
    numeric = list(numeric)
    for name in [*names, *numeric]:
        if name not in frame:
            raise ValueError(f"no column {name!r}: the columns are {', '.join(map(str, frame))}")
    wanted = set(numeric)
    for name, column in zip(frame.columns, _columns(frame), strict=True):
        if name in wanted and not is_number(column) and not column.isna().all():
            raise ValueError(wrong(f"column {name!r}", "of numbers", list(column.dropna()[:1])))


def stated_better(frame: pd.DataFrame) -> dict[str, Better]:
    """Which values of its columns are to be preferred, as far as the frame says it: in ``frame.attrs["better"]``."""
    stated = frame.attrs.get("better")
    return {name: way for name, way in stated.items() if name in frame} if isinstance(stated, Mapping) else {}


def digits_of(column: pd.Series) -> int:
    """Decimals with which the largest of its numbers has four digits that count.

    >>> digits_of(pd.Series([0.0123456, 0.5])), digits_of(pd.Series([28.1, -30])), digits_of(pd.Series([1e5]))
    (4, 2, 0)
    """
    largest = column.abs().replace(math.inf, math.nan).max()
    return min(MOST_DIGITS, max(0, 3 - math.floor(math.log10(largest)))) if largest > 0 else 3


def _columns(frame: pd.DataFrame) -> list[pd.Series]:
    """The columns by position: names may be numbers, and two may be the same."""
    return [frame.iloc[:, position] for position in range(frame.shape[1])]


def _lines(cell: str, between: str) -> str:
    """`cell` with `between` for every line break, and nothing in it that is no visible character."""
    return between.join(printable(line) for line in cell.splitlines())


def _not_an_option(cell: str) -> str:
    """A cell behind a row's end that begins with a bracket or a star would be an option of that."""
    return f"{{{cell[0]}}}{cell[1:]}" if cell.startswith(("[", "*")) else cell


def table(
    frame: pd.DataFrame,
    *,
    columns: Sequence[Column] | None = None,
    base: int | None = None,
    deltas: Iterable[str] | None = None,
    better: Mapping[str, Better] | None = None,
    digits: Mapping[str, int] | None = None,
    missing: str = "–",
    over: str | None = None,
    method: str = "t",
) -> Table:
    """The rows of `frame`, in their order, as a table to print; `frame` is left untouched.

    Args:
        frame: a row a line of the table.
        columns: which of its columns are shown, in which order and how; default: all, under their own names. What they
            say of changes, preferences and digits holds where `deltas`, `better` or `digits` is not given.
        base: position of the row that others are compared with.
        deltas: headings of the columns that show their change against `base` in parentheses, in the digits of the
            value; where there is none, none.
        better: by heading, which values are to be preferred; the best is set in bold (ties all), `base` aside. Default:
            what the frame says (``frame.attrs["better"]``, by column), as those of archlab's own measurements do.
        digits: by heading, decimals; default: 3 for floats, 0 for whole numbers.
        missing: what is printed for NaN and None.
        over: a column such as "seed" or "sample": rows with the same text in the first column that is shown are runs
            of one line. Numbers are means ± standard deviations; changes are means of the differences from `base`, then
            the position of a line, run by run, with their 95 % interval in brackets.
        method: of these intervals, "t" for a few seeds or "bootstrap" for many samples, as for `al.interval`.

    Raises:
        ValueError: a column is not there, `base` is no row, `deltas` have no base, or runs no pair in the base.

    >>> frame = pd.DataFrame({"row": ["whole", "thin"], "ssim": [0.932, 0.929]})
    >>> table(frame, columns=[Column("row", "network"), Column("ssim", "SSIM", change=True)], base=0)
    | network   |           SSIM |
    |:----------|---------------:|
    | whole     |          0.932 |
    | thin      | 0.929 (-0.003) |
    >>> runs = pd.DataFrame({"row": ["whole", "whole", "thin", "thin"], "seed": [0, 1, 0, 1],
    ...                      "ssim": [0.931, 0.935, 0.929, 0.932]})
    >>> table(runs, base=0, deltas=["ssim"], over="seed")
    | row   |                                    ssim |
    |:------|----------------------------------------:|
    | whole |                           0.933 ± 0.003 |
    | thin  | 0.931 ± 0.002 (-0.003 [-0.009, +0.004]) |
    """
    check_columns(frame, ())
    stated, runs = stated_better(frame), None
    if over is not None:
        text("over", over)
        check_columns(frame, [over])
        runs = frame[over].reset_index(drop=True)
        frame = frame.drop(columns=over) if columns is None else frame
    if columns is not None:
        for column in columns:
            if not isinstance(column, Column):
                raise TypeError(wrong("columns", "a list of Column", column))
        check_columns(frame, [column.name for column in columns])
        frame = frame[[column.name for column in columns]].set_axis([c.heading for c in columns], axis="columns")
        if deltas is None and base is not None:
            deltas = [column.heading for column in columns if column.change]
        if better is None:
            ways: dict[str, Better | None] = {
                column.heading: column.better or stated.get(column.name) for column in columns
            }
            better = {heading: way for heading, way in ways.items() if way is not None}
        if digits is None:
            digits = {column.heading: column.digits for column in columns if column.digits is not None}
    if isinstance(deltas, str):
        raise TypeError(wrong("deltas", "a list of headings", deltas))
    for name, given in (("better", better), ("digits", digits)):
        if not isinstance(given, Mapping | None):
            raise TypeError(wrong(name, "a dict by heading", given))
    better, digits, deltas = stated if better is None else better, digits or {}, list(deltas or ())
    text("missing", missing)
    check_columns(frame, (), numeric=[*deltas, *better, *digits])
    for name, way in better.items():
        choice(f"better[{name!r}]", way, WAYS)
    for name, places in digits.items():
        whole(f"digits[{name!r}]", places, least=0, most=MOST_DIGITS)
    choice("method", method, METHODS)
    frame = frame.reset_index(drop=True)
    wholes = [pd.api.types.is_integer_dtype(column) for column in _columns(frame)]  # though some may be missing
    frame = plain_numbers(frame)
    lines = len(frame) if runs is None or frame.empty else frame.iloc[:, 0].map(str).nunique()
    if base is not None:
        whole("base", base, least=0)
        if base >= lines:
            raise ValueError(f"base must be the position of a row, 0 to {lines - 1}, got {base}")
    if deltas and base is None:
        raise ValueError(f"deltas={deltas} need a base row to be compared with")
    changed = [position for position, name in enumerate(frame.columns) if name in deltas]
    if runs is None or frame.empty:
        sds, changes = None, _changes(frame, changed, base)
    else:
        merged = over_runs(frame, runs, base=base, changes=changed, method=method)
        frame, sds, changes = merged.means, merged.sds, merged.changes
    cells, best = [], []
    for position, (name, column) in enumerate(zip(frame.columns, _columns(frame), strict=True)):
        is_whole = wholes[position] and (column.dropna() % 1 == 0).all()  # a mean of whole numbers may be none
        places = digits.get(name, 0 if is_whole else 3)
        spread = [math.nan] * len(frame) if sds is None else sds.iloc[:, position]
        shown = places if is_number(column) else None
        texts = [_text(value, sd, shown, missing) for value, sd in zip(column, spread, strict=True)]
        if position in changes:
            told = [
                with_ends(change, places) if change is not None and (change.mean or change.low < 0) else ""
                for change in changes[position]
            ]
            texts = [f"{text} ({change})" if change else text for text, change in zip(texts, told, strict=True)]
        cells.append(texts)
        marks = pd.Series(False, index=frame.index)
        if name in better:
            rivals = column.drop(index=[base] if base is not None else []).round(places)
            top = rivals.max() if better[name] == "higher" else rivals.min()
            marks[rivals.index[rivals == top]] = True
        best.append(marks)

    def framed(made: Sequence[Any]) -> pd.DataFrame:
        return pd.DataFrame(dict(enumerate(made)), index=frame.index).set_axis(frame.columns, axis="columns")

    return Table(frame, framed(cells), framed(best), sds)


def _changes(frame: pd.DataFrame, changed: Sequence[int], base: int | None) -> dict[int, list[Interval | None]]:
    """By position of a column, the change of each row, one run of its line, from the base."""
    if base is None:
        return {}
    found: dict[int, list[Interval | None]] = {}
    for position in changed:
        column = _columns(frame)[position]
        apart = (column - column[base]).to_list()
        found[position] = [
            None if line == base or pd.isna(change) or change == 0 else Interval(change, math.nan, math.nan)
            for line, change in enumerate(apart)
        ]
    return found


def _text(value: Any, sd: float, places: int | None, missing: str) -> str:
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return missing
    return str(value) if places is None else with_sd(value, sd, places)
