"""Which channels of which layers must change together: torch-pruning's dependency groups, as names and indices.

torch-pruning (Fang et al., DepGraph, CVPR 2023) finds the groups; it never edits the model here. What it cannot see is
added: layers whose channels the model's inputs or outputs fix, and those behind or before a pixel shuffle.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.copies import copied, devices_of
from ...capture.example import fresh, run_example, tensors_in
from ...capture.modes import random_states_kept
from ...capture.record import Capture, Op
from ...capture.recorder import capture
from ..fold.modules import shared_parameters

COMPUTED = "has a weight that is"
_SHUFFLES = ("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU, nn.RMSNorm)
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class Member:
    """Part of a tensor dimension that follows a group's channels: position i belongs to the root's channel roots[i].

    `side`: "out" or "in" of a layer, "norm" of what works on each channel, "parameter" of a tensor outside a layer.
    """

    name: str  # of the module, or of the parameter
    side: str
    positions: tuple[int, ...]
    roots: tuple[int, ...]
    dim: int = 0  # of a parameter


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that can only change together, named by the layer that makes them first."""

    root: str
    channels: int
    members: tuple[Member, ...]
    fixed: str  # why it cannot change; empty where it can
    scores: Callable[[Any], Tensor]  # of a torch-pruning importance: one score a channel

    @property
    def makers(self) -> tuple[str, ...]:
        """The layers whose outputs these channels are."""
        return tuple(dict.fromkeys(m.name for m in self.members if m.side == "out"))


def groups_of(model: nn.Module, example: Any, globs: Sequence[str] = ("*",)) -> list[Group]:
    """The groups of the convolutions and linear layers whose paths match `globs`, in the order of the run.

    Raises ValueError where torch-pruning cannot read the model.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says on import, and of parameters outside layers
        import torch_pruning as tp

        net = copied(model).requires_grad_(True)
        for module in net.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]  # it fails on one behind a convolution
        record = capture(net, example)
        order = {call.module: number for number, call in enumerate(record.calls)}
        names = {module: name for name, module in net.named_modules()}
        roots = [m for m, name in names.items() if isinstance(m, WEIGHTED) and any(fnmatchcase(name, g) for g in globs)]
        graph = tp.DependencyGraph()
        found = []
        try:
            with torch.enable_grad(), random_states_kept(devices_of(net)), _bounded(tp, net):
                graph.build_dependency(net, example, forward_fn=_outputs, verbose=False)
                seen: set[nn.Module] = set()
                for root in sorted(roots, key=lambda module: order.get(names[module], len(order))):
                    if root in seen or root not in graph.module2node:
                        continue
                    pruner: Any = graph.get_pruner_of_module(root)
                    channels = list(range(pruner.get_out_channels(root)))
                    group = graph.get_pruning_group(root, pruner.prune_out_channels, channels)
                    found.append(group)
                    seen |= {i.dep.target.module for i in group if graph.is_out_channel_pruning_fn(i.dep.handler)}
        except Exception as error:  # whatever it raises of a model that it cannot follow
            raise ValueError(
                f"torch-pruning cannot find which channels go together: {type(error).__name__}: {error}. Where some "
                "layers of the model can change, name these"
            ) from error
    fixed = _fixed(record) | _not_plain(net)
    return [_group(group, graph, names, dict(net.named_parameters()), fixed) for group in found]


def _outputs(net: nn.Module, example: Any) -> Any:
    return tensors_in(run_example(net, fresh(example)))


@contextmanager
def _bounded(tp: Any, model: nn.Module) -> Iterator[None]:
    """While open, torch-pruning gives up where it multiplies indices without end, as it does at windowed attention."""
    mapping, group = tp.dependency.index_mapping._FlattenIndexMapping, tp.dependency.group.Group
    original, most = mapping.__call__, max(p.numel() for p in model.parameters())
    add, members = group.add_dep, 200 + 50 * sum(1 for _ in model.modules())

    def add_dep(self: Any, dep: Any, idxs: list) -> None:
        if len(self) > members:
            raise RecursionError("it goes round in circles")
        add(self, dep, idxs)

    def call(self: Any, idxs: list) -> list:
        if not self.reverse and len(idxs) * int(self._stride) > most:
            raise RecursionError("it loses track of the channels where a tensor is reshaped")
        return original(self, idxs)

    mapping.__call__, group.add_dep = call, add_dep
    try:
        yield
    finally:
        mapping.__call__, group.add_dep = original, add


def _group(group: Any, graph: Any, names: dict[nn.Module, str], parameters: dict[str, Tensor], fixed: dict) -> Group:
    members, reasons = [], []
    by_id = {id(p): name for name, p in parameters.items()}
    for item in group:
        module, handler = item.dep.target.module, item.dep.handler
        positions, roots = tuple(map(int, item.idxs)), tuple(map(int, item.root_idxs))
        if isinstance(module, nn.Parameter):
            dim = graph.unwrapped_parameters[module][1] if isinstance(graph.unwrapped_parameters, dict) else 0
            members.append(Member(by_id[id(module)], "parameter", positions, roots, int(dim)))
        elif isinstance(module, WEIGHTED):
            depthwise = isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.in_channels > 1
            out = graph.is_out_channel_pruning_fn(handler)
            if depthwise and module.out_channels != module.in_channels:
                reasons.append(f"{names[module]} has one input channel a group")
            members.append(Member(names[module], "norm" if depthwise else "out" if out else "in", positions, roots))
            why = fixed.get(names[module], "")
            if why and (out or why.startswith(COMPUTED)):
                reasons.append(f"{names[module]} {why}")
        elif isinstance(module, NORMS):
            members.append(Member(names[module], "norm", positions, roots))
        elif module in names and any(True for _ in module.parameters(recurse=False)):
            reasons.append(f"{names[module]} is a {type(module).__name__}, whose width is not changed")
    root = group[0].dep.target.module
    unique = tuple(dict.fromkeys(members))

    def scores(importance: Any) -> Tensor:
        try:
            return importance(group)
        except Exception as error:  # grouped transposed convolutions are beyond it
            raise ValueError(
                f"torch-pruning cannot score the channels of {', '.join(dict.fromkeys(m.name for m in unique))}: "
                f"{type(error).__name__}: {error}; give an importance of your own, or init='fresh'"
            ) from error

    return Group(names[root], len(group[0].idxs), unique, "; ".join(dict.fromkeys(reasons)), scores)


def _not_plain(model: nn.Module) -> dict[str, str]:
    """Layers whose weights cannot be cut by themselves: shared with another module, or computed from others."""
    shared, found = shared_parameters(model), {}
    for name, module in model.named_modules():
        if isinstance(module, (*WEIGHTED, *NORMS)):
            if isinstance(module, WEIGHTED) and "weight" not in module._parameters:
                found[name] = f"{COMPUTED} from other parameters"
            elif any(id(p) in shared for p in module._parameters.values()):
                found[name] = f"{COMPUTED} another module's as well"
    return found


def _fixed(record: Capture) -> dict[str, str]:
    """The layers whose output channels the model's inputs or outputs, or a shuffle of channels, fix; and why."""
    fixed: dict[str, str] = {}

    def weighted(op: Op) -> bool:
        return bool(op.macs and op.params)

    def back(values: Iterable[int], why: str) -> None:
        seen, open_ = set(), list(values)
        while open_:
            value = open_.pop()
            op = record.producer.get(value)
            if value in seen or op is None:
                continue
            seen.add(value)
            if weighted(op):
                if op.call is not None:
                    fixed.setdefault(op.call.module, why)
            else:
                open_ += op.inputs

    back(record.outputs, "makes the channels of the output")
    consumers = record.consumers()
    seen, open_ = set(), list(record.inputs)
    while open_:
        value = open_.pop()
        for op in consumers.get(value, ()):
            if op not in seen and not weighted(op):
                seen.add(op)
                back(op.inputs, "is added to, or joined with, the input itself")
                open_ += op.outputs
    for op in record.ops:
        if op.name in _SHUFFLES:
            back(op.inputs, f"feeds a {op.name}")
    return fixed
