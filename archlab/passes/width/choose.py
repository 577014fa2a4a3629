"""Which channels of which layers a new width means: how many each group gets, which stay, and where they stand."""

import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .channel_groups import Group, Member
from .resize import Init, extent_of

Importance = str | Callable[[Any], Tensor]


def wanted_widths(
    groups: list[Group], classes: Mapping[str, list[list[int]]], asked: Mapping[str, Any], round_to: int, *, exact: bool
) -> tuple[dict[Group, int], dict[str, str]]:
    """The new channel count of each group that was asked for, and why others were skipped."""
    wanted: dict[Group, int] = {}
    skipped = {g.root: g.fixed for g in groups if g.fixed}
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
        skipped |= {g.root: f"keeps its {g.channels} channels by rounding" for g in still}
    return wanted, skipped


def _rounded(value: float, multiple: int) -> int:
    return max(multiple, math.floor(value / multiple + 0.5) * multiple)


def classes_of(group: Group, model: nn.Module) -> list[list[int]]:
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


def chosen_channels(group: Group, classes: list[list[int]], new: int, init: Init, importance: Importance) -> list[int]:
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


def selections_of(groups: list[Group], chosen: Mapping[str, list[int]], model: nn.Module) -> dict[str, dict[str, Any]]:
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
