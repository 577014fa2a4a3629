"""What is left of a model once activations went and what they kept apart is merged."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ...capture.copies import copied
from ...discovery.site import Site
from ...measure.speed import speed
from ...passes.fold.cost_model import pricing
from ...passes.fold.fold import fold
from ...passes.fold.hoist_padding import hoist_padding
from ...passes.fold.linear import Layer
from ...passes.fold.plan import LayerCost, by_macs
from ..budget import AMOUNTS, LATENCY, LATENCY_S, Savings, share_left


def _by_params(layer: Layer, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> float:
    return float(layer.weight.numel() + (layer.bias.numel() if layer.bias is not None else 0))


def _params_of(layer: nn.Module, shape: tuple[int, ...]) -> float:
    return float(sum(p.numel() for p in layer.parameters()))


PRICES: dict[str, Callable[[nn.Module], LayerCost]] = {  # what one layer costs, of each measure of a budget
    "macs": lambda model: by_macs,
    "params": lambda model: _by_params,
    LATENCY: lambda model: pricing(model, "latency"),
}
_FOLDED_BY: dict[str, Any] = {"macs": "macs", "params": _params_of, LATENCY: "latency"}


class MergeSavings(Savings):
    """As `Savings`, where what is removed is followed by merging what can be merged; all in evaluation mode."""

    def __init__(self, model: nn.Module, example: Any, found: Sequence[Site], measures: Iterable[str]):
        super().__init__(copied(model).eval(), example, found, ())
        (self.measure,) = measures
        self.alone = {self.measure: [0.0] * len(self.sites)}  # of one activation: nothing, as long as others stay

    @property
    def whole(self) -> float:
        """What the original has of the measure; of milliseconds in seconds, as layers are priced."""
        if self.measure != LATENCY:
            return AMOUNTS[self.measure](self.model, self.example)
        frame = speed({"whole": self.model}, self.example, seconds=LATENCY_S).frame()
        return float(frame["median_ms"].iloc[0]) / 1000

    def left(self, measure: str, gone: Collection[str]) -> float:
        """The share of the measure that stays, measured, also where nothing goes: norms are merged all the same."""
        key = measure, frozenset(gone)
        if key not in self._left:
            self._left[key] = share_left(measure, self.model, self.without(gone), self.example)
        return self._left[key]

    def without(self, gone: Collection[str]) -> nn.Module:
        """The original without these activations, merged."""
        return self.tuned(self.to_tune(gone))

    def to_tune(self, gone: Collection[str]) -> nn.Module:
        """The original without these activations, with padding where it lets layers merge; merged it is later."""
        made = super().without(gone) if gone else copied(self.model)
        return _where_any(hoist_padding, made, self.example, self.measure)

    def tuned(self, thin: nn.Module) -> nn.Module:
        """What becomes of it once it is tuned: what can be merged is, exactly."""
        return _where_any(fold, thin.eval(), self.example, self.measure)


def _where_any(merge: Callable[..., nn.Module], model: nn.Module, example: Any, measure: str) -> nn.Module:
    """`model` after a pass that refuses what has nothing for it."""
    try:
        with torch.no_grad():
            return merge(model, example, cost=_FOLDED_BY[measure])
    except ValueError:
        return model
