"""What is told of a removal: in one sentence, in a table, and on a page for people.

It sees the removal's frames only, never a model.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from .chart import Chart, Line, Point
from .page import Section, named, write_page
from .tables import Table, digits_of, table

THIN = ("discarded", "tuned")  # the phases whose model is the thin one
MOST_DOTS = 60  # sites whose ω is a dot on its line
_AMOUNTS = {"macs": "multiply-adds", "params": "parameters"}
_HEADINGS = {"params": "parameters", "macs": "MACs", "omega": "ω", "near_tau": "near τ"}
GONE = "channels gone"  # of a site, the column of its decisions
_UNMEASURED = "No quality was measured: ask for it with evaluate=True."


class Removed(Protocol):
    """What is told of a removal; `archlab.removal.Removal` describes each."""

    @property
    def decisions(self) -> pd.DataFrame: ...
    @property
    def costs(self) -> pd.DataFrame: ...
    @property
    def qualities(self) -> pd.DataFrame: ...
    @property
    def omegas(self) -> pd.DataFrame: ...
    @property
    def left(self) -> dict[str, float]: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def conditions(self) -> dict[str, Any]: ...
    @property
    def finished(self) -> bool: ...
    @property
    def seconds(self) -> float: ...


def told(removal: Removed) -> str:
    """How many sites went, what that saves, what it costs in quality: two sentences."""
    went = f"{removal.decisions['removed'].sum()} of {len(removal.decisions)} {_unit(removal.decisions)}"
    if "channel" in removal.decisions:
        sites = by_site(removal.decisions)
        went += f", with them {(sites[GONE] == sites['channels']).sum()} of {len(sites)} activations as a whole,"
    if not removal.finished:
        return f"Not finished: {went} would go now. With a folder, the same call goes on from there."
    whole, thin = removal.costs.iloc[0], removal.costs.iloc[-1]
    left = [f"{thin[column] / max(whole[column], 1):.1%} of the {name}" for column, name in _AMOUNTS.items()]
    words = f"{went} went; {' and '.join(left)} are left."
    if removal.qualities.empty:
        return words
    first, last = removal.qualities.iloc[0], removal.qualities.iloc[-1]
    names = [str(name) for name in removal.qualities if name != "phase"]
    changes = [f"{name} {first[name]:.4g} → {last[name]:.4g}" for name in names]
    return f"{words} {', '.join(changes)}."


def stages(removal: Removed) -> Table:
    """The original and what became of it, a row each: parameters, multiply-adds, and each quality with its change."""
    if removal.qualities.empty:
        return table(removal.costs.rename(columns=_HEADINGS))
    costs = removal.costs.set_index("model")
    phases, qualities = removal.qualities["phase"], removal.qualities.drop(columns="phase")
    costs = costs.loc[["thin" if phase in THIN else "original" for phase in phases]].reset_index(drop=True)
    frame = pd.concat([phases, costs.rename(columns=_HEADINGS), qualities], axis="columns")
    digits = {name: digits_of(qualities[name]) for name in qualities}
    return table(frame, base=0, deltas=list(qualities), better={}, digits=digits)  # a phase is no rival of another


def write_removal(folder: str | Path, removal: Removed, *, model: str) -> Path:
    """Write a page on a removal into `folder`, and its tables, ``table`` (the stages) and ``sites``.

    Args:
        folder: As for `write_page`.
        removal: What is told.
        model: The name of the network.

    Returns:
        The path of the page.
    """
    decisions, found = by_site(removal.decisions), stages(removal)
    went = decisions[GONE if GONE in decisions else "removed"].astype(bool)
    gone, kept = decisions[went], decisions[~went]
    settings = {**removal.settings, "left": removal.left}
    left_out = settings.pop("resolved", {})
    conditions = {**removal.conditions, "training": f"{removal.seconds:.1f} s"}
    sections = [
        Section("What was measured", [found, *([_UNMEASURED] if removal.qualities.empty else [])]),
        Section("What went", [_sites(gone) if len(gone) else "No site was removed."]),
        Section("How it was decided", _curves(removal)),
        Section(f"What stays ({len(kept)})", [_sites(kept)] if len(kept) else [], folded=True),
        Section(
            f"Left out, as it cannot go together with others ({len(left_out)})",
            [named(left_out, "site", "why")] if left_out else [],
            folded=True,
        ),
        Section("Settings of the call", [named(settings, "setting", "value")]),
        Section("Conditions", [named(conditions, "condition", "value")]),
    ]
    every = removal.decisions
    title = f"{model} without {every['removed'].sum()} of {len(every)} {_unit(every)}"
    return write_page(folder, title, told(removal), sections, tables={"table": found, "sites": table(decisions)})


def _unit(decisions: pd.DataFrame) -> str:
    return "channels" if "channel" in decisions else "sites"


def by_site(decisions: pd.DataFrame) -> pd.DataFrame:
    """Decisions with a row a site: of channels, how many a site has, how many of them go, their mean ω."""
    if "channel" not in decisions:
        return decisions
    rows = decisions.groupby("site", sort=False)
    found = rows[["kind", "module", "params", "macs"]].first()
    found = found.assign(**{"channels": rows.size(), GONE: rows["removed"].sum(), "omega": rows["omega"].mean()})
    return found.reset_index()


def _sites(decisions: pd.DataFrame) -> Table:
    """Sites that all go, at least in part, or all stay."""
    shown = decisions.drop(columns="removed", errors="ignore")
    if "order" in shown:
        shown = shown.sort_values("order", kind="stable") if shown["order"].any() else shown.drop(columns="order")
    if "near_tau" in shown:
        shown["near_tau"] = shown["near_tau"].map({True: "yes", False: ""})
    digits = {name: digits_of(shown[name]) for name in ("omega", "score") if name in shown}
    digits = {_HEADINGS.get(name, name): places for name, places in digits.items()}
    return table(shown.rename(columns=_HEADINGS), digits=digits)


def _curves(removal: Removed) -> list[Chart]:
    """How each ω moved where they were learned; else the score of each site that went, where they went in an order."""
    decisions = removal.decisions
    if len(removal.omegas):
        tau = None if removal.settings["lam"] is None else removal.settings["tau"]
        sites, whose = by_site(decisions), "ω"
        if GONE in sites:
            sites, whose = sites.assign(removed=sites[GONE] == sites["channels"]), "Mean ω of the channels"
        title = f"{whose} of each site: 0 is whole, 1 is gone"
        return [omega_chart(sites, removal.omegas, tau=tau, title=title)]
    if "order" not in decisions:
        return []
    gone = decisions[decisions["removed"]].sort_values("order")
    pairs = zip(gone["order"], gone["score"], gone["site"], strict=True)
    points = [Point(order, score, f"{order}. {site}: {score:.4g}") for order, score, site in pairs]
    drawn = Chart("The score of each site when it went", "order", "score", [Line("sites that went", points)])
    return [drawn] if len(points) > 1 else []


def omega_chart(decisions: pd.DataFrame, omegas: pd.DataFrame, *, tau: float | None, title: str) -> Chart:
    """How each ω moved, what was removed apart from what stays.

    Args:
        decisions: site, removed, omega; of channels as `by_site` gives them.
        omegas: step, site, omega, and where there are several the phase.
        tau: The threshold, where one was.
        title: What the chart is called.

    Returns:
        The chart: a line a site.
    """
    tracks = dict(list(omegas.groupby("site", sort=False)))
    lines = []
    for row in decisions.sort_values("removed", ascending=False, kind="stable").to_dict("records"):
        if row["site"] not in tracks:
            continue
        group = "removed" if row["removed"] else "stays"
        part = f", {row[GONE]} of {row['channels']} channels go" if GONE in row else ""
        name, track = f"{row['site']}: {group}, ω = {row['omega']:.2g}{part}", tracks[row["site"]]
        points = [Point(step, omega) for step, omega in zip(track["step"], track["omega"], strict=True)]
        if len(decisions) <= MOST_DOTS:  # where it was decided: at the end of the first phase
            decided = int((track["phase"] == track["phase"].iloc[0]).sum()) if "phase" in track else len(track)
            points[decided - 1] = replace(points[decided - 1], told=name)
        lines.append(Line(name, points, group))
    phases = omegas.groupby("phase", sort=False)["step"].min() if "phase" in omegas else pd.Series(dtype=float)
    return Chart(
        title, "step", "ω", lines, across={} if tau is None else {"τ": tau},
        down={str(phase): step for phase, step in phases.items()},
    )  # fmt: skip
