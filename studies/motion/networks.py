"""The networks that Figures 1, 6, 7, 8, 10 and 11 compare, each trained once, from scratch, on the same samples.

``python -m studies.motion.networks --preset smoke|cpu|gpu|paper [--data DIR] [--time-limit MINUTES] [--only GLOB]``

The figures' studies train what they need of it by themselves; this command trains and judges all of it. Every network
sees the same samples in the same order for the same number of steps, so that a row differs from its neighbour by its
design alone. Output: ``reports/networks/<preset>/``, with the weights of the proposed network.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_model, save_model
from torch import Tensor

from archlab.cells import OutOfTime, Scratch
from archlab.quality import BackboneMissing, lpips_network
from archlab.running import command
from archlab.training import fit

from . import training
from .data import Batch
from .models import EIGHTH, LINEAR, QUARTER, Config, MagnificationNet, scaled
from .sources import find_sources, fingerprint

__all__ = ["NETWORKS", "PRESETS", "ROWS", "cell", "depends", "fingerprint", "needs", "report", "trained"]

PRESETS = ("smoke", "cpu", "gpu", "paper")
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
KEPT_BYTES = 2 << 30  # a training set up to this size is rendered once and kept in memory for the next network

ROWS = [{"name": name} for name in NETWORKS]

BUDGETS = training.BASELINE | {
    "cpu": replace(training.BASELINE["cpu"], steps=2000),
    "cpu-fp32": replace(training.BASELINE["cpu-fp32"], steps=2000),
}


def budget_for(preset: str) -> training.Budget:
    """The budget of one network: on a CPU less than Table 1's, as there are thirteen of them."""
    return BUDGETS[training.on_this_machine(preset)]


def depends(row: dict[str, Any]) -> list[str]:
    """A training stays valid while what it computes is unchanged."""
    names = ("data", "models", "networks", "sources", "training")
    return ["archlab.training", "archlab.quality", *(f"studies.motion.{name}" for name in names)]


def needs(row: dict[str, Any]) -> list[str]:
    return []


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Train one network; its weights lie in the cell's folder as net.safetensors."""
    name, budget = row["name"], budget_for(preset)
    if name in LARGE_ONLY and preset in ("smoke", "cpu"):
        return {"steps": 0, "why_not": f"trained at the presets gpu and paper only, not at {preset}"}
    loss = training.loss
    if name == PERCEPTUAL:
        try:
            loss = with_perceptual(scratch.data)
        except BackboneMissing as error:
            return {"steps": 0, "why_not": str(error)}
    net = training.new_network(NETWORKS[name], seed=seed)
    task = training.task(
        find_sources(scratch.data, "train"), budget, seed=seed, quality=lambda net: {}, loss=loss
    )  # fmt: skip
    batches = task.batches
    if budget.patch is not None and 48 * budget.patch**2 * budget.batch * budget.steps <= KEPT_BYTES:
        batches = rendered_once(scratch.data, budget, seed)
    went = fit(
        net, replace(task, batches=batches), folder=scratch.folder, time_limit_s=scratch.time_left_s(), title=name,
        settings={"network": name, "size": budget.size, "batch": budget.batch}, **training.fit_options(budget),
    )  # fmt: skip
    if not went.finished:
        raise OutOfTime
    save_model(net, str(scratch.folder / "net.safetensors"))
    every = max(1, len(went.history) // 200)
    losses = went.history["loss"].groupby(went.history["step"] // every).mean()
    return {
        "steps": went.steps_done, "loss": losses.iloc[-1], "losses": [round(v, 5) for v in losses],
        "params": sum(p.numel() for p in net.parameters()),
    }  # fmt: skip


@functools.lru_cache(maxsize=1)
def rendered_once(data: Path | None, budget: training.Budget, seed: int) -> Callable[[int], Batch]:
    """The batches of `training.task`, each kept when it was made: rendering takes as long as a small network's step."""
    task = training.task(find_sources(data, "train"), budget, seed=seed, quality=lambda net: {})
    return functools.cache(task.batches)


def with_perceptual(data: Path | None) -> Callable[[Any, Batch], Tensor]:
    """`training.loss` and LPIPS (VGG-16) of the magnified frame. Raises BackboneMissing."""
    backbone = data / VGG if data is not None and (data / VGG).is_file() else None
    network = lpips_network("vgg", None if backbone is None else str(backbone)).to(training.device())

    def loss(net: Any, batch: Batch) -> Tensor:
        value, image = training.loss_and_image(net, batch)
        return value + PERCEPTUAL_WEIGHT * network(image, batch.target).mean()

    return loss


def trained(name: str, scratch: Scratch) -> MagnificationNet | None:
    """The network `name` with the weights of its cell, which the caller's row needed; None where it was not trained."""
    found = scratch.needed[f"{__name__}:{name}"]
    if not found.values["steps"]:
        return None
    net = training.new_network(NETWORKS[name], seed=0)
    load_model(net, str(found.folder / "net.safetensors"))
    return net.eval()


def report(rows: pd.DataFrame, folder: Path) -> None:
    raise NotImplementedError


if __name__ == "__main__":
    command("studies.motion.networks")
