"""Two models that should compute the same: a supernet, and a plain network of what it computes."""

import re
from dataclasses import replace
from typing import Any

from torch import nn

from ..passes.checks import Observed, compared, difference, gradient_difference, observe

TREMBLES = 10  # a model that differs from itself from run to run is held to so many times that


def equal_as_computed(model: nn.Module, net: nn.Module, example: Any, *, what: str) -> str:
    """How equal two models are, in words: bit for bit, but for what `model` differs from itself from run to run.

    Raises:
        AssertionError: where outputs or gradients differ; `what` begins the sentence.
    """
    reference, result = _named_as_plain(observe(model, example)), _named_as_plain(observe(net, example))
    try:
        return compared(reference, result, allowed=0.0, what=what)
    except AssertionError:
        again = _named_as_plain(observe(model, example))
        trembles = max(difference(reference.output, again.output), gradient_difference(reference, again))
        if not trembles > 0:
            raise
    return compared(reference, result, allowed=TREMBLES * trembles, what=what)


def _named_as_plain(seen: Observed) -> Observed:
    """With the gradients under the names that the parameters have in a network without choices."""
    gradients = seen.gradients or {}
    named = {re.sub(r"\.options\.\d+(?=\.)", "", name): gradient for name, gradient in gradients.items()}
    return replace(seen, gradients=named if seen.gradients is not None else None)
