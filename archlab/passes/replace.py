"""Replacing a module by another one, made by a factory that a recipe names and its reader must supply."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..arguments import text, wrong
from ..capture.copies import copied
from ..errors import add_note
from ..names import closest
from ..rewrite.module_tree import with_modules
from .checks import finish
from .recipe import Equality
from .switch_state import refuse_switched

Factory = Callable[..., nn.Module]


def replace(model: nn.Module, path: str, factory: Factory, /, **kwargs: Any) -> nn.Module:
    """A copy of `model` with ``factory(**kwargs)`` in place of the module at `path`, on its device and in its dtype.

    Nothing of the old module's weights is kept.

    Args:
        model: any module without switches; it is left untouched.
        path: of the module to replace.
        factory: makes the new module. A recipe keeps its name only: `apply` and `load` look it up in the `modules` that
            they are given.
        kwargs: what the factory gets; JSON must be able to write it.

    Raises:
        ValueError: for an unknown path, or a factory without a name.
        TypeError: where JSON cannot write the arguments, or the factory makes no module.

    >>> replace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "1", nn.LeakyReLU, negative_slope=0.2)
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): LeakyReLU(negative_slope=0.2)
    )
    """
    text("replace: path", path, "the path of a module")
    if not callable(factory):
        raise TypeError(wrong("replace: factory", "a function or a class that makes a module", factory))
    name = getattr(factory, "__name__", "")
    if not name.isidentifier():
        raise ValueError(f"replace: the factory needs a name that a recipe can keep, got {factory!r}: give a function")
    return apply_replace(model, path=path, factory=name, kwargs=kwargs, modules={name: factory})


def apply_replace(
    model: nn.Module,
    example: Any = None,
    *,
    path: str,
    factory: str,
    kwargs: dict[str, Any],
    modules: Mapping[str, Factory],
) -> nn.Module:
    """The step ``replace`` of a recipe; it needs no example. Raises ValueError for a factory that `modules` lacks."""
    if factory not in modules:
        named = ", ".join(modules) or "nothing"
        raise ValueError(f"the recipe puts a {factory!r} at {path}: give its factory in modules, which has {named}")
    refuse_switched(model)
    old = dict(model.named_modules()).get(path)
    if old is None or not path:
        paths = [p for p, _ in model.named_modules() if p]
        raise ValueError(f"replace: {path!r} is no module below this model; {closest(str(path), paths)}")
    try:
        kwargs = json.loads(json.dumps(kwargs))  # a copy: what is changed later is not what was made
    except TypeError as error:
        raise TypeError(f"replace: the arguments of {factory} must be what JSON can write: {error}") from error
    try:
        new = modules[factory](**kwargs)
    except Exception as error:
        add_note(error, f"raised by {factory}(**{kwargs}), the factory of what archlab was to put at {path!r}")
        raise
    if not isinstance(new, nn.Module):
        raise TypeError(f"replace: {factory} made a {type(new).__name__}, not a torch.nn.Module")
    like = next((p for m in (old, model) for p in m.parameters() if p.is_floating_point()), None)
    new = copied(new).train(old.training)
    if like is not None:
        new = new.to(like.device, like.dtype)
    return finish(
        with_modules(model, {path: new}), model, name="replace",
        options={"path": path, "factory": factory, "kwargs": kwargs}, before=None, after=None,
        equality=Equality.NONE, checked="another module stands there", found=[path], taken=[path],
    )  # fmt: skip
