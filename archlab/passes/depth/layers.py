"""New blocks: initialised anew, or so that they hand their input on."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ...capture.copies import copied
from ...capture.dataflow import Flow
from ...capture.example import Call, fresh, run_example, tensors_in
from ...capture.record import Capture, Op
from ...capture.recorder import capture
from ...discovery.find import find
from ...discovery.kinds import Kind
from ...discovery.site import Site
from ..width.resize import reset_layer_

# What a branch may end in, if it has weights: without them it gives nothing but its bias.
_WEIGHTED = re.compile(r"linear|conv(_transpose)?[123]d|addmm|matmul|__matmul__|bilinear|einsum|mm|bmm")


def reset_(block: nn.Module, model: nn.Module) -> list[str]:
    """Initialise every layer of `block` anew, as the layers or the model do; the parameters that nothing does."""
    own = getattr(model, "_init_weights", None)
    unknown = []
    for path, module in block.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        before = {name: p.detach().clone() for name, p in module._parameters.items() if p is not None}
        if callable(reset):
            reset_layer_(module, reset)
        elif before and callable(own):
            own(module)
            same = [
                name
                for name, p in before.items()
                if p.dim() > 1 and not p.is_meta and torch.equal(p, getattr(module, name))
            ]
            unknown += [f"{path}.{name}" if path else name for name in same]
        else:
            unknown += [f"{path}.{name}" if path else name for name in before]
    return unknown


class _Seen(Exception):
    pass


def call_of(model: nn.Module, path: str, example: Any) -> Call:
    """The arguments that the module at `path` gets when `model` runs the example, as an example of its own."""
    probe = copied(model)
    seen: list[tuple[tuple, dict]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append((args, kwargs))
        raise _Seen

    probe.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            run_example(probe, fresh(example))
    except _Seen:
        pass
    if not seen:
        raise ValueError(f"scale_depth: {path} is not called by the example")
    args, kwargs = seen[0]
    return Call(_on_copies, *args, **kwargs)


def _on_copies(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What `module` gives, its arguments left as they are: a cache among them would grow with each call."""

    def own(leaf: Any) -> Any:
        return leaf if isinstance(leaf, Tensor | nn.Module) else copy.deepcopy(leaf)

    return module(*tree_map(own, args), **tree_map(own, kwargs))


def start_as_identity_(block: nn.Module, call: Call, path: str) -> None:
    """Let each residual branch of `block` give zero, so that the block hands its input on.

    The last layer of each branch is zero; where that is a norm whose zero is not its weight's, the last linear layer.
    Raises ValueError where neither makes an identity.
    """
    record = capture(block, call)
    flow, held = Flow(record), dict(block.named_parameters())
    adds = [(_add_at(record, s), s) for s in find(record, modules=dict(block.named_modules())) if s.kind is Kind.BRANCH]
    given = tensors_in((call.args, call.kwargs))[0].clone()
    before = {name: p.detach().clone() for name, p in held.items()}
    for ends in (_last_layer, _last_linear_layer):
        with torch.no_grad():
            for add, site in adds:
                dropped = next(v for v in (add.inputs[k] for k in site.target.dropped) if v not in record.constants)
                for name in ends(record, flow, add, dropped):
                    held[name].zero_()
            out = tensors_in(run_example(copied(block).eval(), fresh(call)))
            if adds and out and out[0].shape == given.shape and (given.is_meta or torch.equal(out[0], given)):
                return
            for name, value in before.items():
                held[name].copy_(value)
    last = record.producer.get(record.outputs[0]) if record.outputs else None
    if not adds:
        reason = "it has no residual branch"
    elif last is not None and all(last is not add for add, _ in adds):
        reason = f"{last.name} follows its last residual add, and changes what that hands on"
    else:
        reason = "a residual branch of it does not end in a layer that can be zero"
    raise ValueError(f"scale_depth: a {type(block).__name__} like {path} cannot start as an identity: {reason}")


def _add_at(record: Capture, site: Site) -> Op:
    at = site.target
    return next(
        op for op in record.ops if op.execution.entry is at.entry and at.location in (op.location, op.location.every)
    )


def _last_layer(record: Capture, flow: Flow, add: Op, value: int) -> Iterator[str]:
    """The parameters of the last layer on the way to the operand `value` of `add`."""
    while (op := record.producer.get(value)) is not None:
        if op.params:
            yield from (name for name in op.params if name in record.params)
            return
        data = [v for v in op.inputs if v not in record.constants and not _is_constant(record, v)]
        if len(data) != 1:
            return
        (value,) = data


def _last_linear_layer(record: Capture, flow: Flow, add: Op, value: int) -> Iterator[str]:
    """The parameters of the last linear layer of the branch that `value` is the end of, and all biases behind it."""
    for op in sorted(flow.dead_without({(add, value)}), key=lambda op: op.index, reverse=True):
        names = [name for name in op.params if name in record.params]
        if names and _WEIGHTED.fullmatch(op.name):
            yield from names
            return
        yield from (name for name in names if name.endswith("bias"))


def _is_constant(record: Capture, value: int) -> bool:
    """Whether `value` is made of parameters alone, such as a reshaped scale."""
    op = record.producer.get(value)
    return op is not None and all(v in record.constants or _is_constant(record, v) for v in op.inputs)
