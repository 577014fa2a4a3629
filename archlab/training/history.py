"""The history of a training while it runs: losses are read late, checked, and entered in order."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

SMOOTHING = 50  # steps in the mean loss that is shown, and that is compared to tell divergence


class TrainingFailed(RuntimeError):
    """The loss or the weights left the finite range, or diverged; the last good checkpoint is untouched."""

    def __init__(self, reason: str, step: int, loss: float, checkpoint: Path | None):
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint to return to"
        super().__init__(f"training stopped at step {step}: {reason} (loss {loss:g}); {kept}")
        self.reason, self.step, self.loss, self.checkpoint = reason, step, loss, checkpoint


class Ledger:
    """The history: losses wait on the device until they are read, checked and entered, in order."""

    def __init__(self, rows: list[dict[str, float]], divergence: float, checkpoint: Path | None):
        self.rows, self.divergence, self.checkpoint = rows, divergence, checkpoint
        self.waiting: list[tuple[dict[str, float], list[Tensor]]] = []

    def enter(
        self, step: int, lr: float, loss: Tensor, penalty: Tensor | None, noted: Mapping[str, float] | None
    ) -> None:
        values = [loss] if penalty is None else [loss, penalty]
        row = {"step": step, "lr": lr, **(noted or {})}
        self.waiting.append((row, [value.detach().reshape(()).float() for value in values]))

    def settle(self) -> None:
        if not self.waiting:
            return
        read = torch.stack([value for _, values in self.waiting for value in values]).tolist()
        for row, values in self.waiting:
            for name, _ in zip(("loss", "penalty"), values, strict=False):
                row[name] = read.pop(0)
            self.rows.append(row)
            for name in ("loss", "penalty"):
                if not math.isfinite(row.get(name, 0.0)):
                    self._fail(f"the {name} is {row[name]}")
            first = _mean_loss(self.rows[:SMOOTHING])
            if len(self.rows) >= 2 * SMOOTHING and 0 < first * self.divergence < _mean_loss(self.rows[-SMOOTHING:]):
                self._fail(f"the mean loss rose above {self.divergence:g} times its first value, {first:.3g}")
        self.waiting.clear()

    def _fail(self, reason: str) -> None:
        raise TrainingFailed(reason, int(self.rows[-1]["step"]), self.rows[-1]["loss"], self.checkpoint)

    def text(self) -> str:
        if not self.rows:
            return ""
        penalty = self.rows[-1].get("penalty")
        shown = f"loss {_mean_loss(self.rows[-SMOOTHING:]):.4g}"
        return shown if penalty is None else f"{shown} · penalty {penalty:.3f}"


def _mean_loss(rows: list[dict[str, float]]) -> float:
    return sum(row["loss"] for row in rows) / len(rows)
