"""The report of the removal study on a classifier: table, figures, and what the numbers say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from archlab.report import Picture, Table, plots, write_report
from archlab.report import table as printed

from .training import BUDGETS, LR, TAU, P

Row = Mapping[Any, Any]  # one row of the study: what `cell` returned, with row, kind, lam and seed


def write(rows: pd.DataFrame, folder: Path, command: str) -> None:
    """Write the report of the finished `rows` into `folder`: report.md, its table, its figures, sensitivity.csv."""
    results = [row for row in rows.to_dict("records") if row["row"] != "sensitivity"]
    sensitivity = next(row for row in rows.to_dict("records") if row["row"] == "sensitivity")
    alone = pd.DataFrame(sensitivity["alone"])
    first_seed = {row["row"]: row for row in results if row["seed"] == 0}
    shown = table(results)
    alone.to_csv(folder / "sensitivity.csv", index=False)
    plots.save(plots.sensitivity(alone, quality="accuracy"), folder / "sensitivity.png")
    omegas(first_seed, folder / "omegas.png")
    tradeoff(results, folder / "tradeoff.png")
    made, images = rows.attrs["conditions"], f"{results[0]['images']:,.0f}"
    budget = BUDGETS[made["preset"]]
    write_report(
        rows, folder, "What a pretrained classifier can do without",
        findings(first_seed, alone), shown,
        f"Accuracy on {images} images that no training here saw, with its 95 % interval (Wilson); in parentheses the "
        "difference from *fine-tuned*, which trains as long and removes nothing. MACs: multiply-adds for one image. "
        'λ/K is the pull on each of the K sites. "near τ": sites whose ω ended within 0.1 of τ, which another seed may '
        "decide otherwise.",
        Picture("tradeoff.png", "Accuracy against multiply-adds, and against the number of removed sites"),
        Picture("sensitivity.png", "Change of accuracy with each site alone removed, without training"),
        Picture("omegas.png", "Each ω in the soft and the push phase; blue: removed"),
        "## How",
        [
            f"Images: {results[0]['train_images']:,.0f} to train with, {images} to evaluate on. Where the folder has "
            "no two parts of its own (train and test, or val), the images of each class, by name, go to the one and "
            "the other in turn. The weights are taken as given: what they were trained with is not known here.",
            f"Removal: {budget.soft_steps} steps in which weights and ω learn; {budget.push_steps} that move each ω to "
            f"its side of τ; removal; {budget.tune_steps} steps with the rate falling to 0 along a cosine. "
            f"*fine-tuned* has as many, {budget.steps}, at the same rates. {budget.batch} images a step, mirrored and "
            "moved by up to 4 pixels; BatchNorm in training mode.",
            f"The same for every row: p = {P:g}, τ = {TAU:g}, Adam with a rate of {LR:g} for weights and "
            f"{budget.lr_omega:g} for ω.",
            f"Sensitivity: on {sensitivity['images']:,.0f} of the images to evaluate on.",
            "; ".join(f"{name} {value}" for name, value in made.items() if value is not None and name != "wall_s"),
        ],
        command=command, about="`--data` names the folder of weights and images.", tables={"table": shown},
    )  # fmt: skip


def table(results: Sequence[Row]) -> Table:
    """The rows for print, with the change of accuracy against the fine-tuned network."""
    shown = pd.DataFrame(
        [
            {
                "row": row["row"],
                "seed": row["seed"],
                "λ/K": row["lam_per_site"],
                "removed": _removed(row) if _is_removal(row) else None,
                "near τ": f"{row['near_tau']:.0f}" if _is_removal(row) else None,
                "accuracy [%]": 100 * row["accuracy"],
                "95 % interval": f"{100 * row['low']:.1f}–{100 * row['high']:.1f}",
                "MACs [M]": row["macs"] / 1e6,
                "parameters": int(row["params"]),
            }
            for row in results
        ]
    )
    if all(row["seed"] == 0 for row in results):
        shown = shown.drop(columns="seed")
    base = [row["row"] for row in results].index("fine-tuned")
    digits = {"λ/K": 4, "accuracy [%]": 1, "MACs [M]": 1}
    return printed(shown, base=base, deltas=["accuracy [%]"], digits=digits)


def omegas(results: Mapping[str, Row], path: Path) -> None:
    """One panel a removal: a line of panels a kind, a column a λ."""
    removals = [row for row in results.values() if _is_removal(row)]
    kinds, lams = (list(dict.fromkeys(row[name] for row in removals)) for name in ("kind", "lam"))
    _, axes = plt.subplots(
        len(kinds), len(lams), figsize=(7.2, 1.8 * len(kinds)), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row in removals:
        history = pd.DataFrame(row["omegas"]["omega"]).assign(step=row["omegas"]["step"], phase=row["omegas"]["phase"])
        ax = axes[kinds.index(row["kind"])][lams.index(row["lam"])]
        plots.omegas(history.melt(["step", "phase"], var_name="site", value_name="omega"), tau=TAU, ax=ax)
        ax.set_title(row["row"], fontsize=plots.FONT)
        ax.label_outer()
    plots.save(axes[0][0], path)


def tradeoff(results: Sequence[Row], path: Path) -> None:
    """Accuracy against multiply-adds, and against the number of removed sites; removals are labelled with their λ."""
    points = pd.DataFrame(
        [
            {
                "MACs [M]": row["macs"] / 1e6,
                "sites removed": int(row["removed"]) if _is_removal(row) else 0,
                "accuracy [%]": 100 * row["accuracy"],
                "low": 100 * row["low"],
                "high": 100 * row["high"],
                "kind": row["kind"] if _is_removal(row) else "nothing",
                "label": f"{row['lam']:g}" if _is_removal(row) else row["row"],
            }
            for row in sorted(results, key=_is_removal, reverse=True)  # kinds first, as their colours are
        ]
    )
    _, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0), sharey=True, layout="constrained")
    for ax, x, better in ((left, "MACs [M]", "lower"), (right, "sites removed", "higher")):
        plots.tradeoff(
            points, x=x, y="accuracy [%]", label="label", group="kind", error=("low", "high"), better={x: better},
            ax=ax,
        )  # fmt: skip
    right.get_legend().remove()
    plots.save(left, path)


def findings(results: Mapping[str, Row], alone: pd.DataFrame) -> list[str]:
    """What the numbers say: `results` by row name; `alone`: site, kind, delta_accuracy, the least change first."""
    tuned = results["fine-tuned"]
    said = [
        f"The network as it came puts {_accuracy(results['pretrained'])} of the images into their class; fine-tuned "
        f"for {tuned['steps']:.0f} steps with nothing removed, {_accuracy(tuned)}."
    ]
    removals = [row for row in results.values() if _is_removal(row)]
    for kind in dict.fromkeys(row["kind"] for row in removals):
        path = "; ".join(
            f"{_removed(row)} at λ = {row['lam']:g}, {100 * (row['accuracy'] - tuned['accuracy']):+.1f} points with "
            f"{100 * row['macs'] / tuned['macs']:.0f} % of the multiply-adds"
            for row in removals
            if row["kind"] == kind
        )
        said.append(f"{kind.capitalize()}s removed, against fine-tuned: {path}.")
    thin = [row for row in removals if row["removed"]]
    held = [row["row"] for row in thin if _is_within_chance(row, tuned)]
    said.append(
        f"Of the {len(thin)} rows that removed something, {len(held)} differ from the fine-tuned network by no more "
        f"than two samples of as many images would (95 %){': ' if held else ''}{', '.join(held)}; on the same images, "
        "smaller differences may be real."
    )
    cheap, *_, dear = alone.sort_values("delta_accuracy", ascending=False).to_dict("records")
    little = sum(abs(change) < 0.01 for change in alone["delta_accuracy"])
    said.append(
        f"Each alone and without training, {little} of {len(alone)} sites change the accuracy by less than a point; "
        f"the change goes from {100 * cheap['delta_accuracy']:+.1f} ({cheap['site']}) to "
        f"{100 * dear['delta_accuracy']:+.1f} points ({dear['site']})."
    )
    return said


def _is_within_chance(row: Row, other: Row) -> bool:
    """Whether two accuracies on so many images each differ by less than 1.96 standard errors."""
    error = sum(one["accuracy"] * (1 - one["accuracy"]) / one["images"] for one in (row, other)) ** 0.5
    return abs(row["accuracy"] - other["accuracy"]) <= 1.96 * error


def _is_removal(row: Row) -> bool:
    return isinstance(row["kind"], str)  # pandas has put NaN where a row says nothing


def _removed(row: Row) -> str:
    return f"{row['removed']:.0f} of {row['sites']:.0f}"


def _accuracy(row: Row) -> str:
    return f"{100 * row['accuracy']:.1f} % ({100 * row['low']:.1f}–{100 * row['high']:.1f})"
