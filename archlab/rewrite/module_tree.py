"""Module trees changed: modules put in, and what nothing reaches any more taken out."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..capture.copies import copied
from ..capture.record import Capture
from .inject import inject, injected, let_fuse_, set_class_
from .override import Method, WatchedChild
from .rewrite import Omega


def restore(model: nn.Module, omegas: Iterable[Omega], classes: dict[str, type]) -> nn.Module:
    """A copy of a switched model without its switches: every target as it was before, weights as they are now."""
    new = copied(model)
    modules = dict(new.named_modules())
    for omega in omegas:
        del modules[omega.owner]._parameters[omega.name]
    for path, cls in classes.items():
        set_class_(modules[path], cls)
        let_fuse_(modules[path])
    return new


def with_modules(model: nn.Module, new: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of `model` with another module at each path of `new`, under every name that the old one has.

    Rewritten containers trace themselves again at the next run, as the children they call may be others.
    """
    made = copied(model)
    put_modules_(made, new)
    return made


def put_modules_(model: nn.Module, new: Mapping[str, nn.Module]) -> None:
    """As `with_modules`, in place; what was rewritten traces itself at the next run."""
    old = {id(model.get_submodule(path)): module for path, module in new.items()}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in old and path:
            old[id(module)].training = module.training  # of this one alone: what it holds has modes of its own
            _put(model, [path], old[id(module)])
    renew_methods_(model)


def renew_methods_(model: nn.Module) -> None:
    """Let every rewritten method of `model` forget its graphs, which copies of it go on sharing among themselves, and
    know where in the model it is now."""
    for path, module in model.named_modules():
        base, tables = injected(module)
        if not tables:
            continue
        set_class_(module, base)
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


def drop_unreached(
    model: nn.Module,
    before: Capture,
    after: Capture,
    run: Callable[[nn.Module], Any],
    *,
    identities: Collection[str] = (),
) -> Any:
    """Remove in place the modules and parameters that the run `before` reached and the run `after` of `model` does not.

    What is removed keeps its name: a module in `identities`, whose input stands for its output, as an ``nn.Identity``,
    another as `Removed`. Where code that still runs reads an attribute of such a module, or asks whether such a
    parameter is there, these stay. `run` runs the example on `model`; what its last call gave is returned.
    """
    called, read = before.reached()
    still_called, still_read = after.reached()
    unreached = _unreached(model, called - still_called, still_called, still_read)
    everywhere = list(model.named_modules(remove_duplicate=False))
    names = {path: [name for name, other in everywhere if other is module] for path, module in unreached.items()}
    failed: Exception | None = None
    for modules_go, tensors_go in ((True, True), (True, False), (False, True), (False, False)):
        if (modules_go and not unreached) or (failed and not (unreached or read - still_read)):
            continue
        for path in unreached if modules_go else ():
            stands_in = nn.Identity() if path in identities else Removed(path)
            _put(model, names[path], stands_in.train(unreached[path].training))
        emptied = _empty(model, read - still_read) if tensors_go else []
        try:
            ran = run(model)
        except Exception as error:  # whatever the model's own code raises when it misses what it reads
            failed = error
            for owner, name, tensor in emptied:
                _table(owner, name)[name] = tensor
            for path in unreached if modules_go else ():
                _put(model, names[path], unreached[path])
            continue
        _remember_emptied(emptied)
        _keep_printable(owner for owner, _, _ in emptied)
        return ran
    assert failed is not None
    raise failed


def _unreached(
    model: nn.Module, uncalled: set[str], still_called: set[str], still_read: set[str]
) -> dict[str, nn.Module]:
    """The modules at the paths `uncalled` nothing of which is called or read, without those inside others of them."""
    found: dict[str, nn.Module] = {}
    for path in sorted(uncalled, key=lambda p: p.count(".")):
        if any(path.startswith(f"{other}.") for other in found):
            continue
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue
        names = {f"{path}.{name}" for name, _ in (*module.named_parameters(), *module.named_buffers())}
        inner = {f"{path}.{name}" if name else path for name, _ in module.named_modules()}
        if path and not (names & still_read or inner & still_called):
            found[path] = module
    return found


def _remember_emptied(emptied: Iterable[tuple[nn.Module, str, Tensor]]) -> None:
    """Let rewritten methods know the parameters that only removed ops read: for another trace, whose code asks."""
    for owner, name, tensor in emptied:
        for runners in injected(owner)[1]:
            for method in (runner for runner in runners.values() if isinstance(runner, Method)):
                if isinstance(tensor, nn.Parameter):
                    method.stand_ins[name] = nn.Parameter(tensor.detach().to("meta"), requires_grad=False)


def _keep_printable(owners: Iterable[nn.Module]) -> None:
    """Let modules that show a parameter which is gone show nothing of their own: printing the model would raise."""
    for owner in owners:
        try:
            owner.extra_repr()
        except Exception:  # whatever the class raises that misses what it shows
            owner.extra_repr = str  # str() is "", and a class, unlike a lambda, can be copied and pickled


def _put(model: nn.Module, paths: Iterable[str], module: nn.Module) -> None:
    """Put `module` at every one of `paths`: one may be registered under several names."""
    for path in paths:
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
