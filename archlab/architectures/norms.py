"""Running statistics of norms, made anew: in a supernet they are of all paths together."""

from collections.abc import Iterator

import torch
from torch import nn

from ..arguments import whole, wrong
from ..training.task import Task, batch_of, check_task, loss_of

MOST_BATCHES = 100_000


def estimate_norms_(model: nn.Module, task: Task, *, batches: int = 20, first: int = 0) -> None:
    """Estimate the running statistics of all norms that `model` computes anew, in place, on batches of the training.

    They become the mean over these batches (Guo et al. 2020 do it before each evaluation of a path). All else, as
    dropout, runs as in evaluation; modes are put back.

    Args:
        model: a network, or a supernet at an architecture; what that does not compute is left as it is.
        task: its `loss` runs the model on its `batches`.
        batches: how many.
        first: the step of the first.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> task = Task(x, lambda step: x, lambda net, x: net(x).sum(), lambda net: {"sum": 0.0})
    >>> net = nn.Sequential(nn.BatchNorm1d(1))
    >>> estimate_norms_(net, task)
    >>> net[0].running_mean
    tensor([2.])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(wrong("estimate_norms_: model", "a torch.nn.Module", model))
    check_task(task)
    whole("estimate_norms_: batches", batches, most=MOST_BATCHES)
    whole("estimate_norms_: first", first, least=0)
    norms = list(norms_of(model))
    if not norms:
        return
    modes, momenta = {m: m.training for m in model.modules()}, {norm: norm.momentum for norm in norms}
    calls: dict[nn.Module, int] = {}  # a norm that is not run keeps its statistics

    def begin(norm: nn.Module, args: tuple) -> None:
        if norm not in calls:
            norm.reset_running_stats()  # type: ignore[operator]
        calls[norm] = calls.get(norm, 0) + 1
        norm.momentum = 1 / calls[norm]  # type: ignore[assignment]  # so the mean over all calls is kept

    hooks = [norm.register_forward_pre_hook(begin) for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.training = True
        with torch.no_grad():
            for step in range(first, first + batches):
                loss_of(task, model, batch_of(task, step), step)
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode


def norms_of(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of `model` that keep running statistics, by torch's names of these: BatchNorm and its kin."""
    for module in model.modules():
        if "running_mean" in module._buffers and module.running_mean is not None and hasattr(module, "momentum"):
            yield module
