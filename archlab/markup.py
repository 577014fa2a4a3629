"""Tables as HTML, for notebooks and pages: whatever their cells hold (names of modules, say), none of it is a tag.

Nothing is loaded and no style from elsewhere is needed.
"""

import html
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from .names import printable

MOST = 100  # rows in a notebook
# Of a table whose text no notebook is to typeset as mathematics, dollars or not.
_CLASSES = "dataframe tex2jax_ignore mathjax_ignore"


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
