"""What the classifiers of this study have in common: their loss, and their quality on held-out items."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al

AT_ONCE = 250
MEASURES = {"quality": "higher", "loss": "lower"}


def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    where = next(net.parameters()).device
    return F.cross_entropy(net(batch[0].to(where)), batch[1].to(where))


def task(batches: Callable[[int], tuple[Tensor, Tensor]], held_out: tuple[Tensor, Tensor]) -> al.Task:
    """Quality: accuracy in percent, and the cross-entropy, of the inputs and labels `held_out`."""

    @torch.no_grad()
    def quality(net: Any) -> dict[str, float]:
        where = next(net.parameters()).device
        logits = torch.cat([net.eval()(part.to(where)).cpu() for part in held_out[0].split(AT_ONCE)])
        correct = (logits.argmax(1) == held_out[1]).double().mean()
        return {"quality": 100 * float(correct), "loss": float(F.cross_entropy(logits, held_out[1]))}

    return al.Task(held_out[0][:1], batches, loss, quality, MEASURES)  # pyright: ignore[reportArgumentType]
