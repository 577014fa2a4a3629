"""What `table1` writes of its rows: the table beside the published one, figures, the checks of the baseline.

The words of report.md stand in ``table1_report.md``, a Jinja template.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jinja2 import StrictUndefined, Template
from torchvision.utils import save_image

from archlab.report import plots, tables

from .data.generator import PARTS, Generator
from .data.sources import Sources, find_sources

TEMPLATE = Path(__file__).with_name("table1_report.md")

# params [K], FLOPs [G], SSIM, LPIPS of the paper's Table 1.
PUBLISHED = {
    "baseline": (967, 41.3, 0.932, 0.180),
    "encoder activation": (967, 41.3, 0.929, 0.187),
    "encoder skip": (967, 41.3, 0.925, 0.195),
    "encoder block": (838, 37.6, 0.928, 0.186),
    "manipulator activation": (967, 41.3, 0.930, 0.181),
    "manipulator skip": (967, 41.3, 0.931, 0.181),
    "manipulator block": (948, 40.6, 0.930, 0.182),
    "decoder activation": (967, 41.3, 0.902, 0.252),
    "decoder skip": (967, 41.3, 0.903, 0.231),
    "decoder block": (524, 25.0, 0.864, 0.317),
}
KIND_COLUMNS = {"activation": "ReLU", "skip": "Skip", "block": "Block"}
SLOPE, R2 = (0.85, 1.15), 0.95  # what the displacement of a good baseline keeps


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, table.tex, the figures, report.md and the baseline's weights into `folder`."""
    table = table_of(rows)
    folders, conditions = rows.attrs["folders"], rows.attrs["conditions"]
    rows = rows[rows["seed"] == 0]  # for all that is no mean
    by_name = {row["row"]: row for row in rows.to_dict("records")}
    table.save(folder)
    shutil.copy(Path(folders["training of the baseline"]) / "baseline.safetensors", folder)
    draw_omegas(rows, folder / "omegas.png")
    sensitivity = pd.DataFrame(by_name["sensitivity"]["sites"])
    plots.save(plots.sensitivity(sensitivity, quality="ssim", most=60), folder / "sensitivity.png")
    draw_training(by_name["training of the baseline"], folder / "training.png")
    draw_displacement(by_name["checks of the baseline"]["linearity"], folder / "displacement.png")
    save_samples(find_sources(None, "train"), 96, folder / "samples.png")
    check = by_name["checks of the baseline"]
    text = Template(TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True, undefined=StrictUndefined).render(
        made=conditions,
        base=by_name["baseline"],
        control=by_name["baseline trained on"],
        first=by_name["encoder activation"],
        trained=by_name["training of the baseline"],
        sensitivity=by_name["sensitivity"],
        watched=int(by_name["sensitivity"]["watched"]),
        table=table.markdown(),
        settings=_settings(rows).markdown(),
        quality=_quality(check["quality"]).markdown(),
        expectations=_expectations(check),
        stale=rows.loc[rows["stale"], "row"].tolist(),
    )
    notes = folder / "notes.md"  # written by hand: a reading of this very run
    (folder / "report.md").write_text(text + (notes.read_text() if notes.exists() else ""), encoding="utf-8")


def table_of(rows: pd.DataFrame) -> tables.Table:
    """The paper's Table 1 with its columns beside ours; hand-made rows and the control below.

    With several seeds: means, the standard deviation of SSIM, and the removed sites of all of them.
    """
    judged = rows[rows["what"].isin(["judge", "learn", "hand", "control"])]
    measured = ["params_k", "flops_g", "ssim", "ssim_crop8", "lpips"]
    over_seeds = judged.astype(dict.fromkeys(measured, float)).groupby("row", sort=False)
    merged = over_seeds.first()
    merged[measured] = over_seeds[measured].mean()
    merged[["removed", "sites"]] = over_seeds[["removed", "sites"]].sum()
    spread = over_seeds["ssim"].std()
    lines = []
    for row in merged.reset_index().to_dict("records"):
        learned = row["what"] == "learn"
        name = row["part"] if learned else row["row"]
        line: dict[str, Any] = {"Row": name[0].upper() + name[1:]}
        for kind, column in KIND_COLUMNS.items():
            line[column] = mark(row) if learned and row["kind"] == kind else "–"
        if row["what"] == "hand":
            line["ReLU"] = f"✗ {row['removed']:.0f}/{row['sites']:.0f}"
        line |= {"Params [K]": row["params_k"], "FLOPs [G]": row["flops_g"], "SSIM": row["ssim"]}
        if judged["seed"].nunique() > 1:
            line["SSIM sd"] = spread[row["row"]]
        line |= {"SSIM, crop 8": row["ssim_crop8"], "LPIPS": row["lpips"]}
        published = PUBLISHED.get(row["row"], (None,) * 4)
        line |= dict(zip(("paper: K", "paper: G", "paper: SSIM", "paper: LPIPS"), published, strict=True))
        lines.append(line)
    frame = pd.DataFrame(lines)
    for name in frame.columns[4:]:
        frame[name] = pd.to_numeric(frame[name])
    digits = {"Params [K]": 0, "FLOPs [G]": 1, "paper: K": 0, "paper: G": 1}
    changes = ["Params [K]", "FLOPs [G]", "SSIM", "LPIPS", "paper: SSIM", "paper: LPIPS"]
    return tables.table(frame, base=0, deltas=changes, digits=digits)


def mark(row: Mapping[Any, Any]) -> str:
    """✗ where every site went, Δ where some did (the paper's marks), and how many."""
    removed, sites = int(row["removed"]), int(row["sites"])
    return f"{'✗' if removed == sites else 'Δ' if removed else '–'} {removed}/{sites}"


def draw_omegas(rows: pd.DataFrame, path: Path) -> None:
    """The ω histories of the nine learned rows: a row of panels a module, a column a kind."""
    learned = rows[rows["what"] == "learn"]
    _, panels = plt.subplots(3, 3, figsize=(7.1, 5.6), sharey=True, layout="constrained")
    for ax, row in zip(panels.flat, learned.to_dict("records"), strict=True):
        steps = row["omega_steps"]
        tracks = [
            pd.DataFrame({"site": site, "step": steps[: len(values)], "omega": values})
            for site, values in row["omegas"].items()
        ]
        plots.omegas(pd.concat(tracks), tau=row["tau"], ax=ax)
        ax.set_title(f"{row['part']}, {KIND_COLUMNS[row['kind']]}: {mark(row)}", fontsize=plots.FONT)
    plots.save(panels[0, 0], path)


def draw_training(row: Mapping[Any, Any], path: Path) -> None:
    losses = row["losses"]
    frame = pd.DataFrame({"step": [row["steps"] * (i + 0.5) / len(losses) for i in range(len(losses))], "loss": losses})
    ax = plots.curve(frame, x="step", y="loss")
    ax.set_yscale("log")
    plots.save(ax, path)


def draw_displacement(linearity: list[dict[str, Any]], path: Path) -> None:
    """Measured against wanted displacement, a colour a factor; a panel a magnifier."""
    _, panels = plt.subplots(
        1, len(linearity), figsize=(3.5 * len(linearity), 2.8), layout="constrained", squeeze=False
    )
    for ax, entry in zip(panels.flat, linearity, strict=True):
        points = pd.DataFrame(entry["points"])
        for (factor, group), colour in zip(points.groupby("factor"), plots.COLOURS, strict=False):
            ax.scatter(group["wanted"], group["measured"], s=7, color=colour, label=f"factor {factor:g}")
        top = points["wanted"].max() * 1.05
        ax.plot([0, top], [0, top], color="0.6", linewidth=0.8)
        ax.set_title(f"{entry['magnifier']}: slope {entry['slope']:.2f}, R² {entry['r2']:.3f}", fontsize=plots.FONT)
        ax.set_xlabel("factor · d [pixels]", fontsize=plots.FONT)
        ax.set_ylabel("measured displacement [pixels]", fontsize=plots.FONT)
        ax.tick_params(labelsize=plots.FONT - 1)
        ax.legend(fontsize=plots.FONT - 1, frameon=False)
    plots.save(panels[0, 0], path)


def save_samples(sources: Sources, size: int, path: Path) -> None:
    """A sample of each of the five parts (columns): frame A, frame B, the magnified target (rows)."""
    batch = Generator(sources, size, seed=0, factor=20.0).batch(range(len(PARTS)), noise=True)
    save_image((torch.cat([batch.a, batch.b, batch.target]) + 1).clamp(0, 2) / 2, path, nrow=len(PARTS), padding=2)


def _settings(rows: pd.DataFrame) -> tables.Table:
    """K, λ/K, what was decided, and the watched SSIM after each phase, of the learned rows."""
    lines = []
    for row in rows[rows["what"] == "learn"].to_dict("records"):
        phases = {phase["phase"]: phase["ssim"] for phase in row["phases"]}
        line = {"Row": row["row"], "K": int(row["sites"]), "λ/K": row["lam_per_site"], "removed": int(row["removed"])}
        line |= {"within 0.1 of τ": int(row["near_tau"])}
        lines.append(line | {f"SSIM {phase}": value for phase, value in phases.items()})
    return tables.table(pd.DataFrame(lines), digits={"λ/K": 4})


def _quality(quality: list[dict[str, Any]]) -> tables.Table:
    """SSIM of each magnifier by factor, with its interval."""
    lines: dict[str, dict[str, Any]] = {}
    for entry in quality:
        name = "as in training" if entry["factor"] is None else f"{entry['factor']:g}"
        line = lines.setdefault(name, {"factor": name})
        line[entry["magnifier"]] = f"{entry['ssim']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
    return tables.table(pd.DataFrame(list(lines.values())))


def _expectations(check: Mapping[Any, Any]) -> list[tuple[str, bool | None]]:
    """What was expected of the baseline beforehand, and whether it came so."""
    by = {(entry["magnifier"], entry["factor"]): entry for entry in check["quality"]}
    lines: list[tuple[str, bool | None]] = []
    for (name, factor), copied in by.items():
        if name == "copy of B" and factor is not None:
            ours = by["ours", factor]
            text = f"SSIM above copying frame B at factor {factor:g}, intervals apart"
            lines.append((text, ours["low"] > copied["high"]))
    for entry in check["linearity"]:
        if entry["magnifier"] == "ours":
            text = f"displacement against factor · d: slope {entry['slope']:.3f} within {SLOPE[0]} to {SLOPE[1]}"
            lines.append((text, SLOPE[0] <= entry["slope"] <= SLOPE[1]))
            lines.append((f"its R² {entry['r2']:.3f} at least {R2}", entry["r2"] >= R2))
            text = f"the measure on the true targets: slope {entry['target_slope']:.3f}, R² {entry['target_r2']:.3f}"
            lines.append((text, abs(entry["target_slope"] - 1) < 0.02))
    public = by.get(("public network", None))
    if public is None:
        lines.append(("SSIM above the public network: its weights are not at hand", None))
    else:
        ours = by["ours", None]
        text = f"SSIM above the public network, {ours['ssim']:.3f} against {public['ssim']:.3f}"
        lines.append((text, ours["ssim"] > public["ssim"]))
    return lines
