"""What can be removed from a pretrained CIFAR-10 ResNet-20, a network that nobody here designed.

    python -m studies.classify.resnet20 --preset cpu --data FOLDER

FOLDER holds the weights, one .pth state dict of a CIFAR ResNet (of several that whose name begins with resnet20), and
the images, in class folders or a zip of these.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from archlab.experiments import Scratch, command, data_fingerprint
from studies.device import device

from . import removal_report
from .images import Images, find_images
from .models import CifarResNet, load_resnet
from .removal import each_alone, evaluate, fine_tune_, thinned
from .training import BUDGETS, task_for

PRESETS = tuple(BUDGETS)
KINDS = ("activation", "skip", "block")
LAMBDAS = (0.3, 1.0, 3.0)  # at 0.1 the preset cpu removed no activation
ROWS = [
    {"name": "pretrained"},
    {"name": "sensitivity"},
    {"name": "fine-tuned"},
    *({"name": f"{kind} λ={lam:g}", "kind": kind, "lam": lam} for kind in KINDS for lam in LAMBDAS),
]
NEEDED = (
    "--data must name a folder with the weights of a CIFAR ResNet (one .pth) and images in class folders, or a zip of "
    "these. Public weights: akamaster/pytorch_resnet_cifar10 on GitHub, pretrained_models; images: "
    "torchvision.datasets.CIFAR10, each saved as <class>/<number>.png"
)


def fingerprint(preset: str, data: Path | None) -> Any:
    """The weights by what they are, the images by name and size."""
    weights = find_weights(data)
    return {"weights": hashlib.sha256(weights.read_bytes()).hexdigest(), "files": data_fingerprint(weights.parent)}


def depends(row: Mapping[str, Any]) -> list[str]:
    """The gradient that every ω is learned by lies in a room that is not followed."""
    return ["archlab.rewrite.blend"] if "kind" in row else []


def cell_for(row: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
    """What makes a row: the network as it came, with each site alone removed, fine-tuned, or thinned by learning."""
    return {"pretrained": pretrained, "sensitivity": leave_one_out, "fine-tuned": fine_tuned}.get(row["name"], thin)


def pretrained(row: Mapping[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    net, train, held_out = _start(preset, scratch)
    example = task_for(train, held_out, BUDGETS[preset], seed=seed).example
    return {"train_images": len(train), "steps": 0, **evaluate(net, example, held_out)}


def leave_one_out(row: Mapping[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    net, train, held_out = _start(preset, scratch)
    few = held_out.first(BUDGETS[preset].sensitivity_images)
    return {"images": len(few), **each_alone(net, task_for(train, few, BUDGETS[preset], seed=seed), KINDS)}


def fine_tuned(row: Mapping[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    net, train, held_out = _start(preset, scratch)
    task = task_for(train, held_out, BUDGETS[preset], seed=seed)
    found = fine_tune_(net, task, BUDGETS[preset], scratch)
    return {"train_images": len(train), **found, **evaluate(net, task.example, held_out)}


def thin(row: Mapping[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    net, train, held_out = _start(preset, scratch)
    task = task_for(train, held_out, BUDGETS[preset], seed=seed)
    thinner, found = thinned(net, task, row["kind"], row["lam"], BUDGETS[preset], scratch)
    return {"train_images": len(train), **found, **evaluate(thinner, task.example, held_out)}


def _start(preset: str, scratch: Scratch) -> tuple[CifarResNet, Images, Images]:
    """The network with its weights, the images that it may train on, and those to evaluate it on."""
    weights, budget = find_weights(scratch.data), BUDGETS[preset]
    net = load_resnet(weights).to(device())
    train, held_out = _images(weights.parent, budget.train_images, budget.held_out_images)
    if net.linear.out_features != len(held_out.classes):
        raise ValueError(f"{weights} knows {net.linear.out_features} classes, the images have {len(held_out.classes)}")
    return net, train, held_out


def report(rows: pd.DataFrame, folder: Path) -> None:
    removal_report.write(rows, folder, f"python -m {__name__}")


def find_weights(data: Path | None) -> Path:
    """The file of weights in the data folder. Raises ValueError for no folder, and where none or several are there."""
    if data is None:
        raise ValueError(NEEDED)
    found = sorted(path for path in data.iterdir() if path.suffix in (".pth", ".pt", ".th"))
    found = [path for path in found if path.name.startswith("resnet20")] or found
    if len(found) != 1:
        raise ValueError(f"{data} has {', '.join(path.name for path in found) or 'no file of weights'}. {NEEDED}")
    return found[0]


@cache
def _images(data: Path, train: int | None, held_out: int | None) -> tuple[Images, Images]:
    return find_images(data, (train, held_out))  # read once a process, not for every row


if __name__ == "__main__":
    command()
