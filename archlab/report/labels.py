"""Names beside points that cover neither each other nor what is drawn. matplotlib has no such thing."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from ..names import printable

NEAR = 10  # points above or below, up to which a name needs no leader


def place_labels(ax: Axes, frame: pd.DataFrame, x: str, y: str, label: str, lines: Sequence[Any], *, size: int) -> None:
    """Write each point's name at the nearest place around it where it covers least.

    Args:
        ax: Where the points are drawn; its limits are fixed by this.
        frame: A row a point.
        x: Column of their places.
        y: The same.
        label: Column of their names.
        lines: What no name may cross, beside the points, each other and the border: corners x 2, each.
        size: Of the letters, in points.
    """
    ax.figure.canvas.draw()  # fixes the axes' place and limits, which the boxes below are measured in
    font = FontProperties(size=size)
    unit = ax.figure.dpi / 72
    points = ax.transData.transform(frame[[x, y]].to_numpy(float)) / unit
    inside = [edge / unit for edge in ax.bbox.extents]
    taken = [(px - 4, py - 4, px + 4, py + 4) for px, py in points]
    for line in lines:
        taken += _dots((ax.transData.transform(line) / unit).tolist())
    names: list[tuple[float, float, float, float]] = []
    for row, (px, py) in enumerate(points):
        text = printable(str(frame[label].iloc[row]))
        width, height = TextPath((0, 0), text.replace("$", r"\$"), prop=font).get_extents().width + 2, size + 2
        # What each place would hide: of what is there, of the name itself, and of names that its leader crosses.
        boxes, leaders, hidden = [], [], []
        for dx, dy, side in _PLACES:
            left = px + dx - {"left": 0, "center": width / 2, "right": width}[side]
            box = left, py + dy - height / 2, left + width, py + dy + height / 2
            leader = _dots([(px, py), (px + dx, py + dy)]) if abs(dy) > NEAR else []
            covered = sum(_overlap(box, other) for other in taken)
            crossed = sum(_overlap(dot, name) for dot in leader for name in names)
            boxes.append(box)
            leaders.append(leader)
            hidden.append(covered + crossed + width * height - _overlap(box, inside))
        place = hidden.index(min(hidden))
        names.append(boxes[place])
        taken += [boxes[place], *leaders[place]]
        dx, dy, side = _PLACES[place]
        led = {"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkB": 3} if leaders[place] else None
        ax.annotate(
            text, (frame[x].iloc[row], frame[y].iloc[row]), (dx, dy), textcoords="offset points", ha=side,
            va="center", fontsize=size, arrowprops=led, parse_math=False,
        )  # fmt: skip


def _dots(corners: Sequence[Sequence[float]]) -> list[tuple[float, float, float, float]]:
    """The line through `corners` as boxes that a name may cover."""
    return [(x - 1, y - 1, x + 1, y + 1) for x, y in _along(corners)]


def _along(corners: Sequence[Sequence[float]]) -> Iterator[tuple[float, float]]:
    """Points of the line through `corners`, at most 3 apart."""
    for (ax, ay), (bx, by) in pairwise(corners):
        count = math.ceil(math.hypot(bx - ax, by - ay) / 3)
        yield from ((ax + (bx - ax) * i / count, ay + (by - ay) * i / count) for i in range(1, count))


# Offsets in points and the side of the text that stands there.
_PLACES = ((5, 0, "left"), (-5, 0, "right"), (0, 8, "center"), (0, -8, "center"), (5, 7, "left"), (5, -7, "left"),
           (-5, 7, "right"), (-5, -7, "right"), (0, 17, "center"), (0, -17, "center"), (12, 17, "left"),
           (12, -17, "left"), (-12, 17, "right"), (-12, -17, "right"), (0, 28, "center"), (0, -28, "center"),
           (14, 28, "left"), (14, -28, "left"), (-14, 28, "right"), (-14, -28, "right"))  # fmt: skip


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that two boxes (left, low, right, high) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
