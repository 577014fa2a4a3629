"""The only file that changes module trees: every pass gives it a model and its edits, and gets a new model.

A container's method is replaced through a generated subclass (``module.__class__``), so state-dict
keys, ``isinstance``, hooks and the other methods survive. The method runs a traced graph with the
edits in it (``local``), one graph for each way it is called. Where it cannot be traced, a child
that is called from one place only is edited itself (``module``); the rest is intercepted at run
time (``intercepted``). A site inside something that is removed needs nothing (``gone``); one that
no way is sound for is ``refused``.
"""

import itertools
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..capture.copies import copied, refuse_wrappers, structural_copy
from ..capture.example import fresh, run
from ..capture.record import Capture
from ..capture.recorder import no_fused_layers
from ..discovery.site import Site
from .graph_edits import Edit, Feed, Wrap
from .inject import OMEGA_CALL, inject, runners_of
from .override import EditedChild, Method, WatchedChild


class CannotRewrite(ValueError):
    """A site that cannot be rewritten; names it and says why."""


@dataclass(frozen=True)
class Omega:
    """A switch parameter: the site it belongs to, and where it is."""

    site: Site
    owner: str
    name: str


@dataclass(frozen=True)
class Rewritten:
    """A new model, how each site was rewritten (id -> how), why not locally (or not at all), the switches put in, and
    the classes that the changed modules had before (path -> class)."""

    model: nn.Module
    how: dict[str, str]
    reasons: dict[str, str]
    omegas: tuple[Omega, ...]
    classes: dict[str, type]


def rewrite(model: nn.Module, example: Any, edits: Iterable[Edit], *, record: Capture) -> Rewritten:
    """A copy of `model` with every edit in it. `record` is the capture that the sites were found in.

    The copy shares no storage with `model`, which is left untouched. Raises CannotRewrite, naming the site.
    """
    made = attempt(model, example, edits, record=record)
    for site, how in made.how.items():
        if how == "refused":
            raise CannotRewrite(f"{site} cannot be rewritten: {made.reasons[site]}. Leave it out with `where`")
    return made


def attempt(model: nn.Module, example: Any, edits: Iterable[Edit], *, record: Capture) -> Rewritten:
    """As `rewrite`, but sites that cannot be rewritten are left as they are and stand as ``refused`` in `.how`."""
    refuse_wrappers(model)
    new = copied(model)
    modules = dict(new.named_modules())
    edits = list(edits)
    omegas = []
    for edit in edits:
        if isinstance(edit.omega, str):
            _register_omega(modules[edit.site.path], edit.omega, new)
            omegas.append(Omega(edit.site, edit.site.path, edit.omega))
    how, reasons = {}, {}
    methods = []
    for group in _by_method(edits):
        reason = _no_method(modules[group[0].site.path], group[0].site.method)
        if reason:
            how |= {e.site.id: "refused" for e in group}
            reasons |= {e.site.id: reason for e in group}
            continue
        method = _inject_method(modules, group, record)
        methods.append(method)
        double = [e.site.id for e in group if method.edits[e.site.place] is not e]
        how |= dict.fromkeys(double, "refused")
        reasons |= dict.fromkeys(double, "an earlier pass froze it, or the other operand of its add is chosen")
    run_copy(new, example, methods)
    unrun = "gone" if any(edit.omega is None for edit in edits) else "refused"
    for method in methods:
        mine = [e for e in edits if method.edits.get(e.site.place) is e]
        if not method.variants and not method.reason:  # never run: what contains it was removed
            how |= {e.site.id: unrun for e in mine}
            reasons |= {e.site.id: f"its {method.method} was not run again" for e in mine}
            continue
        if any(e.site.place not in method.found for e in mine) and not method.reason:
            method.reason = "the traced code does not pass the site"
        if not method.reason:
            how |= {e.site.id: "local" for e in mine}
            _note_calls(modules, method, mine, record)
            continue
        reasons |= {e.site.id: method.reason for e in mine}
        method.variants.clear()
        for edit in mine:
            reason = edit.site.module and _no_method(modules[edit.site.module], "forward")
            if reason:
                how[edit.site.id], reasons[edit.site.id] = "refused", reason
                del method.edits[edit.site.place]
            else:
                how[edit.site.id] = _fall_back(modules, method, edit, record, omegas)
    if "intercepted" in how.values():
        run_copy(new, example, [])
        met = set().union(*(method.met for method in methods))
        missed = [site for site, way in how.items() if way == "intercepted" and site not in met]
        how |= dict.fromkeys(missed, unrun)
        reasons |= {site: f"at run time it was not met again ({reasons[site]})" for site in missed}
    classes = {path: type(old) for path, old in model.named_modules() if type(modules[path]) is not type(old)}
    return Rewritten(new, how, reasons, tuple(omegas), classes)


def _by_method(edits: list[Edit]) -> list[list[Edit]]:
    groups: dict[tuple, list[Edit]] = {}
    for edit in edits:
        groups.setdefault((edit.site.path, edit.site.method, edit.site.entry), []).append(edit)
    return list(groups.values())


def _register_omega(module: nn.Module, name: str, model: nn.Module) -> None:
    like = next((p for owner in (module, model) for p in owner.parameters() if p.is_floating_point()), None)
    device = like.device if like is not None else None
    module.register_parameter(name, nn.Parameter(torch.zeros((), dtype=torch.float32, device=device)))


def _inject_method(modules: dict[str, nn.Module], edits: list[Edit], record: Capture) -> Method:
    site = edits[0].site
    module = modules[site.path]
    runners = runners_of(module, site.method)
    above = list(itertools.takewhile(lambda runner: not isinstance(runner, Method), runners))
    earlier = runners[len(above)] if len(runners) > len(above) else None
    inner = earlier or (above[-1] if above else None)
    function = inner.function if inner is not None else getattr(type(module), site.method)
    method = earlier.anew(function) if earlier is not None else Method(site.path, site.method, site.entry, function)
    for edit in edits:
        method.edits.setdefault(edit.site.place, edit)
    changing = [(op.execution, op.place) for op in record.ops if op.mutated]
    changing += [(call.execution, call.place) for call in record.calls if call.mutates_input]
    for execution, place in changing:
        if execution is not None and place is not None and execution.module == site.path:
            method.mutating.add(place)
    inject(module, {site.method: method})
    for runner in reversed(above):  # the edits of its calls stay around it
        inject(module, {site.method: runner.around(getattr(type(module), site.method))})
    return method


def _no_method(module: nn.Module, name: str) -> str:
    """Why the method `name` of `module` cannot be replaced through its class; empty where it can."""
    if not callable(getattr(type(module), name, None)):
        return f"{type(module).__name__} has no method {name!r}"
    if name in vars(module):
        return f"this {type(module).__name__} has a {name!r} of its own, set on the instance"
    return ""


def run_copy(model: nn.Module, example: Any, methods: list[Method]) -> None:
    """Run the example on a copy, so that methods trace themselves; in other modes too where one of them asks for it.

    What is learned so is shared by the copy and `model`.
    """
    probe = structural_copy(model)
    with ExitStack() as stack:
        devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        stack.enter_context(no_fused_layers())  # what a graph is made of are the ops that the fused kernel hides
        run(probe, fresh(example))
        variants = [variant for method in methods for variant in method.variants]
        if any(variant.grad is not None for variant in variants):
            with torch.enable_grad():
                run(probe, fresh(example))
        if any(name == "training" for variant in variants for _, name, _ in variant.reads):
            with suppress(Exception):  # in a mode that nobody asked for, what fails is traced when it is needed
                run(probe.train(not probe.training), fresh(example))


def _note_calls(modules: dict[str, nn.Module], method: Method, edits: list[Edit], record: Capture) -> None:
    """What `method` needs for a call of it that cannot be traced, though those of the example could."""
    inside = {id(child): path for path, child in modules[method.path].named_modules()}
    for edit in edits:
        path = edit.site.module
        if path is not None:
            method.traced_calls |= dict.fromkeys(_call_keys(edit.site, record), edit)
            method.children[path] = inside.get(id(modules[path]))


def _fall_back(modules: dict[str, nn.Module], method: Method, edit: Edit, record: Capture, omegas: list[Omega]) -> str:
    site = edit.site
    if isinstance(edit, Feed | Wrap):
        del method.edits[site.place]
        return "refused"
    if site.module is None:
        return "intercepted"
    child = modules[site.module]
    calls = [c for c in record.calls if c.module == site.module]
    places = {(c.execution.module, c.execution.entry, c.place) for c in calls if c.execution is not None}
    del method.edits[site.place]
    if len(places) == 1 and all(c.execution is not None for c in calls):
        if isinstance(edit.omega, str):
            omega, name = modules[site.path]._parameters.pop(edit.omega), OMEGA_CALL
            edit = Edit(site, name)  # not the name it had: the child may have sites of its own
            child.register_parameter(name, omega)
            omegas[:] = [o if o.site is not site else Omega(site, site.module, name) for o in omegas]
        inject(child, {"forward": EditedChild(edit, type(child).forward)})
        return "module"
    method.calls |= dict.fromkeys(_call_keys(site, record), edit)
    if not any(isinstance(r, WatchedChild) for r in runners_of(child, "forward")):
        inject(child, {"forward": WatchedChild(site.module, type(child).forward)})
    return "intercepted"


def _call_keys(site: Site, record: Capture) -> list[tuple[str, Any, int]]:
    """For the calls at `site`: the child, their chain, and how often the same child was called there before."""
    keys: dict[tuple, None] = {}
    before: dict[tuple, int] = {}
    for call in record.calls:
        if call.module != site.module or call.execution is None or call.place is None:
            continue
        key = (id(call.execution), call.place.chain)
        before[key] = before.get(key, -1) + 1
        if call.execution.entry is site.entry and call.place == site.place:
            keys[site.module, call.place.chain, before[key]] = None
    return list(keys)
