"""Whether a model with other widths computes the same function, where that was promised."""

from typing import Any

from torch import nn

from ...capture.copies import copied
from ..checks import CLOSE, EXACT, compared, equal_within, in_double, observe
from .resize import Resizing, resize_


def preserved(model: nn.Module, new: nn.Module, example: Any, resizing: Resizing) -> str:
    """How equal a widened model is, in evaluation mode. Raises AssertionError where it is not."""
    doubled = in_double(copied(model).eval(), example)
    pair, allowed, where = (copied(model).eval(), copied(new).eval()), CLOSE, "the model's own dtype"
    if doubled is not None:
        double, example, _ = doubled
        pair, allowed, where = (double, resize_(copied(double), resizing, "preserve")), EXACT, "float64"
    found = compared(
        observe(pair[0], example), observe(pair[1], example), allowed=allowed,
        what=f"with {', '.join(resizing.modules[:6])} wider", changed=resizing.modules,
    )  # fmt: skip
    return equal_within(found, f" (relative), with its gradients, in {where}")
