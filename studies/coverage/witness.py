"""A second opinion on what can be removed: the autograd graph of one run.

`al.sites` reads a recording of Python calls. Autograd keeps its own record, made in C++ by other
people: every add is an ``AddBackward0`` node and every activation a node of its own name. What
the graph shows and neither `Sites` nor `Sites.skipped` accounts for was overlooked.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_map

import archlab as al
from archlab.capture.example import run_example, tensors_in

# Autograd's name -> the name of the op. One node serves several ops: relu6 is a hardtanh, selu and celu are elu.
ACTIVATION_NODES = {
    "ReluBackward0": "relu",
    "HardtanhBackward0": "hardtanh",
    "LeakyReluBackward0": "leaky_relu",
    "LeakyReluBackward1": "leaky_relu",
    "PreluKernelBackward0": "prelu",
    "EluBackward0": "elu",
    "EluBackward1": "elu",
    "GeluBackward0": "gelu",
    "SiluBackward0": "silu",
    "MishBackward0": "mish",
    "SoftplusBackward0": "softplus",
    "LogSigmoidBackward0": "logsigmoid",
    "HardswishBackward0": "hardswish",
    "HardsigmoidBackward0": "hardsigmoid",
    "HardshrinkBackward0": "hardshrink",
    "SoftshrinkBackward0": "softshrink",
    "ThresholdBackward0": "threshold",
    "SigmoidBackward0": "sigmoid",
    "TanhBackward0": "tanh",
}
# Sums of two terms; the first edge of each is the first term.
SUM_NODES = {
    "AddBackward0": "add",
    "SubBackward0": "sub",
    "RsubBackward0": "rsub",
    "AddcmulBackward0": "addcmul",
    "AddcdivBackward0": "addcdiv",
    "LerpBackward0": "lerp",
    "LerpBackward1": "lerp",
    "BaddbmmBackward0": "baddbmm",
}
SAME_NODE = {"relu6": "hardtanh", "selu": "elu", "celu": "elu", "rrelu": "leaky_relu"}


def witness(model: nn.Module, example: Any) -> Counter[str]:
    """How often each op stands in the autograd graph of one run: residual sums and activations, by name.

    A residual sum has two terms of which one is an ancestor of the other. The model's
    parameters, buffers and mode are used as they are; floating inputs get a gradient of their own,
    so that an add of the input itself is seen.
    """
    with torch.enable_grad():
        output = run_example(model, _with_gradients(example))
    return Counter(_named(node for t in tensors_in(output) if (node := t.grad_fn) is not None))


def overlooked(seen: Counter[str], sites: al.Sites) -> Counter[str]:
    """What `seen` has more of than `sites` and what they skipped, by op."""
    accounted = Counter()
    for site in sites:
        if site.grad and site.kind in ("activation", "gate", "skip"):
            accounted[SAME_NODE.get(site.op, site.op)] += site.calls
    for skipped in sites.skipped:
        accounted[SAME_NODE.get(skipped.op, skipped.op)] += skipped.calls
    return seen - accounted


def _with_gradients(example: Any) -> Any:
    def mark(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf.detach().clone().requires_grad_().clone()  # not a leaf: a model may change its input in place
        return leaf

    if isinstance(example, al.Call):
        return al.Call(example.fn, *tree_map(mark, example.args), **tree_map(mark, example.kwargs))
    return tree_map(mark, example)


def _named(roots: Iterable[Node]) -> Iterator[str]:
    order = _topological(list(roots))
    above: dict[Node, int] = {}  # the edges that a node's inputs came through, as bits
    bit: dict[tuple[Node, int], int] = {}
    for node in order:
        edges = [(n, k) for n, k in node.next_functions if n is not None]
        bits = 0
        for edge in edges:
            bits |= above[edge[0]] | 1 << bit.setdefault(edge, len(bit))
        above[node] = bits
        name = node.name()
        if name in ACTIVATION_NODES:
            yield ACTIVATION_NODES[name]
        elif name in SUM_NODES and _is_residual(edges, above, bit):
            yield SUM_NODES[name]


def _is_residual(edges: list[tuple[Node, int]], above: dict[Node, int], bit: dict[tuple[Node, int], int]) -> bool:
    """Whether what came into a sum through its first edge is an ancestor of what came through another, or descends."""
    if len(edges) < 2 or edges[0] in edges[1:]:
        return False
    first, *others = [edge for edge in edges if not edge[0].name().endswith("AccumulateGrad")] or edges
    return first is edges[0] and any(
        above[other[0]] >> bit[first] & 1 or above[first[0]] >> bit[other] & 1 for other in others
    )


def _topological(roots: list[Node]) -> list[Node]:
    """Every node reachable from `roots`, inputs before the nodes that use them."""
    order, done, stack = [], set(), [(root, False) for root in roots]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((n, False) for n, _ in node.next_functions if n is not None and n not in done)
    return order
