"""What made a model, as data: steps with their resolved decisions, replayed on a fresh model in another process."""

import inspect
import json
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from functools import partial
from typing import Any

from torch import nn

from ..arguments import wrong
from ..capture.copies import refuse_wrappers
from ..names import closest, printable
from .strict_json import strict_json, within_bounds

_ATTRIBUTE = "_archlab_recipe"


class Equality(str, Enum):
    """What a pass promises of the output of the model that it makes. A string, so that JSON can write it."""

    EXACT = "exact"  # that of the model before; after removal, that of the switched model at omega = 1
    INTERIOR = "interior"  # the same but for a border, whose width the step says
    NONE = "none"  # another one: train on

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One pass that was applied.

    `name` is the pass, `options` its resolved decisions (never the criterion behind them); `found` are the names of all
    sites or layers that it considered, `taken` those it changed, `skipped` the others with the reason; `how` says for
    each taken one how it was rewritten; `before` and `after` hold ``params`` and ``macs``; `equality` is what the pass
    promises, `checked` how that was checked before the model was returned; `training` is the mode of the model then,
    and `otherwise` names the modules that were in the other one: a recipe is replayed so; `idle` names parameters that
    are still computed with though no output needs them any more, as they feed a removed site from code that could not
    be rewritten with it.
    """

    name: str
    options: dict[str, Any]
    found: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    equality: Equality = Equality.NONE
    checked: str = ""
    training: bool | None = None  # None: any
    otherwise: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()

    @property
    def left(self) -> dict[str, str]:
        """The former name of `skipped`."""
        warnings.warn("Step.left is called .skipped now", DeprecationWarning, stacklevel=2)
        return self.skipped


@dataclass(frozen=True)
class Recipe:
    """The steps that turned a model of class `model` into another, in order."""

    model: str
    steps: tuple[Step, ...] = ()

    def to_json(self) -> str:
        """The recipe as JSON text; nothing in it names code to import."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "Recipe":
        """The recipe in `text`.

        Text of any origin may be given: it is read within bounds, and nothing in it is run. Raises ValueError, which
        says what is wrong, for text that is not a recipe, TypeError for what is no text.
        """
        if not isinstance(text, str | bytes):
            raise TypeError(wrong("text", "a recipe as JSON text", text))
        try:
            data = _object(strict_json(text), "it", required=("model", "steps"), known=("model", "steps"))
            if not isinstance(data["model"], str):
                raise ValueError(f"model must be the name of a class, got {data['model']!r:.80}")
            if not isinstance(data["steps"], list) or len(data["steps"]) > _MOST_STEPS:
                raise ValueError(f"steps must be a list of at most {_MOST_STEPS} steps")
            return Recipe(data["model"], tuple(_step(step, number) for number, step in enumerate(data["steps"], 1)))
        except ValueError as error:
            raise ValueError(f"this is not a recipe: {error}. Recipe.to_json() writes one") from error

    def __repr__(self) -> str:
        lines = [f"recipe for {self.model}:"]
        for step in self.steps:
            cost = ", ".join(
                f"{unit} {step.before[unit]:,} -> {step.after[unit]:,}" for unit in step.before if unit in step.after
            )
            idle = f"; {len(step.idle)} parameters stay idle" if step.idle else ""
            what = "sites" if step.name in ("switch", "discard") else "modules"
            told = f"{cost}; {step.equality}: {step.checked}{idle}"
            lines.append(f"  {step.name}: {len(step.taken)} of {len(step.found)} {what}; {told}")
        if not self.steps:
            lines.append("  no pass was applied")
        return "\n".join(map(printable, lines))


def _step(data: Any, number: int) -> Step:
    """A step as JSON holds it; steps of before `skipped` and `checked` had `left`, and both in `equality`."""
    what = f"step {number}"
    known = (*(f.name for f in fields(Step)), "left")
    step = dict(_object(data, what, required=("name", "options"), known=known))
    if "checked" not in step:
        step["skipped"], text = step.pop("left", {}), str(step.get("equality", ""))
        interior = text.startswith("equal in the interior")
        step["checked"] = text.partition(": ")[2] or text
        step["equality"] = "none" if text.startswith("none") else "interior" if interior else "exact"
    for name, value in step.items():
        rule, fits = _FIELDS[name]
        if not fits(value):
            raise ValueError(f"{name} of {what} must be {rule}, got {value!r:.80}")
    for name, value in step["options"].items():
        if name != "kwargs":  # of a factory, which knows what it takes
            within_bounds(f"{name} of {what}", value)
    step["equality"] = Equality(step["equality"])
    for name in ("found", "taken", "idle", "otherwise"):
        step[name] = tuple(step.get(name, ()))
    return Step(**step)


def _object(data: Any, what: str, *, required: tuple[str, ...], known: tuple[str, ...]) -> dict[str, Any]:
    """`data`, which must be an object with the `required` names and no other than the `known` ones."""
    if not isinstance(data, dict):
        raise ValueError(f"{what} must be an object with {' and '.join(required)}, got {data!r:.80}")
    for name in required:
        if name not in data:
            raise ValueError(f"{what} has no {name}")
    for name in data.keys() - set(known):
        raise ValueError(f"{what} has a {name!r:.80}, which no recipe has; {closest(name, known)}")
    return data


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _mapping(kind: type) -> Callable[[Any], bool]:
    """Whether a value is a dict to values of `kind`; JSON's keys are strings."""
    return lambda value: isinstance(value, dict) and all(type(item) is kind for item in value.values())


_MOST_STEPS = 1000
# What each field of a step must be, in words and as a test.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("the name of a pass", lambda value: isinstance(value, str)),
    "options": ("an object", lambda value: isinstance(value, dict)),
    **dict.fromkeys(("found", "taken", "otherwise", "idle"), ("a list of names", _names)),
    **dict.fromkeys(("skipped", "how"), ("an object of texts", _mapping(str))),
    **dict.fromkeys(("before", "after"), ("an object of whole numbers", _mapping(int))),
    "equality": (f"one of {', '.join(Equality)}", lambda value: value in tuple(Equality)),
    "checked": ("a text", lambda value: isinstance(value, str)),
    "training": ("true, false or null", lambda value: value is None or isinstance(value, bool)),
}


def recipe(model: nn.Module) -> Recipe:
    """The recipe of `model`; without steps for a model that no pass has made.

    >>> import torch
    >>> from archlab import remove
    >>> recipe(remove(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(1, 4), kinds="activation"))
    recipe for Sequential:
      discard: 1 of 1 sites; params 20 -> 20, macs 16 -> 16; exact: equal to omega = 1 within 0 (allowed 1e-05)
    """
    if not isinstance(model, nn.Module):
        refuse_wrappers(model)
    return getattr(model, _ATTRIBUTE, None) or Recipe(class_name(model))


def with_step(model: nn.Module, before: Recipe, step: Step) -> nn.Module:
    """`model` with its recipe: `before`, that of the model it was made from, and one more step."""
    setattr(model, _ATTRIBUTE, Recipe(before.model, (*before.steps, step)))
    return model


def modes_of(model: nn.Module) -> dict[str, Any]:
    """The mode of `model`, as a step keeps it."""
    return {
        "training": model.training,
        "otherwise": tuple(path for path, m in model.named_modules() if m.training is not model.training),
    }


def in_mode(
    model: nn.Module, training: bool, otherwise: Collection[str], call: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """What `call` makes of `model` in this mode, the modules `otherwise` in the other one; it and what was made are
    given back in the modes that `model` has."""
    if modes_of(model) == {"training": training, "otherwise": tuple(otherwise)}:
        return call(model)
    before = {path: module.training for path, module in model.named_modules()}
    for path, module in model.named_modules():
        module.training = training is not (path in otherwise)
    try:
        made = call(model)
    finally:
        for path, module in model.named_modules():
            module.training = before[path]
    for path, module in made.named_modules():
        module.training = before.get(path, model.training)
    return made


def _applied(call: Callable[..., nn.Module], example: Any, options: Mapping[str, Any], model: nn.Module) -> nn.Module:
    return call(model, example, **options)


def forget_last_step_(model: nn.Module) -> None:
    """Take the last step off the recipe of `model`, in place."""
    made = recipe(model)
    setattr(model, _ATTRIBUTE, Recipe(made.model, made.steps[:-1]))


def class_name(model: nn.Module) -> str:
    """The name of a model's class, without its module: it is compared, never imported."""
    return type(model).__qualname__


def apply_steps(
    steps: Recipe,
    model: nn.Module,
    example: Any,
    passes: Mapping[str, Callable[..., nn.Module]],
    modules: Mapping[str, Callable[..., nn.Module]] | None = None,
) -> nn.Module:
    """Replay `steps` on `model` with the functions in `passes`, each called as ``pass(model, example, **options)``.

    Those that take `modules`, the factories that a step may name, get it as well.

    Raises ValueError for a recipe of another class, with a pass that is not in `passes` or with options that it does
    not have.
    """
    if not isinstance(steps, Recipe):
        raise TypeError(wrong("recipe", "a Recipe", steps, "Recipe.from_json reads one from text"))
    refuse_wrappers(model)
    if modules is not None and not (isinstance(modules, Mapping) and all(map(callable, modules.values()))):
        raise TypeError(wrong("modules", "a dict of factories by name", modules))
    if steps.model != class_name(model):
        raise ValueError(
            f"this recipe is for a {steps.model}, the model given is a {class_name(model)}: give a model of the class "
            "that the recipe was made from"
        )
    if recipe(model).steps:
        raise ValueError("the model given has a recipe already: apply a recipe to the model it began with")
    for number, step in enumerate(steps.steps, 1):
        if step.name not in passes:
            raise ValueError(f"step {step.name!r} is unknown: this archlab has {', '.join(sorted(passes))}")
        options = dict(step.options)
        signature = inspect.signature(passes[step.name])
        if "modules" in signature.parameters:
            options["modules"] = modules or {}
        try:
            signature.bind(model, example, **options)
        except TypeError as error:
            raise ValueError(f"step {step.name!r} does not take the options {list(step.options)}: {error}") from error
        try:
            applied = partial(_applied, passes[step.name], example, options)
            if step.training is None:  # any
                model = applied(model)
            else:
                model = in_mode(model, step.training, step.otherwise, applied)
        except Exception as error:  # options that do not fit this model, or are none
            told = str(error).strip().split("\n")[0]
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise ValueError(f"step {number} of the recipe, {step.name}, cannot be applied: {kind}{told}") from error
        *before, made = recipe(model).steps
        with_step(
            model, Recipe(steps.model, tuple(before)), replace(made, skipped=step.skipped)
        )  # why, only `step` knows
    return model
