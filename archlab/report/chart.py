"""Curves as SVG within a page: what each line and point is, it says when it is pointed at, without JavaScript.

`plots` draws figures for papers, with matplotlib; these are for the screen, take their colours from the page (light or
dark) and are text of a few kilobytes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..markup import Html, escaped

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 16, 50  # room around the axes
TICKS = 5  # about so many an axis
MOST_LINES, MOST_POINTS = 200, 100  # more of them nobody tells apart, and pages are to stay small


@dataclass(frozen=True)
class Point:
    """A place on a line: `told` when it is pointed at; from `low` to `high` a bar, where these are given."""

    x: float
    y: float
    told: str = ""
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Line:
    """Points, joined unless they are not to be.

    Args:
        name: Told where the line is pointed at.
        points: In order. Those that are told are drawn as dots.
        group: Lines of one group have one colour, and the legend names the groups.
        joined: Whether a line goes through them.
    """

    name: str
    points: Sequence[Point]
    group: str = ""
    joined: bool = True


@dataclass(frozen=True)
class Chart:
    """Lines in one pair of axes.

    Args:
        title: What it shows, for those who do not see it, too.
        x: What the horizontal axis is, with its unit.
        y: What the vertical axis is.
        lines: What is drawn; of more than `MOST_LINES` evenly so many, of which the page says so.
        across: Heights at which a dashed line lies, with their names.
        down: Places at which a thin vertical line stands, with their names: where phases begin.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    across: Mapping[str, float] = field(default_factory=dict)
    down: Mapping[str, float] = field(default_factory=dict)

    def html(self) -> Html:
        """A ``<figure>``: the picture, and its legend and title as text."""
        lines = evenly(self.lines, MOST_LINES)
        groups = list(dict.fromkeys(line.group for line in lines))
        named = [f'<span class="c{groups.index(group) % 6}">■ {escaped(group)}</span>' for group in groups if group]
        thinned = f" {len(lines)} of {len(self.lines)} lines are drawn." if len(lines) < len(self.lines) else ""
        caption = f"<figcaption>{escaped(self.title + '.' + thinned)} {' '.join(named)}</figcaption>"
        return Html(f'<figure>{caption}<div class="wide">{self._svg(lines, groups)}</div></figure>')

    def _svg(self, lines: Sequence[Line], groups: Sequence[str]) -> str:
        points = [point for line in lines for point in line.points]
        heights = [value for point in points for value in (point.y, point.low, point.high)]
        across = _Axis([*self.down.values(), *(point.x for point in points)], LEFT, WIDTH - RIGHT)
        up = _Axis([*self.across.values(), *heights], HEIGHT - BOTTOM, TOP)
        drawn = [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(self.title)}">',
            *_grid(across, up, self.x, self.y),
        ]
        for name, x in self.down.items():
            drawn.append(f'<path class="rule" d="M{across(x)} {TOP}V{HEIGHT - BOTTOM}"/>')
            drawn.append(f'<text x="{across(x) + 4}" y="{TOP + 8}">{escaped(name)}</text>')
        for name, y in self.across.items():
            drawn.append(f'<path class="rule dashed" d="M{LEFT} {up(y)}H{WIDTH - RIGHT}"/>')
            drawn.append(f'<text x="{LEFT + 4}" y="{up(y) - 4}">{escaped(name)}</text>')
        for line in lines:
            drawn += _line(line, groups.index(line.group) % 6, across, up)
        return "\n".join([*drawn, "</svg>"])


def evenly(items: Sequence, most: int) -> Sequence:
    """At most so many of the items, from the first to the last."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


class _Axis:
    """Values to places on the picture, from `begin` to `end`; a little room beyond the outermost."""

    def __init__(self, values: Iterable[float], begin: float, end: float):
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        room = 0.04 * (high - low) or 0.04 * abs(high) or 0.5
        self.low, self.high, self.begin, self.end = low - room, high + room, begin, end

    def __call__(self, value: float) -> float:
        return round(self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin), 1)

    def ticks(self) -> dict[str, float]:
        """Round values within, by how they are written."""
        rough = (self.high - self.low) / TICKS
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough)
        numbers = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        places = max(0, -math.floor(math.log10(step)))
        return {f"{round(number * step, places):,.10g}": number * step for number in numbers}


def _grid(across: _Axis, up: _Axis, x: str, y: str) -> list[str]:
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    drawn = []
    for told, value in up.ticks().items():
        drawn.append(f'<path class="grid" d="M{LEFT} {up(value)}H{WIDTH - RIGHT}"/>')
        drawn.append(f'<text class="end" x="{LEFT - 6}" y="{up(value) + 4}">{told}</text>')
    for told, value in across.ticks().items():
        drawn.append(f'<path class="grid" d="M{across(value)} {TOP}V{bottom}"/>')
        drawn.append(f'<text class="middle" x="{across(value)}" y="{bottom + 18}">{told}</text>')
    drawn.append(f'<text class="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}">{escaped(x)}</text>')
    drawn.append(f'<text class="middle" transform="translate(16 {middle}) rotate(-90)">{escaped(y)}</text>')
    return drawn


def _line(line: Line, colour: int, across: _Axis, up: _Axis) -> list[str]:
    points = [point for point in line.points if math.isfinite(point.x) and math.isfinite(point.y)]
    drawn = [f'<g class="line c{colour}"><title>{escaped(line.name)}</title>']
    if line.joined and points:
        way = "M" + "L".join(f"{across(p.x)} {up(p.y)}" for p in evenly(points, MOST_POINTS))
        # Beside the line a wide one that is not seen: it is what a mouse meets.
        drawn += [f'<path class="near" d="{way}"/>', f'<path class="seen" d="{way}"/>']
    for p in points:
        if math.isfinite(p.low) and math.isfinite(p.high):
            drawn.append(f'<path class="seen" d="M{across(p.x)} {up(p.low)}V{up(p.high)}"/>')
        if p.told:
            place = f'cx="{across(p.x)}" cy="{up(p.y)}"'
            drawn.append(f'<circle {place} r="4.5"><title>{escaped(p.told)}</title></circle>')
    return [*drawn, "</g>"]
