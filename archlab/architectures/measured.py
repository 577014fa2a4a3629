"""What the parts of a supernet cost: each option is run once, as many at a time as do not hide each other."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ..arguments import wrong
from ..capture.record import Capture
from ..capture.recorder import capture, capture_meta
from ..errors import add_note
from ..passes.choice.modules import parameters_outside_choices
from .space import Architecture, Space


def put_indices_(net: nn.Module, indices: Mapping[str, int]) -> None:
    """Let each place of a supernet run the option of its index, in place."""
    for path, index in indices.items():
        net.get_submodule(path).now = index  # type: ignore[assignment]


def measured(net: nn.Module, example: Any, space: Space) -> Space:
    """The space of a supernet with all costs; the supernet is left at its original architecture.

    Raises:
        ValueError: for an option that does not run, or gives another shape than the original; where the costs of the
            parts do not add up to that of the whole.
    """
    # Multiply-adds.
    first = _recorded(net, example, space, space.original)
    shapes = _shapes(first, space)
    place_macs, fixed = _macs(first, space, space.original)
    wholes = [(space.original, _total(first))]
    for architecture in _covering(space):
        record = _recorded(net, example, space, architecture)
        _refuse_other_shapes(space, architecture, shapes, _shapes(record, space))
        place_macs |= _macs(record, space, architecture)[0]
        wholes.append((architecture, _total(record)))
    # Parameters.
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    sizes = {name: parameter.numel() for name, parameter in net.named_parameters()}
    place_params = {}
    for place in space.places:
        module = net.get_submodule(place.path)
        for index in {*place.indices.values(), 0}:
            own = (names[id(p)] for p in module.parameters_of(index))  # type: ignore[operator]
            place_params[place.path, index] = {name: sizes[name] for name in own}
    fixed_params = {names[id(p)]: p.numel() for p in parameters_outside_choices(net)}
    whole = replace(
        space, fixed_macs=fixed, place_macs=place_macs, fixed_params=fixed_params, place_params=place_params
    )
    # Do they add up?
    least, most = _extreme(whole, largest=False), _extreme(whole, largest=True)
    wholes += [(found, _total(_recorded(net, example, whole, found))) for found in (least, most)]
    for architecture, there in wholes:
        if there != whole.macs(architecture):
            raise ValueError(
                f"supernet: the costs of the options do not add up: {architecture} costs {there:,} MACs, its parts "
                f"{whole.macs(architecture):,}: what is computed elsewhere depends on what is chosen"
            )
    put_indices_(net, space.indices(space.original))
    return replace(whole, macs_range=(whole.macs(least), whole.macs(most)))


def _total(record: Capture) -> int:
    return sum(op.macs for op in record.ops)


def _covering(space: Space) -> Iterator[Architecture]:
    """Architectures that compute every option at least once; what is inside others first, as these hide it."""
    above = {p.name: {outer for place in space.places if place.position == p.name for outer in place.above}
             for p in space.positions}  # fmt: skip
    owner = {place.path: place.position for place in space.places}
    todo = {p.name: [o for o in p.options if o != p.original] for p in space.positions}
    deepest_first = sorted(space.positions, key=lambda p: -max((len(outer) for outer in [above[p.name]]), default=0))
    while any(todo.values()):
        architecture, kept = space.original, set()  # `kept`: positions that must stay, as others inside are tried
        for position in deepest_first:
            if todo[position.name] and position.name not in kept:
                outer = {owner[path] for path in above[position.name]} - {position.name}
                if all(architecture[name] == space.original[name] for name in outer):
                    architecture[position.name] = todo[position.name].pop()
                    kept |= outer
        yield architecture


def _extreme(space: Space, *, largest: bool) -> Architecture:
    """The architecture of fewest or most multiply-adds, which for parts that add up is found one by one."""
    architecture, better = space.original, max if largest else min
    depth = {place.position: len(place.above) for place in space.places}
    for position in sorted(space.positions, key=lambda p: -depth.get(p.name, 0)):
        tried = {option: space.macs({**architecture, position.name: option}) for option in position.options}
        architecture[position.name] = better(tried, key=tried.__getitem__)
    return space.canonical(architecture)


def _recorded(net: nn.Module, example: Any, space: Space, architecture: Architecture) -> Capture:
    """A recorded run at an architecture, on the meta device where the model runs there.

    Raises ValueError that names the option with which it does not run.
    """
    put_indices_(net, space.indices(architecture))
    try:
        return _run(net, example)
    except Exception as error:
        original = space.original
        changed = {name: option for name, option in architecture.items() if option != original[name]}
        if len(changed) == 1:
            ((name, option),) = changed.items()
            told = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"supernet: the model does not run with {option!r} at {name} ({type(error).__name__}: {told})"
            ) from error
        for name, option in changed.items():
            _recorded(net, example, space, {**original, name: option})
        add_note(error, f"raised at the architecture {changed}")
        raise


def _run(net: nn.Module, example: Any) -> Capture:
    try:
        return capture_meta(net, example)
    except Exception:  # whatever the model raises without data
        return capture(net, example)


def _macs(record: Capture, space: Space, architecture: Architecture) -> tuple[dict[tuple[str, int], int], int]:
    """Multiply-adds by place and index, of those that were computed, and of the rest."""
    indices = dict(space.computed(architecture))
    found: Counter[str] = Counter()
    paths = sorted((place.path for place in indices), key=len, reverse=True)
    for op in record.ops:
        module = op.call.module if op.call is not None else op.execution.module
        found[next((p for p in paths if module == p or module.startswith(f"{p}.")), "")] += op.macs
    return {(place.path, index): found[place.path] for place, index in indices.items()}, found[""]


def _refuse_other_shapes(space: Space, architecture: Architecture, before: Mapping, after: Mapping) -> None:
    """Raise ValueError for a place that does not give the shapes `before`; with another width it may."""
    kinds = {position.name: position.kind for position in space.positions}
    for place in space.places:
        given, wanted = after[place.path], before[place.path]
        if given and given != wanted and kinds[place.position] != "width":
            option = architecture[place.position]
            raise ValueError(wrong(f"supernet: what {option!r} at {place.position} gives", f"of shape {wanted}", given))


def _shapes(record: Capture, space: Space) -> dict[str, list[tuple]]:
    """The shapes that each call of each place gave."""
    found: dict[str, list[tuple]] = {place.path: [] for place in space.places}
    for call in record.calls:
        if call.module in found:
            found[call.module] += call.out_shapes
    return found
