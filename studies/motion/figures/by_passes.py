"""Networks that archlab's passes make of the baseline for fewer FLOPs than the proposed one has, against it.

``python -m studies.motion.figures.by_passes --preset smoke|cpu --seeds 3 [--data DIR] [--time-limit MINUTES]``

From the trained baseline: channels go, then the encoder's residual blocks (Table 1: nearly for nothing) and of the
decoder's those that cost the loss least; and the proposed network, by the passes that lead to it. Each is trained for a
few minutes. Then the better of those and the proposed network are trained on. Seeds differ in their samples.
At cpu three seeds took two hours of one core with AMX. Output: ``reports/by_passes/<preset>/``.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import archlab as al
from archlab.experiments import Scratch, command
from studies.device import device

from ..data.sources import find_sources
from ..evaluate.costs import costs
from ..evaluate.quality import COMPARED, HeldOut, evaluate, summary
from ..network.example import example_for
from ..network.models import PRETRAINED, Config, MagnificationNet, baseline
from ..network.weights import network
from ..train import networks, training
from ..train.derive import derived
from ..train.family import budget_for, fingerprint, start
from .by_passes_report import LONG, PROPOSED, TRAINED, report

__all__ = ["PRESETS", "ROWS", "cell_for", "fingerprint", "needs", "report", "seeds"]

PRESETS = ("smoke", "cpu")
MADE = {"16 channels": (16, 9), "20 channels": (20, 4)}  # channels, and the blocks of the decoder that stay
ROWS: list[dict[str, Any]] = [
    {"name": TRAINED, "what": "as trained"},
    {"name": PROPOSED, "what": "made"},
    *({"name": name, "what": "made", "width": width, "blocks": blocks} for name, (width, blocks) in MADE.items()),
    *({"name": f"{name}, {LONG}", "what": "longer", "start": name} for name in (PROPOSED, "20 channels")),
]
MOST_SEEDS = 3
STEPS, LONG_STEPS = {"smoke": 8, "cpu": 2500}, {"smoke": 8, "cpu": 8000}
SCORED = 8  # batches, and held-out samples, that the blocks are scored on
LARGE, LARGE_JUDGED = 192, {"smoke": 2, "cpu": 64}  # pixels of larger samples, and how many of them
FILE = "net.safetensors"  # in the folder of the cell that trained it


def needs(row: dict[str, Any]) -> list[str]:
    return [row["start"]] if "start" in row else []


def seeds(row: dict[str, Any]) -> int:
    """Several for what is trained here."""
    return 1 if row["what"] == "as trained" else MOST_SEEDS


def cell_for(row: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    return {"as trained": as_trained, "made": make, "longer": train_on}[row["what"]]


def as_trained(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The trained baseline judged as the others are."""
    facts = json.loads(PRETRAINED.with_suffix(".json").read_text())
    return {"steps": facts["steps"]} | judged(baseline(pretrained=True).to(device()), preset, scratch)


def make(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """One network made of the baseline, and trained for a few minutes."""
    budget = replace(budget_for(preset), steps=STEPS[preset])
    few = HeldOut(find_sources(scratch.data, "val"), budget.size, SCORED)

    def quality(net: Any) -> dict[str, float]:
        return {"SSIM": float(evaluate(net.eval(), few, perceptual=False)["ssim"].mean())}

    task = training.task_for(scratch, budget, seed=seed, quality=quality)
    if row["name"] == PROPOSED:
        net = start(PROPOSED, preset, seed)
    else:
        net = made(row["width"], row["blocks"], task)
    return trained(net, task, budget, row, preset, scratch)


def train_on(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The network of another row, as that left it, trained on as the baseline was."""
    budget = replace(training.budget_for(preset), steps=LONG_STEPS[preset])
    task = training.task_for(scratch, budget, seed=seed)
    net = network(str(scratch.needed[row["start"]].folder / FILE))
    return trained(net, task, budget, row, preset, scratch)


def trained(
    net: Any, task: al.Task, budget: training.Budget, row: dict[str, Any], preset: str, scratch: Scratch
) -> dict[str, Any]:
    """`net` trained in place and judged; its weights and its recipe lie in the cell's folder."""
    net = net.to(device(), memory_format=torch.channels_last)
    values = training.train_(net, task, budget, scratch, title=row["name"])
    al.save(net, scratch.folder / FILE)
    about = {"batch": budget.batch, "precision": budget.precision}
    return values | about | judged(net, preset, scratch)


def judged(net: Any, preset: str, scratch: Scratch) -> dict[str, Any]:
    """Costs of a network, and its quality on held-out samples of the training's size and on larger ones."""
    samples = HeldOut(find_sources(scratch.data, "val"), LARGE, LARGE_JUDGED[preset])
    larger = summary(evaluate(net.eval(), samples, data=scratch.data))
    values = {f"{name}_large": larger[name] for name in COMPARED}
    return costs(net) | networks.judged(net, preset, scratch) | values


def made(width: int, decoder_blocks: int, task: al.Task) -> MagnificationNet:
    """The trained baseline with these channels, without the encoder's blocks, with these of the decoder's blocks."""
    whole = baseline(pretrained=True)
    scored = al.scores(whole, task, kinds="block", where="decoder*", batches=SCORED, progress=False)
    cheap = scored.sort_values("delta_task_loss")["site"].head(len(scored) - decoder_blocks)
    narrow = derived(Config(width=width), whole)
    gone = ["encoder*", *cheap]
    return al.remove(narrow, example_for(narrow), kinds="block", where=gone)  # pyright: ignore[reportReturnType]


if __name__ == "__main__":
    command()
