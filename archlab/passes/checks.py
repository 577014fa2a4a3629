"""What every pass does before it returns: the result is run and compared with what it should equal, and the step that
made it is noted in its recipe.

A pass is a pair of functions: the public one decides and ends with plain options, ``apply_<pass>(model, example,
**options)`` does it and is what a recipe replays. Both end in `finish`.
"""

import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.copies import copied, devices_of, structural_copy
from ..capture.example import cloned, fresh, moved, run_example, tensors_in, varied
from ..capture.modes import failed_in, no_fused_layers, random_states_kept, seed_all
from ..capture.record import Capture
from ..capture.recorder import capture
from .recipe import Equality, Step, modes_of, recipe, with_step

NOT_COMPARED = "not compared: tensors on the meta device hold no values"
EXACT, CLOSE = 1e-10, 1e-5  # relative differences that a pass allows itself in float64 and in the model's own dtype


@dataclass(frozen=True, eq=False)
class Observed:
    """What a model did with an example: its output, and the gradients of a fixed random combination of its outputs.

    `gradients` are those of the parameters, by name, and of the example's tensors, as ``input 0`` and so on; None where
    the model could not be differentiated.
    """

    output: Any
    gradients: dict[str, Tensor] | None


def observe(model: nn.Module, example: Any) -> Observed:
    """Run the example on a copy of `model`, always from the same random state, forward and backward.

    Raises what the model raises on the way forward.
    """
    with random_states_kept(devices_of(model), seed=0), no_fused_layers(), warnings.catch_warnings():
        # Code that asks what a tensor holds is told, now that it has a gradient, that it should not.
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True to a scalar")
        try:
            return _differentiated(model, example)
        except RuntimeError:  # it changes a parameter in place, or holds what has no gradient
            seed_all(0)
            with torch.no_grad():
                return Observed(run_example(structural_copy(model), fresh(example)), None)


def _differentiated(model: nn.Module, example: Any) -> Observed:
    given = fresh(example)
    net = structural_copy(model)
    for (_, p), (_, own) in zip(net.named_parameters(), model.named_parameters(), strict=True):
        p.requires_grad_(own.requires_grad)
    inputs = [t for t in tensors_in(given) if t.is_floating_point() and t.is_leaf]
    for t in inputs:
        t.requires_grad_(True)
    with torch.enable_grad():
        output = run_example(net, cloned(given))  # a model may change its input in place, which no leaf allows
    made = [t for t in tensors_in(output) if t.requires_grad and (t.is_floating_point() or t.is_complex())]
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    named |= {f"input {number}": t for number, t in enumerate(inputs)}
    if not made or not named:
        return Observed(output, None)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(t.shape, generator=generator).to(t) for t in made]
    found = torch.autograd.grad(made, list(named.values()), weights, allow_unused=True)
    gradients = {name: g for name, g in zip(named, found, strict=True) if g is not None}
    return Observed(output, gradients)


def on_meta(observed: Observed) -> bool:
    """Whether what a model did was done without values, on the meta device."""
    return any(tensor.is_meta for tensor in tensors_in(observed.output))


def draws_random_numbers(model: nn.Module, example: Any) -> bool:
    """Whether `model` takes numbers from torch's generators when it runs the example: dropout in training does."""
    gpus = devices_of(model)

    def states() -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in gpus)]

    with random_states_kept(gpus, seed=0), no_fused_layers(), torch.no_grad():
        before = states()
        run_example(structural_copy(model), fresh(example))
        return any(not torch.equal(a, b) for a, b in zip(before, states(), strict=True))


def refuse_other_mode(model: nn.Module, new: nn.Module, example: Any, what: str) -> None:
    """Raise ValueError, beginning with `what`, where `new` fails in the mode that `model` is not in, training or
    evaluation, and `model` does not: layers that are called in that mode only read what has changed."""

    def raised(net: nn.Module) -> Exception | None:
        with random_states_kept(devices_of(net), seed=0), no_fused_layers(), torch.no_grad():
            try:
                run_example(structural_copy(net).train(not model.training), fresh(example))
            except Exception as error:  # whatever a model raises
                return error
        return None

    if raised(model) is None and (error := raised(new)) is not None:
        mode = "evaluation" if model.training else "training"
        raise ValueError(
            f"{what} the model does not run in {mode} any more: {type(error).__name__} in {failed_in(error)}: "
            f"{str(error).splitlines()[0]}. What is called in {mode} alone reads what has changed: leave that out by "
            "where"
        )


def difference(a: Any, b: Any) -> float:
    """Largest difference of two outputs, relative to the largest value of the first.

    Infinite where types or shapes differ, NaN where exactly one of them is not finite; 0 on the meta device, where
    nothing has a value.
    """
    first, second = tensors_in(a), tensors_in(b)
    if type(a) is not type(b) or [t.shape for t in first] != [t.shape for t in second]:
        return math.inf
    return max((_of_tensors(x, y) for x, y in zip(first, second, strict=True)), key=_worst_first, default=0.0)


def _worst_first(value: float) -> float:
    return math.inf if value != value else value


def _of_tensors(a: Tensor, b: Tensor) -> float:
    if a.is_meta or b.is_meta or torch.equal(a, b) or not a.numel():
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return math.inf
    a, b = _wide(a.detach()), _wide(b.detach())
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not finite.any():
        return math.nan
    return float((a[finite] - b[finite]).abs().max() / a[finite].abs().max().clamp(min=1e-30))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def compare(model: nn.Module, other: nn.Module, example: Any) -> float:
    """The `difference` of two models' outputs on an example, run on copies, from the same random state."""
    made = []
    for net in (model, other):
        with random_states_kept(devices_of(net), seed=0), torch.no_grad(), no_fused_layers():
            made.append(run_example(structural_copy(net), fresh(example)))
    return difference(*made)


def gradient_difference(a: Observed, b: Observed, changed: Collection[str] = ()) -> float:
    """Largest difference of the gradients that both observed models have, relative to the largest of all.

    Parameters of the modules at the paths `changed`, and of those below, are left out: they are others now.
    """
    if a.gradients is None or b.gradients is None or on_meta(a):
        return 0.0
    prefixes = tuple(f"{path}." for path in changed)
    names = [n for n in a.gradients if n in b.gradients and not n.startswith(prefixes)]
    names = [n for n in names if a.gradients[n].shape == b.gradients[n].shape]
    largest = max((float(a.gradients[n].abs().max()) for n in names if a.gradients[n].numel()), default=0.0)
    if not names or not math.isfinite(largest) or not largest:
        return 0.0
    parts = [(_wide(a.gradients[n]) - _wide(b.gradients[n])).abs().max() for n in names if a.gradients[n].numel()]
    worst = float(torch.stack([part.cpu() for part in parts]).max())
    return worst / largest if math.isfinite(worst) else math.nan


def finish(
    made: nn.Module,
    model: nn.Module,
    *,
    name: str,
    options: dict[str, Any],
    before: Capture | None,
    after: Capture | None,
    equality: Equality,
    checked: str,
    found: Collection[str],
    taken: Collection[str],
    skipped: Mapping[str, str] | None = None,
    how: Mapping[str, str] | None = None,
    idle: Collection[str] = (),
    counted: bool = False,
) -> nn.Module:
    """`made` with the recipe of `model` and the step that made the one of the other.

    Raises AssertionError where the outputs have other shapes than before, which no pass may change.

    Args:
        made: the new model.
        model: the one that the pass was given.
        name: of the pass, as a recipe replays it.
        options: resolved decisions, what `apply_<name>` takes.
        before: recorded run of `model`; None where it was not run.
        after: recorded run of `made`; likewise.
        equality: what the pass promises of the output.
        checked: how that was checked, with the numbers.
        found: names of all that the pass considered.
        taken: names of what it changed.
        skipped: why it did not change the others, by name.
        how: how it changed what it took, by name.
        idle: parameters that are still computed with though no output needs them.
        counted: how large the outputs are depends on the values that the model computes (the number of boxes found), so
            that it is not compared.

    """
    assert set(taken) <= set(found), f"{name}: took {set(taken) - set(found)}, which it did not consider"
    shapes = [record and list(record.output_shapes) for record in (before, after)]
    if equality is not Equality.EXACT and not counted and shapes[0] != shapes[1]:  # what is exact was compared by value
        raise AssertionError(f"{name}: the outputs have the shapes {shapes[1]}, not {shapes[0]}")
    figures = [
        (costs(record) if record else {}) | {"params": sum(p.numel() for p in net.parameters())}
        for record, net in ((before, model), (after, made))
    ]
    step = Step(
        name=name,
        options=options,
        found=tuple(found),
        taken=tuple(taken),
        skipped=dict(skipped or {}),
        how={key: str(value) for key, value in (how or {}).items()},
        before=figures[0],
        after=figures[1],
        equality=equality,
        checked=checked,
        idle=tuple(idle),
        **modes_of(model),
    )
    return with_step(made, recipe(model), step)


def outputs_are_counted(
    model: nn.Module, example: Any, before: Capture, after: Capture, *, changed: str, remedy: str
) -> bool:
    """Whether outputs have other sizes than before because they depend on values, as the number of boxes found does.

    Raises ValueError where they have for another reason, saying what was `changed`, and the `remedy`.
    """
    shapes = [list(record.output_shapes) for record in (before, after)]
    if shapes[0] == shapes[1]:
        return False
    if not _sizes_hang_on_values(model, example):
        raise ValueError(f"{changed} the outputs would have the shapes {shapes[1]}, not {shapes[0]}: {remedy}")
    return True


def sizes_told(counted: bool) -> str:
    """What a step says of the sizes of the outputs, where values are not compared."""
    return "how large the outputs are depends on their values" if counted else "the outputs keep their shapes"


def _sizes_hang_on_values(model: nn.Module, example: Any) -> bool:
    """Whether `model` makes outputs of other sizes with other weights."""
    sizes = capture(model, example).output_shapes
    for seed in range(3):
        other = copied(model)
        with torch.no_grad(), random_states_kept((), seed=seed):
            for p in other.parameters():
                if p.is_floating_point():
                    p.mul_(torch.randn(p.shape).to(p))
        try:
            if capture(other, example).output_shapes != sizes:
                return True
        except Exception:  # what a model raises whose values make no sense
            continue
    return False


def compared(reference: Observed, result: Observed, *, allowed: float, what: str, changed: Collection[str] = ()) -> str:
    """How equal two observed models are, in words. Raises AssertionError where outputs or gradients differ by more.

    Gradients are held to a hundred times `allowed`: they are sums over more terms, in another order.
    """
    values = difference(reference.output, result.output)
    if values == 0.0 and on_meta(reference):
        return NOT_COMPARED
    if values != values:
        return "not compared: the outputs are not finite in the same elements"
    if not values <= allowed:
        raise AssertionError(f"{what}, the output differs by {values:.3g} from the original's, over {allowed:.2g}")
    slopes = gradient_difference(reference, result, changed)
    if not slopes <= 100 * allowed:
        raise AssertionError(
            f"{what}, the gradients differ by {slopes:.3g} from the original's, over {100 * allowed:.2g}"
        )
    return f"{values:.2g}"


def is_finite(observed: Observed) -> bool:
    """Whether all that a model gave is finite; without values it counts as such."""
    return all(t.is_meta or bool(t.isfinite().all()) for t in tensors_in(observed.output))


def not_finite(where: str, names: Collection[str]) -> str:
    """For an error about sites of these `names`: that the model is not finite `where` they are changed."""
    told = ", ".join(list(names)[:4]) + (" and others" if len(names) > 4 else "")
    return (
        f"{where} {told} the model gives infinities or NaN, which the original does not: what stands for a site may "
        "hold them, as scores that a mask made -inf do without their softmax. Leave it out with `where`"
    )


def equal_within(found: str, conditions: str = "", *, to: str = "") -> str:
    """What `compared` found, as a step says it: equal, `to` what, within which difference."""
    return found if found.startswith("not compared") else f"equal{to} within {found}{conditions}"


def own_tolerance(model: nn.Module) -> float:
    """What rounding may change in the dtypes that `model` computes in, those of autocast among them."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point() and p.numel() > 1} or {torch.float32}
    dtypes |= {torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)}
    return max(EXACT if dtype is torch.float64 else max(CLOSE, 2 * torch.finfo(dtype).eps) for dtype in dtypes)


def in_double(model: nn.Module, example: Any) -> tuple[nn.Module, Any, Observed] | None:
    """A copy of `model` in float64, an example that is nowhere constant, and what it did; None where it fails so."""
    try:
        double, example = copied(model).double(), varied(moved(example, dtype=torch.float64))
        return double, example, observe(double, example)
    except Exception:  # whatever the model raises that cannot run in another dtype, or on other values
        return None


def costs(record: Capture) -> dict[str, int]:
    """Parameters and multiply-adds of the recorded run, as a recipe's step states them."""
    return {"params": sum(record.params.values()), "macs": sum(op.macs for op in record.ops)}
