"""Pages that stand alone, curves that say what they are, and names that hold anything."""

import math

import pandas as pd
import pytest

from archlab.report.chart import MOST_LINES, MOST_POINTS, Chart, Line, Point
from archlab.report.page import Section, named, write_page
from archlab.report.tables import table

from .pages import Page, read

HOSTILE = "</title><script>alert(1)</script>\"'&\x1b[2J"
SHOWN = HOSTILE.replace("\x1b", "\\x1b")


def test_a_page_stands_alone_and_takes_nothing_for_tags(tmp_path):
    hostile = table(pd.DataFrame({HOSTILE: [HOSTILE], "value": [0.5]}))
    line = Line(HOSTILE, [Point(0, 0), Point(1, 2, HOSTILE)], HOSTILE)
    chart = Chart(HOSTILE, HOSTILE, HOSTILE, [line], across={HOSTILE: 1.0}, down={HOSTILE: 0.5})
    parts = [HOSTILE, hostile, chart, named({HOSTILE: {HOSTILE: [HOSTILE, 0.5]}, "nothing": None}, "name", "value")]
    sections = [Section(HOSTILE, parts), Section("folded", parts, folded=True), Section("empty", [])]
    path = write_page(tmp_path / "new" / "folder", HOSTILE, HOSTILE, sections, tables={"table": hostile})
    page = read(path)
    assert page.titles == [SHOWN] * 4, "of the line and of its point, twice"
    in_parts = 1 + 2 + 6 + 3  # the paragraph, the table, the chart with its legend and rules, the named values
    assert page.text.count(SHOWN) == 4 + 2 * in_parts and "nothing" not in page.text and "empty" not in page.text
    assert page.links == ["table.md", "table.tex", "table.csv"]
    html = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in html and "width=device-width" in html and "prefers-color-scheme: dark" in html
    assert html.count('<div class="wide"><table') == 4, "tables scroll on their own"


def places(chart: Chart) -> list[str]:
    return [part.split('"')[0] for part in chart.html().split('class="seen" d="')[1:]]


def test_a_line_goes_where_its_points_are():
    chart = Chart("c", "x", "y", [Line("l", [Point(0, 10), Point(1, 20, low=15, high=25), Point(2, math.nan)])])
    line, bar = places(chart)
    (x0, y0), (x1, y1) = (map(float, place.split()) for place in line.removeprefix("M").split("L"))
    assert x0 < x1 and y0 > y1, "up is more, and what is no number is left out"
    low, high = (float(end) for end in bar.split()[1].split("V"))
    assert low > y1 > high and low - y1 == pytest.approx(y1 - high, abs=0.2)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-1e-9, 1e-9], [1e12, 3e12], [], [math.nan]])
def test_any_values_have_axes(values):
    chart = Chart("c", "x", "y", [Line("l", [Point(x, x, "told") for x in values])])
    page = Page(chart.html())
    assert len(page.titles) == 1 + sum(map(math.isfinite, values))
    assert "nan" not in chart.html()


def test_many_lines_and_points_are_thinned_and_the_page_says_so():
    lines = [Line(str(n), [Point(x, n) for x in range(150)]) for n in range(300)]
    chart = Chart("Many", "x", "y", lines)
    page = Page(chart.html())
    assert f"Many. {MOST_LINES} of 300 lines are drawn." in page.text
    assert len(page.titles) == MOST_LINES and {page.titles[0], page.titles[-1]} == {"0", "299"}
    assert all(place.count("L") == MOST_POINTS - 1 for place in places(chart))
    assert len(chart.html()) < 800_000
