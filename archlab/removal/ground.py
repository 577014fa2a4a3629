"""What a removal without learning stands on: how much is to go, what may, and how it is carried out.

It must be comparable with a learned removal, and shares its budgets, its goals, its tuning and its result.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ..arguments import flag, number, whole
from ..discovery.select import Where
from ..measure.environment import conditions_of
from ..passes.switch import switch
from ..training.optimization import MOST_STEPS
from ..training.phases import Evaluations, Phases
from ..training.task import Task, check_task
from .budget import Savings, check_budget, check_shares
from .candidates import candidates, inside
from .learn import Removal, as_asked, costs_of, with_savings
from .pressure import WithinBudget, WithinLoss, fall_of
from .probe.calibration import Calibration
from .settings import CALIBRATION, check_fit_options, fit_options


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How much is to go, and how the rest is tuned. `remove_greedily` describes each."""

    call: str  # the function that was called, for errors
    budget: Mapping[str, float] | None
    at_most_loss: Mapping[str, float] | None
    tune_steps: int
    lr: float
    folder: str | Path | None
    time_limit_s: float | None
    evaluate: bool
    progress: bool
    options: Mapping[str, Any]
    of_fit: dict[str, Any] = field(init=False)

    def __post_init__(self):
        flag("evaluate", self.evaluate)
        whole("tune_steps", self.tune_steps, least=0, most=MOST_STEPS)
        number("lr", self.lr, above=0)
        object.__setattr__(self, "of_fit", fit_options(self.call, self.options) | {"progress": self.progress})
        check_fit_options(
            self.of_fit, steps=max(1, self.tune_steps), lr=self.lr, folder=self.folder, time_limit_s=self.time_limit_s
        )
        if (self.budget is None) == (self.at_most_loss is None):
            told = "neither was given" if self.budget is None else "both were given"
            raise ValueError(f"{self.call}: either budget or at_most_loss says how much is to go; {told}")
        if self.budget is not None:
            check_budget(self.budget)
        if self.at_most_loss is not None:
            check_shares("at_most_loss", self.at_most_loss, "{'accuracy': 0.01}")

    def facts(self) -> dict[str, Any]:
        """For reports."""
        goals = {
            name: goal and dict(goal) for name, goal in (("budget", self.budget), ("at_most_loss", self.at_most_loss))
        }
        return {"method": self.call, **goals, "tune_steps": self.tune_steps, "lr": self.lr}


class Ground:
    """The sites of a model that may go, what they save, the goal, and how a choice of them is carried out.

    Attributes:
        soft: The model with a switch at each site, all at 0, in evaluation mode.
        sites: Their ids.
        saved: By id, what each saves alone of all that the budget asks for; without a budget, 1.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        terms: Terms,
        *,
        kinds: str | Iterable[str],
        where: Where,
        savings: Callable[..., Savings] = Savings,
    ):
        check_task(task)
        self.model, self.task, self.terms = model, task, terms
        self.asked = as_asked(kinds, where)
        self.found = candidates(model, task.example, kinds=kinds, where=where)
        self.by_id = {site.id: site for site in self.found.sites}
        self.sites = list(self.by_id)
        self.soft = switch(model, task.example, kinds=self.found.kinds, where=self.found.where)
        frozen = terms.of_fit.get("freeze_norm", False)
        self.unit = Calibration(task, CALIBRATION, freeze_norm=frozen).unit(self.soft)
        self.soft.eval()
        self.savings = savings(model, task.example, self.found.sites, sorted(terms.budget or ()))
        self.saved = dict(zip(self.sites, self._saved(), strict=True))
        self.goal = (
            WithinLoss(fall_of(self.soft, task, terms.at_most_loss), every=1)
            if terms.at_most_loss is not None
            else WithinBudget(self.savings, terms.budget or {})
        )

    def _saved(self) -> list[float]:
        if self.terms.budget is None:
            return [1.0] * len(self.sites)
        parts = ([one / (1 - share) for one in self.savings.alone[name]] for name, share in self.terms.budget.items())
        return [sum(part) for part in zip(*parts, strict=True)]

    def tell(self, how: str) -> None:
        """Print what is about to be done."""
        if self.terms.progress:
            goal = dict(self.terms.budget or self.terms.at_most_loss or {})
            print(f"{len(self.sites)} sites go {how}, to {goal}. {self.found.told()}".rstrip(), file=sys.stderr)

    def ordered(self, costs: Mapping[str, float], among: Iterable[str]) -> list[str]:
        """Sites by their cost for what they save, lowest first; those that save nothing, or cost nobody knows, last."""

        def key(site: str) -> tuple[bool, bool, float]:
            cost, saved = costs[site], self.saved[site]
            unknown = math.isnan(cost)
            return saved <= 0, unknown, 0.0 if unknown else cost / saved if saved > 0 else cost

        return sorted(among, key=key)

    def open(self, gone: Sequence[str]) -> list[str]:
        """The sites that can still go: not those inside a block that has."""
        blocks = [self.by_id[site] for site in gone]
        return [s for s in self.sites if s not in gone and not any(inside(self.by_id[s], block) for block in blocks)]

    def is_met(self, gone: Sequence[str]) -> bool:
        """Whether a budget is met; no further site need go."""
        return self.terms.budget is not None and self.savings.over(self.terms.budget, gone) <= 0

    def allows(self, gone: Sequence[str]) -> bool:
        """Whether the qualities allow that these sites go."""
        return not isinstance(self.goal, WithinLoss) or self.goal.fall(gone) <= 1

    def first_of(self, order: Sequence[str]) -> list[str]:
        """As many of the first sites as the goal asks for, without those inside a block that went before."""
        taken: list[str] = []
        for site in order:
            if site in self.open(taken):
                taken.append(site)
        return taken[: self.goal.choose(taken, len(taken))]

    def carried_out(self, gone: Sequence[str], scores: Mapping[str, float], how: Mapping[str, Any]) -> Removal:
        """Remove these sites from the original, and tune."""
        if self.terms.budget is not None and self.savings.over(self.terms.budget, gone) > 0:
            warnings.warn(
                f"{self.terms.call}: the budget is not met: the {len(gone)} sites that went, with those inside them, "
                "are all that can go. Choose a larger share, or kinds that do not hold one another",
                stacklevel=3,
            )
        if self.terms.at_most_loss is not None and not gone:
            warnings.warn(
                f"{self.terms.call}: none of {len(self.savings.sites)} sites can go within "
                f"{dict(self.terms.at_most_loss)}: allow more",
                stacklevel=3,
            )
        decided = {"removed": list(gone)}
        evaluations = Evaluations(self.model, self.task, self.terms.folder, wanted=self.terms.evaluate)
        evaluations.evaluate("original", self.model)
        thin = self.savings.to_tune(gone)
        evaluations.evaluate("discarded", thin, decided)
        options = {**self.terms.of_fit, "loss_unit": self.unit}
        settings = {**(options.pop("settings", None) or {}), "method": self.terms.call, **decided}
        tuning = Phases(self.task, self.terms.folder, self.terms.time_limit_s, settings, options)
        finished = self.terms.tune_steps == 0 or tuning.train_("tune", thin, self.terms.tune_steps, lr=self.terms.lr)
        if finished and self.terms.tune_steps:
            evaluations.evaluate("tuned", thin, decided)
        if finished:
            thin = self.savings.tuned(thin)
        history, track = tuning.history(set())
        rows = [
            {"site": site.id, "kind": site.kind.value, "score": scores.get(site.id, math.nan),
             "removed": site.id in gone, "order": gone.index(site.id) + 1 if site.id in gone else 0}
            for site in self.found.sites
        ]  # fmt: skip
        facts = {"sites": len(self.sites), "loss_unit": self.unit, "resolved": self.found.resolved}
        return Removal(
            model=thin,
            history=history,
            omegas=track,
            decisions=with_savings(pd.DataFrame(rows), self.found.sites),
            costs=costs_of(self.task.example, {"original": self.model, "thin": thin}),
            qualities=evaluations.frame(),
            left={measure: self.savings.left(measure, gone) for measure in self.terms.budget or ()},
            settings={**self.terms.facts(), **self.asked, **facts, **how},
            conditions=conditions_of(self.model),
            finished=finished,
            seconds=tuning.seconds(),
        )
