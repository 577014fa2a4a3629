"""The training loop that every study shares: in place, resumable bit for bit, and honest about how it ended.

Why not a library's loop: what is needed is one loop over `batches(step)` whose resume repeats the very same
numbers, and whose file can be read in one sitting. What outgrows one device is shared out by `together`.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..arguments import shown, wrong
from .checkpoint import (
    FILE,
    BadCheckpoint,
    Checkpointing,
    check_complete,
    load_checkpoint,
    put_buffers_,
    put_precision_back_,
    random_states,
    save_checkpoint,
    set_random_states_,
    unsaved_buffers,
)
from .history import History
from .identity import check_same, modules_of, settings_of, start_of
from .optimization import Optimization, Schedule, constant, factor_at
from .options import check_names, pick
from .progress import Display, bar
from .task import NO_VALUES, OF_THE_OUTPUT, Task, check_task, loss_of, numbered_batches
from .together import (
    any_process,
    average_gradients_,
    check_same_step,
    check_same_weights,
    is_first,
    share_of,
    wait_for_all,
    with_mean_value,
)

GROUPS = (Optimization, Checkpointing, Display)  # of the options of `fit`
READ_EVERY = 16  # steps: reading a loss waits for the GPU, so it is done for this many at once there


@dataclass(frozen=True)
class Fit:
    """How a training went.

    Attributes:
        history: One row an update: step, lr, loss, penalty where there is one, and what `after_step` returned.
        finished: False where the time limit came first; the same call with the same folder goes on.
        steps_done: Updates, all calls together.
        seconds: Time of training, all calls together.
        checkpoint: The last one written, or None.
    """

    history: pd.DataFrame
    finished: bool
    steps_done: int
    seconds: float
    checkpoint: Path | None


def fit(
    model: nn.Module,
    task: Task,
    *,
    steps: int,
    lr: float = 1e-4,
    schedule: Schedule = constant,
    precision: str = "fp32",
    clip_norm: float | None = None,
    folder: str | Path | None = None,
    time_limit_s: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Fit:
    """Train `model` in place for `steps` updates in all and return how it went.

    With a `folder`, a rerun of the same call goes on from its checkpoint and ends with the very weights of an
    uninterrupted run; a finished one is only loaded. Module modes (train, eval) are put back at the end.

    In several processes (`archlab.experiments.launch`, ``accelerate launch``, ``torchrun``) each takes its share of
    every batch, gradients are averaged, and the first one writes. All must begin with the same weights.

    Args:
        model: Trained in place.
        task: Its `batches` and `loss` are used.
        steps: Updates in all, whatever number of calls they take.
        lr: Learning rate; 1e-4, with Adam, is the paper's.
        schedule: ``schedule(step)``, a factor on every group's lr (`constant`, `cosine`). The step counts from 0, as
            in `task.batches`, in the history and in errors.
        precision: "fp32", or "bf16" to run the loss under autocast; the weights stay as they are.
        clip_norm: Largest norm of all gradients together; default none.
        folder: Where the checkpoint lies. One of another training is refused: of another network, other weights to
            begin with, another first batch, loss or penalty, other options or `task.settings`.
        time_limit_s: Seconds after which to stop cleanly after a step, with a checkpoint and `.finished` False.
        progress: Show a bar, or without a terminal a line a minute.
        **options: As keywords, too:
            optimizer: Makes the optimizer of parameter groups that hold their own "lr"; default `torch.optim.Adam`.
                ``functools.partial(torch.optim.AdamW, weight_decay=1e-2)`` gives it options.
            groups: ``groups(model)``, in place of the one group of all parameters that require a gradient.
            penalty, penalty_weight: ``penalty(model)``, a scalar, is added to the loss, times the weight (1; or
                ``weight(step)``); its own value is in the history.
            loss_unit: The loss is divided by it before the penalty is added (1); the history keeps the loss as it is.
            freeze_norm: Keep the running statistics of normalization (BatchNorm and its kin) as they are: these modules
                stay in eval mode (False). Their affine parameters are still trained.
            stateful: An object whose ``state_dict()`` is kept in the checkpoint and given back to its
                ``load_state_dict(state)``: what `penalty` and `after_step` remember, say.
            after_backward: ``after_backward(model)`` runs when all gradients are there, before they are averaged over
                processes and clipped.
            after_step: ``after_step(model, step)`` runs after each update; the numbers it returns join that row of the
                history.
            prefetch: Batches made ahead by a background thread (0); they must not draw from the global generators.
            divergence: Stop where the mean loss of the last 50 steps exceeds this multiple of the first 50. 1e4,
                generous on purpose: removal may raise a trained loss a hundredfold and recover.
            save_every, save_every_s: Updates (no limit) and seconds (60: a kill costs a minute) between checkpoints,
                whichever comes first.
            settings: JSON-able facts about the training; a checkpoint made with other ones is refused.
            title, describe: The title of the bar ("fit"), and ``describe(model)``, a few words beside it.

    Returns:
        The history, and whether the training came to its end.

    Raises:
        CheckpointMismatch: for another training's checkpoint, naming what differs.
        BadCheckpoint: for a file in its place that is none.
        TrainingFailed: where the loss or the weights become NaN or infinite, or the loss diverges.
        ValueError: for an option out of range.
        TypeError: for an unknown option.

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
    options |= {"steps": steps, "lr": lr, "schedule": schedule, "precision": precision, "clip_norm": clip_norm}
    options |= {"folder": folder, "time_limit_s": time_limit_s, "progress": progress}
    if not isinstance(model, nn.Module):
        raise TypeError(wrong("model", "a torch.nn.Module", model))
    check_task(task)
    check_names("fit", options, *GROUPS)
    if not torch.is_grad_enabled():
        raise ValueError("fit: gradients are off here; call it outside of torch.no_grad() and torch.inference_mode()")
    optimization = Optimization(**pick(Optimization, options))
    checkpointing = Checkpointing(**pick(Checkpointing, options))
    display = Display(**pick(Display, options))
    training = Training(model, task, optimization, checkpointing)
    training.resume_()
    training.run_(display)
    return training.result()


def _is_archlabs(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "").startswith(f"{__name__.partition('.')[0]}.")


class Training:
    """One training under way: resumed, run until its end or its time limit, and told as a `Fit`."""

    def __init__(self, model: nn.Module, task: Task, optimization: Optimization, checkpointing: Checkpointing):
        self.model, self.task, self.optimization, self.checkpointing = model, task, optimization, checkpointing
        self.optimizer = optimization.optimizer_for(model)
        self.base_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.parameters: list[Tensor] = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        if self.device.type == "meta":
            raise ValueError(f"the model {NO_VALUES}")
        self.frozen = frozen_norms(model, optimization.freeze_norm)
        self.identity: dict[str, Any] = {}  # these two where there is a folder: by them a checkpoint is known
        self.start: dict[str, Any] = {}
        self.history = History([], divergence=optimization.divergence, checkpoint=None)
        self.steps_done, self.seconds_before = 0, 0.0
        self.reached = False  # that the loss gives a gradient to what is trained, seen at the first update
        self.begun = self.saved_at = time.monotonic()

    def resume_(self) -> None:
        """Put everything back to the checkpoint in the folder, where there is one."""
        folder = self.checkpointing.folder
        if folder is not None:
            saved, path = load_checkpoint(folder), Path(folder) / FILE
            functions = {"task.loss": self.task.loss, "penalty": self.optimization.penalty}
            weight = self.optimization.penalty_weight
            if callable(weight) and not _is_archlabs(weight):  # a removal's own depends on λ, which its state has
                functions["penalty_weight"] = weight
            self.identity, self.start = self._identity(), start_of(self.model, self.task, functions)
            if saved is not None:
                check_complete(path, saved, [name for group in self._trained() for name in group])
                check_same(path, saved, self.model, self.identity, self.start)
                self._restore_(path, saved)
        check_same_step(self.steps_done, self.device)
        check_same_weights(self.model)
        self.begun = self.saved_at = time.monotonic()

    def _restore_(self, path: Path, saved: dict[str, Any]) -> None:
        """Take all from a checkpoint that was seen to be of this training; the network last, as it is the caller's."""
        before = random_states()
        try:
            self.optimizer.load_state_dict(saved["optimizer"])
            put_precision_back_(self.optimizer, saved["optimizer"])
            set_random_states_(saved["random"])
            if self.optimization.stateful is not None:
                self.optimization.stateful.load_state_dict(saved["stateful"])
            self.model.load_state_dict(saved["model"])
            put_buffers_(self.model, saved.get("buffers", {}))  # most models have none
        except Exception as error:
            set_random_states_(before)
            raise BadCheckpoint(path, f"it cannot be put back: {error}") from error
        self.start = saved["start"]
        self.history = History(saved["rows"], divergence=self.optimization.divergence, checkpoint=path)
        self.steps_done, self.seconds_before = saved["step"], saved["seconds"]
        self.reached = self.steps_done > 0  # seen then

    def run_(self, display: Display) -> None:
        """Update until the last step or the time limit, saving in between."""
        steps = self.optimization.steps
        todo = range(self.steps_done, steps)
        with (
            training_mode(self.model),
            bar(display.title, steps, wanted=display.progress and is_first()) as show,
            contextlib.closing(numbered_batches(self.task, todo, prefetch=self.optimization.prefetch)) as batches,
        ):
            for step, batch in batches:
                self.update_(step, batch)
                if self.device.type == "cpu" or self.steps_done % READ_EVERY == 0:
                    self.history.flush()
                now = time.monotonic()
                late = self.is_late(now)
                if late or self.steps_done == steps or self.checkpointing.is_due(self.steps_done, now - self.saved_at):
                    self.save()
                show(self.steps_done, lambda: self.text(display))
                if late:
                    break
        wait_for_all()  # before anyone looks for what the first one writes

    def is_late(self, now: float) -> bool:
        """Whether the time limit has come, in any of the processes that train together."""
        late = self.checkpointing.is_late(now - self.begun)
        return late if self.checkpointing.time_limit_s is None else any_process(late, self.device)

    def update_(self, step: int, batch: Any) -> None:
        """One update of the weights: rates, loss, gradients, optimizer, history."""
        chosen, model = self.optimization, self.model
        # The schedule is a factor on each group's own rate, so groups keep their ratio.
        factor = factor_at(chosen.schedule, step)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * factor
        self.optimizer.zero_grad(set_to_none=True)
        for norm in self.frozen:  # anew, as what evaluates the model in between may have switched its mode
            norm.training = False
        with torch.autocast(self.device.type, torch.bfloat16, enabled=chosen.precision == "bf16"):
            loss = loss_of(self.task, model, share_of(batch), step)
        if any(norm.training for norm in self.frozen):
            raise ValueError(
                "freeze_norm: task.loss must not call model.train(), which unfreezes the norms; leave it out"
            )
        if not loss.requires_grad or loss.is_complex():
            raise ValueError(f"task.loss must be a real number with a gradient, got {shown(loss)}; {OF_THE_OUTPUT}")
        loss = with_mean_value(loss)
        penalty = chosen.penalty(model) if chosen.penalty else None
        whole = loss / chosen.loss_unit
        weighted = None if penalty is None else chosen.weight_of_penalty(step) * penalty
        if self.reached:
            (whole if weighted is None else whole + weighted).backward()
        else:  # the loss apart, to see that it moves the model: else the penalty alone would decide
            whole.backward(retain_graph=weighted is not None)
            self.note_reached()
            if weighted is not None:
                weighted.backward()
        if chosen.after_backward is not None:
            chosen.after_backward(model)
        average_gradients_(self.parameters)
        if chosen.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, chosen.clip_norm)
        self.optimizer.step()
        extra = chosen.after_step(model, step) if chosen.after_step else None
        self.history.append(step, self.base_lrs[0] * factor, loss, penalty, extra)
        self.steps_done = step + 1

    def note_reached(self) -> None:
        """Note that the loss has given a gradient to something that is trained. Raises ValueError where it has not."""
        self.reached = any(p.grad is not None for p in (*self.parameters, *self.model.parameters()))
        if not self.reached:
            raise ValueError(
                "task.loss must be computed with the model that it is given: no parameter that is trained gets a "
                "gradient from it; call the model in it, and neither detach nor copy what comes out"
            )

    def save(self) -> None:
        """Write a checkpoint, where there is a folder for it, after losses and weights are seen to be finite."""
        self.history.flush()
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            self.history.fail("a weight is not finite")
        if self.checkpointing.folder is not None and is_first():
            content = {
                "identity": self.identity,
                "start": self.start,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": random_states(),
                "rows": self.history.rows,
                "step": self.steps_done,
                "seconds": self.seconds(),
            }
            if buffers := unsaved_buffers(self.model):
                content["buffers"] = buffers
            if self.optimization.stateful is not None:
                content["stateful"] = self.optimization.stateful.state_dict()
            self.history.checkpoint = save_checkpoint(self.checkpointing.folder, content)
        self.saved_at = time.monotonic()

    def _trained(self) -> list[list[str]]:
        """The names of the parameters in each of the optimizer's groups."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [[names.get(id(p), "of no module") for p in group["params"]] for group in self.optimizer.param_groups]

    def _identity(self) -> dict[str, Any]:
        """What must be the same, beside the start, for a checkpoint to be gone on with."""
        return {
            **self.optimization.identity(self.optimizer),
            **{f"names in parameter group {index}": names for index, names in enumerate(self._trained())},
            **settings_of("task.settings", self.task.settings),
            **settings_of("settings", self.checkpointing.settings),
            **modules_of(self.model),
            "loss_unit": f"{self.optimization.loss_unit:.4g}",  # another machine may round its last digits otherwise
        }

    def seconds(self) -> float:
        """Time of training until now, all calls together."""
        return self.seconds_before + time.monotonic() - self.begun

    def text(self, display: Display) -> str:
        """What stands beside the progress bar."""
        return " · ".join([self.history.text(), *([display.describe(self.model)] if display.describe else [])])

    def result(self) -> Fit:
        """How it went until now."""
        finished = self.steps_done >= self.optimization.steps
        rows, checkpoint = self.history.rows, self.history.checkpoint
        return Fit(pd.DataFrame(rows), finished, self.steps_done, self.seconds(), checkpoint)


@contextlib.contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """The model in train mode; each of its modules in its own mode again afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def frozen_norms(model: nn.Module, freeze_norm: bool) -> list[nn.Module]:
    """With `freeze_norm`, the modules that keep running statistics, by torch's name of these: BatchNorm and its kin."""
    found = model.modules() if freeze_norm else ()
    return [module for module in found if getattr(module, "running_mean", None) is not None]
