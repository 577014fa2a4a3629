"""Whether a model with other widths is what it should be: where promised the same function, and of the same sizes."""

from typing import Any

import torch
from torch import nn

from ...capture.copies import copied
from ...capture.modes import random_states_kept
from ...capture.record import Capture
from ...capture.recorder import capture
from ..checks import CLOSE, EXACT, compared, in_double, observe
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
    return f"equal within {found} (relative), with its gradients, in {where}"


def sizes_hang_on_values(model: nn.Module, example: Any, record: Capture) -> bool:
    """Whether `model` makes outputs of other sizes with other weights: as many boxes as it finds."""
    for seed in range(3):
        other = copied(model)
        with torch.no_grad(), random_states_kept((), seed=seed):
            for p in other.parameters():
                if p.is_floating_point():
                    p.mul_(torch.randn(p.shape).to(p))
        try:
            if capture(other, example).output_shapes != record.output_shapes:
                return True
        except Exception:  # what a model raises whose values make no sense
            continue
    return False
