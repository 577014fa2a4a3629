"""Quality against cost over budgets, methods and seeds.

Each run is kept as it ends and goes on in the middle, so that a call that was killed continues.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ...arguments import choice, whole
from ...discovery.select import Where
from ...measure.environment import conditions_of
from ...passes.recipe import recipe
from ...training.fit import GROUPS
from ...training.identity import fingerprint
from ...training.kept import Kept
from ...training.options import check_names, names_of
from ...training.progress import bar
from ...training.task import Task, check_task
from ..budget import check_budget
from ..candidates import candidates
from ..settings import RemovalSettings
from .curve import CONTROL, ORIGINAL, TradeOff
from .runs import METHODS, Asked, measured

STRIDE = 1_000_003  # batches between the first of one seed and that of the next
# Options of `learn_to_remove` that it must not have here: what goes is said by `budgets` and `seeds`, and all methods
# divide the loss by the same unit.
FIXED = ("lam", "lam_unit", "calibration", "budget", "at_most_loss", "seed")


def trade_off(
    model: nn.Module,
    task: Task,
    *,
    kinds: str | Iterable[str],
    where: Where = None,
    budgets: Sequence[float] = (0.8, 0.6, 0.4),
    measure: str = "macs",
    methods: Sequence[str] = ("learned", "greedy", "random"),
    seeds: int = 3,
    folder: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> TradeOff:
    """Remove sites of `model` to each budget by each method, train all equally long, and measure; `model` is left.

    Args:
        model: Any module; it is copied.
        task: Seed s sees the batches from step s · 1,000,003 on, so that seeds differ.
        kinds: The kinds of site, as for `learn_to_remove`.
        where: Which of these.
        budgets: The shares of `measure` that may stay, each above 0 and below 1.
        measure: "macs", "params", "activations", "latency_ms" or "sites", as for `learn_to_remove`.
        methods: Of "learned" (`learn_to_remove`), "greedy" (`remove_greedily`), "one shot" (the same, scored once) and
            "random" (`remove_at_random`).
        seeds: How many runs of each.
        folder: Where each run is kept; the same call goes on from there.
        progress: Show a bar.
        **options: Those of `learn_to_remove`, but for λ and its unit. The other methods tune for as many steps as it
            trains in all.

    Returns:
        The frame, with a table and a plot; beside the methods the original, and for each seed a control: the original
        trained as long on the same batches.

    Raises:
        ValueError: for an option out of range, and a budget that cannot be met.
        TypeError: for an option that it has not.
        CheckpointMismatch: for a folder of another trade-off.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> def batches(step):
    ...     return torch.linspace(-1, 1, 9)[:, None]
    >>> def loss(net, x):
    ...     return (net(x) - 2 * x).square().mean()
    >>> task = Task(batches(0)[:1], batches, loss, lambda net: {"mse": loss(net, batches(0)).item()}, {"mse": "lower"})
    >>> found = trade_off(net, task, kinds="activation", budgets=[0.5], measure="sites", methods=["random"], seeds=2,
    ...                   soft_steps=600, progress=False)
    >>> found.frame[["method", "budget", "seed", "sites"]]
         method  budget  seed  sites
    0  original     1.0     0      0
    1   control     1.0     0      0
    2    random     0.5     0      1
    3   control     1.0     1      0
    4    random     0.5     1      1
    """
    check_task(task)
    for share in budgets:
        check_budget({measure: share})
    for method in methods:
        choice("methods", method, METHODS)
    whole("seeds", seeds, least=1)
    for name in FIXED:
        if name in options:
            raise TypeError(
                f"trade_off has no option {name!r}, which is the same or stated for all methods; leave it out"
            )
    check_names("trade_off", options, RemovalSettings, *GROUPS)
    candidates(model, task.example, kinds=kinds, where=where)  # what is wrong with them is told before any training
    own = {name: value for name, value in options.items() if name in names_of(RemovalSettings)}
    asked = Asked(kinds, where, options, RemovalSettings(**{"lam": None, **own}))
    told = {"kinds": kinds, "where": where, **options}
    facts = {name: fingerprint(value) if callable(value) else value for name, value in told.items()}
    kept = Kept(None if folder is None else Path(folder) / "trade_off.json", model, task, facts)
    runs = [(CONTROL, 1.0, seed) for seed in range(seeds)]
    runs += [(method, share, seed) for seed in range(seeds) for method in methods for share in budgets]
    runs.sort(key=lambda run: run[2])
    rows = [{"method": ORIGINAL, "budget": 1.0, "seed": 0, **measured(model, task, 0)}]
    with bar("trade-off", len(runs), wanted=progress) as show:
        for done, (method, share, seed) in enumerate(runs, 1):
            key = f"{method}-{measure}-{share:g}-{seed}"
            row = kept.get(key)
            if row is None:
                of_seed = replace(task, batches=lambda step, first=seed * STRIDE: task.batches(first + step))
                place = None if folder is None else Path(folder) / key
                made, sites = METHODS[method](model, of_seed, {measure: share}, seed, place, asked)
                row = kept.keep_(key, {"method": method, "budget": share, "seed": seed, **measured(made, task, sites)})
            rows.append(row)
            show(done, lambda key=key: key)
    asked_for = {"budgets": list(budgets), "measure": measure, "methods": list(methods), "seeds": seeds}
    settings = {"model": recipe(model).model, **asked_for, **told}
    return TradeOff(pd.DataFrame(rows), measure, dict(task.measures), settings, conditions_of(model))
