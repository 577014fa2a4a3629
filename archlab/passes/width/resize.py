"""Layers with other channels: the old positions that the new ones are made of, on either side."""

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...capture.copies import copied
from ...capture.modes import failed_in
from ...rewrite.module_tree import put_modules_
from ...rewrite.rewrite import run_copy

Init = Literal["fresh", "prune", "preserve"]


def resized(module: nn.Module, sides: Mapping[str, list[int]], init: Init) -> nn.Module:
    """A layer like `module` with the channels that `sides` says."""
    new = copy.deepcopy(module)
    out, into = sides.get("out"), sides.get("in")
    if isinstance(module, nn.Linear):
        _select_(new, "weight", 0, out)
        _select_(new, "weight", 1, into, divided=init == "preserve")
        _select_(new, "bias", 0, out)
        new.out_features, new.in_features = new.weight.shape  # type: ignore[union-attr,assignment]
    elif isinstance(module, nn.modules.conv._ConvNd):
        if "norm" in sides:  # one channel in and out a group
            _select_(new, "weight", 0, sides["norm"])
            _select_(new, "bias", 0, sides["norm"])
            new.in_channels = new.out_channels = new.groups = len(sides["norm"])  # type: ignore[assignment]
        else:
            new.weight = _convolution_weight(module, out, into, divided=init == "preserve")  # type: ignore[assignment]
            _select_(new, "bias", 0, out)
            new.out_channels = module.out_channels if out is None else len(out)  # type: ignore[assignment]
            new.in_channels = module.in_channels if into is None else len(into)  # type: ignore[assignment]
    else:
        index = sides["norm"]
        for name in ("weight", "bias", "running_mean", "running_var"):
            if getattr(new, name, None) is not None:
                _select_(new, name, 0 if getattr(new, name).dim() == 1 else -1, index)
        for name in ("num_features", "num_channels", "num_parameters"):
            if hasattr(new, name):
                setattr(new, name, len(index))
        if hasattr(new, "normalized_shape"):
            new.normalized_shape = (*module.normalized_shape[:-1], len(index))  # type: ignore[assignment,index,misc]
    if init == "fresh":
        new.reset_parameters()  # type: ignore[operator]
    return new


def _select_(module: nn.Module, name: str, dim: int, index: list[int] | None, *, divided: bool = False) -> None:
    old = getattr(module, name)
    if index is None or old is None:
        return
    taken = old.detach().index_select(dim, torch.tensor(index, device=old.device))
    if divided:
        taken = taken * _shares(index, taken, dim)
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(taken, old.requires_grad))
    else:
        setattr(module, name, taken)


def _shares(index: list[int], like: Tensor, dim: int) -> Tensor:
    """The share of each entry of `index` in what the copies of one channel are read with, shaped for dimension `dim` of
    `like`: they add up to 1, unevenly, as equal copies would learn the same for ever."""
    place = torch.tensor(index)
    raw = 0.5 + torch.rand(len(index), generator=torch.Generator().manual_seed(len(index)), dtype=torch.float64)
    total = torch.zeros(int(place.max()) + 1, dtype=torch.float64).index_add_(0, place, raw)
    shape = [-1 if axis == dim % like.dim() else 1 for axis in range(like.dim())]
    return (raw / total[place]).to(like).reshape(shape)


def _convolution_weight(module: Any, out: list[int] | None, into: list[int] | None, *, divided: bool) -> nn.Parameter:
    """The weight of a convolution, transposed or grouped, with other channels on one or both sides."""
    transposed, groups = module.transposed, module.groups
    weight = module.weight.detach()
    outs = list(range(module.out_channels)) if out is None else out
    ins = list(range(module.in_channels)) if into is None else into
    rows, columns = (ins, outs) if transposed else (outs, ins)
    total_rows, total_columns = (
        (module.in_channels, module.out_channels) if transposed else (module.out_channels, module.in_channels)
    )
    blocks = []
    for group in range(groups):
        own_rows, own_columns = total_rows // groups, total_columns // groups
        row = [i for i in rows if group * own_rows <= i < (group + 1) * own_rows]
        column = [i - group * own_columns for i in columns if group * own_columns <= i < (group + 1) * own_columns]
        block = weight.index_select(0, torch.tensor(row, device=weight.device))
        block = block.index_select(1, torch.tensor(column, device=weight.device))
        if divided and into is not None:
            block = block * _shares(row if transposed else column, block, 0 if transposed else 1)
        blocks.append(block)
    return nn.Parameter(torch.cat(blocks), module.weight.requires_grad)


def extent_of(module: nn.Module, side: str) -> int:
    """How many channels a layer has on one side."""
    names = ("in_channels", "in_features") if side == "in" else ("out_channels", "out_features")
    for name in (*names, "num_features", "num_channels", "num_parameters"):
        if hasattr(module, name):
            return getattr(module, name)
    return module.normalized_shape[-1]  # type: ignore[index]


def unread_(module: Any, kept: set[int]) -> None:
    """Set the weights to zero with which a layer reads the channels that are not in `kept`."""
    gone = [channel for channel in range(extent_of(module, "in")) if channel not in kept]
    if isinstance(module, nn.Linear):
        module.weight[:, gone] = 0
    elif module.transposed:
        module.weight[gone] = 0
    else:
        share, rows = module.in_channels // module.groups, module.out_channels // module.groups
        for channel in gone:
            group = channel // share
            module.weight[group * rows : (group + 1) * rows, channel % share] = 0


def rewidthed(model: nn.Module, example: Any, layers: Mapping[str, Mapping[str, Any]], init: Init) -> nn.Module:
    """A copy of `model` whose `layers` have the channels that they say. Raises ValueError where it does not run."""
    new = copied(model)
    modules: dict[str, nn.Module] = {}
    for name, sides in layers.items():
        if "parameter" in sides:
            path, _, leaf = name.rpartition(".")
            owner = new.get_submodule(path)
            old = owner._parameters[leaf]
            assert old is not None
            index = torch.tensor(sides["parameter"], device=old.device)
            owner._parameters[leaf] = nn.Parameter(old.detach().index_select(sides["dim"], index), old.requires_grad)
        else:
            modules[name] = resized(new.get_submodule(name), sides, init)
    put_modules_(new, modules)
    try:
        run_copy(new, example)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            f"scale_width: with {', '.join(list(layers)[:6])} changed the model does not run: "
            f"{type(error).__name__} in {failed_in(error)}: {str(error).splitlines()[0]}"
        ) from error
    return new
