"""Which channels matter most: scores from the weights that make and read them, as torch-pruning defines them.

A group's weights are given one tensor a parameter, with its channels first: ``(channels, …)``.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .axes import Axis, Expr, Sum, resolved
from .flow import Flow

Weights = dict[str, Tensor]
Importance = str | Callable[[Weights], Tensor]


def weights_of(model: nn.Module, flow: Flow, axis: Axis, places: Sequence[tuple[str, int]]) -> Weights:
    """The parameters in which `axis` stands at `places`, with its positions first: what has several counts for each."""
    held, found = dict(model.named_parameters()), {}
    for name, dim in places:
        if name in held:
            place = _places(flow.params[name][dim], axis)
            order = place.argsort(stable=True)[int((place < 0).sum()) :].to(held[name].device)
            found[f"{name}:{dim}"] = held[name].detach().movedim(dim, 0)[order].reshape(axis.size, -1)
    return found


def _places(expr: Expr, axis: Axis) -> Tensor:
    """For each position of `expr`, that of `axis` which it belongs to; -1 for none."""
    expr = resolved(expr)
    if isinstance(expr, Axis):
        return torch.arange(expr.size) if expr is axis else torch.full((expr.size,), -1)
    if isinstance(expr, Sum):
        return torch.cat([_places(part, axis) for part in expr.parts])
    found = torch.tensor([-1])
    for factor in expr.factors:
        found = torch.maximum(found[:, None], _places(factor, axis)[None]).flatten()
    return found


def scores(weights: Weights, axis: Axis, model: nn.Module, name: Importance, layer: str) -> Tensor:
    """One score a channel. Raises ValueError for an unknown importance, or one that does not score this group."""
    if callable(name):
        made = name(weights)
    elif name not in IMPORTANCES:
        raise ValueError(
            f"scale_width: importance must be one of {', '.join(IMPORTANCES)}, or a function; got {name!r}"
        )
    else:
        if name == "bn-scale":
            norms = {p for p, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
            weights = {n: w for n, w in weights.items() if n.rpartition(".")[0] in norms}
        made = IMPORTANCES[name](
            {n: w for n, w in weights.items() if not n.partition(":")[0].endswith("bias")}, axis.size
        )
    if not (isinstance(made, Tensor) and made.shape == (axis.size,)):
        raise ValueError(
            f"scale_width: importance={name!r} gives no score for each of the {axis.size} channels of {layer}: "
            f"{'none' if made is None else made}"
        )
    return made


def _magnitude(power: int) -> Callable[[Weights, int], Tensor | None]:
    def score(weights: Weights, size: int) -> Tensor | None:
        return _mean([w.abs().double().pow(power).sum(1) for w in weights.values()])

    return score


def _distance(weights: Weights, size: int) -> Tensor | None:
    """Of each channel to all others: one near the geometric median can be made of these (FPGM, He et al. 2019)."""
    return _mean([torch.cdist(w.double(), w.double()).sum(1) for w in weights.values()])


def _random(weights: Weights, size: int) -> Tensor:
    return torch.rand(size)


def _mean(parts: Sequence[Tensor]) -> Tensor | None:
    return torch.stack([part.cpu() for part in parts]).mean(0) if parts else None


IMPORTANCES: Mapping[str, Callable[[Weights, int], Tensor | None]] = {
    "l1": _magnitude(1),
    "l2": _magnitude(2),
    "bn-scale": _magnitude(2),
    "lamp": _magnitude(2),  # it weighs by what is larger, which changes no order within a group
    "fpgm": _distance,
    "random": _random,
}
