"""What the figures' studies share: rows of `networks` gathered, the words under a report's title, the target zone."""

from pathlib import Path
from typing import Any

import pandas as pd

from archlab.experiments import Scratch, Wanted
from archlab.report import plots, tables

from ..train.networks import COPY, SPEED, of

# Paper, Fig. 11, at full HD on an RTX 3090: FPS, SSIM, LPIPS. Table 1 gives the baseline SSIM .932; both are printed.
PUBLISHED = {
    "baseline": (9.6, 0.921, 0.191),
    "quarter": (13.6, 0.920, 0.203),
    "linear A": (16.8, 0.918, 0.208),
    "scaled A": (25.8, 0.918, 0.211),
    "proposed": (25.8, 0.920, 0.164),
}
REAL_TIME = 25.0  # FPS
SSIM_THRESHOLD = 0.91  # what the paper's viewers accepted
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
    """Costs, quality and speed of one network, as `networks` found them; all its speeds in "speeds"."""
    quality = scratch.needed[of(f"quality of {network}")].values
    names = ("params_k", "flops_g", "ssim", "ssim_low", "ssim_high", "lpips", "steps")
    values = {name: quality.get(name) for name in names}
    return values | {"why_not": quality.get("why_not", "")} | speed_of(network, scratch)


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
    return {"FPS": REAL_TIME, "SSIM": float(rows.loc[rows["row"] == "baseline", "ssim"].iloc[0]) - ALLOWED_LOSS}


def plain(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first seed that were trained, with the columns of a table."""
    shown = rows[(rows["seed"] == 0) & (rows["steps"] > 0)]
    names = {"params_k": "params [K]", "flops_g": "FLOPs [G]", "fps": "FPS", "ssim": "SSIM", "lpips": "LPIPS"}
    kept = ["network", *names.values(), "ssim_low", "ssim_high"]
    return shown.rename(columns={"row": "network", **names})[kept].astype({name: float for name in kept[1:]})


def draw_tradeoff(rows: pd.DataFrame, path: Path) -> None:
    """SSIM with its intervals against FPS, and the target zone."""
    ax = plots.tradeoff(
        plain(rows), x="FPS", y="SSIM", label="network", better={"FPS": "higher"}, zone=zone(rows), log=["FPS"],
        error=("ssim_low", "ssim_high"),
    )  # fmt: skip
    plots.save(ax, path)


def table_of(rows: pd.DataFrame, published: bool = True) -> tables.Table:
    """Parameters, FLOPs, FPS, SSIM and LPIPS of each network, changes against the first, the published ones beside."""
    frame = plain(rows).drop(columns=["ssim_low", "ssim_high"]).reset_index(drop=True)
    frame["times faster"] = frame["FPS"] / frame["FPS"].iloc[0]
    if published:
        there = [PUBLISHED.get(name, (None,) * 3) for name in frame["network"]]
        for column, values in zip(("paper: FPS", "paper: SSIM", "paper: LPIPS"), zip(*there, strict=True), strict=True):
            frame[column] = pd.to_numeric(pd.Series(values))
    digits = {"params [K]": 0, "FLOPs [G]": 2, "FPS": 3, "times faster": 2, "paper: FPS": 1}
    return tables.table(frame, base=0, deltas=["SSIM", "LPIPS"], digits={n: d for n, d in digits.items() if n in frame})


def variants_of(rows: pd.DataFrame) -> tables.Table:
    """FPS of each network under every precision and mode that was timed."""
    frames = [
        pd.DataFrame(speeds).assign(network=name) for name, speeds in zip(rows["row"], rows["speeds"], strict=True)
    ]
    frame = pd.concat(frames)
    frame["how"] = frame["precision"] + " " + frame["mode"]
    wide = frame.pivot_table(index="how", columns="network", values="fps", sort=False)[list(rows["row"])]
    return tables.table(wide.reset_index(), digits=dict.fromkeys(wide.columns, 2))


def conditions(rows: pd.DataFrame, study: str) -> str:
    """The paragraph that says how a report was made."""
    made, first = rows.attrs["conditions"], rows[rows["seed"] == 0].iloc[0]
    told = (
        f"`python -m studies.motion.{study} --preset {made['preset']}`, data {made['data']}, {made['seeds']} seed(s), "
    )
    told += f"{made['device']}, torch {made['torch']}, commit {made['commit']}."
    if first.get("steps"):
        told += f" Networks trained from scratch for {int(first['steps'])} steps each ([networks](../../networks/"
        told += f"{made['preset']}/report.md) says how)."
    if isinstance(first.get("frame"), str):
        told += f" FPS: one streamed frame of {first['frame']}, {first['speed']}, networks in turns."
    return told


def write(folder: Path, title: str, *parts: str) -> None:
    """Write report.md: a title, paragraphs, tables and pictures; and what was noted by hand in notes.md."""
    notes = folder / "notes.md"
    text = "\n\n".join([f"# {title}", *filter(None, parts)]) + "\n"
    (folder / "report.md").write_text(text + (f"\n{notes.read_text()}" if notes.exists() else ""), encoding="utf-8")


def copied_ssim(scratch: Scratch) -> float:
    """SSIM of copying frame B."""
    return float(scratch.needed[of(f"quality of {COPY}")].values["ssim"])
