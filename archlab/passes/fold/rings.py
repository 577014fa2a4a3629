"""How far from the border a hoisted padding changes what a model computes: at the chain's end, and at the output."""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.copies import copied
from ...capture.dataflow import Flow
from ...capture.example import tensors_in, varied
from ...capture.record import Capture
from ..checks import EXACT, difference, in_double, observe, own_tolerance
from .chains import Chains, Link, real_layer
from .linear import Layer
from .modules import layer_of, module_of

EVERYWHERE = None  # a ring as wide as the map


def layer_rings(model: nn.Module, padded: Mapping[str, nn.Module], chains: Chains) -> dict[str, int]:
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
            x = torch.randn(1, *link.in_shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            x = x.to(next(pair[0].parameters()).device)
            follow(link, 0, *(_apply(layer_of(module), x) for module in pair))
    return rings


def _apply(layer: Layer, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module_of(layer, x)(x)


def output_rings(
    model: nn.Module, hoisted: nn.Module, example: Any, rings: Mapping[str, int], *, record: Capture
) -> list[int | None]:
    """How wide a ring of each of the model's outputs changes, in pixels, where that of these layers' outputs does.

    Found by running `model` with not-a-number in the rings of the layers, which reaches all that is computed from them
    whatever the weights are. Outside of it both models are compared. An output that is no map (batch x channels x
    spatial) or cannot show not-a-number (an index, boxes whose number depends on values) changes everywhere where it is
    computed from these layers' outputs, which `record`, a run of `model`, says.
    """
    below = _below(record, rings)
    doubled = in_double(model, example), in_double(hoisted, example)
    if doubled[0] is not None and doubled[1] is not None:
        allowed, (net, example, before), after = EXACT, doubled[0], doubled[1][2]
    else:
        allowed, net, example = own_tolerance(model), model, varied(example)
        before, after = observe(model, example), observe(hoisted, example)
    near, far = (_reached(net, example, rings, far=far) for far in (False, True))
    dims = {layer_of(model.get_submodule(address), meta=True).dims for address in rings}
    found: list[int | None] = []
    both = tensors_in(before.output), tensors_in(after.output)
    if any(len(outputs) != len(below) for outputs in (*both, near or below, far or below)):
        return [EVERYWHERE] * len(below)  # how many there are depends on values
    for number, (old, new) in enumerate(zip(*both, strict=True)):
        touched = [torch.ones_like(old, dtype=torch.bool) if sides is None else sides[number] for sides in (near, far)]
        if not below[number]:
            ring = 0
        elif old.dim() - 2 not in dims or not _shows(old) or any(t.shape != old.shape for t in (new, *touched)):
            ring = EVERYWHERE
        else:
            sides = [_width(there, far=far) for there, far in zip(touched, (False, True), strict=True)]
            widths = [width for width in sides if width is not None]
            ring = EVERYWHERE if len(widths) < len(sides) else max(widths)
        if ring is not None and difference(*(_inside(output, ring) for output in (old, new))) > allowed:
            assert below[number], f"output {number} differs, which is not computed from {', '.join(rings)}"
            ring = EVERYWHERE  # code chooses by value
        found.append(ring)
    return found


def _below(record: Capture, addresses: Collection[str]) -> list[bool]:
    """Of each output whether it is computed from what these layers make."""
    flow = Flow(record)
    made = {value for call in record.calls if call.module in addresses for value in call.outputs}
    layers = [op for op in record.ops if any(name.rpartition(".")[0] in addresses for name in op.params)]
    made.update(value for op in layers for value in op.outputs)
    return [any(flow.descends(output, value) for value in made) for output in record.outputs]


def _shows(output: Tensor) -> bool:
    """Whether not-a-number can be seen in it."""
    return output.is_floating_point() or output.is_complex()


def _inside(output: Tensor, ring: int) -> Tensor:
    return output[(..., *[slice(ring, max(ring, side - ring)) for side in output.shape[2:]])]


def rings_in_words(rings: Sequence[int | None]) -> str:
    """What of a model's outputs has changed.

    >>> rings_in_words([16])
    "equal outside a ring of 16 pixels of the model's output"
    >>> rings_in_words([None, 4, 0])
    "the model's outputs have changed: 0 everywhere, 1 in a ring of 4 pixels, 2 nowhere"
    """
    if not rings:
        return "the model gave no tensor that could be compared"
    if len(rings) == 1:
        (ring,) = rings
        if ring is EVERYWHERE:
            return "the model's output has changed everywhere: what follows carries the ring from side to side"
        return f"equal outside a ring of {ring} pixels of the model's output"
    told = ["everywhere" if r is EVERYWHERE else f"in a ring of {r} pixels" if r else "nowhere" for r in rings]
    return f"the model's outputs have changed: {', '.join(f'{number} {what}' for number, what in enumerate(told))}"


def _reached(model: nn.Module, example: Any, rings: Mapping[str, int], *, far: bool) -> list[Tensor] | None:
    """Where each output is computed from the near sides (top, left) of the rings of these layers' outputs, or from the
    far ones; None where `model` does not run so."""
    net = copied(model)
    for address, ring in rings.items():

        def spoil(module: nn.Module, args: tuple, output: Tensor, ring: int = ring) -> Tensor:
            sides = output.shape[2:]
            kept = (..., *[slice(max(0, side - ring)) if far else slice(ring, None) for side in sides])
            spoilt = torch.full_like(output, torch.nan)
            spoilt[kept] = output[kept]
            return spoilt

        net.get_submodule(address).register_forward_hook(spoil)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of what the flags would do on other devices
        for library in (torch.backends.mkldnn, torch.backends.cudnn):  # their convolutions spread it within a tile
            stack.enter_context(library.flags(enabled=False))
        try:
            output = observe(net, example).output
        except Exception:  # whatever code raises that looks at the values
            return None
    return [tensor.isnan() for tensor in tensors_in(output)]


def _width(touched: Tensor, *, far: bool) -> int | None:
    """How far from the near sides of a map, or the far ones, all lies that is true; `EVERYWHERE`: right through."""
    there = touched.flatten(0, 1).any(0).cpu()
    if not there.any():
        return 0
    grid = torch.meshgrid(*[torch.arange(side) for side in there.shape], indexing="ij")
    to_border = torch.stack([side - 1 - at if far else at for at, side in zip(grid, there.shape, strict=True)]).amin(0)
    width = 1 + int(to_border[there].max())
    return width if width < min(there.shape) else EVERYWHERE
