"""Learned removal over λ: what is lost as the pressure rises, and how much goes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ...arguments import number, numbers, whole
from ...discovery.select import Where
from ...experiments.live.pieces import check_workers
from ...measure.environment import conditions_of
from ...passes.channels.dims import SITE
from ...passes.recipe import recipe
from ...training.task import Task, check_task
from .curve import CONTROL, TradeOff
from .runs import LEARNED, Run, asked_for, made

FIXED = ("lam", "budget", "at_most_loss", "seed")  # options of `learn_to_remove` that `lams` and `seeds` stand for


def lambda_path(
    model: nn.Module,
    task: Task,
    *,
    kinds: str | Iterable[str],
    where: Where = None,
    granularity: Literal["site", "channel"] = SITE,
    lams: Sequence[float] = (0.05, 0.15, 0.5, 1.5),
    seeds: int = 3,
    folder: str | Path | None = None,
    workers: int = 0,
    progress: bool = True,
    **options: Any,
) -> TradeOff:
    """Learn to remove at each λ, from the same start and trained equally long, and measure; `model` is left untouched.

    That is `trade_off` over the pressure, not over budgets: where the number of sites that go jumps from none to all, λ
    decides, not the task, and budgets are the better question.

    Args:
        model: Any module; it is copied.
        task: Seed s sees the batches from step s · 1,000,003 on, so that seeds differ.
        kinds: The kinds of site, as for `learn_to_remove`.
        where: Which of these.
        granularity: "channel" learns an ω for each channel of an activation, as in `learn_to_remove`; then `sites` of a
            row are channels.
        lams: The values of λ, each above 0, in units of the task's loss before anything is removed;
            ``lam_unit="absolute"`` takes them as the paper does.
        seeds: How many runs of each.
        folder: As for `trade_off`.
        workers: As for `trade_off`.
        progress: Show a bar.
        **options: Those of `learn_to_remove`.

    Returns:
        As `trade_off`, with the column lam in place of budget: 0 for the original and for the control, which is the
        original trained as long on the same batches. `.plot()` draws over λ, ``.plot(x="removed")`` over the share of
        the multiply-adds that is gone.

    Raises:
        ValueError, TypeError, RuntimeError, CheckpointMismatch: as `trade_off`.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> def batches(step):
    ...     return torch.linspace(-1, 1, 9)[:, None]
    >>> def loss(net, x):
    ...     return (net(x) - 2 * x).square().mean()
    >>> task = Task(batches(0)[:1], batches, loss, lambda net: {"mse": loss(net, batches(0)).item()}, {"mse": "lower"})
    >>> found = lambda_path(net, task, kinds="activation", where="activation.0", lams=[0.01, 0.5], seeds=1,
    ...                     soft_steps=60, push_steps=6, tune_steps=4, lr_omega=0.05, progress=False)
    >>> found.frame[["method", "lam", "steps"]]
         method   lam  steps
    0  original  0.00      0
    1   control  0.00     70
    2   learned  0.01     70
    3   learned  0.50     70
    """
    check_task(task)
    lams = numbers("lambda_path: lams", lams, lambda lam: number("lambda_path: a value in lams", lam, above=0))
    whole("seeds", seeds, least=1)
    check_workers("lambda_path", workers)
    asked = asked_for("lambda_path", model, task, kinds, where, granularity, options, FIXED)
    runs = []
    for seed in range(seeds):
        runs.append(Run(f"{CONTROL}-{seed}", CONTROL, 0.0, {}, seed))
        for lam in lams:
            runs.append(Run(f"{LEARNED}-lam-{lam:.12g}-{seed}", LEARNED, lam, {"lam": lam}, seed))
    frame = made(
        "lambda_path", model, task, asked, runs, varied="lam", unvaried=0.0, folder=folder, workers=workers,
        progress=progress,
    )  # fmt: skip
    settings = {"model": recipe(model).model, "lams": lams, "seeds": seeds, **asked.told}
    return TradeOff(frame, "lam", dict(task.measures), settings, conditions_of(model))
