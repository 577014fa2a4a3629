"""The task's loss on a few batches, the same for every model that is compared, and what else a pass over them shows."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ...capture.copies import devices_of
from ...capture.example import tensors_in
from ...capture.modes import random_states_kept
from ...discovery.site import Site
from ...passes.switch_state import named_omegas
from ...training.task import Task, batch_of, loss_of


class Probe:
    """The first batches of a task. Models are seen in evaluation mode, each with the same random numbers."""

    def __init__(self, task: Task, count: int):
        self.task = task
        with self.quiet(None):
            self.batches = [batch_of(task, step) for step in range(count)]

    @contextlib.contextmanager
    def quiet(self, net: nn.Module | None) -> Iterator[None]:
        """The random numbers of seed 0 for all that runs inside, and `net` in evaluation mode, where it stays."""
        with random_states_kept([] if net is None else devices_of(net), seed=0):
            if net is not None:
                net.eval()
            yield

    def loss(self, net: nn.Module) -> float:
        """The mean of the loss over the batches."""
        with self.quiet(net), torch.no_grad():
            losses = [float(loss_of(self.task, net, batch, step)) for step, batch in enumerate(self.batches)]
            return sum(losses) / len(losses)

    def slopes(self, soft: nn.Module) -> dict[str, float]:
        """By site, dL/dω where the switches are now, the mean over the batches; NaN where no gradient reaches ω.

        One backward pass a batch serves all sites. That is the first order of what a removal costs: L(1) - L(0).
        """
        if torch.is_inference_mode_enabled():
            raise ValueError("slopes need gradients, which are off here; call it outside of torch.inference_mode()")
        omegas = named_omegas(soft)
        sums = dict.fromkeys(omegas, 0.0)
        with self.quiet(soft), torch.enable_grad():
            for step, batch in enumerate(self.batches):
                loss = loss_of(self.task, soft, batch, step)
                found: Sequence[Tensor | None] = [None] * len(omegas)
                if loss.requires_grad:
                    found = torch.autograd.grad(loss, list(omegas.values()), allow_unused=True)
                for site, slope in zip(omegas, found, strict=True):
                    sums[site] += math.nan if slope is None else float(slope)
        return {site: total / len(self.batches) for site, total in sums.items()}

    def influence(self, net: nn.Module, found: Sequence[Site]) -> dict[str, float]:
        """By site, 1 - the mean cosine of what goes in and what comes out (block influence: Men et al. 2024, ShortGPT).

        The cosine is that of each token (the last of three dimensions) or else of all numbers of an item. Sites that
        are no module calls show neither: NaN.
        """
        seen = {site.id: _InAndOut() for site in found if site.module is not None}
        hooks = [hook for site in found if site.module for hook in seen[site.id].hooks(net.get_submodule(site.module))]
        try:
            if hooks:
                self.loss(net)
        finally:
            for hook in hooks:
                hook.remove()
        return {site.id: seen[site.id].influence() if site.id in seen else math.nan for site in found}


class _InAndOut:
    """The cosines of the input and output of one module, over all its calls."""

    def __init__(self):
        self.inside: list[Tensor | None] = []  # of the calls that run: a copy, as a module may work in place
        self.cosines: list[float] = []

    def hooks(self, module: nn.Module) -> list[Any]:
        """Begin to look at a module; what `remove()` ends it."""
        return [
            module.register_forward_pre_hook(self._enter, with_kwargs=True),
            module.register_forward_hook(self._leave),
        ]

    def _enter(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        given = tensors_in((args, kwargs))
        self.inside.append(given[0].clone() if given else None)

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        before, after = self.inside.pop(), tensors_in(output)
        if before is not None and after and before.shape == after[0].shape and before.is_floating_point():
            vectors = [x.float().reshape(-1, x.shape[-1]) if x.ndim == 3 else x.float().reshape(len(x), -1)
                       for x in (before, after[0]) if x.ndim]  # fmt: skip
            if vectors and vectors[0].numel():
                self.cosines.append(float(cosine_similarity(*vectors, dim=-1).mean()))

    def influence(self) -> float:
        """1 - the mean cosine; NaN where no call was seen."""
        return 1 - sum(self.cosines) / len(self.cosines) if self.cosines else math.nan
