"""Width: layers with fewer or more channels, and all that must follow (paper, section 4.1)."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...arguments import choice, function, number, text, whole, wrong
from ...capture.recorder import capture
from ...names import Where, chosen, globs_of
from ..checks import finish
from ..recipe import Equality
from ..switch_state import refuse_switched
from .channel_groups import WEIGHTED, Group, groups_of
from .choose import Importance, chosen_channels, classes_of, selections_of, wanted_widths
from .resize import Init, rewidthed
from .verify import mixed_channels, preserved

Ratio = float | Mapping[str, float]
MOST_CHANNELS, MOST_RATIO = 2**16, 100  # of a layer, and of new to old ones: more cannot be meant


def scale_width(
    model: nn.Module,
    example: Any,
    *,
    ratio: Ratio | None = None,
    widths: Mapping[str, int] | None = None,
    where: Where = None,
    init: Init = "fresh",
    round_to: int = 1,
    importance: Importance = "l2",
) -> nn.Module:
    """A copy of `model` with other channel counts, in all layers that hang together.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        ratio: of new to old channels; a number, or one for each glob on module paths. A glob stands for the layers
            whose outputs it names, and takes with it what must have the same channels. What the model's inputs and
            outputs fix stays.
        widths: exact counts by glob, instead of `ratio`.
        where: a glob, a list of globs, or a function of a path, that narrows a `ratio` that is a number.
        init: "fresh" (every changed layer initialises itself), "prune" (the most important channels stay, as they are;
            fewer only), "preserve" (more only: channels are copied and what reads them shares its weights out among the
            copies, unevenly, so that the output stays; Net2WiderNet, Chen et al. 2016; checked to 1e-10 in float64).
        round_to: new counts are multiples of it (for a `ratio`; an exact width must be one).
        importance: for "prune": l1, l2, bn-scale, lamp, fpgm, random as torch-pruning defines them for groups of
            coupled layers, or a function of its group to one score a channel.

    Raises:
        ValueError: for options that do not go together, a glob without a layer, a layer that cannot change (which, and
            why), and where the new model does not run.

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
        function("scale_width: importance", importance, "a group of layers")
    asked: dict[str, Any] = dict(widths) if widths is not None else {}
    if isinstance(ratio, Mapping):
        asked = dict(ratio)
    elif ratio is not None:
        asked = dict.fromkeys(_globs(model, where), ratio)
    for glob in asked:
        layers_named(model, glob)
    groups = groups_of(model, example, list(asked))
    classes = {g.root: classes_of(g, model) for g in groups}
    wanted, skipped = wanted_widths(groups, classes, asked, round_to, exact=widths is not None)
    channels = {
        g.root: chosen_channels(g, classes[g.root], new, init, importance)
        for g, new in wanted.items()
        if new != g.channels
    }
    if not channels:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:4])
        raise ValueError(f"scale_width: no layer can change. {why}")
    changing = [group for group in groups if group.root in channels]
    selections = selections_of(changing, channels, model)
    mixed = mixed_channels(model, example, selections)
    if mixed:
        alone = {
            g.root: mixed_channels(model, example, selections_of([g], channels, model))
            for g in changing
            if len(changing) > 1
        }
        named = [root for root, why in alone.items() if why] or [g.root for g in changing]
        raise ValueError(
            f"scale_width: {', '.join(named[:8])} cannot change: their channels are regrouped or gated on the way in a "
            f"manner that cannot be followed ({mixed}); name other layers with where"
        )
    skipped |= {name: "is not called by the example" for name in _uncalled(model, example)}
    return _made(model, example, selections, init, groups, skipped)


def apply_scale_width(model: nn.Module, example: Any, *, layers: dict[str, dict[str, Any]], init: Init) -> nn.Module:
    """The step ``scale_width`` of a recipe: these channels of these layers."""
    if not isinstance(layers, dict) or not layers:
        raise ValueError(f"scale_width: layers must name a layer at least, got {layers!r:.80}")
    return _made(model, example, layers, init, [], {})


def _globs(model: nn.Module, where: Where) -> list[str]:
    """What `where` names, as globs."""
    if where is None:
        return ["*"]
    return layers_named(model, where) if callable(where) else globs_of(where)


def layers_named(model: nn.Module, where: Where) -> list[str]:
    """Paths of the convolutions and linear layers that `where` chooses. Raises ValueError where there is none."""
    layers = [name for name, module in model.named_modules() if isinstance(module, WEIGHTED)]
    return chosen(layers, where, names=lambda name: [name], what="convolution or linear layer")


def _uncalled(model: nn.Module, example: Any) -> list[str]:
    """Layers with channels that the example does not run."""
    called = capture(model, example).reached()[0]
    return [name for name, module in model.named_modules() if isinstance(module, WEIGHTED) and name not in called]


def _made(
    model: nn.Module, example: Any, layers: dict[str, dict[str, Any]], init: Init, groups: list[Group],
    skipped: dict[str, str],
) -> nn.Module:  # fmt: skip
    record = capture(model, example)
    new = rewidthed(model, example, layers, init)
    after = capture(new, example)
    if after.output_shapes != record.output_shapes:
        raise ValueError(
            f"scale_width: the outputs would have the shapes {after.output_shapes}, not {record.output_shapes}: "
            f"leave out one of {', '.join(layers)}"
        )
    equality = Equality.EXACT if init == "preserve" else Equality.NONE
    if init == "preserve":
        checked = preserved(model, new, example, layers)
    else:
        checked = "the channels that stay are as they were" if init == "prune" else "changed layers are fresh"
    names = dict.fromkeys(member.name for group in groups for member in group.members)
    return finish(
        new, model, name="scale_width", options={"layers": layers, "init": init}, before=record, after=after,
        equality=equality, checked=checked, found=names or layers, taken=layers, skipped=skipped,
    )  # fmt: skip
