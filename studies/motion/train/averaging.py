"""Optimizers that keep the running mean of the weights: what a training with a high rate is worth is seen in it."""

from collections.abc import Callable
from typing import Any

import torch


class AveragedAdam(torch.optim.Adam):
    """Adam with an exponential mean of the weights in its state, which every checkpoint therefore has.

    `decay` of the mean is reached slowly, so that the first weights are soon forgotten.
    """

    def __init__(self, params: Any, *, decay: float = 0.999, **options: Any):
        super().__init__(params, **options)
        for group in self.param_groups:
            group["decay"] = decay

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of the weights and of their mean."""
        found = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if not (state := self.state[p]):
                    continue  # no gradient has reached it yet: its mean is what it is
                if "mean" not in state:
                    state["mean"] = p.clone()
                done = int(state["step"])
                state["mean"].lerp_(p, 1 - min(group["decay"], (1 + done) / (10 + done)))
        return found

    @torch.no_grad()
    def use_means_(self) -> None:
        """Put the means in place of the weights."""
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p].get("mean", p))
