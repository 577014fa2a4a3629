"""Linear layers of a recorded run and how they follow each other: what can be merged, and what that would cost.

A link is a layer that is linear as it stands: a module of `linear.why_not_linear`, or an op that scales or shifts by
a parameter of one value a channel. A link's `readers` are set where nothing but linear layers reads
its output: then it may be merged into all of them and need not be computed by itself.
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...capture.dataflow import Flow
from ...capture.record import Capture, ModuleCall, Op
from .fixed import FUNCTIONS, UNKNOWN, Fixed
from .linear import Layer, identity
from .modules import layer_of, shared_parameters, why_not_linear


@dataclass(eq=False)
class Link:
    """One linear layer: `layer` with its weights on the meta device. Values are one for each call."""

    address: str  # the path of a module, or container/op.number
    layer: Layer
    ops: tuple[Op, ...]  # of an op that scales or shifts; none for a module
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    readers: "tuple[Link, ...] | None" = None

    @property
    def is_module(self) -> bool:
        return not self.ops


@dataclass
class Chains:
    """The links of one run, by address, and what looked like one and is none, with the reason."""

    links: dict[str, Link]
    skipped: dict[str, str]
    flow: Flow
    fixed: Fixed
    ops: dict[str, tuple[Op, ...]] = field(default_factory=dict)  # every op by its address
    seen: set[int] = field(default_factory=set)  # values that more than the layers look at

    def makers(self) -> dict[int, Link]:
        """The link that makes each value."""
        return {value: link for link in self.links.values() for value in link.outputs}


def find_chains(model: nn.Module, record: Capture, *, apart: Collection[str] = (), example: Any = UNKNOWN) -> Chains:
    """Every linear layer of the recorded run of `model`. Those in `apart` are not merged with what follows.

    `example`: what was run, from which it is known whether a number in the code may be another one in the next call.
    """
    flow = Flow(record)
    modules = dict(model.named_modules())
    chains = Chains({}, {}, flow, Fixed(model, record, example), _addresses(record))
    tied = shared_parameters(model)
    read_by: dict[str, set[str | None]] = {}
    for op in record.ops:
        for name in op.params:
            read_by.setdefault(name, set()).add(op.call.module if op.call is not None else None)
    calls: dict[str, list[ModuleCall]] = {}
    for call in record.calls:
        calls.setdefault(call.module, []).append(call)
    for path, its_calls in calls.items():
        module = modules[path]
        reason = why_not_linear(module)
        if reason == "" or not path:
            continue
        reason = reason or _no_link(module, its_calls, tied, read_by)
        if reason:
            chains.skipped[path] = reason
            continue
        given, made = (tuple(values) for values in zip(*((c.inputs[0], c.outputs[0]) for c in its_calls), strict=True))
        shape = its_calls[0].in_shapes[0]
        layer = layer_of(module, meta=True, dims=len(shape) - 2)
        chains.links[path] = Link(path, layer, (), given, made, shape, its_calls[0].out_shapes[0])
    fixed = chains.fixed
    for address, ops in _scales(chains).items():
        layer = affine_of(ops, model, chains, meta=True)
        if layer is not None:
            data = tuple(fixed.data(op) for op in ops)
            shapes = ops[0].in_shapes[ops[0].inputs.index(data[0])], ops[0].out_shapes[0]
            chains.links[address] = Link(address, layer, ops, data, tuple(op.outputs[0] for op in ops), *shapes)
            chains.skipped.pop(ops[0].execution.module, None)  # its own way is one that can be read
    chains.skipped |= _functional(chains)
    owner = {link.address: link for link in chains.links.values() if link.is_module}
    by_op = {op: link for link in chains.links.values() for op in link.ops}
    seen = chains.seen = _seen(modules, record)
    for link in chains.links.values():
        if link.address not in apart:
            link.readers = _readers(link, owner, by_op, flow, seen)
    return chains


def _seen(modules: Mapping[str, nn.Module], record: Capture) -> set[int]:
    """Values that somebody looks at between the layers: the model's code at their shapes, hooks, modules and functions
    that hand them on now and would not in training (dropout)."""
    found = record.asked | record.spared
    for call in record.calls:
        module = modules[call.module]
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        hooked = any(hooks)
        hands_on = call.outputs == call.inputs[:1] and not any(module.children())
        if hooked or (hands_on and type(module) is not nn.Identity and getattr(module, "p", 1) != 0):
            found.update((*call.inputs, *call.outputs))
    return found


def _addresses(record: Capture) -> dict[str, tuple[Op, ...]]:
    """Every op as container/name.number, with its occurrences in the executions of its container."""
    places: dict[tuple, list[Op]] = {}
    for op in record.ops:
        places.setdefault((op.execution.module, op.execution.entry, op.location, op.name), []).append(op)
    found: dict[str, tuple[Op, ...]] = {}
    numbers: dict[tuple[str, str], int] = {}
    for (path, _, _, name), ops in places.items():
        number = numbers[path, name] = numbers.get((path, name), -1) + 1
        found[f"{path}/{name.strip('_')}.{number}" if path else f"{name.strip('_')}.{number}"] = tuple(ops)
    return found


def _scales(chains: Chains) -> dict[str, tuple[Op, ...]]:
    """The ops that could scale or shift by something fixed, at the address of the first: those of one container with
    the same parameter together, wherever in its code they are."""
    fixed = chains.fixed
    groups: dict[tuple, dict[str, tuple[Op, ...]]] = {}
    for address, ops in chains.ops.items():
        op = ops[0]
        if (op.call is not None and op.call.module in chains.links) or not fixed.is_affine(op):
            continue
        order, key = op.inputs[0] in fixed, (op.execution.module, op.name, op.params, repr(op.positional))
        key = *key, order, op.out_shapes[0][1:2], len(op.out_shapes[0]), tuple(sorted(op.options))
        groups.setdefault(key if op.params else (address,), {})[address] = ops
    found = {}
    for parts in groups.values():
        found[next(iter(parts))] = tuple(sorted((op for ops in parts.values() for op in ops), key=lambda op: op.index))
    return found


def _functional(chains: Chains) -> dict[str, str]:
    """The linear ops that no module of a kind we know is called for, and why they are not merged."""
    found = {}
    for address, ops in chains.ops.items():
        op = ops[0]
        module = op.call.module if op.call is not None else op.execution.module
        known = module in chains.links or module in chains.skipped
        if op.func in FUNCTIONS and not known:
            found[address] = f"a {op.name} by a parameter of the code around it, not by a layer that can become another"
    return found


def by_location(ops: Iterable[Op]) -> list[tuple[Op, ...]]:
    """`ops` in groups that were issued at one place of one container's code."""
    places: dict[tuple, list[Op]] = {}
    for op in ops:
        places.setdefault((op.execution.module, op.execution.entry, op.location), []).append(op)
    return [tuple(group) for group in places.values()]


def _no_link(
    module: nn.Module, calls: Sequence[ModuleCall], tied: set[int], read_by: Mapping[str, Collection[str | None]]
) -> str | None:
    """Why calls of a linear module are not plain ones; None where they are.

    `read_by`: for each parameter, the modules in whose calls it is read.
    """
    if any(id(p) in tied for p in module.parameters()):
        return "its weights are another module's as well"
    path = calls[0].module
    if any(reader != path for name, _ in module.named_parameters() for reader in read_by.get(f"{path}.{name}", ())):
        return "its weights are read by other code as well"
    for call in calls:
        if len(call.inputs) != 1 or not (call.direct and call.tensor_out) or call.mutates_input:
            return "it is called with more than one tensor"
        if call.execution is None:
            return "it is called from outside the model"
        kernel = getattr(module, "kernel_size", None)
        if kernel is not None and len(call.in_shapes[0]) != len(kernel) + 2:
            return "its input has no batch dimension"
    if len({len(call.in_shapes[0]) for call in calls}) > 1:
        return "its calls have inputs of different numbers of dimensions"
    on_meta = copy.deepcopy(module).to("meta")
    for given, made, dtype in {(call.in_shapes[0], call.out_shapes[0], call.dtypes[0]) for call in calls}:
        with torch.no_grad():
            usual = on_meta(torch.empty(given, device="meta", dtype=dtype))
        if tuple(usual.shape) != made:
            return "it is called with further arguments"
    return None


def affine_of(ops: Sequence[Op], model: nn.Module, chains: Chains, *, meta: bool) -> Layer | None:
    """The layer that an op is which scales or shifts each channel by something fixed; None for any other op."""
    op, fixed = ops[0], chains.fixed
    if any(o.mutated or o.execution.method.startswith("<") or not fixed.is_affine(o) for o in ops):
        return None
    data = fixed.data(op)
    shape = op.in_shapes[op.inputs.index(data)]
    channels_first = {(o.out_shapes[0][1:2], len(o.out_shapes[0])) for o in ops}
    if op.out_shapes[0] != shape or len(shape) < 2 or len(channels_first) > 1:
        return None
    made = fixed.scale_and_shift(op, model)
    if made is None or not all(_same(made, fixed.scale_and_shift(o, model)) for o in ops[1:]):
        return None
    neighbour = _neighbour_dims(ops, data, chains)
    dims = [_channel_layout(v, shape, neighbour) for v in made if v is not None]
    if op.func is F.batch_norm:
        dims = [len(shape) - 2]
    if None in dims or len(set(dims)) > 1:
        return None
    assert dims[0] is not None
    channels = shape[1] if dims[0] else shape[-1]
    flat = [None if v is None else v.flatten().expand(channels) if v.numel() == 1 else v.flatten() for v in made]
    weight, bias = flat[0] if flat[0] is not None else identity(channels, dims[0]).weight, flat[1]
    if meta:
        weight, bias = (v if v is None else torch.empty_like(v, device="meta") for v in (weight, bias))
    assert weight is not None
    return Layer("affine", dims[0], weight, bias)


def _same(a: Sequence[Tensor | None], b: Sequence[Tensor | None] | None) -> bool:
    """Whether a container scales and shifts by the same in another call of it."""
    if b is None:
        return False
    return all(x is y or (x is not None and y is not None and torch.equal(x, y)) for x, y in zip(a, b, strict=True))


def _neighbour_dims(ops: Sequence[Op], value: int, chains: Chains) -> int | None:
    """The number of spatial dimensions of the layer before an op or, where there is none, behind it."""
    before = chains.makers().get(value)
    if before is not None:
        return before.layer.dims
    read = {value for op in ops for value in op.outputs}
    return next((link.layer.dims for link in chains.links.values() if read & set(link.inputs)), None)


def _channel_layout(value: Tensor, shape: tuple[int, ...], neighbour: int | None) -> int | None:
    """The spatial dimensions of a layer that `value`, broadcast to `shape`, scales channel by channel, or None."""
    if value.numel() == 1:
        return neighbour
    full = (1,) * (len(shape) - value.dim()) + tuple(value.shape)
    if full[-1] == value.numel() == shape[-1] and (len(shape) == 2 or neighbour in (0, None)):
        return 0
    if len(shape) > 2 and len(full) == len(shape) and full[1] == value.numel() == shape[1]:
        return len(shape) - 2
    return None


def _readers(
    link: Link, owner: dict[str, Link], by_op: dict[Op, Link], flow: Flow, seen: set[int]
) -> tuple[Link, ...] | None:
    """The links that read what `link` makes; None where anything else does, or where their calls do not pair up."""
    found: dict[Link, int] = {}
    for value, given in zip(link.outputs, link.inputs, strict=True):
        if value in flow.record.outputs or value in seen or flow.changed_later(value) or flow.changed_later(given):
            return None
        for op in flow.consumers.get(value, ()):
            reader = by_op.get(op) or (owner.get(op.call.module) if op.call is not None else None)
            if reader is None:
                return None
            found[reader] = found.get(reader, 0) + 1
    made = set(link.outputs)
    if any(set(reader.inputs) - made or len(reader.inputs) != len(link.outputs) for reader in found):
        return None
    return tuple(found) or None


def link_at(chains: Chains, address: str) -> Link:
    """The link at `address`. Raises ValueError where this model has none there."""
    if address not in chains.links:
        raise ValueError(f"the recipe merges {address}, which is no linear layer of this model")
    return chains.links[address]


def real_layer(link: Link, model: nn.Module, chains: Chains) -> Layer:
    """The layer of a link with its weights."""
    if link.is_module:
        return layer_of(model.get_submodule(link.address), dims=link.layer.dims)
    layer = affine_of(link.ops, model, chains, meta=False)
    assert layer is not None
    return layer
