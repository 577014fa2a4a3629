"""What a layer costs, for the planner: multiply-adds, measured time, or the user's function."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ...arguments import function, number, wrong
from .linear import Layer
from .modules import module_of
from .plan import LayerCost, by_macs

CostModel = Literal["macs", "latency"] | Callable[[nn.Module, tuple[int, ...]], float]


def pricing(model: nn.Module, cost: CostModel) -> LayerCost:
    """The cost as a function of a layer and its shapes; each layer is priced once."""
    if cost == "macs":
        return by_macs
    if cost != "latency":
        rule = "'macs', 'latency' or a function of a module and its input shape"
        if not callable(cost):
            raise (ValueError if isinstance(cost, str) else TypeError)(wrong("cost", rule, cost))
        function("cost", cost, "a module", "its input shape")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    known: dict[tuple, float] = {}

    def price(layer: Layer, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> float:
        key = (repr(module_of(layer, like.detach().to("meta"))), in_shape)
        if key not in known:
            module = module_of(layer, like.detach())
            value = _latency(module, in_shape, like) if cost == "latency" else cost(module, in_shape)
            number(f"what cost gives for {module} on {in_shape}", value)
            known[key] = float(value)
        return known[key]

    return price


def _latency(module: nn.Module, shape: tuple[int, ...], like: Tensor) -> float:
    """The median time of one run, in seconds."""
    from torch.utils.benchmark import Timer  # here: it looks for compilers

    x = torch.ones(shape, device=like.device, dtype=like.dtype)
    with torch.inference_mode():
        timer = Timer("module(x)", globals={"module": module, "x": x}, num_threads=torch.get_num_threads())
        return timer.blocked_autorange(min_run_time=0.05).median
