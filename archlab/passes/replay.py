"""Recipes replayed: the functions that their steps name, and `apply`."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .choice.step import apply_choose
from .depth.scale import scale_depth
from .discard import apply_discard
from .fold.fold import apply_fold
from .fold.hoist_padding import apply_hoist_padding
from .fold.upsampling import apply_fold_upsampling
from .recipe import Recipe, apply_steps
from .replace import apply_replace
from .resolution.scale import apply_scale_resolution
from .share import share
from .switch import apply_switch
from .width.scale import apply_scale_width

# What the steps of a recipe may call, by name: a new pass is a file of its own and a line here. Where a pass decides
# nothing, what it is called with is what it does.
PASSES: dict[str, Callable[..., nn.Module]] = {
    "switch": apply_switch,
    "discard": apply_discard,
    "fold": apply_fold,
    "fold_upsampling": apply_fold_upsampling,
    "hoist_padding": apply_hoist_padding,
    "share": share,
    "scale_resolution": apply_scale_resolution,
    "scale_width": apply_scale_width,
    "scale_depth": scale_depth,
    "replace": apply_replace,
    "choose": apply_choose,
}


def apply(
    recipe: Recipe, model: nn.Module, example: Any, modules: Mapping[str, Callable[..., nn.Module]] | None = None
) -> nn.Module:
    """The model that `recipe` makes of `model`, an instance of the class it was made for; weights are `model`'s.

    Args:
        recipe: as `al.recipe` gives it, or `Recipe.from_json` reads it.
        model: a fresh one, without steps of its own; it is left untouched.
        example: what runs it once.
        modules: the factories that steps may name: a recipe never says what to import.

    Raises:
        ValueError: for another class, an unknown pass or a site that this model does not have.

    >>> import torch
    >>> from archlab import recipe, remove
    >>> example = torch.zeros(1, 4)
    >>> thin = remove(nn.Sequential(nn.ReLU(), nn.Tanh()), example, kinds="activation", where="*.1")
    >>> apply(recipe(thin), nn.Sequential(nn.ReLU(), nn.Tanh()), example)
    Sequential(
      (0): ReLU()
      (1): Identity()
    )
    """
    return apply_steps(recipe, model, example, PASSES, modules)
