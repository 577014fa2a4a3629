"""What a page shows beyond the report's words: points against cost, how each ω moved, which sites went.

All of it comes from values that a study's cells return, or from its tables:

- ``omegas``: {"step": [...], "site": [...], "omega": [...]}, as ``removal.omegas.to_dict("list")`` gives it, or a list
  of values a site with ``omega_steps``; ``tau`` beside it.
- ``decisions``: a list of {"site": ..., "removed": ...}, as ``removal.decisions.to_dict("records")``.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...markup import Html, escaped
from ..chart import Chart, Line, Point
from ..removal_page import omega_chart
from .body import Block

# The first that a heading is called like is the cost; multiply-adds depend on no machine.
COSTS = tuple(re.compile(rf"\b({words})\b", re.IGNORECASE)
              for words in ("FLOPs|MACs|multiply-adds", "latency|ms|seconds|FPS", "params|parameters"))  # fmt: skip
QUALITY = re.compile(r"\b(SSIM|PSNR|LPIPS|accuracy|top-?1|mAP|IoU|F1|perplexity|loss|error|MSE|MAE)\b", re.IGNORECASE)
OTHERS = re.compile(r"^paper|^times\b|\bsd$|interval", re.IGNORECASE)  # never an axis
NUMBER = re.compile(r"\s*([-+−]?[\d,]*\.?\d+(?:e[-+]?\d+)?)(?:\s*±\s*([\d,.]+))?", re.IGNORECASE)
MOST_SITES = 400  # in one line of the map


def trade_off(table: Block, x: str | None = None, y: str | None = None) -> Chart | None:
    """A table's rows as points: a quality against a cost, each told by its name.

    Args:
        table: Its first column has the names.
        x: The heading of the cost; None: the first that is called like one of `COSTS`.
        y: The heading of the quality; None: the first that is called like one, as SSIM, PSNR, accuracy, loss.

    Returns:
        The chart; None where there are no two such columns, or not two points.
    """
    of = {heading: [_number(row[column]) for row in table.cells] for column, heading in enumerate(table.headings)}
    numeric = [name for name, values in of.items() if name and sum(not math.isnan(v) for v, _ in values) > 1]
    own = [name for name in numeric if not OTHERS.search(name)]
    x = x or next((name for cost in COSTS for name in own if cost.search(name)), None)
    y = y or next((name for name in own if QUALITY.search(name) and name != x), None)
    if x not in numeric or y not in numeric:
        return None
    points = []
    for row, (cost, _), (quality, sd) in zip(table.cells, of[x], of[y], strict=True):
        if not math.isnan(cost + quality):
            told = f"{row[0]}: {x} {cost:g}, {y} {quality:g}"
            points.append(Point(cost, quality, told, quality - sd, quality + sd))
    lines = [Line(point.told, [point], joined=False) for point in points]
    return Chart(f"{y} against {x}; a point tells its name", x, y, lines) if len(points) > 1 else None


def omega_charts(cells: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
    """How each ω moved, a chart a row that learned any."""
    charts = []
    for row, values in cells.items():
        tracks = _tracks(values)
        if tracks is not None and len(tracks):
            tau = values.get("tau")
            charts.append(omega_chart(_decisions(values, tracks), tracks, tau=_float(tau), title=f"ω of {row}"))
    return charts


def site_map(cells: Mapping[str, Mapping[str, Any]]) -> Html:
    """The sites of each row in the order of the network, by module: what went is crossed out. Empty where none is."""
    lines = []
    for row, values in cells.items():
        decisions = _decisions(values, _tracks(values))
        if decisions.empty:
            continue
        parts: dict[str, list[str]] = {}
        for site in decisions.head(MOST_SITES).to_dict("records"):
            name, gone = str(site["site"]), bool(site["removed"])
            told = f"{name}: {'removed' if gone else 'stays'}"
            mark = (
                f'<span class="site {"gone" if gone else "kept"}" data-told="{escaped(told)}" title="{escaped(told)}">'
            )
            parts.setdefault(re.split(r"[./]", name)[0], []).append(f"{mark}{'✗' if gone else '■'}</span>")
        count = f"{int(decisions['removed'].sum())} of {len(decisions)}"
        inside = " ".join(
            f'<span class="part">{escaped(part)} {"".join(marks)}</span>' for part, marks in parts.items()
        )
        lines.append(f"<tr><td>{escaped(row)}</td><td>{count}</td><td>{inside}</td></tr>")
    if not lines:
        return Html("")
    head = (
        "<thead><tr><th>row</th><th>removed</th><th>sites, in the network's order: ✗ removed, ■ stays</th></tr></thead>"
    )
    return Html(f'<div class="wide"><table class="map">{head}<tbody>{"".join(lines)}</tbody></table></div>')


def _tracks(values: Mapping[str, Any]) -> pd.DataFrame | None:
    """step, site, omega of a cell that learned any; None of others, and of what has another form.

    Its "omegas" are columns of these three names, or the values by site, their steps in "omega_steps"; or both in one.
    """
    said, steps = values.get("omegas"), values.get("omega_steps")
    try:
        if isinstance(said, Mapping) and isinstance(said.get("omega"), Mapping):
            said, steps = said["omega"], said.get("step")
        if isinstance(said, Mapping) and {"step", "site", "omega"} <= said.keys():
            frame = pd.DataFrame(dict(said))
        elif isinstance(said, Mapping) and isinstance(steps, Sequence):
            columns = [pd.DataFrame({"step": steps[: len(track)], "omega": track, "site": site})
                       for site, track in said.items()]  # fmt: skip
            frame = pd.concat(columns, ignore_index=True)
        else:
            return None
        return frame.astype({"step": float, "omega": float, "site": str})
    except (TypeError, ValueError):
        return None


def _decisions(values: Mapping[str, Any], tracks: pd.DataFrame | None) -> pd.DataFrame:
    """site, removed, omega: as a cell says it, or by where each ω ended."""
    last = pd.Series(dtype=float) if tracks is None else tracks.groupby("site", sort=False)["omega"].last()
    said = values.get("decisions")
    if isinstance(said, Sequence) and said and all(isinstance(one, Mapping) and {"site", "removed"} <= one.keys()
                                                   for one in said):  # fmt: skip
        frame = pd.DataFrame([{"site": str(one["site"]), "removed": bool(one["removed"])} for one in said])
        return frame.assign(omega=frame["site"].map(last))
    tau = _float(values.get("tau"))
    gone = last > (0.5 if tau is None else tau)
    return pd.DataFrame({"site": last.index.astype(str), "removed": gone.to_numpy(bool), "omega": last.to_numpy(float)})


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _number(cell: str) -> tuple[float, float]:
    """The number that a cell begins with, and its deviation; NaN where it has none."""
    found = NUMBER.match(cell)
    if not found:
        return math.nan, math.nan
    value, sd = (None if part is None else float(part.replace(",", "").replace("−", "-")) for part in found.groups())
    return (math.nan if value is None else value), (math.nan if sd is None else sd)
