"""The history of a training while it runs: losses are read late, checked, and appended in order."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ..arguments import wrong

COLUMNS = ("phase", "step", "lr", "loss", "penalty")  # that `after_step` cannot have
SMOOTHING = 50  # steps in the mean loss that is shown, and that is compared to tell divergence


class TrainingFailed(RuntimeError):
    """The loss or the weights left the finite range, or diverged; the last good checkpoint is untouched.

    Attributes:
        reason: What happened, in words.
        step: The update at which it did, counted from 0.
        loss: The loss there.
        checkpoint: The last good checkpoint, or None.
    """

    def __init__(self, reason: str, step: int, loss: float, checkpoint: Path | None):
        saved = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint to return to"
        super().__init__(f"training stopped at step {step}: {reason} (loss {loss:g}); {saved}")
        self.reason, self.step, self.loss, self.checkpoint = reason, step, loss, checkpoint


class History:
    """One row an update. Losses wait on the device, as reading one waits for a GPU, until they are flushed."""

    def __init__(self, rows: list[dict[str, float]], *, divergence: float, checkpoint: Path | None):
        self.rows, self.divergence, self.checkpoint = rows, divergence, checkpoint
        self.pending: list[tuple[dict[str, float], list[Tensor]]] = []

    def append(
        self, step: int, lr: float, loss: Tensor, penalty: Tensor | None, extra: Mapping[str, float] | None
    ) -> None:
        """Add an update's row; its loss and penalty, scalars on any device, are not read yet."""
        values = [loss] if penalty is None else [loss, penalty]
        if not isinstance(extra, Mapping | None):
            raise TypeError(wrong("what after_step returns", "a dict of numbers by name or None", extra))
        for name in extra or {}:
            if name in COLUMNS:
                raise ValueError(f"after_step: {name!r} is a column of the history already; rename it")
        row = {"step": step, "lr": lr, **(extra or {})}
        self.pending.append((row, [value.detach().reshape(()).float() for value in values]))

    def flush(self) -> None:
        """Read all pending losses at once and check them, in order.

        Raises:
            TrainingFailed: for the first loss or penalty that is not finite, and where the mean of the last losses has
                risen above `divergence` times that of the first.
        """
        if not self.pending:
            return
        read = torch.stack([value for _, values in self.pending for value in values]).tolist()
        for row, values in self.pending:
            for name, _ in zip(("loss", "penalty"), values, strict=False):
                row[name] = read.pop(0)
            self.rows.append(row)
            for name in ("loss", "penalty"):
                if not math.isfinite(row.get(name, 0.0)):
                    self.fail(f"the {name} is {row[name]}")
            first = _mean_loss(self.rows[:SMOOTHING])
            if len(self.rows) >= 2 * SMOOTHING and 0 < first * self.divergence < _mean_loss(self.rows[-SMOOTHING:]):
                self.fail(f"the mean loss rose above {self.divergence:g} times its first value, {first:.3g}")
        self.pending.clear()

    def fail(self, reason: str) -> NoReturn:
        """Raise TrainingFailed at the last row."""
        raise TrainingFailed(reason, int(self.rows[-1]["step"]), self.rows[-1]["loss"], self.checkpoint)

    def text(self) -> str:
        """The mean of the last losses and the last penalty, in words; nothing before the first row."""
        if not self.rows:
            return ""
        penalty = self.rows[-1].get("penalty")
        shown = f"loss {_mean_loss(self.rows[-SMOOTHING:]):.4g}"
        return shown if penalty is None else f"{shown} · penalty {penalty:.3f}"


def _mean_loss(rows: list[dict[str, float]]) -> float:
    return sum(row["loss"] for row in rows) / len(rows)
