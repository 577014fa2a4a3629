"""The task's loss on its first batches: its size is the unit of λ, and its change says how well a removal went."""

import copy
import math

import torch
from torch import nn

from ...capture.copies import devices_of
from ...capture.modes import random_states_kept
from ...training.fit import frozen_norms
from ...training.task import Task, batch_of, loss_of

FAR = 1.0  # a rise of the loss by more than so many times its size is a collapse


class Calibration:
    """The first batches of a task, and the loss on them in the modes of training.

    They are held, so that a training which stands at a later batch is not sent back. What a network draws is the same
    each time, so that a call which goes on finds the unit that it began with.
    """

    def __init__(self, task: Task, count: int, *, freeze_norm: bool):
        self.task, self.freeze_norm = task, freeze_norm
        with random_states_kept([], seed=0):
            self.batches = [batch_of(task, step) for step in range(count)]

    def losses(self, net: nn.Module) -> list[float]:
        """The loss of a copy of `net` on each batch."""
        copied = copy.deepcopy(net).train()
        for norm in frozen_norms(copied, self.freeze_norm):
            norm.training = False
        with torch.no_grad(), random_states_kept(devices_of(net), seed=0):
            return [float(loss_of(self.task, copied, batch, step)) for step, batch in enumerate(self.batches)]

    def loss(self, net: nn.Module) -> float:
        """Their mean."""
        losses = self.losses(net)
        return sum(losses) / len(losses)

    def unit(self, net: nn.Module) -> float:
        """The size of the loss, rounded to six digits. Where it is 0 or not finite, so that it cannot be a unit, 1."""
        size = sum(map(abs, self.losses(net))) / len(self.batches)
        return float(f"{size:.6g}") if math.isfinite(size) and size > 0 else 1.0


def has_collapsed(original: float, soft: float, decided: float) -> bool:
    """Whether the loss rose too far from the switches as learned to each at its side.

    The measure is the loss itself, of the original or with the learned switches, whichever is larger: a removal that
    costs more than all that the task had left to learn is none that was learned. So it has no unit, as λ has none.
    """
    return not decided - soft <= FAR * max(abs(original), abs(soft))
