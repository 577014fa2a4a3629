"""Quality against cost over budgets, methods and seeds.

Each run is kept as it ends and goes on in the middle, so that a call that was killed continues.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ...arguments import choice, flag, numbers, whole, wrong
from ...discovery.kinds import Kind, kinds_of
from ...discovery.select import Where
from ...experiments.live.pieces import check_workers
from ...measure.environment import conditions_of
from ...passes.channels.dims import CHANNEL, SITE
from ...passes.recipe import recipe
from ...training.task import Task, check_task
from ..budget import LATENCY, Savings, check_budget
from ..candidates import ALL, candidates
from ..merge.savings import PRICES
from ..pressure import check_reachable
from .curve import CONTROL, TradeOff
from .runs import LEARNED, MERGE, METHODS, Run, asked_for, made

# Options of `learn_to_remove` that it must not have here: what goes is said by `budgets` and `seeds`, and all methods
# divide the loss by the same unit.
FIXED = ("lam", "lam_unit", "calibration", "budget", "at_most_loss", "seed")


def trade_off(
    model: nn.Module,
    task: Task,
    *,
    kinds: str | Iterable[str],
    where: Where = None,
    granularity: Literal["site", "channel"] = SITE,
    budgets: Sequence[float] = (0.8, 0.6, 0.4),
    measure: str = "macs",
    methods: Sequence[str] = ("learned", "greedy", "random"),
    seeds: int = 3,
    warm_start: bool = False,
    folder: str | Path | None = None,
    workers: int = 0,
    progress: bool = True,
    **options: Any,
) -> TradeOff:
    """Remove sites of `model` to each budget by each method, train all equally long, and measure; `model` is left.

    Args:
        model: Any module; it is copied.
        task: Seed s sees the batches from step s · 1,000,003 on, so that seeds differ.
        kinds: The kinds of site, as for `learn_to_remove`.
        where: Which of these.
        granularity: "channel" learns an ω for each channel of an activation, as in `learn_to_remove`, with a budget of
            "activations" or "sites", which are channels then: for methods=["learned"] alone, without warm starts.
        budgets: The shares of `measure` that may stay, each above 0 and below 1.
        measure: "macs", "params", "activations", "latency_ms" or "sites", as for `learn_to_remove`.
        methods: Of "learned" (`learn_to_remove`), "greedy" (`remove_greedily`), "one shot" (the same, scored once),
            "random" (`remove_at_random`) and "merge" (`remove_to_merge`: with kinds="activation", a measure of "macs",
            "params" or "latency_ms", and without warm starts, as its networks are merged). Where nothing is merged,
            activations save neither "macs" nor "params": with these "merge" goes alone.
        seeds: How many runs of each.
        warm_start: False, the honest default, begins each run with the original, so that all rows have as many steps of
            training and no budget depends on another. True begins the largest budget so, and each smaller one with the
            thin network of the next larger: cheaper for the same quality, perhaps, but its rows are trained longer, as
            their `steps` say. Beside each stands a control that was trained as long, on the same batches and in as many
            pieces; `.summary()` compares with that one.
        folder: Where each run is kept; the same call goes on from there after a kill, in the middle of a training.
            Several processes or machines that make the same call with one folder share the runs.
        workers: 0 makes the runs here, one after another; else so many processes do, with the same results to the bit.
            Each gets a copy of the model and the task by cloudpickle: what they are made of may stand in a notebook,
            but not hold open files, locks or generators. Each computes with as many threads as this process, so set
            ``torch.set_num_threads(cores // workers)`` before; all use the model's device. What `latency_ms` measures
            does not bear neighbours.
        progress: Show a bar.
        **options: Those of `learn_to_remove`, but for λ and its unit. The other methods tune for as many steps as it
            trains in all.

    Returns:
        The frame, with a table and a plot; beside the methods the original, and for each seed a control: the original
        trained as long on the same batches.

    Raises:
        ValueError: for an option out of range, and a budget that cannot be met. What a run raises names it, after the
            other runs were made and kept, where there is a folder.
        RuntimeError: for a run that failed in a worker or whose worker was killed, likewise.
        TypeError: for an option that it has not; with workers, for what cannot be pickled, naming it.
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
    shares = numbers("trade_off: budgets", budgets, lambda share: check_budget({measure: share}))
    if isinstance(methods, str) or not isinstance(methods, Sequence) or not methods:
        raise TypeError(wrong("trade_off: methods", "a list of one method or more", methods))
    for method in methods:
        choice("methods", method, [name for name in METHODS if name != CONTROL])
    whole("seeds", seeds, least=1)
    flag("trade_off: warm_start", warm_start)
    check_workers("trade_off", workers)
    if workers and LATENCY in (measure, options.get("weigh")):
        raise ValueError(f"trade_off: {LATENCY!r} is measured, which runs beside it disturb; leave workers=0 for it")
    _check_methods(methods, kinds, granularity, measure, warm_start)
    asked = asked_for("trade_off", model, task, kinds, where, granularity, options, FIXED)
    if measure != LATENCY and MERGE not in methods:  # before hours of training
        sites = candidates(model, task.example, kinds=kinds, where=where).sites
        check_reachable(Savings(model, task.example, sites, [measure]), {measure: min(shares)})
    if warm_start:
        shares.sort(reverse=True)
    runs = []
    for seed in range(seeds):
        stages = len(shares) if warm_start else 1
        runs += _row(CONTROL, [1.0] * stages, seed, measure, warm_start)
        for method in dict.fromkeys(methods):
            runs += _row(method, shares, seed, measure, warm_start)
    frame = made(
        "trade_off", model, task, asked, runs, varied="budget", unvaried=1.0, folder=folder, workers=workers,
        progress=progress,
    )  # fmt: skip
    said = {"budgets": shares, "measure": measure, "methods": list(methods), "seeds": seeds, "warm_start": warm_start}
    settings = {"model": recipe(model).model, **said, **asked.told}
    return TradeOff(frame, measure, dict(task.measures), settings, conditions_of(model))


def _check_methods(
    methods: Sequence[str], kinds: str | Iterable[str], granularity: str, measure: str, warm_start: bool
) -> None:
    """Raise ValueError where a method cannot do what is asked for."""
    if granularity == CHANNEL:
        if others := [method for method in methods if method != LEARNED]:
            raise ValueError(
                f"trade_off: {others[0]!r} removes whole sites; granularity='channel' goes with methods=['learned']"
            )
        if warm_start:
            raise ValueError("trade_off: warm_start goes on with whole sites, not with granularity='channel'; leave it")
    if MERGE in methods:
        if kinds == ALL or kinds_of(kinds) != (Kind.ACTIVATION,):
            raise ValueError(
                f"trade_off: 'merge' removes activations, so that layers can merge: it goes with kinds='activation' "
                f"alone; got kinds={kinds!r}"
            )
        choice("trade_off: the measure of 'merge'", measure, tuple(PRICES))
        if measure != LATENCY and (others := [method for method in methods if method != MERGE]):
            raise ValueError(
                f"trade_off: {others[0]!r} merges nothing, and activations alone save no {measure}: give it kinds of "
                "site that do, and 'merge' a call of its own"
            )
        if warm_start:
            raise ValueError("trade_off: 'merge' ends with merged layers, of which no run can begin; leave warm_start")


def _row(method: str, shares: Sequence[float], seed: int, measure: str, warm_start: bool) -> list[Run]:
    """The runs of one method and seed. A label says all that a run depends on, so that other calls find it, too."""
    runs: list[Run] = []
    for number, share in enumerate(shares, 1):
        before = runs[-1] if warm_start and runs else None
        if method == CONTROL:
            label, goal = f"{CONTROL}-{seed}" + (f"-times-{number}" if number > 1 else ""), {}
        else:
            way = [f"{one:.12g}" for one in (shares[:number] if warm_start else [share])]
            label, goal = f"{method}-{measure}-{'-then-'.join(way)}-{seed}", {"budget": {measure: share}}
        runs.append(Run(label, method, share, goal, seed, before))
    return runs
