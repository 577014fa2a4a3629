"""Module trees changed: modules put in, and what nothing reaches any more taken out."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..capture.copies import copied
from ..capture.record import Capture
from ..capture.recorder import capture
from .inject import inject, injected
from .override import Method, WatchedChild
from .rewrite import Omega, run_copy


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
    run_copy(made, example, [])
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
        run_copy(model, example, [])
    except Exception:  # whatever the model's own code raises when it misses what it reads
        return False
    return True
