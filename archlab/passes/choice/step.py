"""The step ``choose`` of a recipe: one architecture of a supernet, made of the model that the supernet was made of."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from ...arguments import choice, wrong
from ...capture.record import Capture
from ...capture.recorder import capture
from ...names import closest
from ...rewrite.module_tree import with_modules
from ..checks import finish, outputs_are_counted
from ..recipe import Equality
from ..switch_state import refuse_switched
from .options import KINDS


def apply_choose(
    model: nn.Module,
    example: Any,
    *,
    chosen: Mapping[str, Mapping[str, Any]],
    modules: Mapping[str, Callable[..., nn.Module]],
) -> nn.Module:
    """`model` with the options `chosen`; what is another module than before has new weights.

    Args:
        model: the one that the supernet was made of; it is left untouched.
        example: what runs it once.
        chosen: path -> the one entry kind: option, where it is not what the model has.
        modules: the factories of `either`, by name.

    Raises:
        ValueError: for a path that is no module, and an option that does not fit it.
    """
    refuse_switched(model)
    if not isinstance(chosen, Mapping) or not all(isinstance(c, Mapping) and len(c) == 1 for c in chosen.values()):
        raise TypeError(wrong("choose: chosen", "a dict of one kind and option by path", chosen))
    record, paths = capture(model, example), [path for path, _ in model.named_modules() if path]
    new: dict[str, nn.Module] = {}
    for path, of in chosen.items():
        if path not in paths:
            raise ValueError(f"choose: {path!r} is no module below this model; {closest(path, paths)}")
        ((kind, option),) = of.items()
        choice(f"choose: the kind at {path}", kind, KINDS)
        new |= KINDS[kind](model, example, record, path, option, modules)
    made = with_modules(model, new)
    return with_choose_step(
        made, model, example, dict(chosen), before=record, after=capture(made, example), found=chosen,
        checked="new weights",
    )  # fmt: skip


def with_choose_step(
    made: nn.Module,
    model: nn.Module,
    example: Any,
    chosen: dict[str, Any],
    *,
    before: Capture,
    after: Capture,
    found: Iterable[str],
    checked: str,
) -> nn.Module:
    """`made` with the recipe of `model` and the step that chose it.

    Raises ValueError where the outputs have other shapes for it, and not for their values.
    """
    counted = outputs_are_counted(
        model, example, before, after, changed="with these options", remedy="choose those that keep the shapes"
    )
    return finish(
        made, model, name="choose", options={"chosen": chosen}, before=before, after=after, equality=Equality.NONE,
        checked=checked, found=[*found], taken=[*chosen], skipped={p: "as it was" for p in found if p not in chosen},
        counted=counted,
    )  # fmt: skip
