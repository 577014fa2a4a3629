"""The training loop that every study shares: in place, resumable bit for bit, and honest about how it ended.

Why not a library's loop: what is needed is one loop over `batches(step)` whose resume repeats the very same
numbers, and whose file can be read in one sitting. Anything that outgrows one device belongs to accelerate.
"""

import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from .checkpoint import (
    FILE,
    CheckpointMismatch,
    first_difference,
    load_checkpoint,
    random_states,
    save_checkpoint,
    set_random_states_,
    signature,
)
from .history import Ledger, TrainingFailed
from .progress import bar
from .task import Task

PRECISIONS = ("fp32", "bf16")
READ_EVERY = 16  # steps: reading a loss waits for the GPU, so it is done for this many at once there


@dataclass(frozen=True)
class Fit:
    """How a training went: one history row a step (step, loss, lr, and what else was recorded)."""

    history: pd.DataFrame
    finished: bool  # False: the time limit came first; the same call with the same folder goes on
    steps_done: int
    seconds: float  # of training, all calls together
    checkpoint: Path | None


def constant(step: int) -> float:
    """The schedule that leaves the learning rate as it is."""
    return 1.0


def cosine(steps: int, *, warmup: int = 0, final: float = 0.0) -> Callable[[int], float]:
    """A schedule: linear from 0 over `warmup` steps, then half a cosine from 1 to `final` at the last step.

    >>> [round(cosine(5, warmup=2)(step), 2) for step in range(5)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup must be at least 0 and below steps={steps}, got {warmup}")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - 1 - warmup)
        return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return factor


def fit(
    model: nn.Module,
    task: Task,
    *,
    steps: int,
    lr: float = 1e-4,
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] = torch.optim.Adam,
    schedule: Callable[[int], float] = constant,
    precision: str = "fp32",
    clip_norm: float | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    penalty_weight: float = 1.0,
    groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
    after_step: Callable[[nn.Module, int], Mapping[str, float] | None] | None = None,
    folder: str | Path | None = None,
    save_every: int | None = None,
    save_every_s: float = 60.0,
    time_limit_s: float | None = None,
    settings: Mapping[str, Any] | None = None,
    divergence: float = 1e4,
    prefetch: int = 0,
    progress: bool = True,
    title: str = "fit",
    describe: Callable[[nn.Module], str] | None = None,
) -> Fit:
    """Train `model` in place for `steps` updates in all and return how it went.

    With a `folder`, a rerun of the same call goes on from its checkpoint and ends with the very weights of an
    uninterrupted run; a finished one is only loaded. Module modes (train, eval) are put back at the end.

    - `lr` 1e-4 and `optimizer` Adam: the paper's. `optimizer` gets parameter groups that hold their own "lr";
      `functools.partial(torch.optim.AdamW, weight_decay=1e-2)` gives it options. `groups(model)` replaces the
      one group of all parameters that require a gradient.
    - `schedule(step)`: factor on every group's lr (`constant`, `cosine`); the step counts from 0, as in
      `task.batches`, in the history and in errors.
    - `precision` "bf16" runs the loss under autocast; the weights stay as they are.
    - `clip_norm`: largest norm of all gradients together. Default none.
    - `penalty(model)` is added to the loss, times `penalty_weight`; its own value is in the history.
    - `after_step(model, step)` runs after each update; the numbers it returns join that step's history row.
    - `save_every` steps, `save_every_s` seconds (60: a kill costs a minute), whichever comes first.
    - `time_limit_s` stops cleanly after a step, with a checkpoint and `.finished` False.
    - `settings`: JSON-able facts about the task; a checkpoint made with other ones is refused.
    - `divergence`: stop where the mean loss of the last 50 steps exceeds this multiple of the first 50.
      Generous on purpose: removal may raise a trained loss a hundredfold and recover.
    - `prefetch` batches made ahead by a background thread (they must not draw from the global generators).
    - `describe(model)`: a few words for the progress bar (or, without a terminal, the line a minute).

    Raises CheckpointMismatch for another training's checkpoint and TrainingFailed where the loss or the
    weights become NaN or infinite or the loss diverges; both have fields.

    >>> net = nn.Linear(1, 1)
    >>> task = Task(
    ...     torch.ones(1, 1),
    ...     batches=lambda step: torch.full((4, 1), 1.0 + step % 3),
    ...     loss=lambda net, x: (net(x) - 2 * x).square().mean(),
    ...     quality=lambda net: {"error": (net(torch.ones(1, 1)) - 2).abs().item()},
    ... )
    >>> went = fit(net, task, steps=500, lr=0.1, progress=False)
    >>> went.finished, round(net.weight.item(), 1)
    (True, 2.0)
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if prefetch < 0:
        raise ValueError(f"prefetch must be at least 0, got {prefetch}")
    updater = optimizer(_groups(model, groups, lr))
    base_lr = [float(group["lr"]) for group in updater.param_groups]
    parameters = [p for group in updater.param_groups for p in group["params"]]
    device = parameters[0].device
    identity = _identity(updater, schedule, steps, precision, clip_norm, penalty_weight, settings or {})

    rows: list[dict[str, float]] = []
    done, seconds_before, path = 0, 0.0, None
    if folder is not None and (kept := load_checkpoint(folder)) is not None:
        path = Path(folder) / FILE
        _check(path, kept, model, identity)
        model.load_state_dict(kept["model"])
        updater.load_state_dict(kept["optimizer"])
        set_random_states_(kept["random"])
        rows, done, seconds_before = kept["rows"], kept["step"], kept["seconds"]
    ledger = Ledger(rows, divergence, path)
    begun = saved_at = time.monotonic()

    def save() -> None:
        ledger.settle()
        if not all(bool(torch.isfinite(p).all()) for p in parameters):
            raise TrainingFailed("a weight is not finite", done - 1, rows[-1]["loss"], ledger.checkpoint)
        if folder is not None:
            content = {"signature": signature(model), "identity": identity, "model": model.state_dict()}
            content |= {"optimizer": updater.state_dict(), "random": random_states(), "rows": rows, "step": done}
            ledger.checkpoint = save_checkpoint(
                folder, content | {"seconds": seconds_before + time.monotonic() - begun}
            )

    def text() -> str:
        return " · ".join([ledger.text(), *([describe(model)] if describe else [])])

    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        with (
            bar(title, steps, wanted=progress) as show,
            contextlib.closing(_batches(task, range(done, steps), prefetch)) as batches,
        ):
            for step, batch in batches:
                factor = schedule(step)
                for group, rate in zip(updater.param_groups, base_lr, strict=True):
                    group["lr"] = rate * factor
                updater.zero_grad(set_to_none=True)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    loss = task.loss(model, batch)
                if loss.numel() != 1:
                    raise ValueError(f"task.loss must return a scalar, got shape {tuple(loss.shape)}")
                extra = penalty(model) if penalty else None
                (loss if extra is None else loss + penalty_weight * extra).backward()
                if clip_norm is not None:
                    nn.utils.clip_grad_norm_(parameters, clip_norm)
                updater.step()
                ledger.enter(step, base_lr[0] * factor, loss, extra, after_step(model, step) if after_step else None)
                done = step + 1
                if device.type == "cpu" or done % READ_EVERY == 0:
                    ledger.settle()
                now = time.monotonic()
                late = time_limit_s is not None and now - begun >= time_limit_s
                due = (save_every is not None and done % save_every == 0) or now - saved_at >= save_every_s
                if late or done == steps or (due and folder is not None):
                    save()
                    saved_at = time.monotonic()
                show(done, text)
                if late:
                    break
    finally:
        for module, training in modes.items():
            module.training = training
    seconds = seconds_before + time.monotonic() - begun
    return Fit(pd.DataFrame(rows), done >= steps, done, seconds, ledger.checkpoint)


def _groups(
    model: nn.Module, groups: Callable[[nn.Module], list[dict[str, Any]]] | None, lr: float
) -> list[dict[str, Any]]:
    """The optimizer's parameter groups, each with a learning rate."""
    given = groups(model) if groups else [{"params": [p for p in model.parameters() if p.requires_grad]}]
    given = [{"lr": lr, **group, "params": list(group["params"])} for group in given]
    given = [group for group in given if group["params"]]
    if not given:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient: nothing to train")
    return given


def _identity(
    updater: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    steps: int,
    precision: str,
    clip_norm: float | None,
    penalty_weight: float,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on with. A schedule is compared by its values."""
    identity: dict[str, Any] = {
        "steps": steps,
        "precision": precision,
        "clip_norm": clip_norm,
        "penalty_weight": penalty_weight,
        "optimizer": type(updater).__name__,
        "schedule": [float(schedule(steps * quarter // 4)) for quarter in range(4)],
    }
    for index, group in enumerate(updater.param_groups):
        facts = {key: value for key, value in group.items() if key != "params"}
        identity[f"parameter group {index}"] = repr(sorted(facts.items()))
    return identity | {f"settings[{key!r}]": repr(value) for key, value in settings.items()}


def _check(path: Path, kept: Mapping[str, Any], model: nn.Module, identity: Mapping[str, Any]) -> None:
    for key, here in (("signature", signature(model)), ("identity", identity)):
        difference = first_difference(kept[key], here)
        if difference:
            raise CheckpointMismatch(path, difference)


def _batches(task: Task, steps: range, ahead: int) -> Generator[tuple[int, Any], None, None]:
    """Yield (step, batch), made `ahead` of time by one thread where that is asked for."""

    def make(step: int) -> Any:
        with torch.no_grad():
            return task.batches(step)

    if ahead == 0:
        for step in steps:
            yield step, make(step)
        return
    maker = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        waiting = deque((step, maker.submit(make, step)) for step in steps[:ahead])
        later = itertools.islice(steps, ahead, None)
        while waiting:
            step, batch = waiting.popleft()
            ready = batch.result()
            waiting.extend((next_step, maker.submit(make, next_step)) for next_step in itertools.islice(later, 1))
            yield step, ready
    finally:
        maker.shutdown(wait=True, cancel_futures=True)
