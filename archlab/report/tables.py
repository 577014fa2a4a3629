"""A tidy DataFrame as a table to print: changes against a base row, best values in bold, four formats.

It sees DataFrames only, never a model. pandas writes LaTeX, HTML and CSV, tabulate Markdown; what is made here is
the text of each cell.
"""

import html
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

Better = Literal["higher", "lower"]
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

    @property
    def heading(self) -> str:
        return f"{self.title} [{self.unit}]" if self.unit else self.title


@dataclass(frozen=True, eq=False)
class Table:
    """A table ready to print: `frame` the values it was made from, `cells` their text, `best` where bold stands."""

    frame: pd.DataFrame
    cells: pd.DataFrame
    best: pd.DataFrame

    def markdown(self) -> str:
        """GitHub's Markdown."""
        shown = self._marked(lambda text: text.replace("|", "\\|"), "**{}**")
        sides = [self._side(name) for name in shown.columns]
        return shown.to_markdown(index=False, disable_numparse=True, colalign=sides)

    def latex(self) -> str:
        """A LaTeX ``tabular`` with booktabs rules."""
        shown = self._marked(lambda text: text.translate(_LATEX), r"\textbf{{{}}}")
        shown.columns = [name.translate(_LATEX) for name in shown.columns]
        form = "".join("l" if self._side(name) == "left" else "r" for name in self.cells.columns)
        return shown.to_latex(index=False, escape=False, column_format=form)

    def html(self) -> str:
        """An HTML ``<table>``."""
        return self._marked(html.escape, "<b>{}</b>").to_html(index=False, escape=False, border=0)

    def csv(self) -> str:
        """The values behind the table, unrounded."""
        return self.frame.to_csv(index=False)

    def save(self, folder: str | Path, name: str = "table") -> None:
        """Write ``<name>.md`` and ``<name>.tex`` into `folder`."""
        for ending, text in ((".md", self.markdown()), (".tex", self.latex())):
            Path(folder, name + ending).write_text(text.rstrip() + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        return self.markdown()

    def _side(self, name: Hashable) -> str:
        return "right" if pd.api.types.is_numeric_dtype(self.frame[name]) else "left"

    def _marked(self, escape: Any, bold: str) -> pd.DataFrame:
        shown = self.cells.map(escape)
        for name in shown.columns:
            marks = self.best[name]
            shown[name] = [bold.format(text) if mark else text for text, mark in zip(shown[name], marks, strict=True)]
        return shown


def table(
    frame: pd.DataFrame,
    *,
    columns: Sequence[Column] | None = None,
    base: int | None = None,
    deltas: Iterable[str] | None = None,
    better: Mapping[str, Better] | None = None,
    digits: Mapping[str, int] | None = None,
    missing: str = "–",
) -> Table:
    """The rows of `frame`, in their order, as a table to print; `frame` is left untouched.

    Args:
        frame: a row a line of the table.
        columns: which of its columns are shown, in which order and how; default: all, under their own names. What they
            say of changes, preferences and digits holds where `deltas`, `better` or `digits` is not given.
        base: position of the row that others are compared with.
        deltas: headings of the columns that show their change against `base` in parentheses, in the digits of the
            value; where there is none, none.
        better: by heading, which values are to be preferred; the best is set in bold (ties all), `base` aside.
        digits: by heading, decimals; default: 3 for floats, 0 for whole numbers.
        missing: what is printed for NaN and None.

    Raises:
        ValueError: a column is not there, `base` is no row, or `deltas` have no base.

    >>> frame = pd.DataFrame({"row": ["whole", "thin"], "ssim": [0.932, 0.929]})
    >>> table(frame, columns=[Column("row", "network"), Column("ssim", "SSIM", change=True)], base=0)
    | network   |           SSIM |
    |:----------|---------------:|
    | whole     |          0.932 |
    | thin      | 0.929 (-0.003) |
    """
    if columns is not None:
        for column in columns:
            if column.name not in frame:
                raise ValueError(f"no column {column.name!r}: the columns are {', '.join(map(str, frame))}")
        frame = frame[[column.name for column in columns]].set_axis([c.heading for c in columns], axis="columns")
        if deltas is None and base is not None:
            deltas = [column.heading for column in columns if column.change]
        if better is None:
            better = {column.heading: column.better for column in columns if column.better is not None}
        if digits is None:
            digits = {column.heading: column.digits for column in columns if column.digits is not None}
    better, digits, deltas = better or {}, digits or {}, list(deltas or ())
    for name in [*deltas, *better, *digits]:
        if name not in frame:
            raise ValueError(f"no column {name!r}: the columns are {', '.join(map(str, frame))}")
    if base is not None and not 0 <= base < len(frame):
        raise ValueError(f"base must be the position of a row, 0 to {len(frame) - 1}, got {base}")
    if deltas and base is None:
        raise ValueError(f"deltas={deltas} need a base row to be compared with")
    frame = frame.reset_index(drop=True)
    cells, best = pd.DataFrame(index=frame.index), pd.DataFrame(False, index=frame.index, columns=frame.columns)
    for name in map(str, frame.columns):
        column = frame[name]
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        places = digits.get(name, 0 if pd.api.types.is_integer_dtype(column) else 3)
        texts = [_text(value, places if numeric else None, missing) for value in column]
        if name in deltas:
            assert base is not None
            changes = column - column[base]
            texts = [
                text if row == base or pd.isna(change) or change == 0 else f"{text} ({change:+,.{places}f})"
                for row, (text, change) in enumerate(zip(texts, changes, strict=True))
            ]
        cells[name] = texts
        if name in better:
            rivals = column.drop(index=[base] if base is not None else []).round(places)
            if better[name] not in ("higher", "lower"):
                raise ValueError(f"better[{name!r}] must be 'higher' or 'lower', got {better[name]!r}")
            top = rivals.max() if better[name] == "higher" else rivals.min()
            best.loc[rivals.index[rivals == top], name] = True
    return Table(frame, cells, best)


def _text(value: Any, places: int | None, missing: str) -> str:
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return missing
    return str(value) if places is None else f"{value:,.{places}f}"
