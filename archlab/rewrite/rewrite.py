"""A copy of a model with every edit in it: the one way in which passes change what a module computes.

A container's method is replaced through a generated subclass (``module.__class__``), so state-dict
keys, ``isinstance``, hooks and the other methods survive. The method runs a traced graph with the
edits in it (`How.LOCAL`), one graph for each way it is called. Where it cannot be traced, a child
that is called from one line only is edited itself (`How.MODULE`); the rest is intercepted at run
time (`How.INTERCEPTED`). A target inside something that is removed needs nothing (`How.GONE`); one that
no way is sound for is `How.REFUSED`.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint

from ..capture.classes import exact_classes_asked
from ..capture.copies import copied, devices_of, refuse_wrappers, structural_copy, wrapped_parts
from ..capture.example import fresh, run_example
from ..capture.frames import method_called
from ..capture.location import Location, passes
from ..capture.modes import failed_in, no_fused_layers, random_states_kept
from ..capture.record import Capture, ModuleCall
from .guards import structure_of
from .inject import OMEGA_CALL, add_omega_, add_positions_, free_name, inject, injected, keep_unfused_, runners_of
from .override import EditedChild, Method, WatchedChild
from .target import GRAPH_ONLY, Blend, Edit, How, Narrow, Remove, Target, together

_TWICE = "an earlier pass froze it or left it some channels, or the other operand of its add is chosen"


class CannotRewrite(ValueError):
    """A target that cannot be rewritten; names it and says why."""


@dataclass(frozen=True)
class Omega:
    """A switch parameter: the target it belongs to, and where it is."""

    target: Target
    owner: str
    name: str


@dataclass(frozen=True)
class Rewritten:
    """A new model and how it was made.

    `how` says for each target's name how it was rewritten, `reasons` why not locally (or not at all), `omegas` which
    switches were put in, `classes` which classes the changed modules had before (path -> class), and `ran` is what the
    last run of the model gave.
    """

    model: nn.Module
    how: dict[str, How]
    reasons: dict[str, str]
    omegas: tuple[Omega, ...]
    classes: dict[str, type]
    ran: Any


def rewrite(
    model: nn.Module,
    example: Any,
    edits: Iterable[Edit],
    *,
    record: Capture,
    run: Callable[[nn.Module], Any] | None = None,
) -> Rewritten:
    """A copy of `model` with every edit in it. `record` is the capture that the targets were found in.

    The copy shares no storage with `model`, which is left untouched. `run` is called with the copy, once or twice, and
    must run the example on it (default: `run_copy`). Raises CannotRewrite, naming the target.
    """
    edits = list(edits)
    try:
        made = attempt(copied(model), example, edits, record=record, run=run)
    except (CannotRewrite, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the model raises, which ran when it was recorded
        names = [edit.target.name for edit in edits]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        told = str(error).strip().split("\n")[0]
        raise CannotRewrite(
            f"with {', '.join(names[:3])}{more} rewritten the model fails in {failed_in(error)}: "
            f"{type(error).__name__}: {told}{classes_told(model)}. Leave some out with `where`"
        ) from error
    for name, how in made.how.items():
        if how is How.REFUSED:
            raise CannotRewrite(f"{name} cannot be rewritten: {made.reasons[name]}. Leave it out with `where`")
    trace_other_modes(made.model, example)
    return made


def classes_told(model: nn.Module) -> str:
    """For an error about a model that goes another way once it is rewritten: where its code may decide so."""
    asked = exact_classes_asked(model)
    return asked and (
        f" ({asked}, compares classes with `is`: a rewritten module has a class of its own, which equals the one that "
        "it had: ask with == or isinstance)"
    )


def attempt(
    new: nn.Module,
    example: Any,
    edits: Iterable[Edit],
    *,
    record: Capture,
    run: Callable[[nn.Module], Any] | None = None,
    lend: bool = False,
) -> Rewritten:
    """Put `edits` into `new`, a copy that the caller made. Targets that cannot be rewritten are left as they are and
    stand as `How.REFUSED` in `.how`.

    With `lend`, one graph serves all modules that are built and edited alike. It says of each how it is rewritten; the
    model is none to keep, as a graph says in a later record which module it is of.
    """
    refuse_wrappers(new)
    measured, run = run is not None, run or (lambda net: run_copy(net, example))
    modules = dict(new.named_modules())
    before = {path: type(module) for path, module in modules.items()}
    edits = list(edits)
    # 1. A switch parameter for each blend, or the positions that are left, in the container whose code reads them.
    omegas = []
    for edit in edits:
        if isinstance(edit.action, Blend):
            add_omega_(modules[edit.target.container], edit.action, new)
            omegas.append(Omega(edit.target, edit.target.container, edit.action.omega))
        elif isinstance(edit.action, Narrow):
            add_positions_(modules[edit.target.container], edit.action, new)
    # 2. A generated class for each container, whose method traces itself when it is run.
    how: dict[str, How] = {}
    reasons: dict[str, str] = {}
    methods: list[tuple[Method, list[Edit]]] = []
    index = _Index(record)
    wrapped = wrapped_parts(new)
    groups = list(_by_method(edits))
    lent: dict[Hashable, list] = {}
    for group, likeness in zip(groups, _likenesses(modules, groups) if lend else range(len(groups)), strict=True):
        path = group[0].target.container
        reason = _no_method(modules[path], group[0].target.method)
        reason = next((told for part, told in wrapped.items() if f"{path}.".startswith(f"{part}.")), reason)
        if reason:
            how |= dict.fromkeys((e.target.name for e in group), How.REFUSED)
            reasons |= dict.fromkeys((e.target.name for e in group), reason)
            continue
        method = _inject_method(modules, group, index)
        seen = frozenset(method.mutating), frozenset(method.lying), frozenset(method.turns.items())
        method.alike = lent.setdefault((likeness, seen), method.alike)
        taken = {part.target for edit in method.edits.values() for part in edit.parts}
        methods.append((method, [e for e in group if e.target in taken]))
        double = [e.target.name for e in group if e.target not in taken]
        how |= dict.fromkeys(double, How.REFUSED)
        reasons |= dict.fromkeys(double, _TWICE)
    ran = run(new)
    # 3. What could not be traced falls back to the child, or to interception.
    unrun = How.GONE if any(isinstance(edit.action, Remove) for edit in edits) else How.REFUSED
    for method, mine in methods:
        if not method.graphs and not method.reason:  # never run: what contains it was removed
            how |= dict.fromkeys((e.target.name for e in mine), unrun)
            reasons |= dict.fromkeys((e.target.name for e in mine), f"its {method.method} was not run again")
            continue
        if any(e.target.location not in method.found for e in mine) and not method.reason:
            method.reason = "the traced code does not pass the site"
        if not method.reason:
            how |= dict.fromkeys((e.target.name for e in mine), How.LOCAL)
            _note_calls(modules, method, mine, index)
            continue
        reasons |= dict.fromkeys((e.target.name for e in mine), method.reason)
        method.graphs.clear()
        for edit in mine:
            child = modules[edit.target.module] if edit.target.module is not None else None
            reason = "" if child is None else _no_method(child, method_called(child))
            if reason:
                how[edit.target.name], reasons[edit.target.name] = How.REFUSED, reason
                del method.edits[edit.target.location]
                continue
            way = _fall_back(modules, method, edit, index, omegas)
            if way is How.INTERCEPTED and passes(edit.target.location, checkpoint.__file__):
                way, reasons[edit.target.name] = (
                    How.REFUSED,
                    f"it is checkpointed, and run again unseen ({method.reason})",
                )
                method.forget(edit)
            how[edit.target.name] = way
    # 4. What is intercepted must be met when the model runs.
    if How.INTERCEPTED in how.values():
        ran = run(new)
        met = set().union(*(method.met for method, _ in methods))
        missed = [name for name, way in how.items() if way is How.INTERCEPTED and name not in met]
        how |= dict.fromkeys(missed, unrun)
        reasons |= {name: f"at run time it was not met again ({reasons[name]})" for name in missed}
    elif measured and How.MODULE in how.values():  # what the first run gave was without these edits
        ran = run(new)
    classes = {path: cls for path, cls in before.items() if type(modules[path]) is not cls}
    return Rewritten(new, how, reasons, tuple(omegas), classes, ran)


class _Index:
    """What a record says of each container and each module, looked up once for all edits."""

    def __init__(self, record: Capture):
        self.calls: dict[str, list[ModuleCall]] = {}  # of each module
        self.passed: dict[tuple[str, Any], list[Location]] = {}  # in each container, by its entry
        self.changing: dict[str, set[Location]] = {}  # lines of each container that change something in place
        self.lying: dict[str, set[Location]] = {}  # those whose output lies on the storage of an input
        for call in record.calls:
            self.calls.setdefault(call.module, []).append(call)
        for issued in (*record.calls, *record.ops):
            if issued.execution is None or issued.location is None:
                continue
            path, line = issued.execution.module, issued.location.every
            self.passed.setdefault((path, issued.execution.entry), []).append(issued.location)
            if issued.mutates_input if isinstance(issued, ModuleCall) else issued.mutated:
                self.changing.setdefault(path, set()).add(line)
            if {*map(record.storage.get, issued.inputs)} & {*map(record.storage.get, issued.outputs)} - {None}:
                self.lying.setdefault(path, set()).add(line)


def _by_method(edits: list[Edit]) -> list[list[Edit]]:
    groups: dict[tuple, list[Edit]] = {}
    for edit in edits:
        groups.setdefault((edit.target.container, edit.target.method, edit.target.entry), []).append(edit)
    return list(groups.values())


def _inject_method(modules: dict[str, nn.Module], edits: list[Edit], index: _Index) -> Method:
    target = edits[0].target
    module = modules[target.container]
    runners = runners_of(module, target.method)
    above = list(itertools.takewhile(lambda runner: not isinstance(runner, Method), runners))
    earlier = runners[len(above)] if len(runners) > len(above) else None
    inner = earlier or (above[-1] if above else None)
    function = inner.function if inner is not None else getattr(type(module), target.method)
    if earlier is not None:
        method = earlier.anew(function)
    else:
        method = Method(target.container, target.method, target.entry, function)
    for edit in edits:
        there = method.edits.get(edit.target.location)
        method.edits[edit.target.location] = edit if there is None else together(there, edit) or there
    if isinstance(module, nn.MultiheadAttention):
        keep_unfused_(module)
    method.mutating |= index.changing.get(target.container, set())
    method.lying |= index.lying.get(target.container, set())
    method.turns |= _turns_edited(method, index)
    inject(module, {target.method: method})
    for runner in reversed(above):  # the edits of its calls stay around it
        inject(module, {target.method: runner.around(getattr(type(module), target.method))})
    return method


def _turns_edited(method: Method, index: _Index) -> dict[tuple, int]:
    """For each line of which every turn has an edit of its own: how often the example passes it, turns that were
    removed before included.

    A call that passes it more often would be edited in part; `Method` raises there.
    """
    edited: dict[tuple, set[int]] = {}
    for location in method.edits:
        if location.occurrence is not None:
            edited.setdefault(location.stack, set()).add(location.occurrence)
    passed: dict[tuple, set[int]] = {}
    for location in index.passed.get((method.path, method.entry), ()) if edited else ():
        if location.stack in edited:
            passed.setdefault(location.stack, set()).add(location.occurrence or 0)
    return {
        stack: len(edited[stack])
        for stack, turns in passed.items()
        if len(edited[stack]) > 1 and turns <= edited[stack]
    }


def _likenesses(modules: dict[str, nn.Module], groups: list[list[Edit]]) -> list[Hashable]:
    """For the edits of each method a key, which is equal where modules that are built alike are edited alike."""
    edited = [_edited_alike(group) for group in groups]
    marks: dict[int, Hashable] = {}  # what else is edited in a module, and in those below
    for group, edits in zip(groups, edited, strict=True):
        key = id(modules[group[0].target.container])
        marks[key] = marks.get(key), edits
    kinds = [(type(modules[group[0].target.container]), edits) for group, edits in zip(groups, edited, strict=True)]
    often = Counter(kinds)
    return [
        (kind, structure_of(modules[group[0].target.container], marks) if often[kind] > 1 else None)
        for group, kind in zip(groups, kinds, strict=True)
    ]


def _edited_alike(group: list[Edit]) -> Hashable:
    """All that the edits of one method of a module are, but which module it is."""
    described = []
    for edit in group:
        target, prefix = edit.target, f"{edit.target.container}."
        child = target.module and (target.module.startswith(prefix), target.module.removeprefix(prefix))
        rest = tuple(getattr(target, f.name) for f in fields(target) if f.name not in ("name", "container", "module"))
        described.append((child, rest, edit.action))
    return tuple(described)


def _no_method(module: nn.Module, name: str) -> str:
    """Why the method `name` of `module` cannot be replaced through its class; empty where it can."""
    if not callable(getattr(type(module), name, None)):
        return f"{type(module).__name__} has no method {name!r}"
    if name in vars(module):
        return f"this {type(module).__name__} has a {name!r} of its own, set on the instance"
    return ""


def run_copy(model: nn.Module, example: Any) -> None:
    """Run the example on a copy, so that rewritten methods trace themselves; copies and `model` share their graphs."""
    with quietly(model):
        run_example(structural_copy(model), fresh(example))


def trace_other_modes(model: nn.Module, example: Any) -> None:
    """Let methods trace themselves in other modes too, where their code asks for these: with gradients and without, in
    training and in evaluation."""
    tables = [table for module in model.modules() for table in injected(module)[1]]
    methods = [method for table in tables for method in table.values() if isinstance(method, Method)]
    grads = [{graph.grad for graph in method.graphs} - {None} for method in methods]
    for grad in (True, False):
        if any(traced and grad not in traced for traced in grads):
            with quietly(model), torch.set_grad_enabled(grad):
                run_example(structural_copy(model), fresh(example))
    modes = [{value for g in method.graphs for _, name, value in g.reads if name == "training"} for method in methods]
    if any(len(traced) == 1 for traced in modes):
        with quietly(model), suppress(Exception):  # nobody asked for this mode: what fails is traced when needed
            run_example(structural_copy(model).train(not model.training), fresh(example))


def quietly(model: nn.Module) -> ExitStack:
    """Without gradients, fused layers and traces in the random state."""
    stack = ExitStack()
    stack.enter_context(random_states_kept(devices_of(model)))
    stack.enter_context(torch.no_grad())
    stack.enter_context(no_fused_layers())  # what a graph is made of are the ops that the fused kernel hides
    return stack


def _note_calls(modules: dict[str, nn.Module], method: Method, edits: list[Edit], index: _Index) -> None:
    """What `method` needs for a call of it that cannot be traced, though those of the example could."""
    inside = {id(child): path for path, child in modules[method.path].named_modules()}
    for edit in edits:
        path = edit.target.module
        if path is not None:
            method.traced_calls |= dict.fromkeys(_call_keys(edit.target, index), edit)
            method.children[path] = inside.get(id(modules[path]))


def _fall_back(modules: dict[str, nn.Module], method: Method, edit: Edit, index: _Index, omegas: list[Omega]) -> How:
    target = edit.target
    if isinstance(edit.action, GRAPH_ONLY) or target.source is not None:  # beyond what one op has at hand
        del method.edits[target.location]
        return How.REFUSED
    if target.module is None:
        return How.INTERCEPTED
    child = modules[target.module]
    called = method_called(child)
    calls = index.calls[target.module]
    lines = {(c.execution.module, c.execution.entry, c.location) for c in calls if c.execution is not None}
    del method.edits[target.location]
    if len(lines) == 1 and all(c.execution is not None for c in calls):
        if isinstance(edit.action, Blend):
            omega = modules[target.container]._parameters.pop(edit.action.omega)
            # Not by the name that it had: the child may have switches of its own.
            edit = replace(edit, action=replace(edit.action, omega=OMEGA_CALL))
            child.register_parameter(OMEGA_CALL, omega)
            omegas[:] = [o if o.target is not target else Omega(target, target.module, OMEGA_CALL) for o in omegas]
        elif isinstance(edit.action, Narrow):
            delattr(modules[target.container], edit.action.positions)
            narrow = replace(edit.action, positions=free_name(child, edit.action.positions))
            add_positions_(child, narrow, modules[target.container])
            edit = replace(edit, action=narrow)
        inject(child, {called: EditedChild(edit, getattr(type(child), called))})
        return How.MODULE
    method.calls |= dict.fromkeys(_call_keys(target, index), edit)
    if not any(isinstance(r, WatchedChild) for r in runners_of(child, called)):
        inject(child, {called: WatchedChild(target.module, getattr(type(child), called))})
    return How.INTERCEPTED


def _call_keys(target: Target, index: _Index) -> list[tuple[str, Any, int | None]]:
    """For the calls at `target`: the child, their call stack, and how often it was called there before (None: ever)."""
    keys: dict[tuple, None] = {}
    before: dict[tuple, int] = {}
    for call in index.calls.get(target.module or "", ()):
        if call.execution is None or call.location is None:
            continue
        key = (id(call.execution), call.location.stack)
        before[key] = before.get(key, -1) + 1
        if call.execution.entry is target.entry and target.location in (call.location, call.location.every):
            keys[target.module, call.location.stack, None if target.location.occurrence is None else before[key]] = None
    return list(keys)
