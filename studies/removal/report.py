"""What a person reads of the study: tables by network, who wins where, gates, scores, and the curves."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from archlab.removal import TradeOff
from archlab.report import Interval, Picture, Table, plots, table, with_ends, with_sd, write_report

from .networks import NETWORKS, Network

CONTROL, LEARNED, GREEDY, BLEND, REWIND, GOING_ON = "control", "learned", "greedy", "blend", "rewind", "going on"
POLARIZED = "polarized"  # the gate that is tried on every network, beside the plain blend
ORDER = (
    "original", CONTROL, LEARNED, f"{LEARNED}, {REWIND}", POLARIZED, f"{POLARIZED}, {REWIND}", GREEDY, "one shot",
    "random",
)  # fmt: skip


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write report.md, its tables and the figure."""
    rows = with_methods(rows)
    curves = {name: trade_off_of(rows, name) for name in dict.fromkeys(rows["network"])}
    verdicts = winners(curves)
    draw(curves, folder / "curves.png")
    parts: list[Any] = ["## Which method wins where", reading(verdicts), shown(verdicts)]
    parts.append("## By network")
    for name, curve in curves.items():
        parts += [f"### {name}", about(NETWORKS[name], rows, name), by_network(curve, rows, name)]
    gates, scores = gate_table(rows), score_table(rows)
    write_report(
        rows, folder, "Removal to a budget: learned, greedy, at one shot, at random",
        METHOD, *parts, Picture("curves.png", "Quality against the share of sites that stay; at 1 the control"),
        "## Ways to learn a switch", GATES_TOLD, gates, "## Which cheap score to trust", SCORES_TOLD, scores,
        command="python -m studies.removal",
        tables={"table": shown(verdicts), "gates": gates, "scores": scores},
    )  # fmt: skip


METHOD = (
    "All methods of a network have the same sites, budgets (the share of the sites that may stay), rates and number "
    "of training steps in all. The control is trained as long, with nothing removed. *learned*: by the plain "
    "blend of the paper; *polarized*: by one that a further term drives to 0 or 1; *rewind*: what was learned to go is "
    "taken out of the original weights, and these are tuned. Intervals are 95 %, paired by seed."
)
GATES_TOLD = (
    "The same budget for all, the strictest. *Going on* keeps the weights that were learned with the switches; "
    "*rewind* removes what was decided from the original weights and tunes these. In brackets the difference from the "
    "blend that goes on, and its interval. Mean rank: over the networks, 1 is best."
)
SCORES_TOLD = (
    "Spearman's rank correlation of a score, summed over the sites that went, with the loss on held-out data after a "
    "short tuning, over random subsets of a third of the sites; means over the seeds. 1: the score tells the order of "
    "what removals cost. A dash: the score does not tell the sites apart, or says nothing of this kind of site."
)


def with_methods(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, those of a gate with a method: its name, and whether tuning began from the original weights."""
    ends = rows["rewind"].eq(True).map({True: f", {REWIND}", False: ""})
    return rows.assign(method=rows["method"].where(rows["what"] != "gate", rows["gate"] + ends))


def compared(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Of one network the original, the controls, and the removals by every method that runs on all of them."""
    own = rows[(rows["network"] == name) & rows["method"].notna()]
    unknown = set(own.loc[own["what"] == "removal", "method"]) - set(ORDER)
    assert not unknown, f"methods without a place in the report: {sorted(unknown)}"
    own = own[own["method"].isin(ORDER)]
    own = own.assign(place=own["method"].map(ORDER.index))
    return own.sort_values(["budget", "place"], ascending=[False, True], kind="stable")


def trade_off_of(rows: pd.DataFrame, name: str) -> TradeOff:
    """The removals of one network, with its original and its controls, under the name of its quality.

    Raises:
        ValueError: rows were trained for different numbers of steps, as those of an older effort.
    """
    network = NETWORKS[name]
    frame = compared(rows, name)[["method", "budget", "seed", "steps", "sites", "params", "macs", "quality"]]
    frame = frame.astype({"steps": int, "sites": int})
    trained = frame[frame["method"] != "original"]
    if trained["steps"].nunique() > 1:
        found = ", ".join(f"{method} {steps}" for method, steps in trained.groupby("method")["steps"].unique().items())
        raise ValueError(f"{name}: what is compared must have as many steps each, got {found}; run with --stale rerun")
    frame = frame.rename(columns={"quality": network.measure}).reset_index(drop=True)
    return TradeOff(frame, "sites", {network.measure: network.better})


def against(curve: TradeOff, method: str, other: str, budget: float) -> dict[str, float]:
    """The paired difference of two methods at one budget, the better way up, with its interval."""
    frame = curve.frame[curve.frame["budget"] == budget]
    frame = frame[frame["method"].isin([method, other])].replace({"method": {other: CONTROL}})
    (quality,) = curve.qualities
    found = TradeOff(frame, curve.measure, curve.better).summary(quality).set_index("method").loc[method]
    ends = [float(found[name]) for name in ("change", "low", "high")]
    if curve.better[quality] == "lower":
        ends = [-ends[0], -ends[2], -ends[1]]
    return dict(zip(("change", "low", "high"), ends, strict=True))


def winners(curves: Mapping[str, TradeOff]) -> pd.DataFrame:
    """A row a network and budget: the mean of each method, the best, and learned against greedy (positive: better)."""
    rows = []
    for name, curve in curves.items():
        (quality,) = curve.qualities
        found = curve.summary(quality)
        found = found[(found["budget"] < 1)]
        for budget, part in found.groupby("budget", sort=False):
            means = part.set_index("method")["mean"]
            top = means.max() if curve.better[quality] == "higher" else means.min()
            best = " and ".join(str(method) for method in means.index[means == top])
            apart = against(curve, LEARNED, GREEDY, float(budget))  # type: ignore[arg-type]
            rows.append({"network": name, "quality": quality, "left": budget, **means, "best": best, **apart})
    return pd.DataFrame(rows)


def reading(verdicts: pd.DataFrame) -> str:
    """How often learned is not worse than greedy, by the interval and by the mean."""
    pairs, worse = len(verdicts), int((verdicts["high"] < 0).sum())
    better, level = int((verdicts["low"] > 0).sum()), int((verdicts["change"] >= 0).sum())
    counts = verdicts["best"].value_counts().items()
    told = "; ".join(f"{methods} {count}" for methods, count in counts)
    by_interval, by_mean = ("holds" if 3 * kept >= 2 * pairs else "does not hold" for kept in (pairs - worse, level))
    return (
        f"Best by the mean, of {pairs} pairs of network and budget (ties by both names): {told}. Learned is worse than "
        f"greedy in {worse} of them as far as the paired interval tells, better in {better}; its mean is at least as "
        f"good in {level}. That it is not worse in two thirds of the pairs {by_interval} by the interval "
        f"({pairs - worse} of {pairs}), which with so few seeds is wide, and {by_mean} by the mean ({level} of "
        f"{pairs})."
    )


def shown(verdicts: pd.DataFrame) -> Table:
    """`winners` as a table."""
    frame = verdicts.drop(columns=["change", "low", "high"]).rename(columns={"left": "budget (sites)"})
    ends = verdicts[["change", "low", "high"]].itertuples(index=False)
    frame["learned against greedy"] = [with_ends(Interval(*one)) for one in ends]
    return table(frame, digits={"budget (sites)": 2})


def about(network: Network, rows: pd.DataFrame, name: str) -> str:
    """What a network is, and how much was trained."""
    effort = network.effort(str(rows["preset"].iloc[0]))
    own = rows[(rows["network"] == name)]
    sites = int(own["of"].dropna().iloc[0])
    told = f"{network.field}: {network.about}. {sites} sites of kind {network.kind}; {effort.steps} steps of "
    told += f"{effort.batch} items, rate {network.lr:g}, {network.precision}"
    training = own[own["what"] == "training"]
    if len(training):
        told += f", after a training of {effort.training} steps ({training['training_s'].mean():.0f} s)"
    return told[0].upper() + told[1:] + "."


def by_network(curve: TradeOff, rows: pd.DataFrame, name: str) -> Table:
    """Methods x budgets of one network: the library's table, with parameters."""
    means = compared(rows, name).groupby(["method", "budget"], sort=False)["params"].mean().div(1e3)
    found = curve.table().frame
    keys = pd.MultiIndex.from_frame(found[["method", "budget (sites)"]])
    return table(
        found.assign(**{"params [k]": means.reindex(keys).to_numpy()}),
        digits={"MACs [M]": 2, "budget (sites)": 2, "sites gone": 1, "params [k]": 0},
    )


def draw(curves: Mapping[str, TradeOff], path: Path) -> None:
    """A panel a network: the mean of each method, but those that rewind, against the share of sites that stay."""
    columns = 4
    _, axes = plt.subplots(math.ceil(len(curves) / columns), columns, figsize=(9.6, 4.6), layout="constrained")
    for (name, curve), ax in zip(curves.items(), axes.flat, strict=False):
        (quality,) = curve.qualities
        found, x = curve.summary(quality).rename(columns={"mean": quality}), "share of the sites that stay"
        found[x] = found["budget"]
        control = found[found["method"] == CONTROL]
        for method in dict.fromkeys(found.loc[found["budget"] < 1, "method"]):
            if str(method).endswith(REWIND):
                continue
            points = pd.concat([control, found[found["method"] == method]]).sort_values(x)
            plots.curve(points, x=x, y=quality, name=str(method), ax=ax)
        ax.set_title(name, fontsize=plots.FONT)
        if ax is not axes.flat[0]:
            ax.get_legend().remove()
    for ax in list(axes.flat)[len(curves) :]:
        ax.remove()
    plots.save(axes.flat[0], path)


def gate_table(rows: pd.DataFrame) -> Table:
    """A row a gate and how it ends: the mean of each network, its difference from the blend that goes on, mean rank."""
    gates = rows[rows["what"] == "gate"]
    networks = gates.loc[gates["gate"] != POLARIZED, "network"].unique()  # where every gate was tried
    ways = {LEARNED: BLEND} | {gate: gate for gate in gates["gate"].unique()}
    names = {way: f"{gate}, {GOING_ON}" for way, gate in ways.items()}
    names |= {f"{way}, {REWIND}": f"{gate}, {REWIND}" for way, gate in ways.items()}
    every = rows[rows["network"].isin(networks) & rows["method"].isin(names)]
    every = every[every["budget"] == gates["budget"].min()]
    every = every.assign(method=every["method"].map(names)).rename(columns={"quality": "value"})
    first, ranks, cells = f"{BLEND}, {GOING_ON}", {}, {}
    for name in networks:
        network = NETWORKS[name]
        frame = every.loc[every["network"] == name, ["method", "budget", "seed", "steps", "sites", "macs", "value"]]
        curve = TradeOff(frame.replace({"method": {first: CONTROL}}), "sites", {"value": network.better})
        found = curve.summary("value").replace({"method": {CONTROL: first}}).set_index("method")
        cells[f"{name}, {network.measure}"] = {way: with_change(one) for way, one in found.iterrows()}
        ranks[name] = found["mean"].rank(ascending=network.better == "lower")
    frame = pd.DataFrame(cells).rename_axis("gate").reset_index()
    frame["mean rank"] = pd.DataFrame(ranks).mean(axis=1).loc[frame["gate"]].to_numpy()
    return table(frame.sort_values("mean rank", kind="stable", ignore_index=True), digits={"mean rank": 1})


def score_table(rows: pd.DataFrame) -> Table:
    """A row a score: its rank correlation by network, and the mean of these, the best first."""
    found: dict[str, dict[Any, float]] = {}
    of = rows[rows["what"] == "scores"]
    for name, part in of.groupby("network", sort=False):
        by_seed = pd.DataFrame([correlations(s, t) for s, t in zip(part["scores"], part["subsets"], strict=True)])
        found[str(name)] = by_seed.mean().to_dict()
    frame = pd.DataFrame(found)
    frame["mean"], frame["networks"] = frame.mean(axis=1), frame.notna().sum(axis=1)
    frame = frame.sort_values("mean", ascending=False, kind="stable").rename_axis("score").reset_index()
    return table(frame, digits={column: 2 for column in frame if column not in ("score", "networks")})


def correlations(scores: Mapping[str, Mapping[str, Any]], subsets: Sequence[dict[str, Any]]) -> dict[str, float]:
    """By score Spearman's correlation of its sum over a subset's sites with the loss after tuning; NaN where none."""
    frame = pd.DataFrame(list(subsets))
    found = {"loss before tuning": frame["before"].corr(frame["after"], method="spearman")}
    for name, values in scores.items():
        known = pd.Series(values, dtype=float)  # NaN where it says nothing, so that the sums are NaN, too
        said = frame["sites"].map(lambda sites, known=known: known.loc[sites].sum(skipna=False)).round(12)
        found[name] = said.corr(frame["after"], method="spearman") if said.nunique() > 1 else math.nan
    return found


def with_change(one: pd.Series) -> str:
    """Mean and deviation of a row of a summary, and its change, where it has one."""
    told, change = with_sd(one["mean"], one["sd"]), with_ends(Interval(*one[["change", "low", "high"]]))
    return f"{told} ({change})" if change else told
