"""Models that passes made, written and read: weights as safetensors, the recipe beside them as JSON.

A model is rebuilt from its class by replaying the recipe; nothing in a file names code to import.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from ..arguments import file, wrong
from ..capture.copies import refuse_wrappers
from ..files import write_whole
from .recipe import Recipe, recipe
from .replay import apply
from .strict_json import strict_json
from .switch_state import refuse_supernet

FORMAT = "1"


def save(model: nn.Module, path: str | Path) -> None:
    """Write the state dict of `model`, and its recipe, to one file. Read it again with `load`.

    Args:
        model: any module; tied tensors are written once. What else its state dict holds (`get_extra_state`) must be
            what JSON can write. Buffers that are not in it (persistent=False) are not written: the factory makes them.
        path: of the file (safetensors), which is whole or not there at all.

    Raises:
        TypeError: naming what is in the state dict and cannot be written, as in a quantized model.
        ValueError: for a supernet; the folder of a training keeps one, or ``torch.save(net.state_dict(), path)``.

    >>> save(nn.Linear(4, 2), "linear.safetensors")
    >>> load("linear.safetensors", lambda: nn.Linear(4, 2), None)
    Linear(in_features=4, out_features=2, bias=True)
    """
    refuse_wrappers(model)
    file("save: path", path)
    refuse_supernet(model)
    _refuse_unregistered(model)
    state = model.state_dict()
    tensors, ties = _untied({name: value for name, value in state.items() if isinstance(value, Tensor)})
    extra = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
    for name, value in (*extra.items(), *tensors.items()):
        _refuse_unwritable(name, value)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"archlab": FORMAT, "recipe": recipe(model).to_json(), "ties": json.dumps(ties)}
    metadata |= {"extra": json.dumps(extra)} if extra else {}
    write_whole(path, as_bytes(tensors, metadata))


def _refuse_unregistered(model: nn.Module) -> None:
    """Raise TypeError where a module keeps others in a plain list or dict: their weights are in no state dict."""
    known = {id(module) for module in model.modules()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            for part in value.values() if type(value) is dict else value if type(value) in (list, tuple) else ():
                if isinstance(part, nn.Module) and id(part) not in known and any(True for _ in part.parameters()):
                    kept = "nn.ModuleDict" if type(value) is dict else "nn.ModuleList"
                    raise TypeError(
                        f"save: {path or 'the model'} keeps a {type(part).__name__} in {name!r}, a plain "
                        f"{type(value).__name__}: its weights are in no state dict; make that an {kept}"
                    )


@cache
def _is_written(dtype: torch.dtype) -> bool:
    """Whether safetensors has a name for `dtype`: for complex128 it has none."""
    try:
        as_bytes({"": torch.empty(0, dtype=dtype)})
    except KeyError:
        return False
    return True


def _refuse_unwritable(name: str, value: Any) -> None:
    """Raise TypeError for a part of a state dict that a file of ours would not give back as it is."""
    what = f"a {type(value).__name__}"
    if isinstance(value, Tensor):
        odd = value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_nested
        if not odd and _is_written(value.dtype):
            return
        what = f"a {value.dtype} tensor of layout {value.layout} on {value.device}"
    else:
        with suppress(TypeError, ValueError):
            if json.loads(json.dumps(value, allow_nan=False)) == value:
                return
    raise TypeError(
        f"save: {name} in the state dict is {what}, which neither safetensors nor JSON can give back: save the model "
        "before it is quantized or packed, or keep this part by torch.save"
    )


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
        ValueError: naming the file, where it is not archlab's, was made from another class, or its weights do not fit:
            other names, shapes, dtypes or ties, or values that are no numbers. No model is given then.

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
    path = Path(path)
    tensors, metadata = _read(path)
    try:
        made, ties, extra = _described(metadata)
        model = apply(made, factory(), example, modules)
        state = _completed(tensors, ties) | extra
        problems = _misfits(state, ties, model)
        if problems:
            more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
            raise ValueError(f"its weights are another model's: it holds {'; '.join(problems[:4])}{more}")
        model.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return model


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{path}: cannot be read as safetensors: it is a folder, a pipe or a device, not a file")
    try:
        with safe_open(str(path), framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: cannot be read as safetensors: {told}. archlab.save writes such a file") from error


def _described(metadata: Mapping[str, str]) -> tuple[Recipe, dict[str, str], dict[str, Any]]:
    """The recipe, the ties and the rest of the state dict that a file's metadata hold."""
    if "recipe" not in metadata:
        raise ValueError("has no recipe: it was not written by archlab.save")
    if metadata.get("archlab") != FORMAT:
        raise ValueError(
            f"is of archlab's format {metadata.get('archlab')!r}, and this archlab reads {FORMAT!r}: read it with the "
            "archlab that wrote it"
        )
    parts = []
    for name in ("ties", "extra"):
        try:
            part = strict_json(metadata.get(name, "{}"))
        except ValueError as error:
            raise ValueError(f"its {name} are broken: {error}") from error
        if not isinstance(part, dict) or (name == "ties" and not all(isinstance(v, str) for v in part.values())):
            raise ValueError(f"its {name} are broken: they must be an object of names, got {part!r:.80}")
        parts.append(part)
    return Recipe.from_json(metadata["recipe"]), parts[0], parts[1]


def _completed(tensors: dict[str, Tensor], ties: Mapping[str, str]) -> dict[str, Any]:
    """The tensors under all names that they are tied to."""
    for name, source in ties.items():
        if name in tensors or source not in tensors:
            raise ValueError(f"its ties are broken: {name!r} cannot be tied to {source!r}")
    return tensors | {name: tensors[source] for name, source in ties.items()}


def _misfits(state: Mapping[str, Any], ties: Mapping[str, str], model: nn.Module) -> list[str]:
    """In words, what of a file's `state` does not fit `model`: names, kinds, shapes, dtypes, ties, and what is no
    number."""
    wanted = model.state_dict()
    problems = [f"no {name}" for name in wanted if name not in state]
    problems += [f"{name}, which the model has not" for name in state if name not in wanted]
    for name in (name for name in wanted if name in state):
        has, wants = _kind(state[name]), _kind(wanted[name])
        if has[0] != wants[0]:
            problems.append(f"{name} of {has[0]}, in the model of {wants[0]}")
        elif has != wants:
            problems.append(f"{name} in {has[1]}, in the model in {wants[1]}: let the factory make it .to({has[1]})")
    if problems:
        return problems
    tied = _untied({name: value for name, value in wanted.items() if isinstance(value, Tensor)})[1]
    problems += [
        f"{name} and {source} as two tensors, which are one in the model"
        for name, source in tied.items()
        if not torch.equal(state[name], state[source])
    ]
    problems += [
        f"{name} and {source} as one tensor, which are two in the model: tie them in the factory"
        for name, source in ties.items()
        if tied.get(name, name) != tied.get(source, source)
    ]
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            if bool(value.isnan().any()) or (name in weights and not bool(value.isfinite().all())):
                problems.append(f"{name} with values that are no numbers: the training that wrote it diverged")
    return problems


def _kind(value: Any) -> tuple[str, str]:
    """Shape and dtype of a part of a state dict, in words."""
    return (f"shape {tuple(value.shape)}", str(value.dtype)) if isinstance(value, Tensor) else ("no shape", "")


def _untied(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each of the tensors once; the names left out, with the name that holds the tensor."""
    once: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[tuple, str] = {}
    for name, tensor in tensors.items():
        strided = tensor.layout is torch.strided and not tensor.is_meta and tensor.numel()
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if strided else (name,)
        if key in first:
            ties[name] = first[key]
        else:
            first[key] = name
            once[name] = tensor
    return once, ties
