"""Whether two models say the same on an example, and what a recorded run costs: what every pass checks and notes."""

from typing import Any

import torch
from torch import nn

from ..capture.copies import copied, devices_of, structural_copy
from ..capture.example import fresh, place, run, tensors_in, varied
from ..capture.record import Capture
from ..capture.recorder import no_fused_layers


def costs(record: Capture) -> dict[str, int]:
    """Parameters and multiply-adds of the recorded run, as a recipe's step states them."""
    return {"params": sum(record.params.values()), "macs": sum(op.macs for op in record.ops)}


def compare(model: nn.Module, other: nn.Module, example: Any) -> float:
    """Largest difference of two models' outputs on `example`, relative to the largest value of the first's.

    Both run on copies, from the same random state. Infinite where types or shapes differ, NaN where exactly one of
    them is not finite.
    """
    made = []
    for net in (model, other):
        with torch.random.fork_rng(devices=devices_of(net)), torch.no_grad(), no_fused_layers():
            torch.manual_seed(0)
            made.append(run(structural_copy(net), fresh(example)))
    outputs = [tensors_in(output) for output in made]
    if type(made[0]) is not type(made[1]) or [t.shape for t in outputs[0]] != [t.shape for t in outputs[1]]:
        return float("inf")
    worst = 0.0
    for a, b in zip(*outputs, strict=True):
        if torch.equal(a, b) or not a.numel():
            continue
        if not a.is_floating_point():
            return float("inf")
        a, b = a.double(), b.double()
        finite = a.isfinite()
        if not torch.equal(finite, b.isfinite()) or not finite.any():
            return float("nan")
        if finite.any():
            scale = a[finite].abs().max().clamp(min=1e-30)
            worst = max(worst, float((a[finite] - b[finite]).abs().max() / scale))
    return worst


def in_double(model: nn.Module, example: Any) -> tuple[nn.Module, Any] | None:
    """A copy of `model` in float64 with an example that is nowhere constant; None where it does not run so."""
    try:
        double, example = copied(model).double(), varied(place(example, dtype=torch.float64))
        with torch.no_grad(), torch.random.fork_rng(devices=devices_of(model)):
            run(structural_copy(double), fresh(example))
    except Exception:  # whatever the model raises that cannot run in another dtype, or on other values
        return None
    return double, example


EXACT, CLOSE = 1e-10, 1e-5  # relative differences that a pass allows itself in float64 and in the model's own dtype


def checked_equal(model: nn.Module, other: nn.Module, example: Any, what: str, allowed: float) -> str:
    """Raise AssertionError where two models differ on an example by more than `allowed`; how far they do, in words."""
    difference = compare(model, other, example)
    if not difference <= allowed:
        raise AssertionError(f"{what}, the output differs by {difference:.3g} from the original's, over {allowed}")
    return f"{difference:.2g}"


def output_shapes(record: Capture) -> list[tuple[int, ...]]:
    """The shapes of the outputs of a recorded run."""
    shapes = {value: shape for op in record.ops for value, shape in zip(op.outputs, op.out_shapes, strict=False)}
    return [shapes.get(value, ()) for value in record.outputs]
