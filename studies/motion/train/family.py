"""The networks that Figures 1, 6, 7, 8, 10 and 11 compare, and how one of them is trained.

Every network is trained for the same number of steps on the same samples in the same order. With the presets of a CPU,
which are too short for trainings from scratch, each starts from the trained baseline, by archlab's passes alone; with
the others each starts from scratch. So a row differs from its neighbour by its design alone.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

import archlab as al
from archlab.experiments import Scratch, Wanted
from studies.device import device

from ..data import sources
from ..data.generator import Batch
from ..data.sources import find_sources
from ..network.models import EIGHTH, LINEAR, PRETRAINED, QUARTER, Config, MagnificationNet, baseline, scaled
from . import training
from .derive import from_baseline
from .given import given

WIDTHS = (28, 24, 20, 16, 12, 8, 4)  # Fig. 6, beside the baseline's 32
NETWORKS: dict[str, Config] = {
    "baseline": Config(),
    "quarter": QUARTER,
    "linear A": LINEAR["A"],
    "scaled A": scaled(LINEAR["A"]),
    "proposed": scaled(LINEAR["A"]),
    "eighth": EIGHTH,
    **{f"width {width}": Config(width=width) for width in WIDTHS},
    **{f"linear {reading}": LINEAR[reading] for reading in ("B", "C")},
    **{f"scaled {reading}": scaled(LINEAR[reading]) for reading in ("B", "C")},
}
LARGE_ONLY = ("linear B", "scaled B", "linear C", "scaled C")  # trained at gpu and paper
PERCEPTUAL = "proposed"  # the network that is trained with a perceptual loss as well
# Weight of LPIPS (VGG-16, version 0.1) beside L1. The paper gives neither network nor weight.
PERCEPTUAL_WEIGHT = 0.1
VGG = Path("weights") / "vgg16_features_torchvision.pth"  # below the data folder; else torchvision's own copy
WEIGHTS = "net.safetensors"  # in the folder of the cell that trained it

DERIVED = ("smoke", "cpu")  # presets whose trainings start from the trained baseline
# Of four samples a step, because more steps teach more in the same time.
BUDGETS = training.BASELINE | {
    "cpu": replace(training.BASELINE["cpu"], batch=4, steps=8000),
    "cpu-fp32": replace(training.BASELINE["cpu-fp32"], batch=4, steps=8000),
}


def budget_for(preset: str) -> training.Budget:
    """The budget of one network: on a CPU less than the baseline's own, as there are thirteen of them."""
    return BUDGETS[training.on_this_machine(preset)]


def train(name: str, preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Train one network, or take it; its weights lie in the cell's folder.

    Raises BackboneMissing where a loss has no network."""
    if (found := given(scratch.weights, name)) is not None:
        return found.taken(training.new_network(NETWORKS[name], seed=seed), scratch.folder / WEIGHTS)
    budget = budget_for(preset)
    loss = with_perceptual(scratch.data) if name == PERCEPTUAL else training.loss
    net = start(name, preset, seed)
    task = training.task_for(scratch, budget, seed=seed, loss=loss)
    values = training.train_(net, task, budget, scratch, title=name)
    save_model(net, str(scratch.folder / WEIGHTS))
    about = {"size": budget.size, "batch": budget.batch, "patch": budget.patch or budget.size}
    about |= {"precision": budget.precision, "train_data": find_sources(scratch.data, "train").fingerprint}
    return values | about


def start(name: str, preset: str, seed: int) -> MagnificationNet:
    """What the training of a network begins with."""
    if preset not in DERIVED:
        return training.new_network(NETWORKS[name], seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the layers that are new
        net = from_baseline(NETWORKS[name], baseline(pretrained=True))
    return net.to(device(), memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def load(name: str, scratch: Scratch, key: Wanted) -> MagnificationNet:
    """The network `name` with the weights of its cell, which the caller's row needed as `key`."""
    net = training.new_network(NETWORKS[name], seed=0)
    load_model(net, str(scratch.needed[key].folder / WEIGHTS))
    return net.eval()


def began(preset: str) -> str:
    """How the networks of `preset` were made before they were trained, in words."""
    if preset not in DERIVED:
        return "trained from scratch"
    return "derived from the trained baseline by passes, then trained"


def fingerprint(preset: str, data: Path | None) -> dict[str, Any]:
    """The pictures, and the baseline's weights where trainings start from them."""
    start = hashlib.sha256(PRETRAINED.read_bytes()).hexdigest()[:16] if preset in DERIVED else None
    return {"pictures": sources.fingerprint(preset, data), "start": start}


def with_perceptual(data: Path | None) -> Callable[[Any, Batch], Tensor]:
    """`training.loss` and LPIPS (VGG-16) of the magnified frame. Raises BackboneMissing."""
    backbone = data / VGG if data is not None and (data / VGG).is_file() else None
    network = al.lpips_network("vgg", None if backbone is None else str(backbone)).to(device())

    def loss(net: Any, batch: Batch) -> Tensor:
        value, image = training.loss_and_image(net, batch)
        return value + PERCEPTUAL_WEIGHT * network(image, batch.target).mean()

    return loss
