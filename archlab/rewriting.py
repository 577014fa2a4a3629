"""The only file that changes module trees: every pass gives it a model and its edits, and gets a new model.

A container's method is replaced through a generated subclass (``module.__class__``), so state-dict
keys, ``isinstance``, hooks and the other methods survive. The method runs a traced graph with the
edits in it (``local``), one graph for each way it is called. Where it cannot be traced, a child
that is called from one place only is edited itself (``module``); the rest is intercepted at run
time (``intercepted``). A site inside something that is removed needs nothing (``gone``); one that
no way is sound for is ``refused``.
"""

import itertools
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .capture import Capture, capture, copied, no_fused_layers, refuse_wrappers, structural_copy
from .editing import Edit, Feed, Wrap
from .examples import fresh, run
from .injecting import OMEGA_CALL, inject, injected, runners_of
from .listing import Site
from .methods import EditedChild, Method, WatchedChild


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
    _run_copy(new, example, methods)
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
        _run_copy(new, example, [])
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


def _run_copy(model: nn.Module, example: Any, methods: list[Method]) -> None:
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


def restore(model: nn.Module, omegas: Iterable[Omega], classes: dict[str, type]) -> nn.Module:
    """A copy of a switched model without its switches: every site as it was before, weights as they are now."""
    new = copied(model)
    modules = dict(new.named_modules())
    for omega in omegas:
        del modules[omega.owner]._parameters[omega.name]
    for path, cls in classes.items():
        modules[path].__class__ = cls
    return new


def with_modules(model: nn.Module, new: Mapping[str, nn.Module], example: Any) -> nn.Module:
    """A copy of `model` with another module at each path of `new`, under every name that the old one has.

    Rewritten containers trace themselves again, as the children they call may be others.
    """
    made = copied(model)
    put_modules_(made, new)
    _run_copy(made, example, [])
    return made


def put_modules_(model: nn.Module, new: Mapping[str, nn.Module]) -> None:
    """As `with_modules`, in place; what was rewritten traces itself at the next run."""
    old = {id(model.get_submodule(path)): module for path, module in new.items()}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in old and path:
            old[id(module)].training = module.training  # of this one alone: what it holds has modes of its own
            _put(model, path, old[id(module)])
    renew_methods_(model)


def renew_methods_(model: nn.Module) -> None:
    """Let every rewritten method of `model` forget its graphs, which copies of it go on sharing among themselves, and
    know where in the model it is now."""
    for path, module in model.named_modules():
        base, tables = injected(module)
        if not tables:
            continue
        module.__class__ = base
        for runners in tables:
            new: dict[str, Any] = {}
            for name, runner in runners.items():
                function = getattr(type(module), name)
                if isinstance(runner, Method):
                    new[name] = runner.anew(runner.function, path)
                elif isinstance(runner, WatchedChild):
                    new[name] = WatchedChild(path, function)
                else:
                    new[name] = runner.around(function)
            inject(module, new)


class Removed(nn.Module):
    """Keeps the place of a module that only a removed branch called; `path` is that place."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def extra_repr(self) -> str:
        return self.path

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"this call reaches {self.path}, which was removed, as the example did not need it any more: remove with "
            "an example that runs the model in this way"
        )


def drop_unreached(model: nn.Module, example: Any, before: Capture, identities: set[str]) -> Capture:
    """Remove, in place, the modules and parameters that `before` reached and a run of `model` no longer does.

    What is removed keeps its name: a module in `identities`, whose input stands for its output, as an ``nn.Identity``,
    another as `Removed`. Where code that still runs reads an attribute of such a module, it stays, without its
    parameters. Returns the record of the run.
    """
    after = capture(model, example)
    called, read = before.reached()
    still_called, still_read = after.reached()
    idle: dict[str, nn.Module] = {}
    for path in sorted(called - still_called, key=lambda p: p.count(".")):
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue  # its parent went
        names = {f"{path}.{name}" for name, _ in (*module.named_parameters(), *module.named_buffers())}
        inner = {f"{path}.{name}" if name else path for name, _ in module.named_modules()}
        if not (names & still_read or inner & still_called):
            idle[path] = module
            _put(model, path, (nn.Identity() if path in identities else Removed(path)).train(module.training))
    if idle and not _still_runs(model, example):
        for path, module in idle.items():
            _put(model, path, module)
    emptied = _empty(model, read - still_read)
    if emptied and not _still_runs(model, example):
        for owner, name, tensor in emptied:
            _table(owner, name)[name] = tensor
        return after
    for owner, name, tensor in emptied:
        for runners in injected(owner)[1]:
            for method in (runner for runner in runners.values() if isinstance(runner, Method)):
                if isinstance(tensor, nn.Parameter):
                    method.stand_ins[name] = nn.Parameter(tensor.detach().to("meta"), requires_grad=False)
    return after


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _empty(model: nn.Module, gone: set[str]) -> list[tuple[nn.Module, str, Tensor]]:
    """Set the tensors named in `gone`, wherever they are tied to, to None; where they stood, to put them back."""
    owned = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    tensors = {id(owned[name]) for name in gone & owned.keys()}
    emptied = []
    for name, tensor in owned.items():
        if id(tensor) in tensors:
            path, _, leaf = name.rpartition(".")
            owner = model.get_submodule(path)
            emptied.append((owner, leaf, tensor))
            _table(owner, leaf)[leaf] = None
    return emptied


def _table(owner: nn.Module, name: str) -> dict:
    """Where `owner` keeps the parameter or buffer `name`."""
    return owner._parameters if name in owner._parameters else owner._buffers


def _still_runs(model: nn.Module, example: Any) -> bool:
    try:
        _run_copy(model, example, [])
    except Exception:  # whatever the model's own code raises when it misses what it reads
        return False
    return True
