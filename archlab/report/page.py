"""One HTML page that stands alone: nothing is loaded, no JavaScript, readable in light and dark and on a phone.

It sees DataFrames, text and charts only, never a model. Whatever text it is given is text there, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import folder as check_folder
from ..arguments import shown
from ..files import write_whole
from ..markup import escaped
from .chart import Chart
from .tables import Table, table

NAME = "index.html"
Part = str | Table | Chart  # a paragraph; a table, which scrolls on its own; curves


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it; `folded`, it is opened by a click."""

    heading: str
    parts: Sequence[Part]
    folded: bool = False

    def html(self) -> str:
        """A ``<section>``, or folded ``<details>``."""
        inside = "\n".join(map(_html, self.parts))
        if self.folded:
            return f"<details><summary>{escaped(self.heading)}</summary>\n{inside}\n</details>"
        return f"<section><h2>{escaped(self.heading)}</h2>\n{inside}\n</section>"


def write_page(
    folder: str | Path, title: str, lead: str, sections: Sequence[Section], *, tables: Mapping[str, Table]
) -> Path:
    """Write ``index.html`` into `folder`, and tables beside it.

    Args:
        folder: It is made; files of an earlier page in it are replaced.
        title: The heading of the page.
        lead: The first paragraph: what was found.
        sections: What follows; those without parts are left out.
        tables: They are written as ``<name>.md``, ``<name>.tex`` and ``<name>.csv``, which the page links to.

    Returns:
        The path of the page.

    >>> path = write_page(".", "a<b", "One & two.", [Section("Why", ["Because."])], tables={})
    >>> "<h1>a&lt;b</h1>" in path.read_text(encoding="utf-8")
    True
    """
    check_folder("folder", folder)
    path = Path(folder) / NAME
    for name, each in tables.items():
        each.save(folder, name)
        write_whole(Path(folder, f"{name}.csv"), each.csv().encode())
    files = [f"{name}.{ending}" for name in tables for ending in ("md", "tex", "csv")]
    links = ", ".join(f'<a href="{escaped(file)}">{escaped(file)}</a>' for file in files)
    inside = [section.html() for section in sections if section.parts]
    inside += [f"<p>The tables as files: {links}</p>"] if files else []
    page = _PAGE.format(title=escaped(title), style=_STYLE, lead=escaped(lead), inside="\n".join(inside))
    write_whole(path, page.encode())
    return path


def named(values: Mapping[str, Any], name: str, value: str) -> Table:
    """A table of named values, under these two headings; those that are None or empty are left out."""
    rows = [{name: key, value: _words(each)} for key, each in values.items() if each not in (None, "", {}, [])]
    return table(pd.DataFrame(rows, columns=[name, value], dtype=object))


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    if callable(value):
        return shown(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _html(part: Part) -> str:
    if isinstance(part, Table):
        return f'<div class="wide">{part.html()}</div>'
    return part.html() if isinstance(part, Chart) else f"<p>{escaped(part)}</p>"


# Nothing may be loaded, whatever got into the page.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{inside}
</main>
</body>
</html>
"""

# Okabe and Ito's colours, which the colour-blind tell apart; on a dark ground those of them that are light.
_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --faint: #6a737d; --rule: #d8dee4; --head: #f4f6f8;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b0558a; --c4: #a87900; --c5: #555 }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --ink: #e4e8ec; --faint: #98a2ad; --rule: #343b43;
  --head: #1f242a; --c0: #56b4e9; --c1: #f08a3c; --c2: #2fc79a; --c3: #dd9bc1; --c4: #e6b422; --c5: #aaa } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0 .5rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p { margin: .5rem 0; overflow-wrap: anywhere }
.lead { font-size: 1.1rem }
details { margin: 1rem 0 } summary { cursor: pointer; font-weight: 600 }
.wide { overflow: auto; max-height: 85vh; max-width: 100% }
table { width: max-content; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--rule); vertical-align: top }
th { position: sticky; top: 0; background: var(--head); font-weight: 600; white-space: nowrap }
td { max-width: 36rem; overflow-wrap: break-word }
a { color: var(--c0) }
figure { margin: 1rem 0 } figcaption { color: var(--faint); font-size: .9rem; overflow-wrap: anywhere }
figcaption span { margin-left: .75rem; white-space: nowrap }
svg { display: block; width: 100%; min-width: 26rem; max-width: 50rem; height: auto }
svg text { fill: var(--faint); font-size: 13px } .end { text-anchor: end } .middle { text-anchor: middle }
@media (max-width: 40rem) { svg text { font-size: 17px } }
path { fill: none } .grid { stroke: var(--rule); stroke-width: .6 }
.rule { stroke: var(--faint) } .dashed { stroke-dasharray: 5 4 }
.line { stroke: currentColor; fill: currentColor } .near { stroke-width: 12; stroke-opacity: 0; pointer-events: stroke }
.seen { stroke-width: 1.6; stroke-opacity: .85 } .line:hover .seen { stroke-width: 3.5; stroke-opacity: 1 }
circle { stroke: var(--ground) } circle:hover { r: 7px }
.c0 { color: var(--c0) } .c1 { color: var(--c1) } .c2 { color: var(--c2) } .c3 { color: var(--c3) }
.c4 { color: var(--c4) } .c5 { color: var(--c5) }
"""
