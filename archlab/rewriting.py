"""The only file that changes module trees: every pass gives it a model and its edits, and gets a new model.

A container's method is replaced through a generated subclass (``module.__class__``), so state-dict
keys, ``isinstance``, hooks and the other methods survive. The method runs a traced graph with the
edits in it (``local``), one graph for each way it is called. Where it cannot be traced, a child
that is called from one place only is edited itself (``module``); the rest is intercepted at run
time (``intercepted``). A site inside something that is removed needs nothing (``gone``).
"""

import copy
import functools
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .capture import Capture, Place, capture, copied, refuse_wrappers, run, structural_copy
from .editing import Edit, edit_graph, perform
from .finding import Site
from .intercepting import Interceptor, intercepted_call
from .tracing import Untraceable, Variant, compile_graph, trace


class CannotRewrite(ValueError):
    """A site that cannot be rewritten; names it and says why."""


class _Unit:
    """The edits of one method of one module, and the graphs of it made so far. Shared by copies of the module."""

    def __init__(self, path: str, method: str, entry: Any, function: Callable):
        self.path, self.method, self.entry, self.function = path, method, entry, function
        self.edits: dict[Place, Edit] = {}
        self.calls: dict[tuple, Edit] = {}
        self.mutating: set[Place] = set()
        self.variants: list[Variant] = []
        self.found: set[Place] = set()
        self.reason = ""  # why it is intercepted, if it is

    def run(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        if not self.reason:
            for variant in self.variants:
                leaves = variant.matches(module, args, kwargs)
                if leaves is not None:
                    return variant.run(module, *leaves)  # type: ignore[misc]
        return self.run_anew(module, args, kwargs)

    def run_anew(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        """A call that no graph is valid for: one is traced for it, else it is intercepted."""
        if not self.reason:
            try:
                variant = self.trace(module, args, kwargs)
            except Untraceable as error:
                if self.variants:  # other calls go on as traced
                    return self.intercept(module, args, kwargs)
                self.reason = str(error)
            else:
                self.variants.append(variant)
                leaves = variant.matches(module, args, kwargs)
                assert leaves is not None, "a fresh trace holds for the call it was made from"
                return variant.run(module, *leaves)  # type: ignore[misc]
        return self.intercept(module, args, kwargs)

    def trace(self, module: nn.Module, args: tuple, kwargs: dict) -> Variant:
        variant = trace(module, self.function, self.entry, args, kwargs)
        self.found |= edit_graph(variant.graph, self.edits, self.mutating)
        return replace(variant, run=compile_graph(variant.graph, (self.path, self.method, self.entry)))

    def intercept(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        with Interceptor(module, self.entry, self.edits, self.calls):
            return self.function(module, *args, **kwargs)


class _EditedChild:
    """A child whose every call is one site: edited itself, whatever code calls it."""

    def __init__(self, edit: Edit, function: Callable):
        self.edit, self.function = edit, function

    def run(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        return perform(self.edit, module, functools.partial(self.function, module), args, kwargs)


class _WatchedChild:
    """A child some of whose calls are sites of an intercepted container."""

    def __init__(self, path: str, function: Callable):
        self.path, self.function = path, function

    def run(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        return intercepted_call(self.path, functools.partial(self.function, module), args, kwargs)


@dataclass(frozen=True)
class Omega:
    """A switch parameter: the site it belongs to, and where it is."""

    site: Site
    owner: str
    name: str


@dataclass(frozen=True)
class Rewritten:
    """A new model, how each site was rewritten (id -> how), why not locally, the switches put in, and the classes
    that the changed modules had before (path -> class)."""

    model: nn.Module
    how: dict[str, str]
    reasons: dict[str, str]
    omegas: tuple[Omega, ...]
    classes: dict[str, type]


def omega_name(site: Site) -> str:
    """The name of a site's switch parameter in its container: ``omega_relu`` style, from the site's kind and number."""
    return "omega_" + site.id.rsplit("/", 1)[-1].replace(".", "_")


def rewrite(model: nn.Module, example: Any, edits: Iterable[Edit], *, record: Capture) -> Rewritten:
    """A copy of `model` with every edit in it. `record` is the capture that the sites were found in.

    The copy shares no storage with `model`, which is left untouched. Raises CannotRewrite.
    """
    refuse_wrappers(model)
    new = copied(model)
    modules = dict(new.named_modules())
    edits = list(edits)
    omegas = []
    for edit in edits:
        if isinstance(edit.omega, str):
            _register_omega(modules[edit.site.path], edit.omega, new)
            omegas.append(Omega(edit.site, edit.site.path, edit.omega))
    units = [_inject_unit(modules, group, record) for group in _by_unit(edits)]
    _warm(new, example, units)
    how, reasons = {}, {}
    for unit in units:
        mine = [e for e in edits if unit.edits.get(e.site.place) is e]
        if not unit.variants and not unit.reason:  # never run: what contains it was removed
            how |= {e.site.id: "gone" for e in mine}
            continue
        if any(e.site.place not in unit.found for e in mine) and not unit.reason:
            unit.reason = "the traced code does not pass the site"
        if not unit.reason:
            how |= {e.site.id: "local" for e in mine}
            continue
        reasons |= {e.site.id: unit.reason for e in mine}
        unit.variants.clear()
        for edit in mine:
            how[edit.site.id] = _fall_back(modules, unit, edit, record, omegas)
    classes = {path: type(old) for path, old in model.named_modules() if type(modules[path]) is not type(old)}
    return Rewritten(new, how, reasons, tuple(omegas), classes)


def _by_unit(edits: list[Edit]) -> list[list[Edit]]:
    groups: dict[tuple, list[Edit]] = {}
    for edit in edits:
        groups.setdefault((edit.site.path, edit.site.method, edit.site.entry), []).append(edit)
    return list(groups.values())


def _register_omega(module: nn.Module, name: str, model: nn.Module) -> None:
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    device = like.device if like is not None else None
    module.register_parameter(name, nn.Parameter(torch.zeros((), dtype=torch.float32, device=device)))


def _inject_unit(modules: dict[str, nn.Module], edits: list[Edit], record: Capture) -> _Unit:
    site = edits[0].site
    module = modules[site.path]
    earlier = _unit_of(module, site.method)
    if earlier is not None:
        unit = _Unit(site.path, site.method, site.entry, earlier.function)
        unit.edits, unit.calls, unit.mutating = dict(earlier.edits), dict(earlier.calls), set(earlier.mutating)
    else:
        function = getattr(type(module), site.method, None)
        if function is None:
            raise CannotRewrite(f"{site.id}: {type(module).__name__} has no method {site.method!r} to rewrite")
        unit = _Unit(site.path, site.method, site.entry, function)
    for edit in edits:
        if edit.site.place in unit.edits:
            other = unit.edits[edit.site.place].site
            raise CannotRewrite(f"{edit.site.id} and {other.id} are the same add: choose one of them")
        unit.edits[edit.site.place] = edit
    for event in (*record.ops, *record.calls):
        changes = event.mutated if hasattr(event, "mutated") else event.mutates_input
        if changes and event.execution is not None and event.execution.module == site.path:
            unit.mutating.add(event.place)
    _inject(module, {site.method: unit})
    return unit


def _unit_of(module: nn.Module, method: str) -> _Unit | None:
    for cls in type(module).__mro__:
        runner = cls.__dict__.get("_archlab_runners", {}).get(method)
        if isinstance(runner, _Unit):
            return runner
    return None


def _inject(module: nn.Module, runners: dict[str, Any]) -> None:
    """Give `module` a class of its own, derived from its class, whose methods are run by `runners`."""
    base = type(module)
    namespace: dict[str, Any] = {
        name: _method(getattr(base, name), runner) for name, runner in runners.items()
    }
    namespace |= {
        "_archlab_base": base,
        "_archlab_runners": runners,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__deepcopy__": _deepcopy,
        "__reduce_ex__": _refuse_pickle,
        "_apply": _apply_keeping_omegas,
    }
    module.__class__ = type(base.__name__, (base,), namespace)


def _method(original: Callable, runner: Any) -> Callable:
    @functools.wraps(original)
    def method(self, *args, **kwargs):
        return runner.run(self, args, kwargs)

    return method


def _deepcopy(self: nn.Module, memo: dict) -> nn.Module:
    new = self.__class__.__new__(self.__class__)
    memo[id(self)] = new
    new.__dict__.update(copy.deepcopy(self.__dict__, memo))
    return new


def _refuse_pickle(self: nn.Module, protocol: Any) -> Any:
    raise TypeError(
        f"a rewritten {type(self).__name__} cannot be pickled: its class exists in this process only. "
        "Keep it with archlab.save(model, path) and archlab.load(path, factory, example), or its state_dict()"
    )


def _apply_keeping_omegas(self: nn.Module, fn: Callable, *args, **kwargs) -> nn.Module:
    """``Module._apply`` (behind .to, .half, .cuda): a switch stays float32 whatever the model becomes."""
    kept = {n: p.detach().clone() for n, p in self._parameters.items() if p is not None and n.startswith("omega_")}
    result = super(_injected_class(type(self)), self)._apply(fn, *args, **kwargs)  # type: ignore[misc]
    for name, value in kept.items():
        parameter = self._parameters[name]
        assert parameter is not None
        if parameter.dtype != value.dtype:
            parameter.data = value.to(parameter.device)
    return result


def _injected_class(cls: type) -> type:
    """The lowest injected class below `cls`: what lies above it is the model's own."""
    lowest = cls
    while "_archlab_base" in lowest._archlab_base.__dict__:  # type: ignore[attr-defined]
        lowest = lowest._archlab_base  # type: ignore[attr-defined]
    return lowest


def _warm(model: nn.Module, example: Any, units: list[_Unit]) -> None:
    """Run the example on a copy, so that every unit traces itself; in the other mode too where one depends on it."""
    probe = structural_copy(model)
    with ExitStack() as stack:
        devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        run(probe, example)
        if any(name == "training" for unit in units for v in unit.variants for name, _ in v.reads):
            training = probe.training
            probe.train(not training)
            try:
                run(probe, example)
            except (ValueError, RuntimeError):
                pass  # batch norm cannot train on this example; the graph is then traced when it is needed
            finally:
                probe.train(training)


def _fall_back(
    modules: dict[str, nn.Module], unit: _Unit, edit: Edit, record: Capture, omegas: list[Omega]
) -> str:
    site = edit.site
    if site.module is None:
        return "intercepted"
    child = modules[site.module]
    calls = [c for c in record.calls if c.module == site.module]
    places = {(c.execution.module, c.execution.entry, c.place) for c in calls if c.execution is not None}
    del unit.edits[site.place]
    if len(places) == 1 and all(c.execution is not None for c in calls):
        if isinstance(edit.omega, str):
            _move_omega(modules[site.path], child, edit.omega)
            omegas[:] = [o if o.site is not site else Omega(site, site.module, edit.omega) for o in omegas]
        _inject(child, {"forward": _EditedChild(edit, type(child).forward)})
        return "module"
    for chain, ordinal in _ordinals(site, calls):
        unit.calls[site.module, chain, ordinal] = edit
    if not any(isinstance(r, _WatchedChild) for r in _runners(child)):
        _inject(child, {"forward": _WatchedChild(site.module, type(child).forward)})
    return "intercepted"


def _move_omega(owner: nn.Module, child: nn.Module, name: str) -> None:
    parameter = owner._parameters.pop(name)
    child.register_parameter(name, parameter)


def _runners(module: nn.Module) -> list[Any]:
    return [r for cls in type(module).__mro__ for r in cls.__dict__.get("_archlab_runners", {}).values()]


def _ordinals(site: Site, calls: list) -> set[tuple[Any, int]]:
    """For the calls at `site`: their chain, and how often the same child was called there before."""
    found = set()
    before: dict[tuple, int] = {}
    for call in calls:
        if call.execution is None:
            continue
        key = (id(call.execution), call.place.chain)
        before[key] = before.get(key, -1) + 1
        if call.execution.entry is site.entry and call.place == site.place:
            found.add((call.place.chain, before[key]))
    return found


def restore(model: nn.Module, omegas: Iterable[Omega], classes: dict[str, type]) -> nn.Module:
    """A copy of a switched model without its switches: every site as it was before, weights as they are now."""
    new = copied(model)
    modules = dict(new.named_modules())
    for omega in omegas:
        del modules[omega.owner]._parameters[omega.name]
    for path, cls in classes.items():
        modules[path].__class__ = cls
    return new


def drop_unreached(model: nn.Module, example: Any, before: Capture) -> Capture:
    """Remove, in place, the modules and parameters that `before` reached and a run of `model` no longer does.

    A module that is no longer called becomes an ``nn.Identity``, so that its name keeps its place. Returns the
    record of the run.
    """
    after = capture(model, example)
    called, read = before.reached()
    still_called, still_read = after.reached()
    gone = read - still_read
    for path in sorted(called - still_called, key=lambda p: p.count(".")):
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue  # its parent went
        names = {f"{path}.{name}" for name, _ in (*module.named_parameters(), *module.named_buffers())}
        inner = {f"{path}.{name}" if name else path for name, _ in module.named_modules()}
        if names & still_read or inner & still_called:
            continue
        if path:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, nn.Identity().train(module.training))
    owned = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    tensors = {id(owned[name]) for name in gone & owned.keys()}
    for name, tensor in owned.items():
        if id(tensor) in tensors:
            path, _, leaf = name.rpartition(".")
            owner = model.get_submodule(path)
            (owner._parameters if leaf in owner._parameters else owner._buffers)[leaf] = None
    return after


