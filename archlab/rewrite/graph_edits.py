"""What removing or switching one site means: on a traced graph, and on a call that is intercepted.

Removing replaces the site's result by the operand that stays; switching replaces it by a blend of
both states. An op that works in place is edited as if it did not: its result stands for its operand
from then on, and is copied back where the operand came from outside.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from ..capture.example import tensors_in
from ..capture.location import Place
from ..capture.recorder import under_autocast
from ..discovery.ops import RESHAPES
from ..discovery.site import Site
from .blend import blend, damp, damp_into
from .guards import Untraceable
from .tracer import holds_tensor, is_mutating

_ADD_KINDS = ("skip", "branch", "join")
NOWHERE = Place((), 0)


@dataclass(frozen=True, eq=False)
class Edit:
    """One site and what becomes of it: `omega` is the name of its container's parameter, a number (frozen), or
    None (removed)."""

    site: Site
    omega: str | float | None = None


@dataclass(frozen=True, eq=False)
class Feed(Edit):
    """Where the output of the call at the site was read, that of another call of the same container is, at `source`:
    as it is, or passed through the child `through` first. Only a graph can be edited so."""

    source: Place = NOWHERE
    through: str | None = None


@dataclass(frozen=True, eq=False)
class Wrap(Edit):
    """The call at the site gets its first input through the child `before`, or gives its output through the child
    `after`, which is also given what went into the child `before` of the call at `source`. Only in a graph."""

    before: str | None = None
    after: str | None = None
    source: Place = NOWHERE


def perform(edit: Edit, owner: nn.Module, func: Callable, args: tuple, kwargs: dict) -> Any:
    """The edited result of ``func(*args, **kwargs)``, the op or call at the edit's site. ω is read from `owner`."""
    site = edit.site
    assert not isinstance(edit, Feed | Wrap), "only a graph can be wired otherwise"
    operands = tensors_in((args, kwargs))
    target = operands[0]
    omega = getattr(owner, edit.omega) if isinstance(edit.omega, str) else edit.omega
    if site.kind in _ADD_KINDS:
        a, b = operands
        kept = operands[site.keep]
        if omega is None:
            result = kept.to(target.dtype) if site.inplace else _recast(kept, site)
        elif site.inplace:
            a = a if kept is target else a.clone()  # it is overwritten below; the gradient of omega needs it as it was
            result = damp_into(target, a, b, omega, site.drop)
        else:
            result = damp(a, b, omega, site.drop)
    elif omega is None:
        result = _recast(target, site)
    else:
        x = target.clone() if site.inplace else target
        if site.inplace:
            args, kwargs = _swap(args, kwargs, target, x.clone())
        result = blend(func(*args, **kwargs), x, omega)
    if site.inplace and result is not target:
        return target.copy_(result)
    return result.clone() if site.mutated and any(result is o for o in operands) else result


def recast(x: Tensor, dtype: torch.dtype, autocast: bool) -> Tensor:
    """`x`, which stays where an op is removed, in the `dtype` that the op was seen to give.

    Only where autocast is on or off as it was then: a model that ran under it may be moved to another dtype later.
    """
    return x.to(dtype) if under_autocast(x) == autocast else x


def _recast(kept: Tensor, site: Site) -> Tensor:
    return recast(kept, *site.recast) if site.recast else kept


def _swap(args: tuple, kwargs: dict, old: Tensor, new: Tensor) -> tuple[tuple, dict]:
    return tuple(new if a is old else a for a in args), {k: new if v is old else v for k, v in kwargs.items()}


def edit_graph(graph: fx.Graph, edits: dict[Place, Edit], mutating: set[Place]) -> set[Place]:
    """Perform `edits` on the nodes at their places, in place, and drop what is then dead. Returns the places found.

    `mutating` are the places of ops and calls that were seen to change an input in place.
    """
    # Asserts and the like are dead from the start, and kept; what only takes a part of something is not.
    idle = {node for node in graph.nodes if not node.users and node.target not in (operator.getitem, getattr)}
    found = set()
    for node in list(graph.nodes):
        place = node.meta.get("place")
        if place in edits:
            found.add(place)
            edit = edits[place]
            if isinstance(edit, Feed):
                _feed(graph, node, edit)
            elif isinstance(edit, Wrap):
                _wrap(graph, node, edit)
            else:
                _edit(graph, node, edit)
    _drop_dead(graph, idle, mutating)
    graph.lint()
    return found


def _edit(graph: fx.Graph, node: fx.Node, edit: Edit) -> None:
    site = edit.site
    operands = _operands(node)
    target = operands[0]
    given = target.op in ("placeholder", "get_attr")  # it came from outside, where a change in place is seen
    if site.inplace:
        _redirect_later_users(graph, target, node)
    with graph.inserting_before(node):
        omega = graph.get_attr(edit.omega) if isinstance(edit.omega, str) else edit.omega
        if site.kind in _ADD_KINDS:
            a, b = operands
            kept = operands[site.keep]
            if omega is None:
                result = kept
                if not site.inplace:
                    result = _recast_node(graph, kept, site)
                elif site.recast:  # elsewhere nothing of the target may be kept alive
                    result = graph.call_method("type_as", (kept, target))
            elif site.inplace:
                if given and kept is not target:  # as in `perform`
                    a = graph.call_method("clone", (a,))
                result = graph.call_function(damp_into, (target, a, b, omega, site.drop))
            else:
                result = graph.call_function(damp, (a, b, omega, site.drop))
        elif omega is None:
            result = _recast_node(graph, target, site)
        else:
            result = _blend_node(graph, node, target, omega, inplace=site.inplace, given=given)
        if site.inplace and given and result is not target:
            result = graph.call_method("copy_", (target, result))
    _stand_in(graph, node, result, operands, site)


def _feed(graph: fx.Graph, node: fx.Node, edit: Feed) -> None:
    source = _at(graph, edit.source)
    order = {other: number for number, other in enumerate(graph.nodes)}
    early = [user for user in node.users if order[user] < order[source]]
    if early:
        raise Untraceable(f"what is to be read instead is computed only after {early[0].name} needs it")
    with graph.inserting_after(source):
        result = source
        if edit.through is not None:
            result = graph.call_module(edit.through, (source,))
        elif edit.site.mutated:
            result = graph.call_method("clone", (source,))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _wrap(graph: fx.Graph, node: fx.Node, edit: Wrap) -> None:
    if edit.before is not None:
        with graph.inserting_before(node):
            node.replace_input_with(node.all_input_nodes[0], graph.call_module(edit.before, (node.all_input_nodes[0],)))
        return
    assert edit.after is not None
    like = _at(graph, edit.source).all_input_nodes[0].all_input_nodes[0]
    with graph.inserting_after(node):
        result = graph.call_module(edit.after, (node, like))
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)


def _at(graph: fx.Graph, place: Place) -> fx.Node:
    found = next((node for node in graph.nodes if node.meta.get("place") == place), None)
    if found is None:
        raise Untraceable("the traced code does not pass both ends of what is to be changed")
    return found


def _recast_node(graph: fx.Graph, kept: fx.Node, site: Site) -> fx.Node:
    return graph.call_function(recast, (kept, *site.recast)) if site.recast else kept


def _blend_node(graph: fx.Graph, node: fx.Node, target: fx.Node, omega: Any, *, inplace: bool, given: bool) -> fx.Node:
    if not inplace:
        node.meta.pop("place", None)  # it is no site of its own from now on
        with graph.inserting_after(node):
            return graph.call_function(blend, (node, target, omega))
    x = graph.call_method("clone", (target,)) if given else target
    scratch = graph.call_method("clone", (target,))
    original = graph.node_copy(node, lambda n: scratch if n is target else n)
    original.meta.pop("place", None)
    return graph.call_function(blend, (original, x, omega))


def _stand_in(graph: fx.Graph, node: fx.Node, result: fx.Node, operands: list[fx.Node], site: Site) -> None:
    """Let `result` be used wherever `node` was; a later change in place must not reach another user of it."""
    if result in operands and site.mutated:
        given = result.op in ("placeholder", "get_attr") or _may_be_view(result)
        if given or len(result.users) > (1 if node in result.users else 0):
            with graph.inserting_after(node):
                result = graph.call_method("clone", (result,))
    used_by_result = node in result.all_input_nodes
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)
    if not used_by_result:
        graph.erase_node(node)


def _may_be_view(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_method", "call_function") and (name in RESHAPES or name == "getitem")


def _operands(node: fx.Node) -> list[fx.Node]:
    found: list[fx.Node] = []
    map_arg((node.args, node.kwargs), lambda n: found.append(n) or n)
    return [n for n in found if holds_tensor(n)]


def _redirect_later_users(graph: fx.Graph, target: fx.Node, node: fx.Node) -> None:
    """`node` changes `target` in place and returns it: those that read `target` afterwards read `node` instead."""
    after = False
    for other in graph.nodes:
        if after and other in target.users:
            other.replace_input_with(target, node)
        after = after or other is node


def _drop_dead(graph: fx.Graph, idle: set[fx.Node], mutating: set[Place]) -> None:
    for node in reversed(list(graph.nodes)):
        if node.users or node in idle or node.op in ("placeholder", "output"):
            continue
        if is_mutating(node) or node.meta.get("place") in mutating:
            changed = next(iter(node.all_input_nodes), None)
            if changed is None or changed.op in ("placeholder", "get_attr") or len(changed.users) > 1:
                continue
        graph.erase_node(node)
