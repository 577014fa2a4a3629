"""Models with other widths: which old positions each dimension of a tensor is made of, and the numbers kept beside."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

Init = Literal["fresh", "prune", "preserve"]


@dataclass(frozen=True)
class Resizing:
    """What changes, as a recipe holds it.

    `tensors`: parameter or buffer -> dimension (a string, for JSON) -> the old positions that the new ones are made of;
    `read`: parameter -> the dimensions with which it reads channels; `numbers`: module -> attribute -> its new value.
    An attribute of an attribute, or an entry of a list, is named with dots.
    """

    tensors: dict[str, dict[str, list[int]]]
    read: dict[str, list[int]] = field(default_factory=dict)
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def modules(self) -> list[str]:
        """Paths of the modules that hold what changes, in order."""
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self.tensors))

    def options(self) -> dict[str, Any]:
        """As a recipe keeps it."""
        return asdict(self)


def checked(tensors: Any, read: Any, numbers: Any) -> Resizing:
    """A `Resizing` of what a recipe says. Raises ValueError for what is none."""

    def positions(value: Any, least: int) -> bool:
        return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value) and len(value) >= least

    def tables(value: Any, inner: Callable[[Any], bool]) -> bool:
        return isinstance(value, dict) and all(
            isinstance(v, dict) and all(map(inner, v.values())) for v in value.values()
        )

    def dims(value: Any) -> bool:
        return positions(value, 1)

    if not (tensors and tables(tensors, dims) and all(d.isdecimal() for of in tensors.values() for d in of)):
        raise ValueError(f"scale_width: tensors must name positions by tensor and dimension, got {tensors!r:.80}")
    if not (isinstance(read, dict) and all(positions(value, 0) for value in read.values())):
        raise ValueError(f"scale_width: read must name dimensions by tensor, got {read!r:.80}")
    if not tables(numbers, lambda value: type(value) is int or dims(value)):
        raise ValueError(f"scale_width: numbers must give whole numbers by module and attribute, got {numbers!r:.80}")
    return Resizing(tensors, read, numbers)


def resize_(model: nn.Module, resizing: Resizing, init: Init) -> nn.Module:
    """Change the widths of `model`, in place. Raises ValueError for tensors, positions or numbers that it lacks."""
    holders = _holders(model)
    found = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, dims in resizing.tensors.items():
        if name not in found:
            raise ValueError(f"scale_width: the model has no parameter {name!r}")
        old = found[name]
        taken = old.detach()
        for dim, index in dims.items():
            divided = init == "preserve" and int(dim) in resizing.read.get(name, ())
            taken = _selected(name, taken, int(dim), index, divided=divided)
        new = _like(old, taken)
        for module, leaf in holders[id(old)]:
            _put(module, leaf, new)
    for path, numbers in resizing.numbers.items():
        for name, value in numbers.items():
            set_number_(model.get_submodule(path), name, value)
    if init == "fresh":
        for path in resizing.modules:
            _initialise_(model.get_submodule(path), [n for n in resizing.tensors if n.rpartition(".")[0] == path])
    return model


def _holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """For the id of each parameter and buffer, the modules that hold it, with its name there."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for leaf, tensor in table.items():
                found.setdefault(id(tensor), []).append((module, leaf))
    return found


def _like(old: Tensor, taken: Tensor) -> Tensor:
    """What was taken of a parameter as one, of a buffer as it is; where several modules hold it, they hold one."""
    if not isinstance(old, nn.Parameter):
        return taken
    new = nn.Parameter(taken, old.requires_grad)
    vars(new).update(vars(old))
    return new


def _put(module: nn.Module, leaf: str, new: Tensor) -> None:
    if not isinstance(new, nn.Parameter):
        module._buffers[leaf] = new
    elif isinstance(module, nn.RNNBase):
        setattr(module, leaf, new)  # it keeps a list of them as well
    else:
        module._parameters[leaf] = new


def _selected(name: str, tensor: Tensor, dim: int, index: Sequence[int], *, divided: bool) -> Tensor:
    if not 0 <= dim < tensor.dim() or not index or not all(0 <= i < tensor.shape[dim] for i in index):
        raise ValueError(
            f"scale_width: {name} of the shape {tuple(tensor.shape)} has no such positions in dimension {dim}"
        )
    taken = tensor.index_select(dim, torch.tensor(index, device=tensor.device))
    return taken * _shares(index, taken, dim) if divided else taken


def _shares(index: Sequence[int], like: Tensor, dim: int) -> Tensor:
    """The share of each entry of `index` in what the copies of one channel are read with, shaped for dimension `dim` of
    `like`: they add up to 1, unevenly, as equal copies would learn the same for ever."""
    place = torch.tensor(index)
    raw = 0.5 + torch.rand(len(index), generator=torch.Generator().manual_seed(len(index)), dtype=torch.float64)
    total = torch.zeros(int(place.max()) + 1, dtype=torch.float64).index_add_(0, place, raw)
    shape = [-1 if axis == dim else 1 for axis in range(like.dim())]
    return (raw / total[place]).to(like).reshape(shape)


def _initialise_(module: nn.Module, names: Sequence[str]) -> None:
    """A layer that can initialises itself; other parameters are drawn with the mean and spread that they had."""
    reset = getattr(module, "reset_parameters", None)
    whole = not hasattr(module, "parametrizations") and all(
        p.dim() or p.numel() for p in module.parameters(recurse=False)
    )
    if callable(reset) and whole and isinstance(module, _RESET):
        reset_layer_(module, reset)
        return
    for name in names:
        tensor = module._parameters.get(name.rpartition(".")[2])
        if tensor is not None and tensor.numel() > 1 and not tensor.is_meta:
            with torch.no_grad():
                spread, middle = torch.std_mean(tensor.float())
                tensor.copy_(torch.randn(tensor.shape, device=tensor.device) * spread + middle)


def reset_layer_(module: nn.Module, reset: Callable[[], Any]) -> None:
    """Let a layer initialise itself, by its `reset`, in place. Of a weight under ``torch.nn.utils.weight_norm``, which
    `reset` draws, length and direction are then taken: `reset` knows nothing of these."""
    normed = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]
    with torch.no_grad():
        for hook in normed:
            setattr(module, hook.name, hook.compute_weight(module).detach().clone())  # in the shape of now
        reset()
        for hook in normed:
            weight = getattr(module, hook.name)
            module.get_parameter(f"{hook.name}_g").copy_(torch.norm_except_dim(weight, 2, hook.dim))
            module.get_parameter(f"{hook.name}_v").copy_(weight)


_RESET = (
    nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
    nn.Embedding, nn.PReLU, nn.RNNBase, nn.RNNCellBase,
)  # fmt: skip


# --- numbers ---------------------------------------------------------------------------------------


def numbers_of(module: nn.Module) -> Iterator[tuple[str, int]]:
    """The whole numbers that a module keeps, also in lists and in a plain object such as a configuration."""
    for name, value in vars(module).items():
        if name.startswith("_") or name == "training":
            continue
        yield from _numbers_in(name, value, deep=True)


def _numbers_in(name: str, value: Any, *, deep: bool) -> Iterator[tuple[str, int]]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from _numbers_in(f"{name}.{place}", item, deep=False)
    elif deep and hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)) and not callable(value):
        for inner, item in vars(value).items():
            if not inner.startswith("_"):
                yield from _numbers_in(f"{name}.{inner}", item, deep=False)


def get_number(module: Any, name: str) -> Any:
    """The number, or tuple of numbers, that `numbers_of` calls `name`; None where there is none."""
    for part in name.split("."):
        if isinstance(module, (list, tuple)):
            module = module[int(part)] if part.isdigit() and int(part) < len(module) else None
        else:
            module = vars(module).get(part) if hasattr(module, "__dict__") else None
    numeric = isinstance(module, int) or (isinstance(module, tuple) and all(isinstance(n, int) for n in module))
    return module if numeric and not isinstance(module, bool) else None


def set_number_(module: Any, name: str, value: Any) -> None:
    """Put another number where there is one. Raises ValueError where there is none."""
    old = get_number(module, name)
    whole = tuple(value) if isinstance(old, tuple) and isinstance(value, (list, tuple)) else value
    if old is None or type(whole) is not type(old) or not all(type(n) is int and n > 0 for n in _flat(whole)):
        raise ValueError(f"scale_width: {type(module).__name__} has no number {name!r} that could become {value!r}")
    outer, _, leaf = name.rpartition(".")
    if not outer:
        setattr(module, leaf, whole)
        return
    holder = module
    for part in outer.split("."):
        holder = holder[int(part)] if isinstance(holder, (list, tuple)) else vars(holder)[part]
    if isinstance(holder, tuple):
        rest = list(holder)
        rest[int(leaf)] = whole
        above, _, own = outer.rpartition(".")
        target = module
        for part in above.split(".") if above else []:
            target = target[int(part)] if isinstance(target, (list, tuple)) else vars(target)[part]
        new = type(holder)(rest) if type(holder) is tuple else copy.copy(holder)
        setattr(target, own, new)
    elif isinstance(holder, list):
        holder[int(leaf)] = whole
    else:
        setattr(holder, leaf, whole)


def _flat(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)
