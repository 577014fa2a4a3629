"""A class of its own for one module: some of its methods run something else, everything else is as before."""

import copy
import functools
import re
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ..capture.frames import is_own_method
from .target import Blend, Narrow

OMEGA_CALL = "omega_call"  # the switch of a child every call of which is one target
_OMEGA = re.compile(r"omega_(call|[a-z]+_\d+)")


def omega_name(name: str) -> str:
    """The name of the switch parameter of the target called `name`: of ``layer1/skip.0`` it is ``omega_skip_0``."""
    return "omega_" + name.rsplit("/", 1)[-1].replace(".", "_")


def is_omega(name: str) -> bool:
    """Whether a parameter of this name, without its path, is a switch."""
    return _OMEGA.fullmatch(name) is not None


class _Alike(type):
    """The class of the classes made here. Each equals the class that it is derived from, ``type(layer) == Block``, also
    as a key, ``HANDLERS[type(layer)]``: what is rewritten is still a Block to the code around it."""

    def __eq__(cls, other: object) -> bool:
        return _plain(cls) is _plain(other)

    def __hash__(cls) -> int:
        return type.__hash__(_plain(cls))


def _plain(cls: Any) -> Any:
    """`cls`, or the class that it was derived from when something was injected."""
    while isinstance(cls, _Alike) and "_archlab_base" in vars(cls):
        cls = vars(cls)["_archlab_base"]
    return cls


@functools.cache
def _metaclass(base: type) -> type:
    """That of a class derived from one with the metaclass `base`, which may be a model's own."""
    if issubclass(base, _Alike):
        return base
    return _Alike if base is type else type(_Alike.__name__, (_Alike, base), {})


def inject(module: nn.Module, runners: dict[str, Any]) -> None:
    """Give `module` a class of its own, derived from its class, whose methods are run by `runners`.

    A ``torch.fx.GraphModule`` becomes a plain module: those who read its graph, as torch.export does, would get it
    without the edits.
    """
    base = type(module)
    if issubclass(base, fx.GraphModule):
        base = type("GraphModule", (nn.Module,), {"forward": base.forward, "__module__": base.__module__})
    namespace: dict[str, Any] = {name: _runs(getattr(base, name), runner) for name, runner in runners.items()}
    namespace |= {
        "_archlab_base": base,
        "_archlab_runners": runners,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__copy__": _copy,
        "__deepcopy__": _deepcopy,
        "__reduce_ex__": _refuse_pickle,
        "_apply": _apply_keeping_omegas,
    }
    cls: Any = _metaclass(type(base))(base.__name__, (base,), namespace)
    for name in runners:  # a base's __init_subclass__ may have wrapped them once more (Hugging Face's layers do)
        setattr(cls, name, namespace[name])
    set_class_(module, cls)


def set_class_(module: nn.Module, cls: type) -> None:
    """Make `module` one of `cls`, in place: methods of its own that it holds are those of the new class then."""
    held = [name for name, value in vars(module).items() if is_own_method(value, module)]
    module.__class__ = cls
    for name in held:
        vars(module)[name] = types.MethodType(getattr(cls, vars(module)[name].__name__), module)


def _runs(original: Callable, runner: Any) -> Callable:
    @functools.wraps(original)
    def method(self, *args, **kwargs):
        return runner.run(self, args, kwargs)

    return method


def _copy(self: nn.Module) -> nn.Module:
    new = object.__new__(type(self))
    new.__dict__.update(self.__dict__)
    return new


def _deepcopy(self: nn.Module, memo: dict) -> nn.Module:
    new = object.__new__(type(self))  # a class's own __new__ may make another class (torch.fx.GraphModule's does)
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
    kept = {n: p.detach().clone() for n, p in self._parameters.items() if p is not None and is_omega(n)}
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


def add_omega_(module: nn.Module, action: Blend, model: nn.Module) -> None:
    """Give `module`, a part of `model`, the switch parameter of an action, in place."""
    shape = () if action.channels is None else (action.channels[1],)
    omega = torch.zeros(shape, dtype=torch.float32, device=_device_of(module, model))
    module.register_parameter(action.omega, nn.Parameter(omega))


def add_positions_(module: nn.Module, action: Narrow, model: nn.Module) -> None:
    """Give `module` the positions of an action, in place. They are in no state dict: the recipe says them."""
    kept = torch.tensor(action.kept, device=_device_of(module, model))
    module.register_buffer(action.positions, kept, persistent=False)


def _device_of(module: nn.Module, model: nn.Module) -> torch.device | None:
    """Where `module`, or else the whole model, has its weights."""
    like = next((p for owner in (module, model) for p in owner.parameters() if p.is_floating_point()), None)
    return like.device if like is not None else None


def free_name(module: nn.Module, wanted: str) -> str:
    """`wanted`, or with a number behind it where `module` has an attribute of that name."""
    name, number = wanted, 1
    while hasattr(module, name):
        number += 1
        name = f"{wanted}_{number}"
    return name


def injected(module: nn.Module) -> tuple[type, list[dict[str, Any]]]:
    """The class that `module` had before anything was injected, and what runs in its methods' place, first to last."""
    tables = [cls.__dict__["_archlab_runners"] for cls in type(module).__mro__ if "_archlab_runners" in cls.__dict__]
    return (_injected_class(type(module))._archlab_base if tables else type(module)), tables[::-1]


def runners_of(module: nn.Module, name: str) -> list[Any]:
    """What runs in place of the method `name` of `module`, the last to be injected first."""
    tables = [cls.__dict__.get("_archlab_runners", {}) for cls in type(module).__mro__]
    return [table[name] for table in tables if name in table]


def keep_unfused_(attention: nn.Module) -> None:
    """Let torch's layers around an attention call it, in place: they compute as one kernel what has no hooks."""
    if _unchanged not in attention._forward_pre_hooks.values():
        attention.register_forward_pre_hook(_unchanged)


def let_fuse_(module: nn.Module) -> None:
    """Take back `keep_unfused_`, in place."""
    for number, hook in list(module._forward_pre_hooks.items()):
        if hook is _unchanged:
            del module._forward_pre_hooks[number]


def _unchanged(module: nn.Module, args: Any) -> None:
    return None
