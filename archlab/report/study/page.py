"""A study's report as one HTML page that stands alone, and an index over many, with their README.

`archlab page` calls it. The page has nothing that the folder has not: its words and tables come from report.md, its
points, curves and maps from those tables and from the cells.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...files import write_whole
from ...markup import Html, escaped
from ..page import Part, Section, write_page
from ..tables import table
from .body import Block
from .evidence import omega_charts, site_map, trade_off
from .pictures import KINDS, embedded, size_of
from .report import REPORT, Report, read_report
from .script import SCRIPT

MOST_CHARTS = 24  # of ω; more of them a page does not bear
README = "README.md"
MARK = "<!-- Written by `archlab page {folder} --readme`; edit the notes.md of a study instead. -->"


def write_study(folder: str | Path, *, x: str | None = None, y: str | None = None) -> Path:
    """Write ``index.html`` into a study's report folder.

    Args:
        folder: With report.md; what else lies there is shown as well.
        x: The heading of the cost in the first table that has one; None: by its name.
        y: The heading of the quality, likewise.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: there is no report.md.
        ValueError: no table has such a heading.

    >>> _ = Path("report.md").write_text("# Widths\\n\\n`python -m widths --preset cpu`, CPU.\\n\\nHalf is enough.\\n")
    >>> path = write_study(".")
    >>> "<h1>Widths</h1>" in path.read_text(encoding="utf-8")
    True
    """
    report = read_report(folder)
    tables = [block for block in report.body if block.kind == "table"]
    for name, heading in (("x", x), ("y", y)):
        if heading is not None and not any(heading in each.headings for each in tables):
            known = dict.fromkeys(text for each in tables for text in each.headings)
            raise ValueError(f"{name}={heading!r} is the heading of no table in {report.folder}: {', '.join(known)}")
    # The study's main table is the first that has a cost and a quality; the others have no chart.
    main, points = next(((each, chart) for each in tables if (chart := trade_off(each, x, y))), (None, None))
    sections = [Section("What was found", [_emphasized(report.headline)] if report.question else [])]
    for heading, blocks in _by_heading(report.body):
        parts: list[Part] = []
        for block in blocks:
            parts.append(_part(block, report))
            if block is main and points is not None:
                parts.append(points)
        sections.append(Section(heading, parts))
    learned = omega_charts(report.cells)
    shown = Html(f'<div class="many">{"".join(chart.html() for chart in learned[:MOST_CHARTS])}</div>')
    left = [f"{len(learned) - MOST_CHARTS} more are not shown."] if len(learned) > MOST_CHARTS else []
    gone = site_map(report.cells)
    sections += [
        Section("What was removed where", [gone] if gone else []),
        Section("How each ω moved", [shown, *left] if learned else []),
        Section("Every row", [] if report.rows is None else [table(report.rows)], folded=True),
        Section("Conditions", _conditions(report)),
    ]
    beside = [path.name for path in sorted(report.folder.iterdir()) if path.suffix in (".md", ".csv", ".tex")]
    lead = report.question or report.headline
    return write_page(report.folder, report.title, lead, sections, tables={}, files=beside, script=SCRIPT)


def write_index(folder: str | Path, studies: Sequence[str | Path]) -> Path:
    """Write ``index.html`` into `folder`: of each study its title, headline and first picture, and the way to its page.

    Args:
        folder: Where it stands.
        studies: Folders below it, with their pages.

    Returns:
        The path of the page.
    """
    sections = []
    for report in map(read_report, studies):
        place = Path(report.folder).resolve().relative_to(Path(folder).resolve()).as_posix()
        link = Html(f'<p><a href="{escaped(f"{place}/index.html")}">{escaped(place)}</a></p>')
        picture = [_figure(*report.picture, width=640)] if report.picture else []
        sections.append(Section(report.title, [report.headline, *picture, link]))
    return write_page(folder, "Studies", f"{len(sections)} studies.", sections, tables={}, script=SCRIPT)


def write_readme(folder: str | Path, studies: Sequence[str | Path]) -> Path:
    """Write ``README.md`` into `folder`: the headline and the first picture of each study.

    Args:
        folder: Where it stands.
        studies: Folders below it, with their reports.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: there is one that was not written so.
    """
    folder = Path(folder)
    mark, path = MARK.format(folder=folder.resolve().name), folder / README
    if path.is_file() and not path.read_text(encoding="utf-8").startswith("<!-- Written by `archlab page "):
        raise FileExistsError(f"{path} was not written by this command; rename it, or leave --readme out")
    parts = [mark, "# Studies", "What each found, in a sentence; its report says the rest."]
    for report in map(read_report, studies):
        place = Path(report.folder).resolve().relative_to(folder.resolve()).as_posix()
        parts.append(f"## [{_words(report.title)}]({place}/{REPORT})")
        parts.append(_words(report.headline))
        if report.picture:
            parts.append(f"![{_words(report.picture[1])}]({place}/{report.picture[0].name})")
    write_whole(path, ("\n\n".join(filter(None, parts)) + "\n").encode())
    return path


def _by_heading(body: Sequence[Block]) -> Iterator[tuple[str, list[Block]]]:
    """What stands under each heading of the second level; what stands before any is the result."""
    heading, blocks = "Result", []
    for block in body:
        if block.kind == "heading" and block.level <= 2:
            yield heading, blocks
            heading, blocks = block.text, []
        else:
            blocks.append(block)
    yield heading, blocks


def _part(block: Block, report: Report) -> Html:
    if block.kind == "table":
        return Html(f'<div class="wide">{block.html}</div>')
    if block.kind != "pictures":
        return block.html
    figures, sizes = [], set()
    for file, shows in block.pictures:
        path = report.file(file)
        if path is None or path.suffix.lower() not in KINDS:
            figures.append(Html(f"<p>{escaped(f'{shows} ({file}) is no picture beside the report.')}</p>"))
        else:
            figures.append(_figure(path, shows))
            sizes.add(size_of(path))
    pair = len(figures) == 2 and len(sizes) == 1 and None not in sizes
    return Html(f'<div class="pair">{"".join(figures)}</div>' if pair else "".join(figures))


def _figure(path: Path, shows: str, *, width: int | None = None) -> Html:
    return Html(f"<figure>{embedded(path, shows, width=width)}<figcaption>{escaped(shows)}</figcaption></figure>")


def _emphasized(headline: str) -> Html:
    return Html(f"<blockquote>{escaped(headline)}</blockquote>")


def _conditions(report: Report) -> list[Html]:
    if report.conditions is None:
        return []
    return [Html(f"<pre>{escaped(report.command)}</pre>"), report.conditions.html]


def _words(text: str) -> str:
    """Text within Markdown."""
    return "".join(f"\\{c}" if c in "\\[]<>*_`|#" else c for c in " ".join(text.split()))
