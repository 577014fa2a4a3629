"""Width: layers with fewer or more channels, and all that must follow (paper, section 4.1)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any

from torch import nn

from ...arguments import choice, function, number, text, whole, wrong
from ...capture.copies import copied, structural_copy
from ...capture.modes import failed_in
from ...capture.record import Capture
from ...capture.recorder import capture
from ...names import Where, chosen, closest
from ..checks import finish, outputs_are_counted, refuse_other_mode
from ..recipe import Equality, in_mode
from ..switch_state import refuse_switched
from .axes import Axis
from .choose import Widths, freeze_unpreservable, kept_positions, refuse_direction, resizing_for, sizes_for
from .fit import Expected, Fit, Mismatch
from .flow import Flow, uncalled_layers
from .importance import Importance
from .resize import Init, Resizing, checked, resize_
from .rules import RULES
from .verify import preserved

Ratio = float | Mapping[str, float]
_UNCALLED = "is not called by the example"
MOST_CHANNELS, MOST_RATIO = 2**16, 100  # of a layer, and of new to old ones: more cannot be meant


def scale_width(
    model: nn.Module,
    example: Any,
    *,
    ratio: Ratio | None = None,
    widths: Mapping[str, int] | None = None,
    where: Where = None,
    require: Where = None,
    init: Init = "fresh",
    round_to: int = 1,
    importance: Importance = "l2",
) -> nn.Module:
    """A copy of `model` with other channel counts, in all layers that hang together.

    Layers that cannot change stay, and the recipe's step says why. Where the other mode, training or evaluation, calls
    layers that this one does not (auxiliary heads), the model is read in that. What is checked before the model is
    returned: it runs, and every op makes the shapes that follow from the new widths.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        ratio: of new to old channels; a number, or one for each glob on module paths. A glob stands for the layers
            whose outputs it names, and takes with it what must have the same channels. What the model's inputs and
            outputs fix stays. A path without wildcards must change.
        widths: exact counts by glob, instead of `ratio`; each must be reached.
        where: a glob, a list of globs, or a function of a path, that narrows a `ratio` that is a number: of these
            layers, those change that can.
        require: layers, in the same way, that must change beside.
        init: "fresh" (every changed layer initialises itself; parameters outside such layers are drawn with the mean
            and spread that they had), "prune" (the most important channels stay, as they are; fewer only), "preserve"
            (more only: channels are copied and what reads them shares its weights out among the copies, unevenly, so
            that the output stays; Net2WiderNet, Chen et al. 2016; checked with its gradients to 1e-10 in float64).
        round_to: new counts are multiples of it (for a `ratio`; an exact width must be one).
        importance: for "prune": l1, l2, bn-scale, lamp, fpgm, random as torch-pruning defines them for groups of
            coupled layers, or a function of the group's weights by name, each ``(channels, ...)``, to one score a
            channel.

    Raises:
        ValueError: for options that do not go together, a glob without a layer, a layer that must change and cannot
            (which, and why), and where nothing can change.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 2, 1))
    >>> scale_width(net, torch.zeros(1, 3, 8, 8), ratio=0.5)
    Sequential(
      (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
      (1): PReLU(num_parameters=4)
      (2): Conv2d(4, 2, kernel_size=(1, 1), stride=(1, 1))
    )
    """
    refuse_switched(model)
    values = _values(ratio, widths, where, init, round_to, importance)
    flow = Flow(RULES)
    record = capture(model, example, flow)
    flow.close(record)
    layers = Widths(flow)
    uncalled = uncalled_layers(model, record)
    if uncalled and _sees_more_in_the_other_mode(model, example, uncalled):
        again = partial(
            scale_width, example=example, ratio=ratio, widths=widths, where=where, require=require, init=init,
            round_to=round_to, importance=importance,
        )  # fmt: skip
        return in_mode(model, not model.training, (), again)
    asked, demanded = _asked(layers, uncalled, values, where, require, ratio)
    fit: Fit | None = None
    while True:
        sizes = sizes_for(layers, asked, values, round_to, exact=widths is not None)
        refuse_direction(layers, sizes, init)
        if init == "preserve" and freeze_unpreservable(flow, sizes):
            continue
        _refuse_unmet(layers, asked, demanded, sizes, values)
        fit = fit or Fit(model, example, flow)
        fitted = fit.fitted(resizing_for(model, flow, kept_positions(model, layers, sizes, "fresh", importance)), sizes)
        if isinstance(fitted, Resizing):
            break
        if not fit.freeze(fitted, sizes):
            raise ValueError(f"scale_width: with other widths the model does not run: {fitted}")
    kept = kept_positions(model, layers, sizes, init, importance)
    resizing = replace(fitted, tensors=resizing_for(model, flow, kept).tensors)
    return _made(
        model,
        example,
        resizing,
        init,
        record,
        Expected(flow, sizes, exact=False),
        _told(layers, uncalled, asked, sizes),
    )


def _sees_more_in_the_other_mode(model: nn.Module, example: Any, uncalled: list[str]) -> bool:
    """Whether training, or evaluation, calls layers that the mode of `model` leaves out, as auxiliary heads are, and
    none less: what they read must follow."""
    other = structural_copy(model).train(not model.training)
    try:
        record = capture(other, example)
    except Exception:  # whatever a model raises that does not run so: detectors want targets
        return False
    return set(uncalled_layers(other, record)) < set(uncalled)


def sweep_width(
    model: nn.Module, example: Any, *, ratios: Iterable[float] = (0.75, 0.5, 0.25), **options: Any
) -> dict[float, nn.Module]:
    """`scale_width` at each of `ratios`, by ratio; 1 stands for a copy of `model` as it is.

    ``al.compare(networks, task, steps=1000)`` tunes each of them equally long, on the same batches, and tells quality,
    parameters, MACs and milliseconds of all in one table.

    >>> import torch
    >>> nets = sweep_width(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)), torch.zeros(1, 3, 8, 8))
    >>> {ratio: sum(p.numel() for p in net.parameters()) for ratio, net in nets.items()}
    {0.75: 182, 0.5: 122, 0.25: 62}
    """
    if isinstance(ratios, str | Real) or not isinstance(ratios, Iterable):
        raise TypeError(wrong("sweep_width: ratios", "a list of ratios", ratios))
    ratios = list(ratios)
    if not ratios:
        raise ValueError(wrong("sweep_width: ratios", "a list of one ratio or more", ratios))
    return {
        ratio: copied(model) if ratio == 1 else scale_width(model, example, ratio=ratio, **options) for ratio in ratios
    }


def apply_scale_width(
    model: nn.Module,
    example: Any,
    *,
    tensors: dict[str, Any],
    read: dict[str, Any],
    numbers: dict[str, Any],
    init: Init,
) -> nn.Module:
    """The step ``scale_width`` of a recipe: these positions of these tensors."""
    choice("scale_width: init", init, ("fresh", "prune", "preserve"))
    resizing = checked(tensors, read, numbers)
    return _made(model, example, resizing, init, capture(model, example), None, {})


def _values(ratio: Any, widths: Any, where: Where, init: Any, round_to: Any, importance: Any) -> dict[str, Any]:
    """What each glob is to get. Raises ValueError for options that are none, or do not go together."""
    if (ratio is None) == (widths is None):
        raise ValueError("scale_width: give a ratio or widths, one of the two")
    if widths is not None and not isinstance(widths, Mapping):
        raise TypeError(wrong("scale_width: widths", "a dict of channel counts by glob", widths))
    given = widths if widths is not None else ratio if isinstance(ratio, Mapping) else {"*": ratio}
    if not given:
        raise ValueError("scale_width: " + ("widths" if ratio is None else "ratio") + " names no layer, got {}")
    for glob, value in given.items():
        text("scale_width: a key of ratio or widths", glob, "a glob on module paths")
        if widths is not None:
            whole(f"scale_width: the width of {glob!r}", value, least=1, most=MOST_CHANNELS)
        else:
            number(f"scale_width: the ratio of {glob!r}", value, above=0, high=MOST_RATIO)
    if where is not None and not isinstance(ratio, int | float):
        raise ValueError("scale_width: where narrows a ratio that is one number; here globs are the keys")
    choice("scale_width: init", init, ("fresh", "prune", "preserve"))
    whole("scale_width: round_to", round_to, least=1, most=MOST_CHANNELS)
    if not isinstance(importance, str):
        function("scale_width: importance", importance, "the weights of a group, by name")
    return dict(given)


def _asked(
    layers: Widths, uncalled: list[str], values: Mapping[str, Any], where: Where, require: Where, ratio: Any
) -> tuple[dict[str, list[str]], list[str]]:
    """The layers that each glob means, and those that must change."""
    known = [*layers.layers, *uncalled]

    def meant(pattern: Where) -> list[str]:
        return chosen(known, pattern, names=lambda name: [name], what="layer with weights")

    demanded = meant(require) if require is not None else []
    asked = {}
    for glob in values:
        own = meant(where if isinstance(ratio, int | float) and where is not None else glob)
        called = [name for name in own if name in layers.layers]
        if not called and glob != "*":
            raise ValueError(
                f"scale_width: no layer that matches {glob!r} is called by the example; {closest(glob, layers.layers)}"
            )
        asked[glob] = called
        if not isinstance(ratio, int | float) and not any(c in glob for c in "*?["):
            demanded = [*demanded, *called]
    missing = [name for name in demanded if not any(name in names for names in asked.values())]
    if missing and isinstance(ratio, int | float):
        asked["*"] = list(dict.fromkeys([*asked["*"], *(name for name in missing if name in layers.layers)]))
    return asked, demanded


def _refuse_unmet(
    layers: Widths,
    asked: Mapping[str, list[str]],
    demanded: list[str],
    sizes: Mapping[Axis, int],
    values: Mapping[str, Any],
) -> None:
    """Raise ValueError where nothing changes, for a glob or at all, or a layer does not that must."""
    for name in demanded:
        if name not in layers.layers:
            raise ValueError(f"scale_width: {name} is to change, and is not called by the example")
        if layers.channels(name, sizes) == layers.channels(name) and layers.channels(name) != values.get(name):
            raise ValueError(f"scale_width: {name} cannot change: {layers.why(name)}")
    for glob, names in asked.items():
        if any(layers.channels(name, sizes) != layers.channels(name) for name in names):
            continue
        free = [name for name in names if layers.axes(name)]
        if free:
            told = ", ".join(f"{name} has {layers.channels(name)} channels" for name in free[:6])
            raise ValueError(f"scale_width: nothing would change for {glob!r}: {told}")
        told = "; ".join(f"{name}: {layers.why(name)}" for name in names[:4])
        raise ValueError(f"scale_width: no layer can change for {glob!r}. {told}")


def _told(
    layers: Widths, uncalled: list[str], asked: Mapping[str, list[str]], sizes: Mapping[Axis, int]
) -> dict[str, str]:
    """Why layers that were asked for stay as they are."""
    told = dict.fromkeys(uncalled, _UNCALLED)
    for name in dict.fromkeys(name for names in asked.values() for name in names):
        if layers.channels(name, sizes) == layers.channels(name):
            told[name] = layers.why(name)
    return told


def _made(
    model: nn.Module, example: Any, resizing: Resizing, init: Init, record: Capture, expected: Expected | None,
    skipped: dict[str, str],
) -> nn.Module:  # fmt: skip
    new = resize_(copied(model), resizing, init)
    try:
        after = capture(new, example, expected)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, Mismatch) as error:
        raise ValueError(
            f"scale_width: with {', '.join(resizing.modules[:6])} changed the model does not run: "
            f"{type(error).__name__} in {failed_in(error)}: {str(error).splitlines()[0]}"
        ) from error
    if _UNCALLED in skipped.values():
        refuse_other_mode(model, new, example, f"scale_width: with {', '.join(resizing.modules[:6])} changed")
    counted = outputs_are_counted(
        model, example, record, after, changed=f"scale_width: with {', '.join(resizing.modules)} changed",
        remedy="leave out one of these, by where",
    )  # fmt: skip
    if init == "preserve":
        try:
            told = preserved(model, new, example, resizing)
        except AssertionError as error:
            raise ValueError(f"scale_width: init='preserve' cannot keep the function: {error}; use where") from error
    else:
        told = "the channels that stay are as they were" if init == "prune" else "changed layers are fresh"
    found = dict.fromkeys([*resizing.modules, *skipped])
    return finish(
        new, model, name="scale_width", options=resizing.options() | {"init": init}, before=record, after=after,
        equality=Equality.EXACT if init == "preserve" else Equality.NONE, checked=told, found=found,
        taken=resizing.modules, skipped=skipped, counted=counted,
    )  # fmt: skip
