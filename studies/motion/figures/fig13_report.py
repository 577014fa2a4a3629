"""What `fig13_nas` writes of its rows: the networks that were found beside the designed ones, and what the search cost
and what its judgement was worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import archlab as al
from archlab.report import Column, Picture, Table, plots, table, write_report

from .. import columns
from ..network.example import STREAMED
from ..network.searched import BOUNDS, told
from .shared import SSIM_THRESHOLD, rank_correlation

DESIGNED = "designed by hand"
GROUPS = {"NAS": "found by the search", "random": "random within its bound"}
INHERITED = {"inherited_bins": "bins", "inherited_uniform": "uniform"}
TRAINED_ON = {"watched": "the scenes of the search", "ssim": "held-out samples"}


def write(rows: pd.DataFrame, folder: Path, *, command: str, compared: str, by_hand: Sequence[str]) -> None:
    """Write table.md, bounds.md, ranks.md, costs.md, tradeoff.png and report.md."""
    first = rows[rows["seed"] == 0]
    networks = networks_of(first)
    main, bounds, ranks = table_of(networks), bounds_table(first), ranks_table(networks)
    costs = costs_table(first, by_hand)
    draw_tradeoff(networks, folder / "tradeoff.png")
    one = networks.iloc[0]
    write_report(
        rows, folder, "Figure 13: architecture search against design by hand",
        "One-shot search (Guo et al. 2020) within the paper's four sets of bounds. Every network below, and every "
        f"supernet, was trained from scratch for {one['steps']:.0f} steps of {one['batch']:.0f} samples of "
        f"{one['size']:.0f} pixels ({one['patch']:.0f} seen), {one['precision']}, the same samples in the same order, "
        f"and judged on the same {one['judged']:.0f} held-out samples ({one['val_data']}). The search judges on scenes "
        "of the training's photos that no training saw. *proposed* is the paper's last network (reading A), here "
        "without its perceptual loss.",
        against_random(networks, compared), against_designed(networks),
        Picture("tradeoff.png", "SSIM against FLOPs"),
        f"FLOPs: the paper's rule, one streamed frame of {STREAMED} x {STREAMED}; the bounds are on multiply-adds. "
        f"95 % bootstrap intervals over the held-out samples reach about ± {half_interval(networks):.3f}; r1 and so "
        "on: the random ones. Inherited: SSIM on the scenes of the search with the weights of a supernet that was "
        "trained by paths from bins of multiply-adds within the bound, or by paths drawn option by option; "
        "*retrained*: on the same scenes, with weights of its own.",
        main,
        "## What was searched",
        "Kernels of the residual blocks that the winner keeps, in their order. Within: the share of paths drawn option "
        "by option that the bound allows.",
        bounds,
        "## What the search's judgement is worth",
        f"Kendall's τ between inherited and retrained SSIM of the {sum(networks['set'] == compared)} trained "
        f"architectures of ({compared}), with its 95 % bootstrap interval over the architectures.",
        ranks,
        "## What the search cost",
        "Core-hours (on a GPU, its hours): steps or trials, times the seconds of one, all timed in turns in one "
        "process. By hand: the four trainings of Fig. 11 that led to the last network, without the perceptual loss; "
        "not counted there are Table 1's, which say what may go.",
        costs,
        command=command, tables={"table": main, "bounds": bounds, "ranks": ranks, "costs": costs},
    )  # fmt: skip


def networks_of(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a network: the designed ones first, then the winners and the random ones."""
    shown = rows[rows["what"].str.startswith("quality")]
    group = shown["network"].str.partition(" ")[0].map(GROUPS).where(shown["what"] == "quality", DESIGNED)
    shown = shown.assign(row=shown["network"], group=group)
    return shown.sort_values("group", key=lambda g: g != DESIGNED, kind="stable").reset_index(drop=True)


def table_of(networks: pd.DataFrame) -> Table:
    """Costs and quality of each network, changes against the first."""
    more = [Column("macs_g", "multiply-adds", unit="G", digits=2), Column("watched", "retrained", digits=3)]
    more += [Column(name, f"inherited, {how}", digits=3) for name, how in INHERITED.items()]
    first = (Column("row", "network"), Column("group", ""))
    return columns.table_of(networks, [*columns.COSTS, *columns.QUALITY, *more], first=first)


def bounds_table(rows: pd.DataFrame) -> Table:
    """A row a set of bounds: the space, and the winner of its search."""
    by_name: dict[str, Any] = {row["row"]: row for row in rows.to_dict("records")}
    lines = []
    for name, bounds in BOUNDS.items():
        space, found = by_name[f"supernet {name}"], by_name[f"search {name}"]
        kernels = told(found["architecture"])
        limits = f"{sum(bounds.encoder_blocks)}, {bounds.decoder_blocks}, {bounds.channels}, {bounds.macs_g:g} G"
        lines.append(
            {"set": f"({name}) {limits}", "least": space["least_g"], "most": space["most_g"],
             "within [%]": 100 * space["within"], "trials": int(found["trials"]), "winner [G]": found["macs_g"],
             "encoder": kernels["encoder"], "decoder": kernels["decoder"]}
        )  # fmt: skip
    return table(pd.DataFrame(lines), digits={"within [%]": 1, "least": 2, "most": 2, "winner [G]": 2})


def ranks_table(networks: pd.DataFrame) -> Table:
    """Kendall's τ of each supernet, against SSIM after training, there and on held-out samples."""
    both = networks.dropna(subset=[*INHERITED])
    lines = []
    for inherited, how in INHERITED.items():
        for trained, on in TRAINED_ON.items():
            tau, low, high = rank_correlation(both[inherited].to_numpy(float), both[trained].to_numpy(float))
            lines.append({"supernet trained by": how, "retrained, on": on, "τ": tau, "low": low, "high": high})
    return table(pd.DataFrame(lines), digits={"τ": 2, "low": 2, "high": 2})


def costs_table(rows: pd.DataFrame, by_hand: Sequence[str]) -> Table:
    """Core-hours of each search, and of the hand-led route."""
    by_name: dict[str, Any] = {row["row"]: row for row in rows.to_dict("records")}
    each = by_name["costs"]["seconds_each"]
    lines = []
    for name in BOUNDS:
        spent = {
            "supernet": by_name[f"supernet {name}"]["steps"] * each[f"supernet {name}"],
            "search": by_name[f"search {name}"]["trials"] * each[f"search {name}"],
            "networks": by_name[f"NAS {name}"]["steps"] * each[f"NAS {name}"],
        }
        lines.append({"route": f"search {name}", **spent, "sum": sum(spent.values())})
    steps = by_name["NAS a"]["steps"]
    spent = sum(steps * each[name] for name in by_hand)
    lines.append({"route": f"by hand: {', '.join(by_hand)}", "networks": spent, "sum": spent})
    frame = pd.DataFrame(lines)
    numbers = ["supernet", "search", "networks", "sum"]
    frame[numbers] /= 3600
    return table(frame, digits=dict.fromkeys(numbers, 3))


def against_random(networks: pd.DataFrame, compared: str) -> str:
    """The winner beside the best of the random architectures of its space."""
    winner = networks[networks["row"] == f"NAS {compared}"].iloc[0]
    others = networks[networks["group"] == GROUPS["random"]]
    best = others.loc[others["ssim"].idxmax()]
    apart, low, high = al.interval(winner["each_ssim"], best["each_ssim"], method="bootstrap")
    return (
        f"The winner of ({compared}) has SSIM {winner['ssim']:.3f}; the {len(others)} random architectures within its "
        f"bound {others['ssim'].min():.3f} to {others['ssim'].max():.3f}. Winner less {best['row']}, the best of them "
        f"on these very samples: {apart:+.4f} (95 % interval {low:+.4f} to {high:+.4f})."
    )


def against_designed(networks: pd.DataFrame) -> str:
    """Which winners a designed network of no more FLOPs matches or beats."""
    designed = networks[networks["group"] == DESIGNED]
    found = networks[networks["group"] == GROUPS["NAS"]]
    beaten = [
        row["row"]
        for row in found.to_dict("records")
        if ((designed["flops_g"] <= row["flops_g"]) & (designed["ssim"] >= row["ssim"])).any()
    ]
    told_of = f"{', '.join(beaten)}: a designed network of fewer FLOPs has as high an SSIM" if beaten else (
        "No designed network of fewer FLOPs has as high an SSIM as a winner"
    )  # fmt: skip
    return (
        f"{told_of}; in the paper that is so of all four, of which (b) is the best and below {SSIM_THRESHOLD}. "
        f"Winners: SSIM {found['ssim'].min():.3f} to {found['ssim'].max():.3f}."
    )


def half_interval(networks: pd.DataFrame) -> float:
    """How far the intervals of SSIM reach to either side, of all networks."""
    return float((networks["ssim_high"] - networks["ssim_low"]).mean() / 2)


def draw_tradeoff(networks: pd.DataFrame, path: Path) -> None:
    """SSIM against FLOPs, coloured by how a network was found; without the intervals, which would cover each other."""
    ssim, flops = columns.SSIM, columns.COSTS[1]
    names = {ssim.name: ssim.heading, flops.name: flops.heading}
    shown = networks.rename(columns=names).astype({heading: float for heading in names.values()})
    shown["row"] = shown["row"].str.replace("random ", "r")
    ax = plots.plt.subplots(figsize=(7.1, 3.6))[1]
    ax = plots.tradeoff(shown, x=flops.heading, y=ssim.heading, label="row", group="group", log=[flops.heading], ax=ax)
    found, drawn = ax.get_legend_handles_labels()
    ax.legend(found, drawn, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=plots.FONT, frameon=False)
    plots.save(ax, path)
