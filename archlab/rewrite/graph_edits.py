"""Edits of a traced graph: targets removed, blended, wired otherwise; and what is then dead taken out."""

import itertools
import operator
from collections.abc import Mapping
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg

from ..capture.dataflow import RESHAPES
from ..capture.location import Location
from .blend import blend, damp, narrowed, widened
from .edits import recast
from .guards import Untraceable
from .target import Blend, Edit, Freeze, Narrow, Remove, Rewire, Target, Wrap, edit_at
from .tracer import holds_tensor, is_mutating

# What gives back what it is given, in evaluation at least.
_HANDING_ON = (nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten)


def edit_graph(
    graph: fx.Graph, module: nn.Module, edits: dict[Location, Edit], mutating: set[Location], lying: set[Location]
) -> set[Location]:
    """Perform `edits` on the nodes at their locations, in place, and drop what is then dead.

    `graph` is of a method of `module`. `mutating` are the lines of ops and calls that were seen to change an input in
    place, `lying` those that gave an input or a view of it. Returns the locations of the edits that were performed.
    """
    writes = _Writes(module, mutating, lying)
    # Asserts and the like are dead from the start, and kept; what only takes a part of something is not, nor is what
    # changes a tensor that is read.
    idle = {node for node in graph.nodes if not node.users and node.target not in (operator.getitem, getattr)}
    idle = {node for node in idle if not (writes.writes(node) and writes.is_read(node))}
    found = set()
    edited = [(node, edit) for node in graph.nodes if (edit := edit_at(edits, node.meta.get("location"))) is not None]
    anchors = {node: _anchor(graph, node, edit.target) for node, edit in edited if edit.target.source is not None}
    for node, edit in edited:
        found.add(edit.target.location)
        if isinstance(edit.action, Rewire):
            _rewire(graph, node, edit.target, edit.action)
        elif isinstance(edit.action, Wrap):
            _wrap(graph, node, edit.action)
        else:
            _edit(graph, node, edit, anchors.get(node), writes)
    _drop_dead(graph, idle, writes)
    graph.lint()
    return found


def _edit(graph: fx.Graph, node: fx.Node, edit: Edit, anchor: fx.Node | None, writes: "_Writes") -> None:
    target = edit.target
    operands = _operands(node)
    first = operands[0]
    given = first.op in ("placeholder", "get_attr")  # it came from outside, where a change in place is seen
    given = given or _has_views(first)  # as others see it
    if target.in_place:
        _redirect_later_users(graph, first, node)
    with graph.inserting_before(node):
        omega = _omega(graph, edit)
        kept = anchor.all_input_nodes[0] if anchor else operands[target.kept] if isinstance(target.kept, int) else None
        if edit.also:
            result = _without_several(graph, node, operands, edit)
        elif isinstance(edit.action, Narrow):
            assert kept is not None
            result = _narrowed_node(graph, node, kept, edit.action)
        elif omega is None:
            result = _rest(graph, node, kept, operands, target, dict.fromkeys(target.dropped, target.stand_in))
        elif target.dropped:
            result = _damped_node(graph, node, operands, omega, target, given=given)
        else:
            assert kept is not None
            result = _blend_node(graph, node, kept, omega, edit, given=given)
        if target.in_place and given and result is not first:
            result = graph.call_method("copy_", (first, result))
    if anchor is not None:
        graph.erase_node(anchor)
    _stand_in(graph, node, result, operands if kept is None else [*operands, kept], target, writes)


def _rewire(graph: fx.Graph, node: fx.Node, target: Target, action: Rewire) -> None:
    source = _at(graph, action.source)
    order = {other: number for number, other in enumerate(graph.nodes)}
    early = [user for user in node.users if order[user] < order[source]]
    if early:
        raise Untraceable(f"what is to be read instead is computed only after {early[0].name} needs it")
    with graph.inserting_after(source):
        result = source
        if action.through is not None:
            result = graph.call_module(action.through, (source,))
        elif target.changed_later:
            result = graph.call_method("clone", (source,))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _wrap(graph: fx.Graph, node: fx.Node, action: Wrap) -> None:
    if action.before is not None:
        with graph.inserting_before(node):
            node.replace_input_with(
                node.all_input_nodes[0], graph.call_module(action.before, (node.all_input_nodes[0],))
            )
        return
    assert action.after is not None
    like = _at(graph, action.source).all_input_nodes[0].all_input_nodes[0]
    with graph.inserting_after(node):
        result = graph.call_module(action.after, (node, like))
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)


def _at(graph: fx.Graph, location: Location) -> fx.Node:
    found = next((node for node in graph.nodes if node.meta.get("location") == location), None)
    if found is None:
        raise Untraceable("the traced code does not pass both ends of what is to be changed")
    return found


def _anchor(graph: fx.Graph, node: fx.Node, target: Target) -> fx.Node:
    """A node that holds, until `node` is edited, what will stand for it: the operand of an op before it."""
    assert target.source is not None and isinstance(target.kept, int)
    turn = target.source.occurrence
    occurrence = node.meta["location"].occurrence if turn is None else turn
    source = _at(graph, Location(target.source.stack, occurrence))
    with graph.inserting_before(node):
        return graph.call_function(operator.pos, (_operands(source)[target.kept],))


def _omega(graph: fx.Graph, edit: Edit) -> Any:
    """By how much an edit blends; None where it removes."""
    if isinstance(edit.action, Blend):
        return graph.get_attr(edit.action.omega)
    return edit.action.omega if isinstance(edit.action, Freeze) else None


def _without_several(graph: fx.Graph, node: fx.Node, operands: list[fx.Node], edit: Edit) -> fx.Node:
    """`node` with several operands edited, each in its way."""
    given: dict[int, Any] = {}
    for part in edit.parts:
        omega = _omega(graph, part)
        if omega is None:
            given |= dict.fromkeys(part.target.dropped, part.target.stand_in)
        else:
            for k in part.target.damped:
                given[k] = graph.call_function(damp, (given.get(k, operands[k]), omega, part.target.part))
    if any(isinstance(part.action, Remove) for part in edit.parts):
        return _rest(graph, node, None, operands, edit.target, given)
    return _anew(graph, node, given)


def _rest(
    graph: fx.Graph,
    node: fx.Node,
    kept: fx.Node | None,
    operands: list[fx.Node],
    target: Target,
    given: Mapping[int, Any],
) -> fx.Node:
    """What stands for `node` where it is removed; `given` stands for those of its operands that go."""
    if kept is None:
        kept = graph.call_function(target.kept, *_exchanged(node, given))  # type: ignore[arg-type]
        if target.changed_later:  # it may be one of the operands
            kept = graph.call_method("clone", (kept,))
    if not target.in_place:
        return graph.call_function(recast, (kept, *target.recast)) if target.recast else kept
    if target.recast and kept is not operands[0]:  # elsewhere nothing of the first operand may be kept alive
        return graph.call_method("type_as", (kept, operands[0]))
    return kept


def _damped_node(
    graph: fx.Graph, node: fx.Node, operands: list[fx.Node], omega: Any, target: Target, *, given: bool
) -> fx.Node:
    """`node` with what goes damped on its way in."""
    damped = {}
    for number in target.damped:
        operand = operands[number]
        if target.in_place and given and not number:  # as in `perform`
            operand = graph.call_method("clone", (operand,))
        damped[number] = graph.call_function(damp, (operand, omega, target.part))
    return _anew(graph, node, damped)


def _anew(graph: fx.Graph, node: fx.Node, new: Mapping[int, fx.Node]) -> fx.Node:
    """A copy of `node` with other tensor operands at these numbers, that is no site of its own from now on."""
    made = graph.node_copy(node)
    made.args, made.kwargs = _exchanged(node, new)
    made.meta.pop("location", None)
    return made


def _exchanged(node: fx.Node, new: Mapping[int, Any]) -> tuple[Any, Any]:
    """The arguments of `node` with other values in the place of the tensor operands of these numbers."""
    numbers = itertools.count()
    return map_arg((node.args, node.kwargs), lambda n: new.get(next(numbers), n) if holds_tensor(n) else n)


def _narrowed_node(graph: fx.Graph, node: fx.Node, x: fx.Node, action: Narrow) -> fx.Node:
    """What `node` makes of some positions of `x`, in their place. The ops between are sites of their own as before."""
    positions = graph.get_attr(action.positions)
    copies = {x: graph.call_function(narrowed, (x, positions, action.dim))}
    for inner in _between(x, node):
        copies[inner] = graph.node_copy(inner, lambda n: copies.get(n, n))
    return graph.call_function(widened, (copies[node], x, positions, action.dim))


def _between(x: fx.Node, node: fx.Node) -> list[fx.Node]:
    """The nodes on the ways from `x` to `node`, and `node`, in their order."""
    behind, found = {x}, {node}
    for other in x.graph.nodes:
        if behind & {*other.all_input_nodes}:
            behind.add(other)
    for other in reversed(x.graph.nodes):
        if other in found:
            found.update(n for n in other.all_input_nodes if n in behind and n is not x)
    return [other for other in x.graph.nodes if other in found]


def _blend_node(graph: fx.Graph, node: fx.Node, x: fx.Node, omega: Any, edit: Edit, *, given: bool) -> fx.Node:
    target = edit.target
    dim = edit.action.dim if isinstance(edit.action, Blend) else None
    if not target.in_place:
        original = _anew(graph, node, {})
    else:
        first = _operands(node)[0]
        x = graph.call_method("clone", (x,)) if given else x
        original = _anew(graph, node, {0: graph.call_method("clone", (first,))})
    return graph.call_function(blend, (original, x, omega) if dim is None else (original, x, omega, dim))


def _stand_in(
    graph: fx.Graph, node: fx.Node, result: fx.Node, operands: list[fx.Node], target: Target, writes: "_Writes"
) -> None:
    """Let `result` be used wherever `node` was; a later change in place must not reach another user of it."""
    if result in operands and target.changed_later:
        given = result.op in ("placeholder", "get_attr") or writes.may_be_its_input(result)
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


def _has_views(node: fx.Node) -> bool:
    """Whether what `node` makes may be a part of another tensor, or have parts that are used."""
    return _may_be_view(node) or any(_may_be_view(user) for user in node.users)


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


class _Writes:
    """Which nodes of a graph change a tensor in place, and who sees that."""

    def __init__(self, module: nn.Module, mutating: set[Location], lying: set[Location]):
        self.mutating, self.lying = mutating, lying
        self.handing_on = {path for path, child in module.named_modules() if isinstance(child, _HANDING_ON)}

    def writes(self, node: fx.Node) -> bool:
        """Whether `node` changes its first input in place."""
        location = node.meta.get("location")
        return is_mutating(node) or (location is not None and location.every in self.mutating)

    def is_read(self, node: fx.Node) -> bool:
        """Whether what `node` writes to came from outside, or is read by more than other writes to it."""
        first = next(iter(node.all_input_nodes), None)
        while first is not None and self._lies_on_input(first):
            first = next(iter(first.all_input_nodes), None)
        if first is None or first.op in ("placeholder", "get_attr"):
            return True
        open_ = [first]  # the tensor, then its views and what writes to it gave
        for node in open_:
            for user in node.users:
                if not self._lies_on_input(user) or next(iter(user.all_input_nodes)) is not node:
                    return True
                open_.append(user)
        return False

    def _lies_on_input(self, node: fx.Node) -> bool:
        """Whether what `node` makes is, or may be, its first input or a part of it."""
        return self.writes(node) or self.may_be_its_input(node)

    def may_be_its_input(self, node: fx.Node) -> bool:
        """Whether `node`, which may write nothing, gives its first input or a part of it, in some mode at least."""
        location = node.meta.get("location")
        if _may_be_view(node) or (location is not None and location.every in self.lying):
            return True
        if node.op == "call_module":
            return node.target in self.handing_on
        return "dropout" in getattr(node.target, "__name__", "")


def _drop_dead(graph: fx.Graph, idle: set[fx.Node], writes: _Writes) -> None:
    for node in reversed(list(graph.nodes)):
        if node.users or node in idle or node.op in ("placeholder", "output"):
            continue
        if writes.writes(node) and writes.is_read(node):
            continue
        graph.erase_node(node)
