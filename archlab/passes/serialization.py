"""Models that passes made, written and read: weights as safetensors, the recipe beside them as JSON.

A model is rebuilt from its class by replaying the recipe; nothing in a file names code to import.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from ..arguments import file, wrong
from ..capture.copies import refuse_wrappers
from ..files import write_whole
from .recipe import Recipe, recipe
from .replay import apply


def save(model: nn.Module, path: str | Path) -> None:
    """Write every parameter and buffer of `model`, and its recipe, to one file. Read it again with `load`.

    Args:
        model: any module; tied tensors are written once.
        path: of the file (safetensors), which is whole or not there at all.

    >>> save(nn.Linear(4, 2), "linear.safetensors")
    >>> load("linear.safetensors", lambda: nn.Linear(4, 2), None)
    Linear(in_features=4, out_features=2, bias=True)
    """
    refuse_wrappers(model)
    file("save: path", path)
    tensors, ties = _untied(model)
    metadata = {"archlab": "1", "recipe": recipe(model).to_json(), "ties": json.dumps(ties)}
    write_whole(path, as_bytes(tensors, metadata))


def load(
    path: str | Path,
    factory: Callable[[], nn.Module],
    example: Any,
    modules: Mapping[str, Callable[..., nn.Module]] | None = None,
) -> nn.Module:
    """The model saved at `path`: ``factory()`` makes the original, the recipe is applied to it, weights are read.

    Args:
        path: a file that `save` wrote.
        factory: makes a model of the class that the recipe began with; its weights do not matter.
        example: what runs it once, as when the passes were made.
        modules: the factories that steps of the recipe may name.

    Returns:
        The model, in the mode (training or evaluation) in which the factory gave it.

    Raises:
        ValueError: naming the file, where it is not archlab's, was made from another class, or its weights do not fit.

    >>> import torch
    >>> from archlab import remove
    >>> def factory():
    ...     return nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    >>> thin = remove(factory(), torch.zeros(1, 4), kinds="activation")
    >>> save(thin, "thin.safetensors")
    >>> again = load("thin.safetensors", factory, torch.zeros(1, 4))
    >>> torch.equal(again(torch.ones(1, 4)), thin(torch.ones(1, 4)))
    True
    """
    file("load: path", path)
    if isinstance(factory, nn.Module) or not callable(factory):
        remedy = "write lambda: model" if isinstance(factory, nn.Module) else ""
        raise TypeError(wrong("load: factory", "a function that makes the original model", factory, remedy))
    if modules is not None and not isinstance(modules, Mapping):
        raise TypeError(wrong("load: modules", "a dict of factories by name", modules))
    tensors, metadata = _read(Path(path))
    if "recipe" not in metadata:
        raise ValueError(f"{path}: has no recipe: it was not written by archlab.save")
    try:
        model = apply(Recipe.from_json(metadata["recipe"]), factory(), example, modules)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    tensors |= {name: tensors[source] for name, source in json.loads(metadata.get("ties", "{}")).items()}
    wanted = model.state_dict()
    problems = [f"no {name}" for name in wanted if name not in tensors]
    problems += [f"{name}, which the model has not" for name in tensors if name not in wanted]
    problems += [
        f"{name} of shape {tuple(tensors[name].shape)}, in the model {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ValueError(f"{path}: its weights are another model's: it holds {'; '.join(problems[:4])}{more}")
    model.load_state_dict(tensors)
    return model


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as safetensors: {type(error).__name__}: {error}") from error


def _untied(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict with each tensor once and contiguous; the names left out, with the name that holds the tensor."""
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[tuple, str] = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        if key in first:
            ties[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor.detach().clone().contiguous()
    return tensors, ties
