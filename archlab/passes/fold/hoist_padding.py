"""Hoisting: the padding between convolutions moved to the first, where it stands in the way of merging them."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.record import Capture
from ...capture.recorder import capture
from ...names import Where
from ...rewrite.module_tree import with_modules
from ..checks import EXACT, finish
from ..recipe import Equality
from ..switch_state import refuse_switched
from .chains import Chains, Link, find_chains, link_at, real_layer
from .cost_model import CostModel, pricing
from .linear import Layer, NotExact, layer_of, module_of, then
from .plan import Segment, keep_matching, plan_chains


def hoist_padding(model: nn.Module, example: Any, *, where: Where = None, cost: CostModel = "macs") -> nn.Module:
    """A copy of `model` in which all padding of a chain of convolutions is done by its first one, so that `fold` merges
    it exactly: only of chains that `fold` would find cheaper merged.

    The values near the border change, as later layers then see convolved padding instead of padding of their own: which
    ring of pixels of which layer's output is on the recipe's step (`how`), so train on before folding. The interior
    is checked before it returns.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        where: as for `fold`.
        cost: as for `fold`.

    Raises:
        ValueError: where no padding is in the way.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1))
    >>> hoist_padding(net, torch.zeros(1, 3, 9, 9), cost=lambda layer, shape: 1.0)
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(2, 2))
      (1): Conv2d(8, 2, kernel_size=(3, 3), stride=(1, 1))
    )
    """
    refuse_switched(model)
    record = capture(model, example)
    chains = find_chains(model, record)
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
        raise ValueError(f"no padding is in the way of a merge that would be cheaper. {why or 'No chain of layers'}")
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
    chains = find_chains(model, record)
    for address in paddings:
        link_at(chains, address)
    padded = {a: _padded(model.get_submodule(a), padding, modes.get(a)) for a, padding in paddings.items()}
    rings = _checked_rings(model, padded, chains)
    try:
        new = with_modules(model, padded)
        after = capture(new, example)
    except RuntimeError as error:  # a mirrored border must be narrower than the picture
        raise ValueError(
            f"hoist_padding: {', '.join(paddings)} cannot be padded so on this example: {error}"
        ) from error
    if after.output_shapes != record.output_shapes:
        raise ValueError(
            f"hoist_padding: with {paddings} the outputs would have the shapes {after.output_shapes}, not "
            f"{record.output_shapes}: other code looks at what is larger now"
        )
    how = {address: f"its output has changed in a ring of {ring} pixels" for address, ring in rings.items()}
    return finish(
        new, model, name="hoist_padding", options={"paddings": paddings, "modes": modes}, before=record, after=after,
        equality=Equality.INTERIOR,
        checked=f"equal outside rings of up to {max(rings.values(), default=0)} pixels of these layers' outputs",
        found=chains.links, taken=paddings, how=how,
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
    return made.train(module.training)


def _checked_rings(model: nn.Module, padded: Mapping[str, nn.Module], chains: Chains) -> dict[str, int]:
    """How wide a ring of each padded layer's output changes; outside of it nothing does, which is checked on noise."""
    rings: dict[str, int] = {}

    def follow(link: Link, ring: int, before: Tensor, after: Tensor) -> None:
        for reader in link.readers or ():
            layer, grown = reader.layer, ring
            if layer.form == "affine":
                old, new = (_apply(real_layer(reader, model, chains), x) for x in (before, after))
            elif reader.address in padded:
                old = _apply(layer_of(model.get_submodule(reader.address)), before)
                new = _apply(layer_of(padded[reader.address]), after)
                grown = max(math.ceil((ring + p) / s) for p, s in zip(layer.padding, layer.stride, strict=True))
                if old.shape == new.shape:  # further up it is larger by the padding that is still to be used
                    rings[reader.address] = max(grown, rings.get(reader.address, 0))
                    inner = (..., *[slice(grown, side - grown) for side in old.shape[2:]])
                    same = torch.allclose(old[inner], new[inner], rtol=EXACT, atol=EXACT)
                    assert same, f"{reader.address} differs inside its ring"
            else:
                continue
            follow(reader, grown, old, new)

    for address in padded:
        link, pair = chains.links[address], (model.get_submodule(address), padded[address])
        if not any(link in (chains.links[other].readers or ()) for other in padded):
            device = next(pair[0].parameters()).device
            x = torch.randn(1, *link.in_shape[1:], dtype=torch.float64, device=device)
            follow(link, 0, *(_apply(layer_of(module), x) for module in pair))
    return rings


def _apply(layer: Layer, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module_of(layer, x)(x)
