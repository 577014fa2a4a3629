"""Width: layers with fewer or more channels, and all that must follow (paper, section 4.1)."""

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.copies import copied
from ...capture.recorder import capture, failed_in
from ...rewrite.module_tree import put_modules_, with_modules
from ..checks import CLOSE, EXACT, compare, costs, in_double, output_shapes
from ..recipe import Step, recipe, with_step
from ..switch import refuse_switched
from .channel_groups import WEIGHTED, Group, Member, groups_of
from .resize import Init, extent_of, resized, unread_

Ratio = float | Mapping[str, float]


def scale_width(
    model: nn.Module,
    example: Any,
    *,
    ratio: Ratio | None = None,
    widths: Mapping[str, int] | None = None,
    where: str | Iterable[str] | Callable[[str], bool] | None = None,
    init: Init = "fresh",
    round_to: int = 1,
    importance: str | Callable[[Any], Tensor] = "l2",
) -> nn.Module:
    """A copy of `model` with other channel counts, in all layers that hang together.

    - `ratio`: of new to old channels; a number, or one for each glob on module paths. `widths`: exact counts by glob.
      A glob stands for the layers whose outputs it names, and takes with it what must have the same channels.
    - `where`: globs, or a function of a path, that narrow a `ratio` that is a number. What the model's inputs and
      outputs fix stays.
    - `round_to`: new counts are multiples of it (for a `ratio`; an exact width must be one).
    - `init`: "fresh" (every changed layer initialises itself), "prune" (the most important channels stay, as they
      are; fewer only), "preserve" (more only: channels are copied and what reads them shares its weights out among
      the copies, unevenly, so that the output stays; Net2WiderNet, Chen et al. 2016; checked to 1e-10 in float64).
    - `importance`, for "prune": l1, l2, bn-scale, lamp, fpgm, random as torch-pruning defines them for groups of
      coupled layers, or a function of its group to one score a channel.

    Raises ValueError for options that do not go together, a glob without a layer, a layer that cannot change (which,
    and why), and where the new model does not run.

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
    if where is not None and not isinstance(ratio, int | float):
        raise ValueError("scale_width: where narrows a ratio that is one number; here globs are the keys")
    if init not in ("fresh", "prune", "preserve"):
        raise ValueError(f"scale_width: init must be 'fresh', 'prune' or 'preserve', got {init!r}")
    if not (isinstance(round_to, int) and round_to > 0):
        raise ValueError(f"scale_width: round_to must be a positive number, got {round_to!r}")
    asked: dict[str, Any] = dict(widths) if widths is not None else {}
    if isinstance(ratio, Mapping):
        asked = dict(ratio)
    elif ratio is not None:
        asked = dict.fromkeys(_globs(model, where), ratio)
    layers = [name for name, module in model.named_modules() if isinstance(module, WEIGHTED)]
    for glob in asked:
        if not fnmatch.filter(layers, glob):
            there = ", ".join(layers[:12]) or "none"
            raise ValueError(f"scale_width: {glob!r} matches no convolution or linear layer; there are {there}")
    groups = groups_of(model, example, list(asked))
    classes = {g.root: _classes(g, model) for g in groups}
    wanted, left = _wanted(groups, classes, asked, round_to, exact=widths is not None)
    chosen = {
        g.root: _chosen(g, classes[g.root], new, init, importance) for g, new in wanted.items() if new != g.channels
    }
    if not chosen:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:4])
        raise ValueError(f"scale_width: no layer can change. {why}")
    changing = [group for group in groups if group.root in chosen]
    selections = _selections(changing, chosen, model)
    mixed = _mixed(model, example, selections)
    if mixed:
        alone = {g.root: _mixed(model, example, _selections([g], chosen, model)) for g in changing if len(changing) > 1}
        named = [root for root, why in alone.items() if why] or [g.root for g in changing]
        raise ValueError(
            f"scale_width: {', '.join(named[:8])} cannot change: their channels are regrouped or gated on the way in a "
            f"manner that cannot be followed ({mixed}); name other layers with where"
        )
    left |= {name: "is not called by the example" for name in _uncalled(model, example)}
    return _made(model, example, selections, init, groups, left)


def replay_scale_width(model: nn.Module, example: Any, *, layers: dict[str, dict[str, Any]], init: Init) -> nn.Module:
    """The step ``scale_width`` of a recipe: these channels of these layers."""
    return _made(model, example, layers, init, [], {})


def _globs(model: nn.Module, where: Any) -> list[str]:
    """What `where` names, as globs."""
    if where is None:
        return ["*"]
    if callable(where):
        named = [name for name, module in model.named_modules() if isinstance(module, WEIGHTED) and where(name)]
        if not named:
            raise ValueError("scale_width: where is true of no convolution or linear layer")
        return named
    return [where] if isinstance(where, str) else list(where)


def _wanted(
    groups: list[Group], classes: Mapping[str, list[list[int]]], asked: Mapping[str, Any], round_to: int, *, exact: bool
) -> tuple[dict[Group, int], dict[str, str]]:
    """The new channel count of each group that was asked for, and why others were left."""
    wanted: dict[Group, int] = {}
    left = {g.root: g.fixed for g in groups if g.fixed}
    for glob, value in asked.items():
        if not (isinstance(value, int | float) and value > 0 and (not exact or isinstance(value, int))):
            what = "a ratio above 0" if not exact else "a positive whole number"
            raise ValueError(f"scale_width: {glob!r} must get {what}, got {value!r}")
        matching = [g for g in groups if any(fnmatch.fnmatchcase(name, glob) for name in g.makers)]
        if not matching:
            raise ValueError(f"scale_width: no layer that matches {glob!r} is called by the example")
        fixed = [g for g in matching if g.fixed]
        if fixed and glob != "*":
            raise ValueError(f"scale_width: {glob!r} names {fixed[0].root}, which cannot change: {fixed[0].fixed}")
        refused = [g for g in fixed if "whose width is not changed" in g.fixed]
        if refused:
            free = [g.root for g in groups if not g.fixed]
            raise ValueError(
                f"scale_width: {refused[0].root} cannot change: {refused[0].fixed}; name the layers that are to "
                f"change with where: {', '.join(free[:12]) or 'there is none'}"
            )
        for group in matching:
            if group.fixed:
                continue
            parts = len(classes[group.root])
            multiple = math.lcm(round_to, parts)
            new = value if exact else _rounded(value * group.channels, multiple)
            if new % multiple:
                raise ValueError(
                    f"scale_width: {group.root} is to have {new} channels: it must be a multiple of {multiple}, as its "
                    f"channels stand in {parts} groups and round_to is {round_to}"
                )
            if wanted.get(group, new) != new:
                raise ValueError(f"scale_width: {group.root} is to have {wanted[group]} and {new} channels")
            wanted[group] = int(new)
        still = [g for g in matching if not g.fixed and wanted[g] == g.channels]
        if still and len(still) == sum(not g.fixed for g in matching):
            raise ValueError(
                f"scale_width: nothing would change for {glob!r}: "
                + ", ".join(f"{g.root} has {g.channels} channels" for g in still[:6])
            )
        left |= {g.root: f"keeps its {g.channels} channels by rounding" for g in still}
    return wanted, left


def _rounded(value: float, multiple: int) -> int:
    return max(multiple, math.floor(value / multiple + 0.5) * multiple)


# --- which channels -----------------------------------------------------------------------------


def _classes(group: Group, model: nn.Module) -> list[list[int]]:
    """The channels in parts of equal size, of which equally many must stay: groups of a grouped convolution or norm,
    halves that are taken apart later. Parts of different sizes are left to be one."""
    signature: dict[int, list[tuple]] = {channel: [] for channel in range(group.channels)}
    for number, member in enumerate(group.members):
        share = 0
        if member.side != "parameter":
            module = model.get_submodule(member.name)
            apart = module.num_groups if isinstance(module, nn.GroupNorm) else getattr(module, "groups", 1)
            total = extent_of(module, member.side)
            share = total // apart if 1 < apart < total else 0
        for position, root in zip(member.positions, member.roots, strict=True):
            signature[root].append((number, position // share if share else 0))
    parts: dict[tuple, list[int]] = {}
    for channel, seen in signature.items():
        parts.setdefault(tuple(dict.fromkeys(seen)), []).append(channel)
    found = list(parts.values())
    return found if len({len(part) for part in found}) == 1 else [list(range(group.channels))]


def _chosen(
    group: Group, classes: list[list[int]], new: int, init: Init, importance: str | Callable[[Any], Tensor]
) -> list[int]:
    """The old channel that each new one is made of."""
    if (init == "prune" and new > group.channels) or (init == "preserve" and new < group.channels):
        raise ValueError(
            f"scale_width: init={init!r} makes {'fewer' if init == 'prune' else 'more'} channels; {group.root} is to "
            f"have {new}, and has {group.channels}"
        )
    scores = group.scores(_importance(importance)) if init == "prune" else None
    if init == "prune" and not (isinstance(scores, Tensor) and scores.shape == (group.channels,)):
        raise ValueError(
            f"scale_width: importance={importance!r} gives no score for each of the {group.channels} channels of "
            f"{group.root}: {'none' if scores is None else scores}"
        )
    made = []
    for part in classes:
        count = new // len(classes)
        if scores is not None:
            best = scores[torch.tensor(part, device=scores.device)].argsort(descending=True, stable=True)[:count]
            made += sorted(part[i] for i in best.tolist())
        else:
            made += [part[i % len(part)] for i in range(count)]
    return made


def _importance(name: str | Callable[[Any], Tensor]) -> Any:
    if callable(name):
        return name
    import torch_pruning as tp

    known: dict[str, Callable[[], Any]] = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "bn-scale": tp.importance.BNScaleImportance,
        "lamp": tp.importance.LAMPImportance,
        "fpgm": tp.importance.FPGMImportance,
        "random": tp.importance.RandomImportance,
    }
    if name not in known:
        raise ValueError(f"scale_width: importance must be one of {', '.join(known)}, or a function; got {name!r}")
    return known[name]()


def _selections(groups: list[Group], chosen: Mapping[str, list[int]], model: nn.Module) -> dict[str, dict[str, Any]]:
    """For each layer and parameter that changes: the old positions that the new ones are made of, by side."""
    pieces: dict[tuple[str, str], dict[int, tuple[int, list[int]]]] = {}  # first position -> the last, what comes there
    dims = {member.name: member.dim for group in groups for member in group.members}
    for group in groups:
        for member in group.members:
            for run in _runs(member):
                positions = [position for position, _ in run]
                if positions[-1] - positions[0] + 1 != len(positions):
                    raise ValueError(
                        f"scale_width: {member.name} cannot change: channels of several layers alternate in it"
                    )
                of_root: dict[int, list[int]] = {}
                for position, root in run:
                    of_root.setdefault(root, []).append(position)
                new = [position for root in chosen[group.root] for position in of_root.get(root, ())]
                pieces.setdefault((member.name, member.side), {})[positions[0]] = positions[-1], new
    made: dict[str, dict[str, Any]] = {}
    held = dict(model.named_parameters())
    for (name, side), starts in pieces.items():
        extent = held[name].shape[dims[name]] if side == "parameter" else extent_of(model.get_submodule(name), side)
        if max(last for last, _ in starts.values()) >= extent:
            raise ValueError(
                f"scale_width: {name} cannot change: it has {extent} channels, and more are coupled with it"
            )
        index, position = [], 0
        while position < extent:
            last, new = starts.get(position, (position, [position]))
            index += new
            position = last + 1
        made.setdefault(name, {})[side] = index
        if side == "parameter":
            made[name]["dim"] = dims[name]
    return made


def _runs(member: Member) -> list[list[tuple[int, int]]]:
    """The (position, root) pairs of a member in order, cut where the roots begin again: a tensor joined with itself."""
    runs: list[list[tuple[int, int]]] = []
    for position, root in sorted(zip(member.positions, member.roots, strict=True)):
        if not runs or root < runs[-1][-1][1] or position != runs[-1][-1][0] + 1:
            runs.append([])
        runs[-1].append((position, root))
    return runs


def _mixed(model: nn.Module, example: Any, layers: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether the chosen channels do not belong together, which torch-pruning's indices do not always tell; empty where
    they do: the narrow network then is the whole one with the channels that go multiplied by zero, the wide one is it.

    Norms over channels are set to scale each channel by itself first, as they see other channels afterwards.
    """
    doubled = in_double(model, example)
    net, example = (copied(model), example) if doubled is None else doubled
    net.eval()
    for module in net.modules():
        if type(module) in _EACH:
            module.__class__ = _EACH[type(module)]
    whole = copied(net)
    with torch.no_grad():
        for name, sides in layers.items():
            if "in" in sides:
                unread_(whole.get_submodule(name), set(sides["in"]))
    try:
        narrow = _rewidthed(net, example, layers, "preserve")
        difference = compare(whole, narrow, example)
    except (ValueError, RuntimeError) as error:
        return str(error).removeprefix("scale_width: ")
    allowed = EXACT if doubled is not None else 1e-3
    return (
        "" if difference <= allowed else f"the output differs by {difference:.2g} from that of the channels that stay"
    )


class _EachGroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        if not self.affine:
            return input
        shape = (1, -1, *[1] * (input.dim() - 2))
        return input * self.weight.reshape(shape) + self.bias.reshape(shape)


class _EachLayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        input = input if self.weight is None else input * self.weight
        return input if self.bias is None else input + self.bias


# A norm over channels, and what stands for it while channels are compared: it scales and shifts each by itself.
_EACH: dict[type, type] = {nn.GroupNorm: _EachGroupNorm, nn.LayerNorm: _EachLayerNorm}


def _uncalled(model: nn.Module, example: Any) -> list[str]:
    """Layers with channels that the example does not run."""
    called = capture(model, example).reached()[0]
    return [name for name, module in model.named_modules() if isinstance(module, WEIGHTED) and name not in called]


# --- the new layers -----------------------------------------------------------------------------


def _made(
    model: nn.Module, example: Any, layers: dict[str, dict[str, Any]], init: Init, groups: list[Group],
    left: dict[str, str],
) -> nn.Module:  # fmt: skip
    record = capture(model, example)
    new = _rewidthed(model, example, layers, init)
    after = capture(new, example)
    if output_shapes(after) != output_shapes(record):
        raise ValueError(
            f"scale_width: the outputs would have the shapes {output_shapes(after)}, not {output_shapes(record)}: "
            f"leave out one of {', '.join(layers)}"
        )
    equality = "none: the channels that stay are as they were" if init == "prune" else "none: changed layers are fresh"
    if init == "preserve":
        equality = _checked(model, new, example, layers)
    names = (member.name for group in groups for member in group.members)
    step = Step(
        "scale_width", {"layers": layers, "init": init}, tuple(dict.fromkeys(names)) or tuple(layers), tuple(layers),
        left, {}, costs(record), costs(after), equality,
    )  # fmt: skip
    return with_step(new, recipe(model), step)


def _checked(model: nn.Module, new: nn.Module, example: Any, layers: dict[str, dict[str, Any]]) -> str:
    """How equal a widened model is, in evaluation mode. Raises ValueError where it is not."""
    doubled = in_double(model, example)
    pair = (copied(model).eval(), copied(new).eval()), example, CLOSE, "the model's own dtype"
    if doubled is not None:
        double, varied = doubled
        pair = (double.eval(), _rewidthed(double, varied, layers, "preserve").eval()), varied, EXACT, "float64"
    models, example, allowed, where = pair
    difference = compare(*models, example)
    if not difference <= allowed:
        raise ValueError(
            f"scale_width: init='preserve' cannot keep the function: with {', '.join(list(layers)[:6])} wider the "
            f"output differs by {difference:.2g} (a norm or a softmax over channels sees more of them); use another "
            "init, or where"
        )
    return f"exact: equal within {difference:.2g} (relative) in {where}"


def _rewidthed(model: nn.Module, example: Any, layers: Mapping[str, Mapping[str, Any]], init: Init) -> nn.Module:
    new = copied(model)
    modules: dict[str, nn.Module] = {}
    for name, sides in layers.items():
        if "parameter" in sides:
            path, _, leaf = name.rpartition(".")
            owner = new.get_submodule(path)
            old = owner._parameters[leaf]
            assert old is not None
            index = torch.tensor(sides["parameter"], device=old.device)
            owner._parameters[leaf] = nn.Parameter(old.detach().index_select(sides["dim"], index), old.requires_grad)
        else:
            modules[name] = resized(new.get_submodule(name), sides, init)
    put_modules_(new, modules)
    try:
        return with_modules(new, {}, example)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            f"scale_width: with {', '.join(list(layers)[:6])} changed the model does not run: "
            f"{type(error).__name__} in {failed_in(error)}: {str(error).splitlines()[0]}"
        ) from error
