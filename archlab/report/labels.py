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
        corners = ax.transData.transform(line) / unit
        taken += [(px - 1, py - 1, px + 1, py + 1) for px, py in _along(corners.tolist())]
    for row, (px, py) in enumerate(points):
        text = printable(str(frame[label].iloc[row]))
        width, height = TextPath((0, 0), text.replace("$", r"\$"), prop=font).get_extents().width + 2, size + 2
        boxes = []
        for dx, dy, side in _PLACES:
            left = px + dx - {"left": 0, "center": width / 2, "right": width}[side]
            boxes.append((left, py + dy - height / 2, left + width, py + dy + height / 2))
        hidden = [sum(_overlap(box, o) for o in taken) + width * height - _overlap(box, inside) for box in boxes]
        place = hidden.index(min(hidden))
        taken.append(boxes[place])
        dx, dy, side = _PLACES[place]
        led = {"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkB": 3} if abs(dy) > 10 else None
        ax.annotate(
            text, (frame[x].iloc[row], frame[y].iloc[row]), (dx, dy), textcoords="offset points", ha=side,
            va="center", fontsize=size, arrowprops=led, parse_math=False,
        )  # fmt: skip


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
