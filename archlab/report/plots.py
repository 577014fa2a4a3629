"""Figures from DataFrames: one function a figure, a DataFrame in, matplotlib Axes out.

`ax` is where to draw (default: a new figure of one paper column). Nothing is shown or saved here; `save` writes what
was drawn. Names may hold anything: none is read as mathematics.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from ..arguments import choice, file, number, text, whole, wrong
from ..files import write_whole
from ..measure.intervals import METHODS
from ..names import closest, printable
from .fronts import pareto
from .labels import place_labels
from .spread import over_runs, plain_numbers
from .tables import WAYS, check_columns, stated_better

COLUMN = (3.5, 2.6)  # inches: one column of a two-column paper
# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
KINDS = ("activation", "skip", "block", "branch", "join", "gate", "concat", "norm", "head")
KIND_COLOURS: dict[str, str] = dict(zip(KINDS, (*COLOURS, "#888888", "#F0E442"), strict=True))
FONT = 8
# What says in a file when or by what it was written.
_DATED = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def save(ax: Axes, path: str | Path) -> None:
    """Write the figure of `ax` to `path`, cropped to what is drawn, and close it.

    Args:
        ax: any of the figure's axes.
        path: the file; its ending says the format. Files of one figure are the same, whenever they are written.

    Raises:
        ValueError: matplotlib writes no files of such an ending.
    """
    if not isinstance(ax, Axes):
        raise TypeError(wrong("ax", "matplotlib's Axes, as these functions return them", ax))
    file("path", path)
    figure, ending = ax.get_figure(root=True), Path(path).suffix.lower().removeprefix(".")
    assert figure is not None
    known = sorted(figure.canvas.get_supported_filetypes())
    if ending not in known:
        raise ValueError(f"path must end in one of .{', .'.join(known)}, got {str(path)!r}")
    drawn = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": "archlab"}):
        figure.savefig(drawn, format=ending, dpi=200, bbox_inches="tight", metadata=_DATED.get(ending))
    write_whole(path, drawn.getvalue())
    plt.close(figure)


def omegas(history: pd.DataFrame, *, tau: float, ax: Axes | None = None) -> Axes:
    """How each ω moved: a line a site, blue where it ends above `tau` (removed) and orange where it does not.

    Args:
        history: tidy, as `Removal.omegas` is: step, site, omega; with a column phase, phases are divided by thin
            vertical lines.
        tau: the threshold, drawn as a dashed line.
        ax: where to draw; default: a new figure of one paper column.

    Returns:
        The axes.
    """
    check_columns(history, ["site"], numeric=["step", "omega"])
    _check_rows(history)
    number("tau", tau, low=0, high=1)
    ax = _axes(ax)
    history = history.sort_values("step")
    for _, track in history.groupby("site", sort=False):
        goes = track["omega"].iloc[-1] > tau
        ax.plot(track["step"], track["omega"], color=COLOURS[0] if goes else COLOURS[1], linewidth=0.9, alpha=0.8)
    ax.axhline(tau, color="0.4", linewidth=0.7, linestyle="--")
    ax.annotate("τ", (1.01, tau), xycoords=("axes fraction", "data"), fontsize=FONT, va="center")
    if "phase" in history:
        for step in list(history.groupby("phase", sort=False)["step"].min())[1:]:
            ax.axvline(step, color="0.7", linewidth=0.6)
    return _labelled(ax, "step", "ω", (-0.03, 1.03))


def sensitivity(frame: pd.DataFrame, *, quality: str, most: int = 40, ax: Axes | None = None) -> Axes:
    """Change of `quality` with each site alone removed: a bar a site, in the order of `frame`.

    Args:
        frame: as `al.sensitivity` gives it: columns site, kind, delta_<quality>.
        quality: which of the measured qualities is shown.
        most: bars at most; longer lists are thinned evenly, which the axis then says.
        ax: where to draw; default: a new figure of one paper column, as high as the bars need.

    Returns:
        The axes.

    Raises:
        ValueError: there is no such quality in `frame`.
    """
    column = f"delta_{quality}"
    check_columns(frame, ["site", "kind"], numeric=[column])
    _check_rows(frame)
    whole("most", most, least=2)
    shown = frame.iloc[[round(i * (len(frame) - 1) / (most - 1)) for i in range(most)]] if len(frame) > most else frame
    ax = _axes(ax, height=max(1.2, 0.13 * len(shown) + 0.5))
    kinds = shown["kind"]
    ax.barh(range(len(shown)), shown[column], color=[KIND_COLOURS.get(kind, "0.5") for kind in kinds], height=0.75)
    ax.set_yticks(range(len(shown)), [printable(site) for site in shown["site"]], fontsize=FONT - 2, parse_math=False)
    ax.margins(y=0.01)
    ax.invert_yaxis()
    ax.axvline(0, color="0.4", linewidth=0.7)
    present = [kind for kind in KIND_COLOURS if kind in set(kinds)]
    if len(present) > 1:
        bars = [Patch(color=KIND_COLOURS[kind]) for kind in present]
        ax.legend(bars, present, fontsize=FONT - 1, frameon=False)
    thinned = f", {len(shown)} of {len(frame)} sites" if len(shown) < len(frame) else ""
    way = "".join(f" ({way} is better)" for way in stated_better(frame[[column]]).values())
    return _labelled(ax, f"change of {quality} without the site{way}{thinned}", "")


def tradeoff(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    label: str,
    group: str | None = None,
    error: tuple[str, str] | None = None,
    over: str | None = None,
    base: str | None = None,
    method: str = "t",
    better: Mapping[str, str | None] | None = None,
    zone: Mapping[str, float] | None = None,
    log: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """One point a row, `y` against `x`; those that no other beats in both are joined by a line.

    Args:
        frame: a row a point, or with `over` several.
        x: column of the horizontal axis, which is named so.
        y: column of the vertical axis.
        label: column of the names that stand beside the points.
        group: column that colours them.
        error: columns with the lower and the upper end of an interval of `y`, drawn as bars.
        over: a column such as "seed" or "sample": rows of one label become one point at their mean, with their standard
            deviation in x and y as bars.
        base: with `over`, the label that others are compared with, run by run: their bars in y are then the 95 %
            interval of the difference, and where one does not reach the dotted line through the base, they differ.
        method: of these intervals, as for `al.interval`.
        better: of x and y, whether "higher" or "lower" is better, which stands beside their names; default: what
            the frame says (``frame.attrs["better"]``), else x lower, y higher. With None, where nobody knows, no points
            are joined.
        zone: the values of x and y from which on a model would do; that corner is hatched.
        log: which of x and y have logarithmic axes.
        ax: where to draw; default: a new figure of one paper column.

    Returns:
        The axes.

    Raises:
        ValueError: a column is not there, or holds no numbers where it must; a value that a logarithmic axis has not;
            nothing to draw. Rows without a finite number in x or y are left out.
    """
    for name, columns in (("better", better or {}), ("zone", zone or {}), ("log", log)):
        if isinstance(columns, str) or not set(columns) <= {x, y}:
            raise ValueError(wrong(name, f"of {x!r} or {y!r}, or both", columns))
    text("over", over or "")
    check_columns(frame, [label, *filter(None, (group, over))], numeric=[x, y, *(error or ())])
    better = {x: "lower", y: "higher", **stated_better(frame[[x, y]]), **(better or {})}
    frame = plain_numbers(frame)
    frame = frame[np.isfinite(frame[[x, y]].astype(float)).all(axis=1)].reset_index(drop=True)
    _check_rows(frame, f" with finite numbers in {x!r} and {y!r}")
    for name, way in better.items():
        choice(f"better[{name!r}]", way, WAYS if zone else (*WAYS, None))
    ways = {name: way for name, way in better.items() if way is not None}
    for name, bound in (zone or {}).items():
        number(f"zone[{name!r}]", bound)
    for name in log:
        if not (frame[name] > 0).all():
            raise ValueError(wrong(f"column {name!r}", "above 0 for a logarithmic axis", float(frame[name].min())))
    choice("method", method, METHODS)
    if over is None and base is not None:
        raise ValueError(f"base={base!r} needs over=, the column that tells which runs are compared")
    if over is not None and error is not None:
        raise ValueError("error and over both say what the bars are; give one of them")
    bars = None
    if over is not None:
        keys = list(dict.fromkeys(name for name in (label, group) if name is not None))
        frame, bars = _merged(frame, keys, (x, y), over, base, method)
    elif error is not None:
        down, up = frame[y] - frame[error[0]], frame[error[1]] - frame[y]
        bars = pd.DataFrame({"left": 0.0, "right": 0.0, "down": down, "up": up}, index=frame.index)
    ax = _axes(ax)
    for name, axis, scale, limit in (
        (x, ax.xaxis, ax.set_xscale, ax.set_xlim),
        (y, ax.yaxis, ax.set_yscale, ax.set_ylim),
    ):
        if name in log:
            scale("log")
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
            if frame[name].nunique() == 1:  # around one value matplotlib finds no limits of a logarithmic axis
                value = frame[name].dropna().iloc[0]
                limit(value / 1.5, value * 1.5)
    front = frame[pareto(frame, ways)].sort_values(x) if len(ways) == len(better) else frame.iloc[:0]
    ax.plot(front[x], front[y], color="0.6", linewidth=0.9, zorder=1, label="_front")
    lines = [front[[x, y]].to_numpy(float)]  # what no label may be crossed by
    groups = [("", frame)] if group is None else list(frame.groupby(group, sort=False, dropna=False))
    for (name, rows), colour in zip(groups, COLOURS * len(groups), strict=False):
        if bars is not None:
            far = bars.loc[rows.index]
            drawn = ax.errorbar(
                rows[x], rows[y], xerr=None if over is None else far[["left", "right"]].to_numpy().T,
                yerr=far[["down", "up"]].to_numpy().T, fmt="none", ecolor=colour, elinewidth=0.7, zorder=2,
            )  # fmt: skip
            lines += [ends for bar in drawn[2] for ends in bar.get_segments()]
        ax.scatter(rows[x], rows[y], color=colour, s=16, zorder=3, label="–" if pd.isna(name) else printable(str(name)))
    if base is not None:
        ax.axhline(frame.loc[frame[label].map(str) == base, y].iloc[0], color="0.4", linewidth=0.7, linestyle=":")
    x_told, y_told = (f"{name} ({ways[name]} is better)" if name in ways else name for name in (x, y))
    _labelled(ax, x_told, y_told).margins(0.12)
    if zone is not None:
        _draw_zone(ax, (x, y), ways, zone)
    if group is not None:
        _legend(ax)
    place_labels(ax, frame, x, y, label, lines, size=FONT - 1)
    return ax


def _merged(
    frame: pd.DataFrame, keys: list[str], names: tuple[str, str], over: str, base: str | None, method: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A point for all rows with the same keys, at their mean; how far its bars go left, right, down and up."""
    points = frame.drop_duplicates(keys)[keys].reset_index(drop=True)
    labels = points[keys[0]].map(str).to_list()
    if base is not None and base not in labels:
        raise ValueError(f"base={base!r} is no label; {closest(str(base), labels)}")
    line = None if base is None else labels.index(base)
    runs = frame[list(dict.fromkeys(names))].copy()
    runs.insert(0, f"point of {names}", frame.groupby(keys, sort=False, dropna=False).ngroup())
    found = over_runs(runs, frame[over], base=line, changes=[] if base is None else [runs.shape[1] - 1], method=method)
    sds = found.sds[list(names)].fillna(0.0).to_numpy()
    bars = pd.DataFrame({"left": sds[:, 0], "right": sds[:, 0], "down": sds[:, 1], "up": sds[:, 1]})
    for changes in found.changes.values():
        for point, change in enumerate(changes):
            bars.loc[point, ["down", "up"]] = (0.0, 0.0) if change is None else (
                change.mean - change.low, change.high - change.mean
            )  # fmt: skip
    return pd.concat([points, found.means.drop(columns=keys, errors="ignore").iloc[:, 1:]], axis=1), bars.fillna(0.0)


def _draw_zone(ax: Axes, names: tuple[str, str], better: Mapping[str, str], zone: Mapping[str, float]) -> None:
    """Hatch the corner of the axes that is at least as good as `zone`, whichever of x and y it names."""
    ends = []
    axes = ((ax.get_xlim(), ax.get_xscale()), (ax.get_ylim(), ax.get_yscale()))
    for name, ((low, high), scale) in zip(names, axes, strict=True):
        bound = zone.get(name, low if better[name] == "higher" else high)
        # Room for it beyond the bound, so that an empty zone is seen beside the points.
        if scale == "log":
            step = (max(high, bound) / min(low, bound)) ** 0.12
            more, less = bound * step, bound / step
        else:
            step = 0.12 * (max(high, bound) - min(low, bound))
            more, less = bound + step, bound - step
        ends.append((bound, max(high, more)) if better[name] == "higher" else (min(low, less), bound))
    (left, right), (bottom, top) = ends
    ax.add_patch(
        Rectangle((left, bottom), right - left, top - bottom, facecolor="none", edgecolor=COLOURS[2], hatch="///",
                  linewidth=0.8, alpha=0.5, zorder=0)
    )  # fmt: skip
    ax.set_xlim(min(ax.get_xlim()[0], left), max(ax.get_xlim()[1], right))
    ax.set_ylim(min(ax.get_ylim()[0], bottom), max(ax.get_ylim()[1], top))


def breakdown(
    frame: pd.DataFrame, *, value: str, label: str = "module", title: str | None = None, most: int = 30,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """How a whole is made up: a bar a row of `frame`, in its order, each with its share.

    Args:
        frame: a row a part.
        value: column of the bars' lengths.
        label: column of their names.
        title: of the axis; default: `value`.
        most: of more rows the smallest are added up in a last bar, so that the bars are always the whole.
        ax: where to draw; default: a new figure of one paper column, as high as the bars need.

    Returns:
        The axes.

    Raises:
        ValueError: a column is not there.
    """
    check_columns(frame, [label], numeric=[value])
    _check_rows(frame)
    whole("most", most, least=1)
    if not (frame[value] >= 0).all():
        raise ValueError(wrong(f"column {value!r}", "of parts of a whole, at least 0", float(frame[value].min())))
    large = frame[value].rank(method="first", ascending=False) < (most if len(frame) > most else most + 1)
    names, values = list(frame.loc[large, label]), list(frame.loc[large, value])
    if not large.all():
        names.append(f"{(~large).sum()} others")
        values.append(frame.loc[~large, value].sum())
    ax = _axes(ax, height=max(1.2, 0.14 * len(values) + 0.5))
    bars = ax.barh(range(len(values)), values, color=COLOURS[0], height=0.75)
    total = sum(values)
    ax.bar_label(bars, [f"{100 * v / total:.1f} %" if total else "" for v in values], fontsize=FONT - 2, padding=2)
    ax.set_yticks(range(len(values)), [printable(str(name)) or "(between them)" for name in names], parse_math=False)
    ax.margins(x=0.14, y=0.01)
    ax.invert_yaxis()
    _labelled(ax, title or value, "").tick_params(axis="y", labelsize=FONT - 2)
    return ax


def curve(
    frame: pd.DataFrame, *, x: str, y: str, over: str | None = None, ax: Axes | None = None, name: str | None = None
) -> Axes:
    """A line of `y` against `x`.

    Args:
        frame: a row a point, in order, or with `over` several.
        x: column of the horizontal axis, which is named so.
        y: column of the vertical axis.
        over: a column such as "seed": rows of one x become one point at their mean, within a band of their standard
            deviation.
        ax: where to draw; default: a new figure of one paper column.
        name: of the line in a legend; default: no legend.

    Returns:
        The axes.
    """
    text("over", over or "")
    check_columns(frame, [] if over is None else [over], numeric=[x, y])
    _check_rows(frame)
    ax, sds = _axes(ax), None
    if over is not None:
        frame, bars = _merged(frame.reset_index(drop=True), [x], (x, y), over, None, "t")
        sds = bars["up"]
    (line,) = ax.plot(frame[x], frame[y], linewidth=1.0, label=None if name is None else printable(str(name)))
    if sds is not None:
        ax.fill_between(frame[x], frame[y] - sds, frame[y] + sds, color=line.get_color(), alpha=0.2, linewidth=0)
    if name is not None:
        _legend(ax)
    return _labelled(ax, x, y)


def _check_rows(frame: pd.DataFrame, such: str = "") -> None:
    if frame.empty:
        raise ValueError(f"frame must have rows to draw{such}, got none")


def _legend(ax: Axes) -> None:
    for name in ax.legend(fontsize=FONT - 1, frameon=False).get_texts():
        name.set_parse_math(False)


def _axes(ax: Axes | None, height: float = COLUMN[1]) -> Axes:
    return plt.subplots(figsize=(COLUMN[0], height))[1] if ax is None else ax


def _labelled(ax: Axes, x: str, y: str, limits: tuple[float, float] | None = None) -> Axes:
    ax.set_xlabel(printable(str(x)), fontsize=FONT, parse_math=False)
    ax.set_ylabel(printable(str(y)), fontsize=FONT, parse_math=False)
    ax.tick_params(labelsize=FONT - 1, which="both")
    if limits is not None:
        ax.set_ylim(*limits)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax
