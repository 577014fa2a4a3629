"""Tables as HTML and as CSV: whatever their cells hold (names of modules, say), none of it is a tag or a formula.

Pages and notebooks load nothing and need no style from elsewhere.
"""

import html
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .names import printable

MOST = 100  # rows in a notebook
# Of a table whose text no notebook is to typeset as mathematics, dollars or not.
_CLASSES = "dataframe tex2jax_ignore mathjax_ignore"
# How text begins that a spreadsheet computes. It is written with a quote before it, also where it has one, so that what
# is read back is the text: a lone \r is written as \n.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


class Html(str):
    """Text that is HTML already: `escaped` leaves it as it is."""


def escaped(value: Any) -> Html:
    """`value` as text within HTML, a new line as ``<br>``, what is no visible character as Python writes it.

    >>> escaped("<b>\\x1b[2J & co")
    '&lt;b&gt;\\\\x1b[2J &amp; co'
    """
    if isinstance(value, Html):
        return value
    return Html("<br>".join(html.escape(printable(line)) for line in str(value).splitlines()))


def html_table(headings: Sequence[Any], rows: Iterable[Sequence[Any]], *, right: Collection[int] = ()) -> Html:
    """Return a ``<table>``.

    Args:
        headings: Of the columns, each escaped.
        rows: The cells of each row, escaped.
        right: Numbers of the columns that are aligned to the right, as numbers are.

    >>> print(html_table(["site", "calls"], [["a<b", 2]], right=[1]))
    <table class="dataframe tex2jax_ignore mathjax_ignore">
    <thead><tr><th style="text-align:left">site</th><th style="text-align:right">calls</th></tr></thead>
    <tbody>
    <tr><td style="text-align:left">a&lt;b</td><td style="text-align:right">2</td></tr>
    </tbody>
    </table>
    """
    sides = ["right" if number in right else "left" for number in range(len(headings))]

    def row(cells: Sequence[Any], tag: str) -> str:
        pairs = zip(cells, sides, strict=True)
        made = (f'<{tag} style="text-align:{side}">{escaped(cell)}</{tag}>' for cell, side in pairs)
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return Html(
        f'<table class="{_CLASSES}">\n<thead>{row(headings, "th")}</thead>\n<tbody>\n{body}\n</tbody>\n</table>'
    )


def notebook_table(
    headings: Sequence[Any], rows: Sequence[Sequence[Any]], *, right: Collection[int] = (), notes: Iterable[str] = ()
) -> str:
    """Return what a notebook shows of a long table: its first rows in a box that scrolls, and lines below them."""
    left_out = [f"… {len(rows) - MOST:,} more: .frame() has them all"] if len(rows) > MOST else []
    shown = html_table(headings, rows[:MOST], right=right) if rows else ""
    lines = "".join(f"<div>{escaped(line)}</div>" for line in (*left_out, *notes))
    return f'<div style="overflow:auto;max-height:30em">{shown}</div>{lines}'


def csv_of(frame: pd.DataFrame) -> str:
    """`frame` as CSV. Text that a spreadsheet would compute gets a quote before it, which says there that it is text.

    >>> print(csv_of(pd.DataFrame({"site": ["=1+1", "head"], "omega": [-0.5, 1.0]})), end="")
    site,omega
    '=1+1,-0.5
    head,1.0
    """

    def quoted(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        quote = "'" if _FORMULA.match(value) else ""
        return quote + value.replace("\r", "\n")  # a lone \r would end the row

    return frame.map(quoted).rename(columns=quoted).to_csv(index=False)


def frame_of_csv(path: str | Path) -> pd.DataFrame:
    """What `csv_of` wrote, without the quotes that it put before text.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no CSV.
    """

    def bare(value: Any) -> Any:
        return value[1:] if isinstance(value, str) and value[:1] == "'" and _FORMULA.match(value) else value

    # Missing is what is empty: "None" and "NA" are what something was called.
    return pd.read_csv(path, keep_default_na=False, na_values=[""]).map(bare).rename(columns=bare)
