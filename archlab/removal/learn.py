"""Learn which sites the task can do without (paper, section 4.3, eq. 3-5), remove them, fine-tune.

The phases are in `phases`, λ and what it is steered to in `pressure`.
"""

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from ..arguments import flag, shown
from ..discovery.select import Where
from ..discovery.site import Site
from ..markup import escaped
from ..measure.costs import cost
from ..measure.environment import conditions_of
from ..names import printable
from ..passes.channels.dims import CHANNEL, SITE, check_granularity
from ..passes.recipe import recipe
from ..passes.survey import sites as surveyed
from ..passes.switch import switch
from ..passes.switch_state import named_omegas, switches_of
from ..report.removal_page import stages, told, write_removal
from ..training.identity import brief
from ..training.options import pick
from ..training.phases import Evaluations, Phases
from ..training.task import Task, check_task
from .budget import Savings
from .candidates import ALL, candidates, inside
from .phases import DECIDED, RemovalPhases, SoftPhase
from .pressure import Goal, Pressure, WithinBudget, WithinLoss, fall_of
from .probe.calibration import Calibration
from .settings import NEAR, RemovalSettings, check_fit_options, fit_options

LEAST_TRAVEL = 3.0  # lr_ω · steps, below which a site may not get across [0, 1] whatever the task says
LOOKS = 20  # so often qualities are measured in the soft phase where λ is steered by them


@dataclass(frozen=True)
class Removal:
    """What `learn_to_remove` found, and how it went.

    Attributes:
        model: The thin model; before `.finished`, the model of the phase that was cut.
        history: One row an update: phase, step, lr, loss (the task's), penalty (not yet times λ); where λ is steered,
            lam (at about 500 of the steps).
        omegas: Tidy: phase, step, site, omega (with a switch a channel, their mean); about 500 points a site.
        decisions: One row a site: site, kind, module (path of the child that is called), the params and macs that go
            with it alone, omega (as learned, before the push), removed, near_tau: whether ω is within 0.1 of τ, or
            where λ is steered, of the last site that went. With ``granularity="channel"`` one row a channel, which is
            the column after the site.
        costs: One row a model, original and thin: model, params, macs of one run of `task.example`.
        qualities: One row an evaluated phase: original, soft, pushed, discarded, tuned.
        left: By measure of the budget, the share of the original that is left; empty where there is no budget.
        settings: method, kinds, where, lam, its unit, sites (the paper's K), lam_per_site, p, tau, keep, budget, steps,
            rates, and, by id, which sites ``kinds="all"`` left out.
        conditions: What the numbers depend on beside the code: date, device, versions, threads, commit.
        finished: False where the time limit came first; the same call with the same folder goes on.
        seconds: Time of training, all calls together.
    """

    model: nn.Module
    history: pd.DataFrame
    omegas: pd.DataFrame
    decisions: pd.DataFrame
    costs: pd.DataFrame
    qualities: pd.DataFrame
    left: dict[str, float]
    settings: dict[str, Any]
    conditions: dict[str, Any]
    finished: bool
    seconds: float

    def report(self, folder: str | Path) -> Path:
        """Write a page for people, ``index.html``: what went, what that saves and costs, curves, settings, conditions.

        It stands alone: one file, which loads nothing and needs no JavaScript. Beside it stand its tables as Markdown,
        LaTeX and CSV: ``table``, the original and what became of it, and ``sites``.

        Args:
            folder: Where to write; it is made. A report that is there already is replaced.

        Returns:
            The path of the page.
        """
        return write_removal(folder, self, model=recipe(self.model).model)

    def __repr__(self) -> str:
        return f"{printable(told(self))}\n{stages(self)}"

    def _repr_html_(self) -> str:
        return f"<div>{escaped(told(self))}</div>{stages(self).html()}"


def costs_of(example: Any, models: Mapping[str, nn.Module]) -> pd.DataFrame:
    """One row a model: model, params, macs of one run."""
    found = {name: cost(model, example) for name, model in models.items()}
    return pd.DataFrame([{"model": name, "params": each.params, "macs": each.macs} for name, each in found.items()])


def with_savings(decisions: pd.DataFrame, sites: Sequence[Site]) -> pd.DataFrame:
    """`decisions`, with what goes with each site alone after its kind: module, params, macs."""
    rows = [{"site": s.id, "module": s.module or "", "params": s.params, "macs": s.macs} for s in sites]
    both = decisions.merge(pd.DataFrame(rows), on="site")
    first = ["site", *(["channel"] if "channel" in both else []), "kind", "module", "params", "macs"]
    return both[[*first, *(name for name in both if name not in first)]]


def learn_to_remove(
    model: nn.Module,
    task: Task,
    *,
    kinds: str | Iterable[str],
    where: Where = None,
    granularity: Literal["site", "channel"] = SITE,
    budget: Mapping[str, float] | None = None,
    at_most_loss: Mapping[str, float] | None = None,
    lam: float | None = None,
    p: float = 1.0,
    tau: float = 0.5,
    keep: Literal["restore", "freeze"] = "restore",
    folder: str | Path | None = None,
    time_limit_s: float | None = None,
    evaluate: bool = False,
    progress: bool = True,
    **options: Any,
) -> Removal:
    """Learn which of the chosen sites the task can do without, remove them, fine-tune; `model` is left untouched.

    Args:
        model: Any module; it is copied.
        task: `task.batches` sees one running step through all phases.
        kinds: The kinds of site, as for `switch`. "all" are those that a pass takes by default, without those that
            conflict, as in `scores`; which and why is in ``.settings["resolved"]``. A block may go, or sites in it.
        where: Which of these, as for `switch`: a glob, a list of globs, or a function of the Site.
        granularity: "channel" learns an ω for each channel of an activation, as `switch` puts them in: what stays of an
            activation works on some channels alone. Then a budget of "activations" is the question.
        budget: By measure, the share of the original that may stay: ``{"macs": 0.6}``; of "macs", "params",
            "activations" (elements through non-linearities: ReLU counts), "latency_ms" (measured, interleaved with
            the original) and "sites" (with granularity="channel", channels). λ is steered until it is met; the sites
            with the largest ω go, the last one may save more than was missing.
        at_most_loss: By quality, by how much it may get worse before tuning: ``{"accuracy": 0.01}``. λ is steered
            until that is used up, and as many sites go as it allows. ``task.measures`` says which way is better.
        lam: Weight λ of the penalty mean(1 - ω^p) (paper, eq. 5; it gives neither λ nor p), where there is no budget;
            default 0.5. Its unit is the task's loss before anything is removed, so it does not depend on how that is
            scaled: with 0.5, removing every site may cost half of that loss. The whole objective is divided by the
            unit, so that rates and `clip_norm`, too, are those of a loss of about 1. ``lam_unit="absolute"`` leaves
            the loss as it is: λ is the paper's. Each site feels λ/K, so λ and K are printed together.
        p: Exponent of the penalty. With 1 every site feels the same pull wherever it is; for another p, ω starts at
            0.01 and stays above it, as the gradient at 0 is none or infinite.
        tau: Without a budget, a site with ω > τ is removed.
        keep: What becomes of the others: "restore" (the original) or "freeze" (the blend at their ω).
        folder: Where the checkpoints lie, one a phase, and the qualities.
        time_limit_s: Seconds after which to stop cleanly, in any phase, with `.finished` False.
        evaluate: Also measure `task.quality` after each phase (five evaluations, not one).
        progress: Show a bar a phase.
        **options: As keywords, too:
            lam_unit: "loss" or "absolute", see `lam`.
            calibration: How many batches the unit is measured on (8).
            weigh: What each site weighs in the penalty: "equal", as in the paper, or what it saves: a measure.
            gate: What ω is while it is learned: "blend", as in the paper; "polarized", with a term that drives ω to 0
                or 1; "straight-through", 0 or 1 at once; "hard-concrete"; "annealed", a sigmoid that gets steeper.
            rewind: Remove from the *original* weights what was decided, and spend `push_steps` on tuning (False).
            seed: Of the noise of "hard-concrete" gates (0).
            soft_steps, push_steps, tune_steps: Updates of each phase (600, 150, 200). `push_steps` 0 thresholds at
                once, as the paper did.
            lr: Rate of the weights (5e-5): half of what a baseline is trained with, as they only adapt.
            lr_omega: Rate of ω (5e-3), without weight decay. Adam moves ω by about its rate a step, so with 600 steps
                it can cross [0, 1] three times; less is warned about.
            lr_tune: Rate of the weights in the last phase; default `lr`.
            schedule, tune_schedule: Factors on the rates of phase 1 and 4, each counting its steps from 0.
            and those of `archlab.training.fit`, in every phase, but for what makes a phase (`penalty`, `groups`,
                `after_step`): among them `optimizer` (Adam, for weights and ω), `clip_norm` (none), `freeze_norm`
                (False), `save_every_s` (60), `settings`.

    Returns:
        The thin model, what was decided, and the histories.

    Raises:
        ValueError: for an option out of range, and what `switch` raises: where no site is chosen, say.
        TypeError: for an unknown option.
        CheckpointMismatch: for a folder of another removal, naming what differs.
        TrainingFailed: where the loss or the weights become NaN or infinite, or the loss diverges.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> linear = Task(
    ...     torch.zeros(1, 1),
    ...     batches=lambda step: torch.linspace(-1, 1, 9)[:, None],
    ...     loss=lambda net, x: (net(x) - 2 * x).square().mean(),
    ...     quality=lambda net: {},
    ... )
    >>> removal = learn_to_remove(net, linear, kinds="activation", lr=1e-2, progress=False)
    >>> removal.decisions[["site", "kind", "removed"]]
               site        kind  removed
    0  activation.0  activation     True
    >>> removal.model
    Sequential(
      (0): Linear(in_features=1, out_features=8, bias=True)
      (1): Identity()
      (2): Linear(in_features=8, out_features=1, bias=True)
    )
    """
    if "judge" in options:
        warnings.warn(
            "learn_to_remove: judge= is evaluate= now; the old word goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        evaluate = options.pop("judge")
    check_task(task)
    flag("evaluate", evaluate)
    of_fit = fit_options("learn_to_remove", options, RemovalSettings)
    chosen = RemovalSettings(
        lam=lam, p=p, tau=tau, keep=keep, budget=budget, at_most_loss=at_most_loss, **pick(RemovalSettings, options)
    )
    check_fit_options(of_fit, steps=chosen.soft_steps, lr=chosen.lr, schedule=chosen.schedule, folder=folder,
                      time_limit_s=time_limit_s, progress=progress)  # fmt: skip
    if chosen.travel < LEAST_TRAVEL:
        warnings.warn(
            f"lr_omega × soft_steps is {chosen.travel:.3g}, below {LEAST_TRAVEL:g}: Adam moves ω by about lr_omega a "
            "step, so sites may stay whatever the task says; raise lr_omega or soft_steps",
            stacklevel=2,
        )
    check_granularity("learn_to_remove: granularity", granularity, kinds)
    if granularity == CHANNEL and keep == "freeze":
        raise ValueError("learn_to_remove: keep='freeze' goes with granularity='site'; of channels take keep='restore'")
    asked = {"method": "learn_to_remove", **as_asked(kinds, where), "granularity": granularity}
    left_out, conflicts, nested = {}, "", kinds == ALL
    if nested:
        among = candidates(model, task.example, kinds=kinds, where=where)
        kinds, where, left_out, conflicts = among.kinds, among.where, among.resolved, among.told()
    soft = switch(model, task.example, kinds=kinds, where=where, granularity=granularity)
    sites = named_omegas(soft)
    calibration = Calibration(task, chosen.calibration, freeze_norm=of_fit.get("freeze_norm", False))
    unit = 1.0 if chosen.lam_unit == "absolute" else calibration.unit(soft)
    evaluations = Evaluations(model, task, folder, wanted=evaluate)
    evaluations.evaluate("original", model)
    channels = {site: len(omega) for site, omega in sites.items() if omega.dim()}
    listed = {site.id: site for site in (among.sites if nested else surveyed(model, task.example, kinds=kinds))}
    savings = _savings(model, task, [listed[site] for site in sites], channels, chosen)
    count = len(savings.switches)
    goal = _goal(chosen, savings, soft, task)
    pressure = Pressure(chosen.first_lam, p=p, weights=_weights(savings, chosen), steps=chosen.soft_steps, goal=goal)
    if progress:
        told = _headline(chosen, f"{count} {savings.unit}", count, unit)
        print(told, *([conflicts] if conflicts else []), sep="\n", file=sys.stderr)
    ops = {site.id: site.op for site in switches_of(soft)[1].sites if site.id in sites}
    own = {
        "sites": ops,
        **chosen.identity(),
        **({"channels": channels} if channels else {}),
        **_judged_by(chosen, task),
    }
    settings = _with_own(of_fit.pop("settings", None) or {}, own)
    trainings = Phases(task, folder, time_limit_s, settings, of_fit | {"progress": progress, "loss_unit": unit})
    run = RemovalPhases(model, soft, chosen, SoftPhase(soft, chosen, pressure), trainings, evaluations, calibration)
    thin = run.soft() and run.push() and run.discard()
    finished = thin and run.tune()
    gone = run.gone()
    if finished:
        _warn(savings, gone, chosen, run.collapse(), nested=nested)
    history, track = trainings.history(set(sites))
    return Removal(
        model=run.now,
        history=history,
        omegas=track,
        decisions=with_savings(run.decisions, savings.sites),
        costs=costs_of(task.example, {"original": model, **({"thin": run.now} if thin else {})}),
        qualities=run.evaluations.frame(),
        left={measure: savings.left(measure, gone) for measure in budget or ()} if finished else {},
        settings=asked | chosen.facts(count, unit) | {"resolved": left_out},
        conditions=conditions_of(model),
        finished=finished,
        seconds=trainings.seconds(),
    )


def as_asked(kinds: str | Iterable[str], where: Where) -> dict[str, Any]:
    """Which sites were asked for, for reports."""
    return {"kinds": kinds, "where": shown(where) if callable(where) else where}


def _judged_by(chosen: RemovalSettings, task: Task) -> dict[str, Any]:
    """What λ is steered by, where that is a quality."""
    if chosen.at_most_loss is None:
        return {}
    return {"better": {name: task.measures.get(name) for name in chosen.at_most_loss}, "quality": brief(task.quality)}


def _with_own(settings: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The user's settings and the removal's `own`, by which the checkpoints of its phases are known."""
    for name in (*own, *DECIDED):
        if name in settings:
            raise ValueError(
                f"settings: {name!r} is one of learn_to_remove's own ({', '.join((*own, *DECIDED))}); rename it"
            )
    return {**settings, **own}


def _savings(
    model: nn.Module, task: Task, sites: Sequence[Site], channels: Mapping[str, int], chosen: RemovalSettings
) -> Savings:
    """What the switches of the sites save of all that the settings ask for."""
    measures = {*(chosen.budget or ()), *({chosen.weigh} - {"equal"})}
    return Savings(model, task.example, sites, sorted(measures), channels)


def _goal(chosen: RemovalSettings, savings: Savings, soft: nn.Module, task: Task) -> Goal | None:
    if chosen.budget is not None:
        return WithinBudget(savings, chosen.budget)
    if chosen.at_most_loss is not None:
        fall = fall_of(soft, task, chosen.at_most_loss)
        return WithinLoss(fall, every=max(1, chosen.soft_steps // LOOKS))
    return None


def _weights(savings: Savings, chosen: RemovalSettings) -> Tensor:
    """What each switch weighs in the penalty; their mean is 1."""
    if chosen.weigh == "equal":
        return torch.ones(len(savings.switches))
    alone = torch.tensor(savings.alone[chosen.weigh]).clamp(min=0)
    if not alone.any():
        raise ValueError(f"weigh={chosen.weigh!r}: none of the {len(alone)} chosen {savings.unit} saves any of it")
    return alone / alone.mean()


def _warn(savings: Savings, gone: Sequence[str], chosen: RemovalSettings, collapse: str, *, nested: bool) -> None:
    """Say what is seldom meant: a collapse; nothing or everything gone; a block with the sites in it, unless they are
    `nested`."""
    count = len(savings.switches)
    if collapse:
        less = "a smaller at_most_loss" if chosen.at_most_loss else "a smaller lam"
        less = "a larger share in budget" if chosen.budget else less
        warnings.warn(
            f"learn_to_remove: the loss is {collapse}: half-open switches made up for one another, which they cannot "
            f"at 0 and 1, so that what was learned is not which sites can go. Choose {less}, or a gate that ends at 0 "
            "or 1 (gate='straight-through'), and compare with remove_greedily",
            stacklevel=3,
        )
    if chosen.steered and not gone:
        warnings.warn(
            f"learn_to_remove: none of {count} {savings.unit} can go within {dict(chosen.at_most_loss or {})}: allow "
            "more",
            stacklevel=3,
        )
    if count > 1 and chosen.first_lam and len(gone) in (0, count):
        told, less = ("all", "a smaller") if gone else ("none", "a larger")
        warnings.warn(
            f"learn_to_remove: {told} of {count} {savings.unit} went: λ decided alone, not the task. "
            f"Choose {less} lam, or a budget",
            stacklevel=3,
        )
    blocks = [site for site in savings.sites if site.id in gone]
    if not nested and (inner := [s.id for s in blocks for block in blocks if inside(s, block)]):
        child = inner[0]
        warnings.warn(
            f"learn_to_remove: {child} and the block around it both went: together they are one removal, counted "
            "twice. Choose kinds that do not hold one another",
            stacklevel=3,
        )


def _headline(settings: RemovalSettings, told: str, sites: int, unit: float) -> str:
    lam, goal = settings.first_lam, settings.budget or settings.at_most_loss
    of = "" if settings.lam_unit == "absolute" else f" (of a loss of {unit:.4g})"
    if lam is None:
        return f"λ steered to {dict(goal or {})}{of}, K = {told}, p = {settings.p:g}"
    return (
        f"λ = {lam:g}{of}, K = {told}, λ/K = {lam / sites:.3g}, p = {settings.p:g}, "
        f"τ = {settings.tau:g} (near: ±{NEAR:g}), ω starts at {settings.omega_start:g}"
    )
