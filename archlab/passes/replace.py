"""Replacing a module by another one, made by a factory that a recipe names and its reader must supply."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..capture.copies import copied, refuse_wrappers
from ..rewrite.module_tree import put_modules_, with_modules
from .recipe import Step, recipe, with_step
from .switch import refuse_switched

Factory = Callable[..., nn.Module]


def replace(model: nn.Module, path: str, factory: Factory, /, **kwargs: Any) -> nn.Module:
    """A copy of `model` with ``factory(**kwargs)`` in place of the module at `path`, on its device and in its dtype.

    `kwargs` must be what JSON can write. A recipe keeps the factory's name only: `apply` and `load` look it up in the
    `modules` that they are given. Nothing of the old module's weights is kept. Raises ValueError for an unknown path.

    >>> replace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "1", nn.LeakyReLU, negative_slope=0.2)
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): LeakyReLU(negative_slope=0.2)
    )
    """
    name = getattr(factory, "__name__", "")
    if not name.isidentifier():
        raise ValueError(f"replace: the factory needs a name that a recipe can keep, got {factory!r}: give a function")
    return _replaced(model, None, path, factory, name, kwargs)


def replay_replace(
    model: nn.Module, example: Any, *, path: str, factory: str, kwargs: dict[str, Any], modules: Mapping[str, Factory]
) -> nn.Module:
    """The step ``replace`` of a recipe. Raises ValueError for a factory that `modules` lacks."""
    if factory not in modules:
        named = ", ".join(modules) or "nothing"
        raise ValueError(f"the recipe puts a {factory!r} at {path}: give its factory in modules, which has {named}")
    return _replaced(model, example, path, modules[factory], factory, kwargs)


def _replaced(
    model: nn.Module, example: Any, path: str, factory: Factory, name: str, kwargs: dict[str, Any]
) -> nn.Module:
    refuse_switched(model)
    refuse_wrappers(model)
    old = dict(model.named_modules()).get(path)
    if old is None or not path:
        paths = [p for p, _ in model.named_modules() if p]
        raise ValueError(f"replace: {path!r} is no module below this model; there are {', '.join(paths[:12])}")
    try:
        kwargs = json.loads(json.dumps(kwargs))  # a copy: what is changed later is not what was made
    except TypeError as error:
        raise TypeError(f"replace: the arguments of {name} must be what JSON can write: {error}") from error
    new = factory(**kwargs)
    if not isinstance(new, nn.Module):
        raise TypeError(f"replace: {name} made a {type(new).__name__}, not a torch.nn.Module")
    like = next((p for m in (old, model) for p in m.parameters() if p.is_floating_point()), None)
    new = copied(new).train(old.training)
    if like is not None:
        new = new.to(like.device, like.dtype)
    if example is None:
        made = copied(model)
        put_modules_(made, {path: new})
    else:
        made = with_modules(model, {path: new}, example)
    before, after = ({"params": sum(p.numel() for p in m.parameters())} for m in (model, made))
    options = {"path": path, "factory": name, "kwargs": kwargs}
    step = Step("replace", options, (path,), (path,), {}, {}, before, after, "none: another module stands there")
    return with_step(made, recipe(model), step)
