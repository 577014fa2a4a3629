"""The runs of a trade-off: how each method makes its model, and what is told of it.

What every method gets is the same: the sites, the budget, and so many steps of training in all.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...discovery.select import Where
from ...measure.costs import cost
from ...training.options import names_of
from ...training.phases import Phases
from ...training.task import Task, qualities_of
from ..greedy import remove_at_random, remove_greedily
from ..learn import learn_to_remove
from ..pressure import loss_unit
from ..settings import CALIBRATION, RemovalSettings
from .curve import COLUMNS, CONTROL


@dataclass(frozen=True)
class Asked:
    """What all runs of one `trade_off` have in common."""

    kinds: str | Iterable[str]
    where: Where
    options: Mapping[str, Any]
    settings: RemovalSettings

    @property
    def steps(self) -> int:
        """Of training, in all."""
        return self.settings.soft_steps + self.settings.push_steps + self.settings.tune_steps

    @property
    def schedule(self) -> Callable[[int], float]:
        """Of a training in one piece, as `learn_to_remove` has it in phases."""
        chosen, before = self.settings, self.settings.soft_steps + self.settings.push_steps
        tuned = (chosen.lr if chosen.lr_tune is None else chosen.lr_tune) / chosen.lr
        return lambda step: (
            tuned * chosen.tune_schedule(step - before)
            if step >= before
            else chosen.schedule(min(step, chosen.soft_steps - 1))
        )

    @property
    def of_fit(self) -> dict[str, Any]:
        """The options of the training alone."""
        return {name: value for name, value in self.options.items() if name not in names_of(RemovalSettings)}


Run = Callable[[nn.Module, Task, Mapping[str, float], int, Path | None, Asked], tuple[nn.Module, int]]


def _control(
    model: nn.Module, task: Task, budget: Mapping[str, float], seed: int, folder: Path | None, asked: Asked
) -> tuple[nn.Module, int]:
    net = copy.deepcopy(model)
    unit = loss_unit(model, task, CALIBRATION, freeze_norm=asked.of_fit.get("freeze_norm", False))
    training = Phases(task, folder, None, {}, {**asked.of_fit, "progress": False, "loss_unit": unit})
    training.train_("control", net, asked.steps, lr=asked.settings.lr, schedule=asked.schedule)
    return net, 0


def _learned(
    model: nn.Module, task: Task, budget: Mapping[str, float], seed: int, folder: Path | None, asked: Asked
) -> tuple[nn.Module, int]:
    found = learn_to_remove(
        model, task, kinds=asked.kinds, where=asked.where, budget=budget, folder=folder, progress=False,
        **{**asked.options, "seed": seed},
    )  # fmt: skip
    return found.model, int(found.decisions["removed"].sum())


def _greedy(
    model: nn.Module, task: Task, budget: Mapping[str, float], seed: int, folder: Path | None, asked: Asked,
    rescore: bool = True,
) -> tuple[nn.Module, int]:  # fmt: skip
    found = remove_greedily(
        model, task, kinds=asked.kinds, where=asked.where, budget=budget, rescore=rescore, folder=folder,
        tune_steps=asked.steps, lr=asked.settings.lr, schedule=asked.schedule, progress=False, **asked.of_fit,
    )  # fmt: skip
    return found.model, int(found.decisions["removed"].sum())


def _one_shot(*args: Any) -> tuple[nn.Module, int]:
    return _greedy(*args, rescore=False)


def _random(
    model: nn.Module, task: Task, budget: Mapping[str, float], seed: int, folder: Path | None, asked: Asked
) -> tuple[nn.Module, int]:
    found = remove_at_random(
        model, task, kinds=asked.kinds, where=asked.where, budget=budget, seed=seed, folder=folder,
        tune_steps=asked.steps, lr=asked.settings.lr, schedule=asked.schedule, progress=False, **asked.of_fit,
    )  # fmt: skip
    return found.model, int(found.decisions["removed"].sum())


METHODS: dict[str, Run] = {
    CONTROL: _control, "learned": _learned, "greedy": _greedy, "one shot": _one_shot, "random": _random,
}  # fmt: skip


def measured(model: nn.Module, task: Task, sites: int) -> dict[str, Any]:
    """What is told of a model: its size, and its qualities."""
    found = cost(model, task.example)
    values = qualities_of(task, model, columns=COLUMNS, untouched=False)
    return {"sites": sites, "params": found.params, "macs": found.macs, **values}
