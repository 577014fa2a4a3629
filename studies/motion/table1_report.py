"""What `table1` writes of its rows: the table beside the published one, figures, the checks of the baseline."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch

from archlab.report import Column, Picture, Table, over_runs, plots, table, with_ends, write_report

from . import columns
from .data.generator import PARTS, Generator
from .data.sources import Sources, find_sources
from .evaluate.paired import change_against
from .evaluate.quality import COMPARED, line
from .table1_path import KIND_COLUMNS, draw_path, lambda_path, only_on_the_path, path_table
from .train.given import curve, told

SLOPE, R2 = (0.85, 1.15), 0.95  # what the displacement of a good baseline keeps


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, table.tex, the figures and report.md into `folder`, and the weights that were trained here."""
    path = lambda_path(rows)
    rows = rows[~only_on_the_path(rows)]
    main, apart = table_of(rows), against_control(rows)
    first = rows[rows["seed"] == 0]  # for all that is no mean
    by_name: dict[str, Any] = {row["row"]: row for row in first.to_dict("records")}
    trained, base, check = (
        by_name[name] for name in ("training of the baseline", "baseline", "checks of the baseline")
    )
    sensitivity, linearity = by_name["sensitivity"], with_lines(check["linearity"])
    if not told(trained):
        shutil.copy(Path(rows.attrs["folders"]["training of the baseline"]) / "baseline.safetensors", folder)
    draw_omegas(first, folder / "omegas.png")
    draw_path(path, folder / "lambda_path.png")
    sites = pd.DataFrame(sensitivity["sites"])
    sites = sites.rename(columns={"ssim": "SSIM", "delta_ssim": "delta_SSIM"})
    plots.save(plots.sensitivity(sites, quality="SSIM", most=60), folder / "sensitivity.png")
    draw_training(trained, folder / "training.png")
    draw_displacement(linearity, folder / "displacement.png")
    save_samples(find_sources(None, "train"), 96, folder / "samples.png")
    made = rows.attrs["conditions"]
    write_report(
        rows, folder, f"Table 1, preset {made['preset']}",
        "This preset shows that everything runs. It trains nothing: no number below says anything about the network."
        if made["preset"] == "smoke" else "",
        f"The baseline reaches SSIM {base['ssim']:.3f} on {base['judged']:.0f} held-out samples of {base['size']:.0f} "
        f"× {base['size']:.0f} pixels (95 % interval {base['ssim_low']:.3f} to {base['ssim_high']:.3f}); trained on "
        f"for as long as the rows below, {by_name['baseline trained on']['ssim']:.3f}.",
        main, _reading_of(base, made["seeds"]),
        "## Against the control",
        "Change against the baseline that was trained on for as long: of each held-out sample, the mean of a row's "
        "runs (seeds) less the mean of the control's of the same seeds, with the 95 % bootstrap interval over the "
        "samples; sd: of the mean SSIM over the runs.",
        apart, _claim(apart.frame),
        "## Other values of λ",
        "Of each part and kind, at two values of λ beside the table's: the share of sites that were removed, and the "
        "change against the control as above, of seed 0.",
        Picture("lambda_path.png", "change of SSIM against removed share"), path_table(path),
        "## How the rows were learned",
        _one_setting(by_name["encoder activation"], sensitivity["watched"]),
        _settings(first), Picture("omegas.png", "ω histories"),
        "Blue: above τ at the end, removed. The soft phase, then the push.",
        "## Each site alone, without training",
        f"Change of SSIM ({sensitivity['watched']:.0f} samples) with one site removed and nothing retrained; "
        f"{sensitivity['untouched']['ssim']:.3f} with all sites.",
        Picture("sensitivity.png", "sensitivity"),
        "## Is the baseline any good?",
        f"Mean SSIM [95 % bootstrap interval] of {base['judged']:.0f} held-out samples by factor:",
        _quality(check["quality"]), "Expected beforehand:",
        [f"{text}: {_HOLDS[holds]}" for text, holds in _expectations(check["quality"], linearity)],
        Picture("displacement.png", "displacement"), _by_factor(linearity),
        "Whole photos that move by known amounts; displacement by dense iterative Lucas-Kanade flow (median of the "
        f"inner pixels), in frames of {linearity[0]['size']} pixels; a point is the mean over the photos, a slope that "
        "of the line through the origin. The measure itself is checked on the true targets.",
        Picture("training.png", "training loss"),
        "## Data", _data(base, made["data"]), Picture("samples.png", "samples"),
        "## Conditions", baseline_trained(base, trained),
        [f"{name}: {value}" for name, value in made.items() if value is not None and name != "wall_s"],
        command="python -m studies.motion.table1", tables={"table": main, "against_control": apart},
    )  # fmt: skip


_HOLDS = {True: "holds", False: "**fails**", None: "not checked"}


def _reading_of(base: Mapping[str, Any], seeds: int) -> str:
    """How the table is to be read."""
    several = ""
    if seeds > 1:
        several = (
            f" Means of {seeds} seeds, all of whose sites are counted, of the control and of the rows of encoder and "
            "decoder, ReLU and block; everything else here is of seed 0. All seeds begin with the same baseline: they "
            "differ in their samples."
        )
    missing = f"; not measured here: {base['no_lpips']}" if base["no_lpips"] else ""
    return (
        "Changes in parentheses are against the first row. ✗: every candidate site removed; Δ: some; – with a count: "
        f"none; how many of how many.{several} Only sites inside residual blocks are candidates, except in the rows "
        "*manipulator outer ReLU* and *encoder every non-linearity*. FLOPs: the paper's convention, multiply-adds + "
        "bias adds + ReLU outputs of one streamed frame at 384 × 384 (one encoder pass). SSIM: 11 × 11 Gaussian "
        "window, data range 1, no padding; *crop 8* "
        "leaves out 8 outer pixels, as a follow-up's released code does. LPIPS: AlexNet, v0.1"
        f"{missing}. The paper's numbers are of its own data, 384 × 384, 300 epochs; what can be compared is the "
        "differences between rows."
    )


def _one_setting(row: Mapping[str, Any], watched: float) -> str:
    return (
        f"One setting for all nine: λ = {row['lam']:g}, p = {row['p']:g}, τ = {row['tau']:g}; Adam "
        f"at {row['lr']:g} for the weights and {row['lr_omega']:g} for ω; {row['soft_steps']:.0f} soft steps of "
        f"{row['batch']:.0f} samples, "
        f"{row['push_steps']:.0f} in which each ω moves to its side, {row['tune_steps']:.0f} after the removal. The "
        "pressure on one site is λ/K, K being the number of candidate sites. SSIM by phase is that of "
        f"{watched:.0f} samples."
    )


def _data(base: Mapping[str, Any], data: str) -> str:
    others = (
        " Samples of the data used are beside the checkpoints, in samples.png: their photos' licences do not allow a "
        "commit."
    )
    return (
        f"Training: {base['train_data']}; held out: {base['val_data']}, without photon noise. Factors are the total "
        "gain, log-uniform from 2 to 100. The picture shows one sample a column, of scikit-image's photos (the default "
        f"data): frame A, frame B, the target at factor 20.{others if data != 'default' else ''}"
    )


def baseline_trained(base: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """How the baseline was trained, here or elsewhere."""
    if given := told(trained):
        return f"Baseline: {given}"
    patch = base["patch"]
    seen = "" if patch == base["size"] else f", of which a step sees a square of {patch:.0f} × {patch:.0f}"
    if pd.notna(base.get("rendered")):
        seen += f" (drawn from {base['rendered']:.0f} that were rendered once, with fresh colours and noise)"
    return (
        f"Baseline: {trained['steps']:.0f} steps of {base['batch']:.0f} samples of {base['size']:.0f} × "
        f"{base['size']:.0f} pixels{seen}, {base['precision']}, final loss {trained['loss']:.4f}, "
        f"{trained['seconds'] / 60:.0f} minutes."
    )


def table_of(rows: pd.DataFrame) -> Table:
    """The paper's Table 1 with its columns beside ours; hand-made rows and the control below.

    Of several seeds: means, the standard deviation of SSIM, and the removed sites of all of them.
    """
    evaluated = _evaluated(rows)
    ssim, *others = columns.QUALITY
    costs = [replace(column, digits=digits, change=True) for column, digits in zip(columns.COSTS, (0, 1), strict=True)]
    costs[0] = replace(costs[0], title="Params")
    crop = Column("ssim_crop8", "SSIM, crop 8", digits=3)
    measured = [column.name for column in (*costs, ssim, crop, *others)]
    numbers = dict.fromkeys(measured, float)
    by_row = evaluated.groupby("row", sort=False)
    merged, spread = by_row.first(), over_runs(evaluated[["row", *measured]].astype(numbers), evaluated["seed"])
    merged[measured] = spread.means[measured].round(9).to_numpy()  # a mean of equal numbers is that number
    merged[["removed", "sites"]] = by_row[["removed", "sites"]].sum()
    merged["ssim_sd"] = spread.sds["ssim"].to_numpy()
    lines = []
    for row in merged.reset_index().to_dict("records"):
        learned = row["what"] == "learn"
        name = row["part"] if learned else row["row"]
        marks = {kind: mark(row) if learned and row["kind"] == kind else "–" for kind in KIND_COLUMNS}
        if row["what"] == "hand":
            marks[row["kind"] if isinstance(row["kind"], str) else "activation"] = mark(row)
        lines.append({**row, **marks, "shown": name[0].upper() + name[1:]})
    sd = [Column("ssim_sd", "SSIM sd", digits=4)] if merged["ssim_sd"].notna().any() else []
    first = [Column("shown", "Row"), *(Column(kind, title) for kind, title in KIND_COLUMNS.items())]
    own = [*costs, ssim, *sd, crop, *others]
    return columns.table_of(pd.DataFrame(lines), own, first=first, published="Table 1", changes=("ssim", "lpips"))


def against_control(rows: pd.DataFrame) -> Table:
    """What each row lost against the control, sample by sample."""
    evaluated = _evaluated(rows)
    control = evaluated[evaluated["what"] == "control"]
    lines = []
    for name, runs in evaluated[evaluated["what"].isin(["learn", "hand"])].groupby("row", sort=False):
        line: dict[str, Any] = {"Row": name, "runs": len(runs)}
        line["removed"] = f"{runs['removed'].sum():.0f}/{runs['sites'].sum():.0f}"
        for measure in COMPARED:
            if (change := change_against(runs, control, measure)) is not None:
                line[measure.upper()] = with_ends(change, digits=4)
        lines.append(line | {"SSIM sd": runs["ssim"].std()})
    made = pd.DataFrame(lines).dropna(axis="columns", how="all")  # with one run of each there is no sd
    return table(made, digits={name: 4 for name in ("SSIM sd",) if name in made})


def _claim(apart: pd.DataFrame) -> str:
    """What the encoder can do without, and the decoder cannot: removed by hand, trained on as long as the control."""
    changes = apart.set_index("Row")["SSIM"]
    said = [
        f"{part} without {what} {changes[f'{part}, {kind}s by hand']}"
        for kind, what in (("activation", "the ReLUs of its residual blocks"), ("block", "its residual blocks"))
        for part in ("encoder", "decoder")
    ]
    return f"Removed by hand, which depends on no λ, SSIM changes by: {'; '.join(said)}."


def _evaluated(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of networks that were evaluated."""
    return rows[rows["what"].isin(["judge", "learn", "hand", "control"])]


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
    ax = plots.curve(pd.DataFrame(curve(row), columns=["step", "loss"]), x="step", y="loss")
    ax.set_yscale("log")
    plots.save(ax, path)


def with_lines(linearity: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of the check by points with the lines through them."""
    told = []
    for entry in linearity:
        points = pd.DataFrame(entry["points"])
        (slope, r2), (of_target, r2_of_target) = (line(points, column) for column in ("measured", "on_target"))
        told.append(entry | {"slope": slope, "r2": r2, "target_slope": of_target, "target_r2": r2_of_target})
    return told


def _by_factor(linearity: list[dict[str, Any]]) -> Table:
    """The slope of each magnifier by factor."""
    lines: dict[str, dict[str, Any]] = {}
    for entry in linearity:
        for factor, points in pd.DataFrame(entry["points"]).groupby("factor"):
            label = f"{factor:g}"
            lines.setdefault(label, {"factor": label})[entry["magnifier"]] = line(points, "measured")[0]
    made = pd.DataFrame(list(lines.values()))
    return table(made, digits={str(name): 2 for name in made if name != "factor"})


def draw_displacement(linearity: list[dict[str, Any]], path: Path) -> None:
    """Measured against wanted displacement, means over the photos, a colour a factor; a panel a magnifier."""
    _, panels = plt.subplots(
        1, len(linearity), figsize=(3.5 * len(linearity), 2.8), layout="constrained", squeeze=False
    )
    for ax, entry in zip(panels.flat, linearity, strict=True):
        points = pd.DataFrame(entry["points"])
        top = points["wanted"].max() * 1.05
        ax.plot([0, top], [0, top], color="0.6", linewidth=0.8, label="as wanted")
        ax.plot([0, top], [0, top * entry["slope"]], color="0.2", linewidth=0.8, linestyle="--", label="slope")
        for (factor, group), colour in zip(points.groupby("factor"), plots.COLOURS, strict=False):
            means = group.groupby("wanted")["measured"].mean()
            ax.plot(
                means.index, means, color=colour, linewidth=0.6, marker="o", markersize=3, label=f"factor {factor:g}"
            )
        ax.set_title(f"{entry['magnifier']}: slope {entry['slope']:.2f}, R² {entry['r2']:.3f}", fontsize=plots.FONT)
        ax.set_xlabel("factor · d [pixels]", fontsize=plots.FONT)
        ax.set_ylabel("measured displacement [pixels]", fontsize=plots.FONT)
        ax.tick_params(labelsize=plots.FONT - 1)
        ax.legend(fontsize=plots.FONT - 1, frameon=False)
    plots.save(panels[0, 0], path)


def save_samples(sources: Sources, size: int, path: Path) -> None:
    """A sample of each of the five parts (columns): frame A, frame B, the magnified target (rows)."""
    from torchvision.utils import save_image  # of all that a cell's process would import it takes longest

    batch = Generator(sources, size, seed=0, factor=20.0).batch(range(len(PARTS)), noise=True)
    save_image((torch.cat([batch.a, batch.b, batch.target]) + 1).clamp(0, 2) / 2, path, nrow=len(PARTS), padding=2)


def _settings(rows: pd.DataFrame) -> Table:
    """K, λ/K, what was decided, and the watched SSIM after each phase, of the learned rows."""
    lines = []
    for row in rows[rows["what"] == "learn"].to_dict("records"):
        phases = {phase["phase"]: phase["ssim"] for phase in row["phases"]}
        line = {"Row": row["row"], "K": int(row["sites"]), "λ/K": row["lam_per_site"], "removed": int(row["removed"])}
        line |= {"within 0.1 of τ": int(row["near_tau"])}
        lines.append(line | {f"SSIM {phase}": value for phase, value in phases.items()})
    return table(pd.DataFrame(lines), digits={"λ/K": 4})


def _quality(quality: list[dict[str, Any]]) -> Table:
    """SSIM of each magnifier by factor, with its interval."""
    lines: dict[str, dict[str, Any]] = {}
    for entry in quality:
        name = "as in training" if pd.isna(entry["factor"]) else f"{entry['factor']:g}"
        name += f", {entry['size']} × {entry['size']} pixels"
        line = lines.setdefault(name, {"factor": name})
        line[entry["magnifier"]] = f"{entry['ssim']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
    return table(pd.DataFrame(list(lines.values())))


def _expectations(quality: list[dict[str, Any]], linearity: list[dict[str, Any]]) -> list[tuple[str, bool | None]]:
    """What was expected of the baseline beforehand, and whether it came so."""
    smallest = min(entry["size"] for entry in quality)
    by = {(e["magnifier"], e["factor"]): e for e in quality if e["size"] == smallest}
    lines: list[tuple[str, bool | None]] = []
    for (name, factor), copied in by.items():
        if name == "copy of B" and factor is not None:
            ours = by["ours", factor]
            text = f"SSIM above copying frame B at factor {factor:g}, intervals apart"
            lines.append((text, ours["low"] > copied["high"]))
    for entry in linearity:
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
