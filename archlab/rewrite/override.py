"""What a rewritten module runs in place of a method: an edited graph of it, or the original with ops intercepted.

A graph is made for each way the method is called, the first time it is called so. Each class here has a ``run(module,
args, kwargs)``; `rewrite` puts them into modules.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..capture.location import Location
from ..capture.modes import no_fused_layers
from .edits import perform
from .graph_edits import edit_graph
from .guards import GuardedGraph, Untraceable, compile_graph
from .intercept import Interceptor, intercepted_call
from .target import GRAPH_ONLY, Edit
from .tracer import trace

MOST_GRAPHS = 64  # of one method: where every call differs in what its code asks, tracing each would take for ever


class Method:
    """One method of one module with its edits, and the graphs of it made so far. Shared by copies of the module."""

    def __init__(self, path: str, method: str, entry: Any, function: Callable):
        self.path, self.method, self.entry, self.function = path, method, entry, function
        self.edits: dict[Location, Edit] = {}
        self.calls: dict[tuple, Edit] = {}
        self.traced_calls: dict[tuple, Edit] = {}  # as `calls`, for a call of the method that cannot be traced
        self.children: dict[str, str | None] = {}  # path in the model of a child called there -> from this module
        self.mutating: set[Location] = set()
        self.lying: set[Location] = set()
        self.graphs: list[GuardedGraph] = []
        self.alike: list[tuple[GuardedGraph, set[Location]]] = []  # graphs that modules built alike lend each other
        self.found: set[Location] = set()
        self.met: set[str] = set()  # names of the targets that were intercepted at least once
        self.reason = ""  # why it is intercepted, if it is
        self.turns: dict[tuple, int] = {}  # of lines each of whose turns has an edit of its own: how many there are
        self.stand_ins: dict[str, nn.Parameter] = {}  # of parameters that only removed ops read: for another trace

    def anew(self, function: Callable, path: str | None = None) -> "Method":
        """The same edits of `function`, with no graph made yet: for a module that has other children now, or stands at
        another `path` of the model."""
        path = self.path if path is None else path

        def moved(child: str) -> str:
            if self.path and not child.startswith(f"{self.path}."):
                return child
            inside = child[len(self.path) + 1 :] if self.path else child
            return f"{path}.{inside}" if path else inside

        new = Method(path, self.method, self.entry, function)
        new.edits, new.mutating, new.lying = dict(self.edits), set(self.mutating), set(self.lying)
        new.calls = {(moved(child), *rest): edit for (child, *rest), edit in self.calls.items()}
        new.traced_calls = {(moved(child), *rest): edit for (child, *rest), edit in self.traced_calls.items()}
        new.children = {moved(child): inside for child, inside in self.children.items()}
        new.stand_ins, new.turns = dict(self.stand_ins), dict(self.turns)
        return new

    def forget(self, edit: Edit) -> None:
        """Leave the target of `edit` as it is."""
        self.edits.pop(edit.target.location, None)
        self.calls = {key: other for key, other in self.calls.items() if other is not edit}

    def run(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        if not self.reason:
            for guarded in self.graphs:
                leaves = guarded.matches(module, args, kwargs)
                if leaves is not None:
                    return guarded.run(module, *leaves)  # type: ignore[misc]
        return self.run_anew(module, args, kwargs)

    def run_anew(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        """A call that no graph is valid for: one is traced for it, else it is intercepted."""
        if not self.reason and len(self.graphs) < MOST_GRAPHS:
            for guarded, found in self.alike:
                leaves = guarded.matches(module, args, kwargs)
                if leaves is not None:
                    self.graphs.append(guarded)
                    self.found |= found
                    return guarded.run(module, *leaves)  # type: ignore[misc]
            try:
                guarded = self.trace(module, args, kwargs)
            except Untraceable as error:
                if self.graphs:  # other calls go on as traced
                    return self.intercept(module, args, kwargs)
                self.reason = str(error)
            else:
                self.graphs.append(guarded)
                leaves = guarded.matches(module, args, kwargs)
                assert leaves is not None, "a fresh trace holds for the call it was made from"
                return guarded.run(module, *leaves)  # type: ignore[misc]
        return self.intercept(module, args, kwargs)

    def trace(self, module: nn.Module, args: tuple, kwargs: dict) -> GuardedGraph:
        """A graph of this call with the edits in it, which others that are built alike may borrow."""
        missing = {name: p for name, p in self.stand_ins.items() if module._parameters.get(name, p) is None}
        module._parameters.update(missing)
        try:
            with no_fused_layers():  # a graph is made of the ops that the fused kernel hides
                guarded = trace(module, self.function, self.entry, args, kwargs)
        finally:
            module._parameters.update(dict.fromkeys(missing))
        for location in (node.meta.get("location") for node in guarded.graph.nodes):
            if location is not None:
                self.refuse_more_turns(location)
        found = edit_graph(guarded.graph, module, self.edits, self.mutating, self.lying)
        graph = compile_graph(guarded.graph, (self.path, self.method, self.entry))
        made = replace(guarded, run=graph if guarded.grad is None else _restoring_grad(graph))
        self.found |= found
        if not made.own:
            self.alike.append((made, found))
        return made

    def intercept(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        """The call as it is written, with each target met and replaced as it runs."""
        wired = [edit.target.module for edit in self.edits.values() if isinstance(edit.action, GRAPH_ONLY)]
        if wired and self.graphs:
            raise RuntimeError(
                f"{self.path or 'the model'} is called in a way that cannot be traced, and {wired[0]} is wired "
                "otherwise in its traced code: make the model with an example that calls it so"
            )
        if wired:  # it could never be traced, and whoever asked will refuse it
            return self.function(module, *args, **kwargs)
        if not (self.edits or self.calls):  # each of its targets is a child's call, and the child itself was edited
            return self.function(module, *args, **kwargs)
        interceptor = Interceptor(
            module, self.entry, self.edits, self.calls | self.traced_calls, self.met, self.refuse_more_turns
        )
        with self.watching(module):
            return interceptor.run(self.function, args, kwargs)

    def refuse_more_turns(self, location: Location) -> None:
        """Raise RuntimeError where a loop goes on behind the turns that were edited one by one."""
        turns = self.turns.get(location.stack)
        if turns is not None and location.occurrence == turns:
            edit = self.edits[Location(location.stack, turns - 1)]
            raise RuntimeError(
                f"{edit.target.name} is one turn of a loop of {self.path or 'the model'} that the example passed "
                f"{turns} times, each edited by itself, and this call passes it more often: make the model "
                "with an example as long"
            )

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """While open, the children that are called at the traced targets are watched; it costs the graphs nothing."""
        before = []
        try:
            for path, inside in self.children.items():
                if inside is None:
                    raise RuntimeError(
                        f"{self.path or 'the model'} is called in a way that cannot be traced, and {path}, which has a "
                        "site there, is no part of it: give an example that calls it so"
                    )
                child = module.get_submodule(inside)
                before.append((child, vars(child).get("forward")))
                vars(child)["forward"] = functools.partial(intercepted_call, path, child.forward)
            yield
        finally:
            for child, forward in reversed(before):
                vars(child).pop("forward") if forward is None else vars(child).update(forward=forward)


def _restoring_grad(function: Callable) -> Callable:
    """`function`, which switches gradients; they are as before when it fails half way."""

    def run(*leaves):
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            return function(*leaves)

    return run


class EditedChild:
    """A child whose every call is one target: edited itself, whatever code calls it."""

    def __init__(self, edit: Edit, function: Callable):
        self.edit, self.function = edit, function

    def around(self, function: Callable) -> "EditedChild":
        """The same for another method inside."""
        return EditedChild(self.edit, function)

    def run(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        return perform(self.edit, module, functools.partial(self.function, module), args, kwargs)


class WatchedChild:
    """A child some of whose calls are targets of an intercepted container."""

    def __init__(self, path: str, function: Callable):
        self.path, self.function = path, function

    def around(self, function: Callable) -> "WatchedChild":
        """The same for another method inside."""
        return WatchedChild(self.path, function)

    def run(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        return intercepted_call(self.path, functools.partial(self.function, module), *args, **kwargs)
