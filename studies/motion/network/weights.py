"""Networks with their weights: by name where a study here trained them, or from a file, whose design is found.

The trained ones are in `studies/motion/weights`, with their facts.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model

import archlab as al

from .models import EIGHTH, LINEAR, QUARTER, WEIGHTS, Config, MagnificationNet, baseline, lightweight, proposed, scaled

COMPACT = WEIGHTS / "compact.safetensors"  # what passes made of the baseline, so that its recipe lies in the file


def compact() -> MagnificationNet:
    """The network that archlab's passes made of the baseline: 20 channels, four blocks in the decoder and none in the
    encoder, 184,763 parameters, with the weights of an earlier run of `studies.motion.figures.by_passes`, 20,000 steps
    long; compact.json beside them says how they were trained and what they reach.

    Raises FileNotFoundError where they are not there.
    """
    return network(str(COMPACT))


TRAINED = {
    "baseline": partial(baseline, pretrained=True), "proposed": partial(proposed, pretrained=True), "compact": compact,
    "lightweight": partial(lightweight, pretrained=True),
}  # fmt: skip
DESIGNS = (Config(), QUARTER, EIGHTH, *LINEAR.values(), *map(scaled, LINEAR.values()))  # at any width


def network(weights: str) -> MagnificationNet:
    """The network that `weights` names: one of `TRAINED` (here, by a study), or a safetensors file.

    A file holds the weights of one of `DESIGNS` at any width, or a thinned baseline that `archlab.save` wrote. Raises
    ValueError where it is neither, FileNotFoundError where it is missing.
    """
    if weights in TRAINED:
        try:
            return TRAINED[weights]()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the trained weights of the {weights} network are not in this checkout ({error}); "
                "python -m studies.motion.train.networks --preset cpu trains such a network: name its file"
            ) from error
    if not Path(weights).is_file():
        raise FileNotFoundError(f"{weights}: no such file, and none of {', '.join(TRAINED)}")
    shapes, passes = _read(weights)
    if passes:
        image = torch.zeros(1, 3, 64, 64)
        # After scale_width by the recipe, from the baseline's own width.
        width = Config().width if "scale_width" in passes else _width(shapes) or Config().width
        net = al.load(weights, partial(baseline, width=width), (image, image, 2.0))
        assert isinstance(net, MagnificationNet)
        return net
    net = MagnificationNet(_design(weights, shapes))
    load_model(net, weights)
    return net


def _read(file: str) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The shapes of a file's tensors, and the names of the passes that its recipe holds, where it has one."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
        recipe = al.Recipe.from_json(metadata["recipe"]) if "recipe" in metadata else None
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    return shapes, [step.name for step in recipe.steps] if recipe else []


def _width(shapes: dict[str, tuple[int, ...]]) -> int:
    return (*shapes.get("manipulator.conv1.bias", ()), 0)[0]


def _design(weights: str, shapes: dict[str, tuple[int, ...]]) -> Config:
    width = _width(shapes)
    for design in DESIGNS if width else ():
        config = replace(design, width=width)
        with torch.device("meta"):
            state = MagnificationNet(config).state_dict()
        if {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes:
            return config
    raise ValueError(f"{weights} holds the weights of no magnification network of studies.motion.network.models")
