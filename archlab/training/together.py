"""Several processes that train one model: each takes its share of every batch, and gradients are averaged.

`fit` asks here. In one process, nothing happens; what makes several is `accelerate launch`, torchrun, or
`archlab.experiments.launch`. Not DistributedDataParallel: its wrapper would stand between a loss and the model that
this calls, and takes gradients of penalties only by accident.
"""

import copy
import dataclasses
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, distributed, nn


def process_count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes files and shows how far it is."""
    return process_count() == 1 or distributed.get_rank() == 0


def share_of(batch: Any) -> Any:
    """This process's share of a batch: of every tensor in it, by its first dimension, each n-th part of n processes.

    Tensors may stand in tuples, lists, dicts and dataclasses; those without a dimension, and what else there is, go to
    all.

    Raises:
        ValueError: for tensors that are not all of one length, and for a length that cannot be shared out evenly: the
            mean over processes would not be that over the batch.
    """
    count = process_count()
    if count == 1:
        return batch
    lengths = sorted({len(tensor) for tensor in _tensors(batch) if tensor.dim()})
    if len(lengths) > 1:
        raise ValueError(
            f"task.batches: {count} processes share out the first dimension of all tensors in a batch, which must be "
            f"of one length, got {' and '.join(map(str, lengths))}; put what all need into a tensor of no dimensions, "
            "or into the loss"
        )
    if lengths and lengths[0] % count:
        raise ValueError(f"task.batches: a batch of {lengths[0]} cannot be shared out evenly to {count} processes")
    return _mapped(batch, distributed.get_rank(), count)


def with_mean_value(loss: Tensor) -> Tensor:
    """A loss whose value is the mean over the processes; its gradient is that of the own share."""
    if process_count() == 1:
        return loss
    mean = loss.detach().clone()
    distributed.all_reduce(mean)
    return loss - loss.detach() + mean / process_count()


def average_gradients_(parameters: Iterable[nn.Parameter | Tensor]) -> None:
    """Average gradients over the processes, in place."""
    if process_count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for kind in dict.fromkeys((gradient.dtype, gradient.device) for gradient in gradients):
        own = [gradient for gradient in gradients if (gradient.dtype, gradient.device) == kind]
        flat = torch.cat([gradient.reshape(-1) for gradient in own])
        distributed.all_reduce(flat)
        flat /= process_count()
        for gradient, mean in zip(own, flat.split([gradient.numel() for gradient in own]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def any_process(one: bool, device: torch.device) -> bool:
    """Whether it is so in any of the processes."""
    if process_count() == 1:
        return one
    told = torch.tensor(float(one), device=device)
    distributed.all_reduce(told, distributed.ReduceOp.MAX)
    return bool(told)


def check_same_step(step: int, device: torch.device) -> None:
    """Raise ValueError where processes begin at different steps, as they do with folders of their own."""
    if process_count() == 1:
        return
    told = torch.tensor([step, -step], dtype=torch.int64, device=device)
    distributed.all_reduce(told, distributed.ReduceOp.MAX)
    if told[0] != -told[1]:
        raise ValueError(
            f"folder: the processes begin at steps {-told[1]} to {told[0]}, so they do not see the same folder; give "
            "one that all machines share"
        )


def check_same_weights(model: nn.Module) -> None:
    """Raise ValueError where processes begin with other weights: the mean of their gradients would be of no network."""
    if process_count() == 1:
        return
    names, parameters = zip(*model.named_parameters(), strict=True)
    sums = torch.stack([_sum_of_bytes(parameter).to(parameters[0].device) for parameter in parameters])
    told = torch.cat([sums, -sums])
    distributed.all_reduce(told, distributed.ReduceOp.MAX)
    most, least = told.split(len(sums))
    other = (most != -least).nonzero().flatten().tolist()
    if other:
        raise ValueError(
            f"model: the processes begin with other weights, {len(other)} of {len(names)} parameters, the first "
            f"{names[other[0]]!r}; build the model with the same seed in each, or load the same file"
        )


def wait_for_all() -> None:
    """Wait until every process is here."""
    if process_count() > 1:
        distributed.barrier()


def _sum_of_bytes(tensor: Tensor) -> Tensor:
    """A whole number that is the same for the same values on any device, as a sum of floats is not; other values have
    another one, but by chance."""
    return tensor.detach().reshape(-1).view(torch.uint8).sum(dtype=torch.int64)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def _mapped(value: Any, index: int, count: int) -> Any:
    """A value with a share of each tensor in it."""
    if isinstance(value, Tensor):
        return value[index::count] if value.dim() else value
    if isinstance(value, MutableMapping):
        new = copy.copy(value)
        for name, item in value.items():
            new[name] = _mapped(item, index, count)
        return new
    if isinstance(value, Mapping):
        return {name: _mapped(item, index, count) for name, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_mapped(item, index, count) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _mapped(getattr(value, f.name), index, count) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **fields)
    return value
