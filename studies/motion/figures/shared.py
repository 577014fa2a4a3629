"""What the figures' studies share: rows of `networks` gathered, the words under a report's title, the target zone,
lines of methods, correlation of ranks."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import kendalltau

from archlab.experiments import Scratch, Wanted
from archlab.report import Column, Picture, Table, plots, table

from .. import columns
from ..evaluate.gpu_speeds import gpu_conditions, gpu_fps, gpu_speeds
from ..evaluate.methods import TITLES
from ..evaluate.paired import TOLD, differences
from ..evaluate.small_motions import MAGNIFIED, NOISE_MOTIONS
from ..train.family import began
from ..train.networks import SPEED, of

RESOLUTIONS = {"baseline": "½ (baseline)", "quarter": "¼", "eighth": "⅛"}  # of the decoder's blocks, by network
REAL_TIME = 25.0  # FPS
SSIM_THRESHOLD = 0.91  # what the paper's viewers accepted
RESAMPLED = 1000
# Of the lines of as many methods: colours and styles. The last two are dashed: in `TITLES` they are those that rest on
# phase-based magnification, whose line they may cover.
LOOKS = tuple(zip((*plots.COLOURS, "#8C510A"), ("-", "-", "-", "-", "-", "-", "--", ":"), strict=True))
ALLOWED_LOSS = 0.921 - SSIM_THRESHOLD  # of SSIM, where a short training does not come near .91


def needs_of(network: str) -> list[Wanted]:
    """What a row about one network takes from `networks`."""
    return [of(network), of(f"quality of {network}"), of("quality of baseline"), of(SPEED)]


# What a study is whose rows are networks of `networks` and nothing more.


def needs(row: dict[str, Any]) -> list[Wanted]:
    return needs_of(row["name"])


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    return gathered(row["name"], scratch)


def gathered(network: str, scratch: Scratch) -> dict[str, Any]:
    """All that `networks` found of one network: costs, quality and speed; all its speeds in "speeds"."""
    quality = scratch.needed[of(f"quality of {network}")].values
    return {"why_not": "", **quality, **speed_of(network, scratch)}


def speed_of(network: str, scratch: Scratch) -> dict[str, Any]:
    """The speed of one network as `networks` timed it: the first way, and all ways in "speeds"."""
    frame = pd.DataFrame(scratch.needed[of(SPEED)].values["speeds"])
    mine = frame[frame["network"] == network].drop(columns="network")
    first = mine.iloc[0]
    values = {"fps": float(first["fps"]), "median_ms": float(first["median_ms"]), "speed": first["conditions"]}
    values["frame"] = f"{int(first['width'])} x {int(first['height'])}"
    return values | {"speeds": mine.astype(object).where(mine.notna(), None).to_dict("records")}


def zone(rows: pd.DataFrame) -> dict[str, float]:
    """The target of Fig. 6 for these rows: real time, at most .011 of SSIM below the baseline's."""
    return {"fps": REAL_TIME, "ssim": float(rows.loc[rows["row"] == "baseline", "ssim"].iloc[0]) - ALLOWED_LOSS}


def trained_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first seed whose networks were trained, with their speed on a GPU where that is known."""
    shown = rows[(rows["seed"] == 0) & (rows["steps"] > 0)].reset_index(drop=True)
    return shown.assign(**{columns.GPU_SPEED.name: gpu_fps(shown["row"])})


def draw_tradeoffs(rows: pd.DataFrame, folder: Path) -> list[Picture | str]:
    """tradeoff.png: SSIM with its intervals against FPS, and the target zone; tradeoff_gpu.png the same on a GPU, where
    two networks or more were timed there. What a report shows of them."""
    (fps,) = columns.SPEED
    draw_tradeoff(rows, fps, folder / "tradeoff.png")
    shown: list[Picture | str] = [Picture("tradeoff.png", "SSIM against FPS")]
    if trained_rows(rows)[columns.GPU_SPEED.name].count() > 1:
        draw_tradeoff(rows, columns.GPU_SPEED, folder / "tradeoff_gpu.png")
        shown += ["The same networks on a GPU:", Picture("tradeoff_gpu.png", "SSIM against FPS on a GPU")]
    return shown


def draw_tradeoff(rows: pd.DataFrame, fps: Column, path: Path) -> None:
    """SSIM with its intervals against `fps`, and the target zone."""
    ssim = columns.SSIM
    shown = trained_rows(rows).dropna(subset=[fps.name])
    names = {"row": "network", fps.name: fps.heading, ssim.name: ssim.heading}
    shown = shown.rename(columns=names).astype({heading: float for heading in (fps.heading, ssim.heading)})
    ends = {names[{"fps": fps.name}.get(name, name)]: value for name, value in zone(rows).items()}
    ax = plots.tradeoff(
        shown, x=fps.heading, y=ssim.heading, label="network", better={fps.heading: "higher"}, zone=ends,
        log=[fps.heading], error=("ssim_low", "ssim_high"),
    )  # fmt: skip
    plots.save(ax, path)


def table_of(rows: pd.DataFrame, published: str = "Fig. 11") -> Table:
    """Costs, speed and quality of each network, changes against the first, the published ones beside."""
    shown = trained_rows(rows)
    own = [*columns.COSTS, *columns.SPEED, columns.GPU_SPEED, *columns.QUALITY, *columns.BESIDE_SSIM]
    for fps, title in ((columns.SPEED[0], "times faster"), (columns.GPU_SPEED, "times faster, H200")):
        shown[f"times_{fps.name}"] = shown[fps.name] / shown[fps.name].iloc[0]
        own.append(Column(f"times_{fps.name}", title, digits=2))
    return columns.table_of(shown, own, published=published)


def against_baseline(rows: pd.DataFrame) -> list[str | Table]:
    """A section with the difference of each trained network from the baseline, sample by sample."""
    names = [name for name in trained_rows(rows)["row"] if name != "baseline"]
    found = differences(rows[rows["seed"] == 0], [(name, "baseline") for name in names])
    return ["## Against the baseline, sample by sample", TOLD, found]


def variants_of(rows: pd.DataFrame) -> list[str | Table]:
    """Sections with the FPS of each network under every precision and mode: here, where several were timed, and on a
    GPU."""
    sections: list[str | Table] = []
    if len(rows["speeds"].iloc[0]) > 1:
        frames = [
            pd.DataFrame(speeds).assign(network=name) for name, speeds in zip(rows["row"], rows["speeds"], strict=True)
        ]
        sections += ["## FPS by precision and mode", _by_variant(pd.concat(frames))]
    return [*sections, "## FPS on a GPU by precision and mode", _by_variant(gpu_speeds())]


def _by_variant(frame: pd.DataFrame) -> Table:
    """A row a precision and mode, a column a network: FPS."""
    frame = frame.assign(how=frame["precision"] + " " + frame["mode"])
    wide = frame.pivot_table(index="how", columns="network", values="fps", sort=False)
    wide = wide[list(frame["network"].unique())]
    return table(wide.reset_index(), digits=dict.fromkeys(wide.columns, 2))


def about(rows: pd.DataFrame) -> str:
    """How the networks of a figure were trained, and timed."""
    made, ours, told = rows.attrs["conditions"], rows[rows["seed"] == 0], []
    first = ours.iloc[0]
    given = ours["given"].fillna("") if "given" in ours else pd.Series("", index=ours.index)
    if "steps" in ours and (steps := ours.loc[(given == "") & (ours["steps"] > 0), "steps"]).any():
        networks = f"[networks](../../networks/{made['preset']}/report.md)"
        told.append(f"Networks {began(made['preset'])} for {int(steps.iloc[0])} steps each ({networks} says how).")
    told += [f"{name}: {words}" for name, words in zip(ours["row"], given, strict=True) if words]
    if isinstance(first.get("frame"), str):
        told.append(f"FPS: one streamed frame of {first['frame']}, {first['speed']}, networks interleaved.")
        told.append(f"FPS, H200: {gpu_conditions()}.")
    if columns.BESIDE_SSIM[0].name in ours:
        told.append(columns.BESIDE_SSIM_TOLD)
    return " ".join(told)


def points_of(rows: pd.DataFrame, by: str, folder: Path) -> pd.DataFrame:
    """What the cells of the first seed hold in "points", a column `by` saying of which row; kept in points.csv."""
    first = rows[rows["seed"] == 0].to_dict("records")
    frame = pd.concat([pd.DataFrame(row["points"]).assign(**{by: row["row"]}) for row in first], ignore_index=True)
    frame.to_csv(folder / "points.csv", index=False)
    return frame


def small_motions_table(frame: pd.DataFrame, by: str) -> Table:
    """The mean SSIM over the points of each test of `small_motions`, a row for each `by`."""
    tests = frame["motion"].map(lambda d: f" {d:g} px").where(frame["test"] == "noise", "")
    frame = frame.assign(part=frame["test"] + tests)
    means = frame.pivot_table(index=by, columns="part", values="ssim", sort=False)
    return table(means.reset_index(), better=dict.fromkeys(means.columns, "higher"))


def draw_small_motions(frame: pd.DataFrame, path: Path, *, strong: Sequence[str], faint: str) -> None:
    """SSIM against motion and noise, at the points of `small_motions`: three panels, one legend over them. "method" is
    what a line is of; `strong` and `faint` as for `draw_lines`."""
    _, panels = plt.subplots(1, 3, figsize=(7.1, 2.9), layout="constrained", sharey=True)
    parts = {f"(a) sub-pixel, factor · d = {MAGNIFIED:g} px": ("sub-pixel", None, "motion", "motion d [pixels at 384]")}
    parts |= {
        f"({'bc'[i]}) noise, d = {d:g} px": ("noise", d, "noise", "noise factor") for i, d in enumerate(NOISE_MOTIONS)
    }
    for ax, (title, (test, motion, x, label)) in zip(panels, parts.items(), strict=True):
        part = frame[(frame["test"] == test) & ((motion is None) | (frame["motion"] == motion))]
        draw_lines(part, x, "ssim", ax, strong=strong, faint=faint)
        ax.set_title(title, fontsize=plots.FONT)
        ax.set_xscale("log")
        ax.set_xlabel(label, fontsize=plots.FONT)
    panels[0].set_ylabel("SSIM", fontsize=plots.FONT)
    legend_above(panels[0])
    plots.save(panels[0], path)


def looks_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and style by name: of a method of `TITLES` the same in every figure, of others by their order."""
    known = [*TITLES.values()]
    return {name: LOOKS[known.index(name) if name in known else place] for place, name in enumerate(names)}


def draw_lines(frame: pd.DataFrame, x: str, y: str, ax: Axes, *, strong: Sequence[str], faint: str = "") -> None:
    """`y` against `x`, a line a method: those that are `strong` thicker, `faint` grey."""
    looks = looks_of(name for name in frame["method"].unique() if name != faint)
    for name, rows in frame.groupby("method", sort=False):
        colour, style = ("0.6", "--") if name == faint else looks[str(name)]
        look: dict[str, Any] = {"color": colour, "linestyle": style}
        width = 1.6 if name in strong else 0.9
        ax.plot(rows[x], rows[y], linewidth=width, marker="o", markersize=2, label=str(name), **look)
    ax.tick_params(labelsize=plots.FONT - 1)


def legend_above(ax: Axes) -> None:
    """The legend of one panel over all of its figure."""
    handles, labels = ax.get_legend_handles_labels()
    ax.figure.legend(  # pyright: ignore[reportAttributeAccessIssue]
        handles, labels, loc="outside upper center", ncols=4, fontsize=plots.FONT - 1, frameon=False
    )


def rank_correlation(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Kendall's τ, and its 95 % bootstrap interval over the pairs; resamples of a single value are left out."""
    draw = np.random.default_rng(0)
    chosen = draw.integers(len(one), size=(RESAMPLED, len(one)))
    low, high = np.nanpercentile([kendalls_tau(one[c], other[c]) for c in chosen], (2.5, 97.5))
    return kendalls_tau(one, other), float(low), float(high)


def kendalls_tau(one: np.ndarray, other: np.ndarray) -> float:
    """Kendall's τ-b; NaN where all values of one are alike."""
    found: Any = kendalltau(one, other)
    return float(found.statistic)
