"""Copies of models: to run without touching the original, and to change."""

import copy
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from ..arguments import shown
from .example import copied_or_same

Net = TypeVar("Net", bound=nn.Module)


def structural_copy(model: nn.Module, device: str | None = None) -> nn.Module:
    """A copy of `model` to run: it keeps nothing for a backward, as its parameters ask for no gradient.

    It shares no storage with the original, whose parameters a forward may change in place (an embedding with a largest
    norm does). With ``device="meta"`` no storage is allocated.
    """
    refuse_wrappers(model)
    _refuse_lazy(model)
    memo: dict[int, Any] = {}
    for p in model.parameters():
        if device is not None:
            memo[id(p)] = nn.Parameter(torch.empty_like(p, device=device), requires_grad=False)
        elif type(p) is nn.Parameter:  # one of a class of its own may be more than its values
            memo[id(p)] = nn.Parameter(p.detach().clone(), requires_grad=False)
    own = [p for p in model.parameters() if id(p) in memo]
    if device is not None:
        memo |= {id(b): torch.empty_like(b, device=device) for b in model.buffers()}
    made = copied(model, memo)
    for p in own:
        _complete_(memo[id(p)], p, memo)
    return made


def copied(model: Net, memo: dict[int, Any] | None = None) -> Net:
    """``copy.deepcopy`` for a model that may hold results of its last run: these are copied without their history.

    Parameters keep what was set on them and the hooks of their gradients, which deepcopy leaves out.

    Raises TypeError for a model of which a copy would go on computing with the original's layers.
    """
    _refuse_closures(model)
    memo = {} if memo is None else memo
    given = set(memo)
    for module in model.modules():
        for value in vars(module).values():
            if type(value) in _TABLES and not value:  # most are empty, and deepcopy is slow to see that
                memo[id(value)] = type(value)()
            elif type(value) in _COPIES:
                memo[id(value)] = _COPIES[type(value)](value)
    with torch.inference_mode(False), _CopyResults():
        made = copy.deepcopy(model, memo)
        for p in model.parameters():
            if id(p) in memo and id(p) not in given:
                _complete_(memo[id(p)], p, memo)
    return made


def _complete_(new: Tensor, p: Tensor, memo: dict[int, Any]) -> None:
    """Give the copy `new` what else the parameter `p` has."""
    vars(new).update({name: copied_or_same(value, memo) for name, value in vars(p).items()})
    if new.requires_grad:
        for hook in (p._backward_hooks or {}).values():
            new.register_hook(hook)
        for hook in (getattr(p, "_post_accumulate_grad_hooks", None) or {}).values():
            new.register_post_accumulate_grad_hook(hook)


def _refuse_closures(model: nn.Module) -> None:
    """Raise TypeError where a module keeps a function that holds a part of the model: deepcopy does not copy these.

    A part is a module, a parameter, or a list or dict that a module keeps.
    """
    own = {id(p): name for name, p in model.named_parameters()}
    for path, module in model.named_modules():
        own[id(module)] = path or "the model itself"
        kept = {id(v): n for n, v in vars(module).items() if type(v) in (dict, list) and n not in _TORCHS_TABLES}
        own |= {key: f"{path}.{name}" if path else name for key, name in kept.items()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            for function in _functions_in(value):
                for variable, held in _held_by(function):
                    if id(held) in own:
                        where = f"{path or 'the model'} ({type(module).__name__}) keeps in {name!r}"
                        raise TypeError(
                            f"{where} a function that holds, as {variable!r}, {own[id(held)]}: a copy of the model "
                            "would go on using the original's. Make it a method, or a module of its own"
                        )


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    if isinstance(value, types.FunctionType):
        yield value
    elif type(value) in (list, tuple, dict, OrderedDict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _functions_in(item)


def _held_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables from outside that a function uses, with what they hold now."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _copied_generator(generator: torch.Generator) -> torch.Generator:
    return torch.Generator(generator.device).set_state(generator.get_state())


_TABLES = (dict, OrderedDict, set)
_TORCHS_TABLES = frozenset(vars(nn.Module()))
# What deepcopy cannot copy, and modules hold all the same.
_COPIES: dict[type, Callable[[Any], Any]] = {
    torch.Generator: _copied_generator,
    type(threading.Lock()): lambda lock: threading.Lock(),
    type(threading.RLock()): lambda lock: threading.RLock(),
}


class _CopyResults(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def refuse_wrappers(model: nn.Module) -> None:
    """Raise for a model that is compiled or wrapped for several processes: the plain module is what can be read."""
    if not isinstance(model, nn.Module):
        made = "; make one of the class first" if isinstance(model, type) else ""
        raise TypeError(f"model must be a torch.nn.Module, got {shown(model)}{made}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("a scripted model cannot be read: pass the Python module that was scripted")
    inner = _wrapped(model)
    if inner:
        raise TypeError(f"this model is {_what(model)}: pass its .{inner}, and wrap or compile the result again")


def wrapped_parts(model: nn.Module) -> dict[str, str]:
    """Path -> what to do, of the parts of `model` that are compiled or wrapped: these are not rewritten."""
    return {
        path: f"{path} is {_what(part)}: set it to {path}.{_wrapped(part)}, and wrap or compile it again in the result"
        for path, part in model.named_modules()
        if _wrapped(part)
    }


def _what(wrapper: nn.Module) -> str:
    return "compiled" if _wrapped(wrapper) == "_orig_mod" else f"wrapped in a {type(wrapper).__name__}"


def _wrapped(module: nn.Module) -> str:
    """Where a wrapper, whose code is torch's, keeps the plain module; empty for a module that is no wrapper."""
    if not isinstance(module, torch.jit.ScriptModule) and isinstance(module._modules.get("_orig_mod"), nn.Module):
        return "_orig_mod"
    return "module" if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel) else ""


def _refuse_lazy(model: nn.Module) -> None:
    """Raise TypeError where a layer has no parameters yet, and so cannot be copied."""
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and is_lazy(tensor):
                raise TypeError(
                    f"{path or 'this model'} ({type(module).__name__}) makes its {name} when it first runs: run the "
                    "model once, model(example), then pass it"
                )


def devices_of(model: nn.Module) -> list[int]:
    """The GPUs that hold parameters of `model`, by number."""
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
