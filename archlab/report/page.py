"""One HTML page that stands alone: nothing is loaded, whole without JavaScript, in light and dark and on a phone.

It sees DataFrames, text and charts only, never a model. Whatever text it is given is text there, too.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from ..arguments import folder as check_folder
from ..arguments import shown
from ..files import write_whole
from ..markup import Html, escaped
from .chart import Chart
from .tables import Table, table

NAME = "index.html"
Part = str | Html | Table | Chart  # a paragraph; HTML as it is; a table, which scrolls on its own; curves


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
    folder: str | Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    *,
    tables: Mapping[str, Table],
    files: Sequence[str] = (),
    script: str = "",
) -> Path:
    """Write ``index.html`` into `folder`, and tables beside it.

    Args:
        folder: It is made; files of an earlier page in it are replaced.
        title: The heading of the page.
        lead: The first paragraph: what was found.
        sections: What follows; those without parts are left out.
        tables: They are written as ``<name>.md``, ``<name>.tex`` and ``<name>.csv``, which the page links to.
        files: Names of more files that lie there, which it links to as well.
        script: JavaScript, without which the page must be whole; none but this very text can run in it.

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
    files = [*(f"{name}.{ending}" for name in tables for ending in ("md", "tex", "csv")), *files]
    links = ", ".join(f'<a href="{escaped(quote(file))}">{escaped(file)}</a>' for file in files)
    inside = [section.html() for section in sections if section.parts]
    inside += [f"<p>Beside this page: {links}</p>"] if files else []
    runs = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed, runs = (f"; script-src 'sha256-{runs}'", f"<script>{script}</script>") if script else ("", "")
    page = _PAGE.format(
        title=escaped(title), style=_STYLE, lead=escaped(lead), inside="\n".join(inside), allowed=allowed, script=runs
    )
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
    if isinstance(part, Html):
        return part
    return part.html() if isinstance(part, Chart) else f"<p>{escaped(part)}</p>"


# Nothing may be loaded, whatever got into the page.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:{allowed}">
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
{script}
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
main { max-width: 76rem; margin: 0 auto; padding: 1rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0 .5rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p, ul, ol, blockquote { max-width: 60rem } p { margin: .5rem 0; overflow-wrap: anywhere }
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
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem } code { font-size: .9em; overflow-wrap: anywhere }
pre { overflow: auto; padding: .75rem; background: var(--head); border-radius: 4px } li { overflow-wrap: anywhere }
blockquote { margin: .75rem 0; padding-left: 1rem; border-left: 3px solid var(--c0); font-size: 1.05rem }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; min-height: 24px }
th button:focus-visible, input:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px }
th[aria-sort=ascending]::after { content: " ▲" } th[aria-sort=descending]::after { content: " ▼" }
.told { position: fixed; z-index: 1; max-width: min(24rem, 90vw); padding: .25rem .5rem; border-radius: 4px;
  font-size: .85rem; background: var(--ink); color: var(--ground); pointer-events: none; overflow-wrap: anywhere }
.many { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 0 1.5rem }
.many figure, .many .wide { min-width: 0 } .many svg { min-width: 0 } .many svg text { font-size: 17px }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(16rem, 100%), 1fr)); gap: 1rem }
.pair figure { margin: 0 } .pair img { width: 100%; image-rendering: pixelated; border-radius: 0 }
.compared { max-width: 34rem } .compared figure { grid-area: 1 / 1; min-width: 0 }
.compared figure + figure figcaption { text-align: right } .compared figure:first-child figcaption { max-width: 48% }
.compared input { grid-column: 1; width: 100%; min-height: 24px }
.map .part { display: inline-block; margin-right: 1rem; color: var(--faint) }
.site { display: inline-block; min-width: 1.1em; text-align: center; cursor: default }
.gone { color: var(--c1); font-weight: 700 } .kept { color: var(--c0) }
"""
