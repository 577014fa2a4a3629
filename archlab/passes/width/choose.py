"""Which widths are asked for: the new size of each axis, and why layers keep theirs."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .axes import Axis, Expr, freeze, leaves, positions, products, reason, scaled_axes, size_with
from .flow import Flow
from .importance import Importance, scores, weights_of
from .resize import Init, Resizing, get_number

COUNTS = "counts the parts that the channels of other layers stand in, which change their own width instead"


class Widths:
    """The layers of a followed run: which axes make their channels, and which layers an axis couples."""

    def __init__(self, flow: Flow):
        self.flow = flow
        self.layers = flow.makes
        self.counts: set[Axis] = set()  # axes that say how many parts others have

    def channels(self, layer: str, sizes: Mapping[Axis, int] = {}) -> int:
        """How many channels a layer makes, or will with these sizes of axes."""
        return size_with(self.layers[layer][0], sizes)

    def axes(self, layer: str) -> list[Axis]:
        """The axes by which a layer can be scaled."""
        return list(dict.fromkeys(axis for expr in self.layers[layer] for axis in scaled_axes(expr)))

    def chosen_axes(self, layers: Iterable[str]) -> dict[str, list[Axis]]:
        """For each layer the axes by which its size is changed.

        Of a product that is one alone: an outer one where another layer can be changed by that only, as queries can by
        the number of heads when the width of these must stay. A layer whose channels count the parts of others (a bias
        for each head) keeps them as long as these parts can change themselves.
        """
        own = {layer: self.axes(layer) for layer in layers}
        groups = [group for layer in own for expr in self.layers[layer] for group in products(expr)]
        forced: set[Axis] = set()
        while True:
            split = {
                axis for layer in own for e in self.layers[layer] if products(e) for axis in scaled_axes(e, forced)
            }
            more = {a for group in groups for a in [a for a in group if a in split][:-1]}
            if more <= forced:
                break
            forced |= more
        self.counts = {a for group in groups if split & set(group) for a in group if not a.why} - split
        found = {n: list(dict.fromkeys(a for e in self.layers[n] for a in scaled_axes(e, forced))) for n in own}
        return {n: [axis for axis in axes if axis not in self.counts] for n, axes in found.items()}

    def coupled(self, layer: str) -> list[str]:
        """The other layers that have an axis in common with `layer`."""
        own = {axis for expr in self.layers[layer] for axis in leaves(expr)}
        return [n for n, made in self.layers.items() if n != layer and any(a in own for e in made for a in leaves(e))]

    def why(self, layer: str) -> str:
        """Why the channels of `layer` stay: what one of their axes is part of, and the layers that have these too."""
        if self.axes(layer):
            counted = any(axis in self.counts for axis in self.axes(layer))
            return COUNTS if counted else f"keeps its {self.channels(layer)} channels by rounding"
        found = next((r for expr in self.layers[layer] if (r := reason(expr))), "has one channel and cannot have fewer")
        others = self.coupled(layer)
        more = f", and {len(others) - 4} more" if len(others) > 4 else ""
        return found + (f"; coupled with {', '.join(others[:4])}{more}" if others else "")


def sizes_for(
    widths: Widths, asked: Mapping[str, list[str]], values: Mapping[str, Any], round_to: int, *, exact: bool
) -> dict[Axis, int]:
    """The new sizes of the axes of the layers in `asked` (glob -> layers), of which each is to have its value."""
    sizes: dict[Axis, int] = {}
    named: dict[Axis, str] = {}
    own = widths.chosen_axes(dict.fromkeys(layer for layers in asked.values() for layer in layers))
    for glob, layers in asked.items():
        for layer in layers:
            axes = own[layer]
            if exact:
                made = _exact(widths, layer, axes, values[glob], round_to)
            else:
                multiples = {axis: _multiple(widths.layers[layer][0], axis, round_to) for axis in axes}
                made = {axis: _rounded(values[glob] * axis.size, each) for axis, each in multiples.items()}
            for axis, size in made.items():
                named.setdefault(axis, glob)
                if sizes.setdefault(axis, size) == size:
                    continue
                if exact or values[glob] != values[named[axis]]:
                    new, old = (widths.channels(layer, {axis: n}) for n in (size, sizes[axis]))
                    raise ValueError(
                        f"scale_width: {layer} is to have {new} channels by {glob!r} and {old} by {named[axis]!r}, as "
                        "they are coupled"
                    )
                sizes[axis] = max(size, sizes[axis])
    return {axis: size for axis, size in sizes.items() if size != axis.size}


def _exact(widths: Widths, layer: str, axes: list[Axis], total: int, round_to: int) -> dict[Axis, int]:
    """Sizes with which `layer` has `total` channels: all axes in proportion, the last takes what is left over."""
    expr = widths.layers[layer][0]
    if not axes or total == expr.size:
        return {}
    made = {axis: max(1, round(axis.size * total / expr.size)) for axis in axes[:-1]}
    base = size_with(expr, made | {axes[-1]: 0})
    each = size_with(expr, made | {axes[-1]: 1}) - base
    multiple = math.lcm(each, round_to)
    if (total - base) % each or total - base < each or total % round_to:
        raise ValueError(
            f"scale_width: {layer} is to have {total} channels: it must be a multiple of {multiple}, as its channels "
            f"stand in {each} groups and round_to is {round_to}" + (f", and {base} of them stay" if base else "")
        )
    return made | {axes[-1]: (total - base) // each}


def _multiple(expr: Expr, axis: Axis, round_to: int) -> int:
    """What the size of `axis` must be a multiple of, so that the channels are one of `round_to`."""
    each = max(1, size_with(expr, {axis: 1}) - size_with(expr, {axis: 0}))
    return round_to // math.gcd(each, round_to)


def _rounded(value: float, multiple: int) -> int:
    return max(multiple, math.floor(value / multiple + 0.5) * multiple)


def refuse_direction(widths: Widths, sizes: Mapping[Axis, int], init: Init) -> None:
    """Raise ValueError where "prune" is to add channels, or "preserve" to drop some."""
    for axis, size in sizes.items():
        if (init == "prune" and size > axis.size) or (init == "preserve" and size < axis.size):
            layer = next(n for n in widths.layers if axis in widths.axes(n))
            raise ValueError(
                f"scale_width: init={init!r} makes {'fewer' if init == 'prune' else 'more'} channels; {layer} is to "
                f"have {widths.channels(layer, sizes)}, and has {widths.channels(layer)}"
            )


def freeze_unpreservable(flow: Flow, ratio_of: Mapping[Axis, int]) -> bool:
    """Freeze the axes of which copies do not leave the function as it is; whether there were any."""
    both = [(flow.params[name][dim], "is both made and read with one weight") for name, dim in flow.read & flow.copied]
    changed = False
    for expr, why in [*flow.unpreservable, *both]:
        for axis in leaves(expr):
            if axis in ratio_of and not axis.why:
                freeze(axis, f"{why}, so that copies would change the output")
                changed = True
    for expr, why in flow.uniform:
        for axis in leaves(expr):
            if ratio_of.get(axis, 0) % axis.size and not axis.why:
                freeze(axis, f"{why}: only a whole multiple of {axis.size} keeps the output")
                changed = True
    return changed


def kept_positions(
    model: nn.Module, widths: Widths, sizes: Mapping[Axis, int], init: Init, importance: Importance
) -> dict[Axis, list[int]]:
    """The old positions that the new ones of each axis are made of."""
    kept = {axis: [n % axis.size for n in range(size)] for axis, size in sizes.items()}
    if init != "prune":
        return kept
    held = widths.flow.held()
    makers = {axis: layer for layer in reversed(widths.layers) for axis in widths.axes(layer)}
    for axis, size in sizes.items():
        weights = weights_of(model, widths.flow, axis, held[axis])
        best = scores(weights, axis, model, importance, makers[axis]).argsort(descending=True, stable=True)
        kept[axis] = sorted(best[:size].tolist())
    return kept


def resizing_for(model: nn.Module, flow: Flow, kept: Mapping[Axis, list[int]]) -> Resizing:
    """What the positions that are kept mean for each tensor and each number."""
    tensors: dict[str, dict[str, list[int]]] = {}
    for name, dims in flow.params.items():
        for dim, expr in enumerate(dims):
            if any(axis in kept for axis in leaves(expr)):
                tensors.setdefault(name, {})[str(dim)] = positions(expr, kept)
    read: dict[str, list[int]] = {}
    for name, dim in sorted(flow.read):
        if str(dim) in tensors.get(name, ()):
            read.setdefault(name, []).append(dim)
    return Resizing(tensors, read, numbers_for(model, flow, {axis: len(index) for axis, index in kept.items()}))


def numbers_for(model: nn.Module, flow: Flow, sizes: Mapping[Axis, int]) -> dict[str, dict[str, Any]]:
    """What layers say of their own widths, where it changes: in_channels, out_features, groups and the like."""
    found: dict[str, dict[str, Any]] = {}
    for path, exprs in flow.numbers.items():
        module = model.get_submodule(path)
        for name, expr in exprs.items():
            parts = expr if isinstance(expr, list) else [expr]
            before, after = tuple(e.size for e in parts), tuple(size_with(e, sizes) for e in parts)
            if before != after and get_number(module, name) == (before if isinstance(expr, list) else before[0]):
                found.setdefault(path, {})[name] = list(after) if isinstance(expr, list) else after[0]
    return found
