"""Hoisting: the padding between convolutions moved to the first, where it stands in the way of merging them."""

from dataclasses import replace
from typing import Any

from torch import nn

from ...capture.record import Capture
from ...capture.recorder import capture
from ...names import Where
from ...rewrite.module_tree import with_modules
from ..checks import finish, outputs_are_counted
from ..recipe import Equality
from ..switch_state import refuse_switched
from .chains import find_chains, link_at
from .cost_model import CostModel, pricing
from .linear import NotExact, then
from .modules import layer_of, module_of, trained_as_
from .plan import Segment, keep_matching, plan_chains
from .rings import EVERYWHERE, layer_rings, output_rings, rings_in_words


def hoist_padding(model: nn.Module, example: Any, *, where: Where = None, cost: CostModel = "macs") -> nn.Module:
    """A copy of `model` in which all padding of a chain of convolutions is done by its first one, so that `fold` merges
    it exactly: only of chains that `fold` would find cheaper merged.

    The values near the border change, as later layers then see convolved padding instead of padding of their own. How
    far into the model's output that reaches is on the recipe's step, in pixels (`checked`): a layer behind the chain
    widens the ring, and one that looks at the whole map, as global pooling and attention do, carries it everywhere. The
    rings of the chains' own outputs are there too (`how`). What lies inside is checked before it returns. Train on
    before folding.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        where: as for `fold`.
        cost: as for `fold`.

    Raises:
        ValueError: where no padding is in the way, or code looks at the sizes of what is larger now.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1))
    >>> hoist_padding(net, torch.zeros(1, 3, 9, 9), cost=lambda layer, shape: 1.0)
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(2, 2))
      (1): Conv2d(8, 2, kernel_size=(3, 3), stride=(1, 1))
    )
    """
    refuse_switched(model)
    record = capture(model, example)
    chains = find_chains(model, record, example=example)
    keep_matching(chains, where)
    segments, skipped = plan_chains(chains, pricing(model, cost), hoist=True)
    wanted: dict[str, dict[str, list[int]]] = {}  # first convolution -> the paddings of it and those behind it
    modes: dict[str, str] = {}
    for segment in segments:
        convolutions = [link for link in segment.links if link.layer.form == "conv"]
        if not convolutions:
            continue
        first, *later = convolutions
        paddings = {first.address: list(segment.layer.padding)} | {k.address: [0] * first.layer.dims for k in later}
        others = wanted.setdefault(first.address, {})
        if first is not segment.links[0] and not _is_exact(segment):
            skipped[segment.links[-1].address] = "what comes first is no convolution, and cannot pad"
            paddings = {first.address: [-1]}
        elif any(others.get(address, padding) != padding for address, padding in paddings.items()):
            skipped[segment.links[-1].address] = "its padding would have to be another one than that of its neighbour"
            paddings = {first.address: [-1]}  # nothing that begins with this one can be hoisted
        others |= paddings
        modes[first.address] = segment.layer.mode
    paddings = {}
    for group in wanted.values():
        changed = {a for a, padding in group.items() if padding != list(chains.links[a].layer.padding)}
        if [-1] not in group.values() and changed:
            paddings |= group
    modes = {address: mode for address, mode in modes.items() if address in paddings}
    if not paddings:
        why = "; ".join(f"{address}: {reason}" for address, reason in (chains.skipped | skipped).items())
        why = why or "There is no chain of linear layers"
        raise ValueError(f"no padding is in the way of a merge that would be cheaper. {why}")
    return apply_hoist_padding(model, example, paddings=paddings, modes=modes, record=record)


def apply_hoist_padding(
    model: nn.Module,
    example: Any,
    *,
    paddings: dict[str, list[int]],
    modes: dict[str, str],
    record: Capture | None = None,
) -> nn.Module:
    """The step ``hoist_padding`` of a recipe: these paddings, and the modes of those that pad.

    `record`: a run of `model`, where there is one already. Raises ValueError for a layer that this model has not.
    """
    record = record or capture(model, example)
    chains = find_chains(model, record, example=example)
    if not isinstance(paddings, dict) or not paddings:
        raise ValueError(f"hoist_padding: paddings must name a layer at least, got {paddings!r:.80}")
    for address, padding in paddings.items():
        link_at(chains, address)
        sides = getattr(model.get_submodule(address), "kernel_size", None)
        sizes = padding if isinstance(padding, list | tuple) else ()
        if not isinstance(sides, tuple) or [type(size) for size in sizes] != [int] * len(sides) or min(sizes) < 0:
            raise ValueError(
                f"hoist_padding: the padding of {address} must be a whole number a side of a convolution, got "
                f"{padding!r:.80}"
            )
    padded = {a: _padded(model.get_submodule(a), padding, modes.get(a)) for a, padding in paddings.items()}
    rings = layer_rings(model, padded, chains)
    try:
        new = with_modules(model, padded)
        after = capture(new, example)
    except RuntimeError as error:  # a mirrored border must be narrower than the picture
        raise ValueError(
            f"hoist_padding: {', '.join(paddings)} cannot be padded so on this example: {error}"
        ) from error
    counted = outputs_are_counted(
        model, example, record, after, changed=f"hoist_padding: with {paddings}",
        remedy="other code looks at what is larger now; leave it out by where",
    )  # fmt: skip
    how = {address: f"its output has changed in a ring of {ring} pixels" for address, ring in rings.items()}
    reached = output_rings(model, new, example, rings, record=record)
    inside = any(ring is not EVERYWHERE for ring in reached)
    return finish(
        new, model, name="hoist_padding", options={"paddings": paddings, "modes": modes}, before=record, after=after,
        equality=Equality.INTERIOR if inside else Equality.NONE, checked=rings_in_words(reached),
        found=chains.links, taken=paddings, how=how, counted=counted,
    )  # fmt: skip


def _is_exact(segment: Segment) -> bool:
    """Whether the segment can be merged with every padding where it is."""
    layer = segment.links[0].layer
    try:
        for link in segment.links[1:]:
            layer = then(layer, link.layer)
    except NotExact:
        return False
    return True


def _padded(module: nn.Module, padding: list[int], mode: str | None) -> nn.Module:
    """`module`, a convolution, with another padding, its weights copied."""
    layer = replace(layer_of(module), padding=tuple(padding), mode=mode or module.padding_mode)  # type: ignore[arg-type]
    made = module_of(layer, module.weight)  # type: ignore[arg-type]
    made.load_state_dict(module.state_dict())
    trained_as_(made, module)
    return made.train(module.training)
