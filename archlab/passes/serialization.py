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

from ..files import write_whole
from .depth import scale_depth
from .discard import apply_discard
from .fold.fold import apply_fold
from .fold.hoist_padding import apply_hoist_padding
from .recipe import Recipe, apply_steps, recipe
from .replace import apply_replace
from .resolution.scale import apply_scale_resolution
from .share import share
from .switch import apply_switch
from .width.scale import apply_scale_width

# What the steps of a recipe may call, by name: a new pass is a file of its own and a line here. Where a pass decides
# nothing, what it is called with is what it does.
PASSES: dict[str, Callable[..., nn.Module]] = {
    "switch": apply_switch,
    "discard": apply_discard,
    "fold": apply_fold,
    "hoist_padding": apply_hoist_padding,
    "share": share,
    "scale_resolution": apply_scale_resolution,
    "scale_width": apply_scale_width,
    "scale_depth": scale_depth,
    "replace": apply_replace,
}


def apply(
    recipe: Recipe, model: nn.Module, example: Any, modules: Mapping[str, Callable[..., nn.Module]] | None = None
) -> nn.Module:
    """The model that `recipe` makes of `model`, an instance of the class it was made for; weights are `model`'s.

    `modules` are the factories that steps may name: a recipe never says what to import.
    Raises ValueError for another class, an unknown pass or a site that this model does not have.

    >>> import torch
    >>> from archlab import remove
    >>> example = torch.zeros(1, 4)
    >>> thin = remove(nn.Sequential(nn.ReLU(), nn.Tanh()), example, kinds="activation", where="*.1")
    >>> apply(recipe(thin), nn.Sequential(nn.ReLU(), nn.Tanh()), example)
    Sequential(
      (0): ReLU()
      (1): Identity()
    )
    """
    return apply_steps(recipe, model, example, PASSES, modules)


def save(model: nn.Module, path: str | Path) -> None:
    """Write `model` to the file `path` (safetensors): every parameter and buffer, and the recipe in its metadata.

    Tied tensors are written once. Read it again with `load`.

    >>> save(nn.Linear(4, 2), "linear.safetensors")
    >>> load("linear.safetensors", lambda: nn.Linear(4, 2), None)
    Linear(in_features=4, out_features=2, bias=True)
    """
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

    Raises ValueError naming the file where it is not archlab's, was made from another class, or its weights do
    not fit.

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
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
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
