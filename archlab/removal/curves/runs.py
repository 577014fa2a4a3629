"""The runs of a curve: how each method makes its model, what is told of it, and how each is made once and kept.

What every method gets is the same: the sites, the budget, and so many steps of training in all.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import nn

from ...capture.copies import devices_of
from ...capture.modes import random_states_kept
from ...discovery.select import Where
from ...experiments.live.pieces import Piece, Work, carry_out, parts_of, place_for
from ...measure.costs import cost
from ...passes.channels.dims import SITE, check_granularity
from ...training.identity import fingerprint
from ...training.kept import Kept, kept_of
from ...training.options import names_of
from ...training.phases import Phases
from ...training.progress import bar
from ...training.task import Task, qualities_of
from ..candidates import candidates
from ..greedy import remove_at_random, remove_greedily
from ..learn import Removal, learn_to_remove
from ..merge.remove_to_merge import remove_to_merge
from ..probe.calibration import Calibration
from ..settings import RemovalSettings, fit_options
from .curve import COLUMNS, CONTROL, ORIGINAL
from .warm import Way, has_thin, save_thin

LEARNED, MERGE = "learned", "merge"  # the methods that are learned, and that merge layers
STRIDE = 1_000_003  # batches between the first of one seed and that of the next
KEPT = "cells"  # the folder of the rows, in the user's


@dataclass(frozen=True)
class Asked:
    """What all runs of one call have in common."""

    kinds: str | Iterable[str]
    where: Where
    granularity: Literal["site", "channel"]
    options: Mapping[str, Any]
    settings: RemovalSettings

    @property
    def told(self) -> dict[str, Any]:
        """What was given, by its names; what a site is the whole of goes without saying."""
        finer = {} if self.granularity == SITE else {"granularity": self.granularity}
        return {"kinds": self.kinds, "where": self.where, **finer, **self.options}

    @property
    def steps(self) -> int:
        """Of training, in all, of one run."""
        return self.settings.soft_steps + self.settings.push_steps + self.settings.tune_steps

    @property
    def schedule(self) -> Callable[[int], float]:
        """Of a training in one piece, as `learn_to_remove` has it in phases: the push at the full rate."""
        chosen = self.settings
        before = chosen.soft_steps + (0 if chosen.rewind else chosen.push_steps)
        tuned = (chosen.lr if chosen.lr_tune is None else chosen.lr_tune) / chosen.lr

        def factor(step: int) -> float:
            if step < chosen.soft_steps:
                return chosen.schedule(step)
            return 1.0 if step < before else tuned * chosen.tune_schedule(step - before)

        return factor

    @property
    def of_fit(self) -> dict[str, Any]:
        """The options of the training alone."""
        return {name: value for name, value in self.options.items() if name not in names_of(RemovalSettings)}


@dataclass(frozen=True)
class Start:
    """Where a run begins: with what it has in hand, how much is to go, and where its trainings lie."""

    model: nn.Module
    task: Task
    where: Where
    goal: Mapping[str, Any]  # as keywords of the method; none of a control, and where the budget is met already
    seed: int
    folder: Path | None


Method = Callable[[Start, Asked], tuple[nn.Module, list[str]]]  # the thin model, and which sites went


def _control(start: Start, asked: Asked) -> tuple[nn.Module, list[str]]:
    net = copy.deepcopy(start.model)
    chosen, frozen = asked.settings, asked.of_fit.get("freeze_norm", False)
    calibration = Calibration(start.task, chosen.calibration, freeze_norm=frozen)
    unit = 1.0 if chosen.lam_unit == "absolute" else calibration.unit(start.model)
    training = Phases(start.task, start.folder, None, {}, {**asked.of_fit, "progress": False, "loss_unit": unit})
    if asked.steps:
        training.train_("control", net, asked.steps, lr=chosen.lr, schedule=asked.schedule)
    return net, []


def _learned(start: Start, asked: Asked) -> tuple[nn.Module, list[str]]:
    found = learn_to_remove(
        start.model, start.task, kinds=asked.kinds, where=start.where, granularity=asked.granularity,
        folder=start.folder, progress=False, **{**asked.options, **start.goal, "seed": start.seed},
    )  # fmt: skip
    return found.model, _gone(found)


def _greedy(start: Start, asked: Asked, rescore: bool = True) -> tuple[nn.Module, list[str]]:
    found = remove_greedily(start.model, start.task, rescore=rescore, **_tuned(start, asked))
    return found.model, _gone(found)


def _one_shot(start: Start, asked: Asked) -> tuple[nn.Module, list[str]]:
    return _greedy(start, asked, rescore=False)


def _random(start: Start, asked: Asked) -> tuple[nn.Module, list[str]]:
    found = remove_at_random(start.model, start.task, seed=start.seed, **_tuned(start, asked))
    return found.model, _gone(found)


def _merge(start: Start, asked: Asked) -> tuple[nn.Module, list[str]]:
    found = remove_to_merge(start.model, start.task, **_tuned_as_long(start, asked))
    return found.model, _gone(found)


METHODS: dict[str, Method] = {
    CONTROL: _control, LEARNED: _learned, "greedy": _greedy, "one shot": _one_shot, "random": _random, MERGE: _merge,
}  # fmt: skip


def _tuned(start: Start, asked: Asked) -> dict[str, Any]:
    """The options of a removal without learning that is tuned for as long as a learned one is trained."""
    return {"kinds": asked.kinds, **_tuned_as_long(start, asked)}


def _tuned_as_long(start: Start, asked: Asked) -> dict[str, Any]:
    """The same for one that asks for no kinds."""
    own = {"where": start.where, "folder": start.folder, "tune_steps": asked.steps}
    rates = {"lr": asked.settings.lr, "schedule": asked.schedule, "progress": False}
    return {**own, **rates, **asked.of_fit, **start.goal}


def _gone(found: Removal) -> list[str]:
    return list(found.decisions.loc[found.decisions["removed"], "site"])


@dataclass(frozen=True)
class Run:
    """One row of a curve: a method with one seed."""

    label: str
    method: str
    point: float  # what is varied: the share that may stay, or λ
    goal: Mapping[str, Any]  # as keywords of the method
    seed: int
    before: "Run | None" = None  # the run whose thin network it begins with

    @property
    def chain(self) -> list["Run"]:
        """The runs that were before, and this one."""
        return [*([] if self.before is None else self.before.chain), self]


@dataclass(frozen=True, eq=False)
class Runs:
    """How runs are made. Workers get copies of it.

    Attributes:
        model: It is copied.
        task: Its batches are those of seed 0.
        asked: What the runs have in common.
        kept: What was measured of each.
        place: The folder of what they keep in the middle; None for none.
        by_label: The runs; each stands after the one that it begins with.
    """

    model: nn.Module
    task: Task
    asked: Asked
    kept: Kept
    place: Path | None
    by_label: Mapping[str, Run]

    def is_made(self, label: str) -> bool:
        """Whether a run's row is kept, and the network that others begin with."""
        run = self.by_label[label]
        return self.kept.get(label) is not None and (not self._is_begun_with(run) or has_thin(self._folder(run)))

    def make(self, label: str) -> None:
        """Make a run, and keep its row; it draws the same random numbers wherever it runs."""
        run, steps = self.by_label[label], self.asked.steps
        with random_states_kept(devices_of(self.model), seed=run.seed):
            start = self._start(run, run.seed * STRIDE + (len(run.chain) - 1) * steps)
            made, gone = METHODS[run.method if start.goal else CONTROL](start, self.asked)
            if self._is_begun_with(run):
                save_thin(self._folder(run), made, gone)
            before = 0 if run.before is None else self.kept.get(run.before.label)["sites"]
            self.kept.keep_(label, measured(made, self.task, before + len(gone)))

    def _start(self, run: Run, first: int) -> Start:
        task = replace(self.task, batches=lambda step: self.task.batches(first + step))
        folder = None if self.place is None else self._folder(run)
        model, where, goal = self.model, self.asked.where, run.goal
        if run.before is not None:
            folders = [self._folder(one) for one in run.before.chain]
            way = Way.of(self.model, self.task.example, self.asked.kinds, where, folders)
            model, where = way.thin, way.where()
            goal = {"budget": left} if goal and (left := way.budget(goal["budget"])) else {}
        return Start(model, task, where, goal, run.seed, folder)

    def _is_begun_with(self, run: Run) -> bool:
        return any(other.before is run for other in self.by_label.values())

    def _folder(self, run: Run) -> Path:
        assert self.place is not None
        return self.place / run.label


def measured(model: nn.Module, task: Task, sites: int) -> dict[str, Any]:
    """What is told of a model: its size, and its qualities."""
    found = cost(model, task.example)
    values = qualities_of(task, model, columns=COLUMNS, untouched=False)
    return {"sites": sites, "params": found.params, "macs": found.macs, **values}


def asked_for(
    call: str,
    model: nn.Module,
    task: Task,
    kinds: Any,
    where: Where,
    granularity: Literal["site", "channel"],
    options: Mapping[str, Any],
    fixed: Iterable[str],
) -> Asked:
    """What all runs have in common, checked before any training; `fixed` are the options that the call sets itself."""
    for name in fixed:
        if name in options:
            raise TypeError(f"{call} has no option {name!r}, which is the same or stated for all methods; leave it out")
    if "time_limit_s" in options:
        raise TypeError(f"{call} has no option 'time_limit_s': stop it, and with a folder the next call goes on")
    fit_options(call, options, RemovalSettings)
    check_granularity(f"{call}: granularity", granularity, kinds)
    candidates(model, task.example, kinds=kinds, where=where)
    own = {name: value for name, value in options.items() if name in names_of(RemovalSettings)}
    return Asked(kinds, where, granularity, options, RemovalSettings(**{"lam": None, **own}))


def made(
    call: str,
    model: nn.Module,
    task: Task,
    asked: Asked,
    runs: Iterable[Run],
    *,
    varied: str,
    unvaried: float,
    folder: str | Path | None,
    workers: int,
    progress: bool,
) -> pd.DataFrame:
    """Make all runs that are not kept, and return the frame of all; the first row is the original's.

    `varied` is the column of what is varied, `unvaried` its value for the original.
    """
    runs = list(runs)
    facts = {name: fingerprint(value) if callable(value) else value for name, value in asked.told.items()}
    with place_for(folder, needed=workers > 0 or any(run.before for run in runs)) as place:
        kept = kept_of(None if place is None else place / KEPT, model, task, facts)
        if (untouched := kept.get(ORIGINAL)) is None:  # first of all: what is wrong with the qualities is told at once
            untouched = kept.keep_(ORIGINAL, measured(model, task, 0))
        how = Runs(model, task, asked, kept, place, {run.label: run for run in runs})
        pieces: dict[str, Piece] = {}
        for run in runs:
            needs = {} if run.before is None else {run.before.label: pieces[run.before.label]}
            pieces[run.label] = Piece(run.label, needs)
        with bar(call, len(runs), wanted=progress) as show:
            ended = itertools.count(1)
            carry_out(
                call, list(pieces.values()), Work(how.make, how.is_made, None if place is None else kept.lease),
                workers=workers, lasting=folder is not None, parts={"model": model, **parts_of(task), **asked.told},
                tell=lambda label, outcome: show(next(ended), lambda: f"{label}: {outcome}"),
            )  # fmt: skip
        rows = [{"method": ORIGINAL, varied: unvaried, "seed": 0, "steps": 0, **untouched}]
        for run in runs:
            row = {"method": run.method, varied: run.point, "seed": run.seed, "steps": len(run.chain) * asked.steps}
            rows.append(row | kept.get(run.label))
        return pd.DataFrame(rows)
