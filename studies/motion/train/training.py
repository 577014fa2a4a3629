"""What training the magnification network means, at each preset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archlab.training import Task, cosine
from studies.device import device

from ..data.generator import TRAIN_SEED, Batch, Generator
from ..data.sources import Sources
from ..network.models import Config, MagnificationNet

REGULARISER = 0.1  # weight of the three representation terms (paper; Oh et al. also give 1.0 in code)


@dataclass(frozen=True)
class Budget:
    """How much a preset trains: pixels of a sample's side, samples a step, steps, first learning rate.

    With `patch`, a step sees one square of that many pixels of each sample: where each operation counts, more samples
    teach more than more pixels of each (see `budget_for`).
    """

    size: int
    batch: int
    steps: int
    lr: float
    samples: int | None = None  # size of a fixed training set; None: every sample is new
    precision: str = "bf16"
    patch: int | None = None


BASELINE = {
    "smoke": Budget(size=48, batch=2, steps=40, lr=4e-4, precision="fp32"),
    "cpu": Budget(size=96, batch=8, steps=6000, lr=3e-4),
    "cpu-fp32": Budget(size=96, batch=4, steps=8500, lr=1e-3, precision="fp32", patch=48),
    "gpu": Budget(size=384, batch=8, steps=8000, lr=3e-4),
    "paper": Budget(size=384, batch=4, steps=300 * 95_000 // 4, lr=1e-4, samples=95_000, precision="fp32"),
}


def budget_for(preset: str) -> Budget:
    """What the baseline gets at `preset` on this machine."""
    return BASELINE[on_this_machine(preset)]


def on_this_machine(preset: str) -> str:
    """`preset`, or its variant for a machine like this.

    A CPU without bf16 instructions takes 20 times longer in bf16 than in fp32, and in fp32 five times longer than one
    that has them in bf16, so it gets budgets of its own. Their patches:
    after 150 s of training from scratch on two cores, SSIM of 32 held-out samples was .587 and .606 with whole samples
    of 96 pixels (2 and 1 a step, rates 6e-4 and 1e-3), .639 and .633 with patches of 48 (2 and 4 a step, 1e-3)."""
    if preset == "cpu" and not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "cpu-fp32"
    return preset


def loss(net: Any, batch: Batch) -> Tensor:
    """L1 of the magnified frame, and 0.1 times three L1 terms on the representations (paper, supplement; Oh et al.).

    Two frames with the same colours have the same texture, A and clean B as perturbed B and the target; a frame
    and its colour-perturbed version have the same shape. The four frames are encoded as one batch.
    """
    return loss_and_image(net, batch)[0]


def loss_and_image(net: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """`loss`, and the magnified frame that it is of, for those who measure it further."""
    texture, shape = net.encode(torch.cat(batch[:4]))
    texture_a, texture_b, texture_clean, texture_target = texture.chunk(4)
    shape_a, shape_b, shape_clean, _ = shape.chunk(4)
    image = net.decoder(texture_b, net.manipulator(shape_a, shape_b, batch.factor))
    terms = F.l1_loss(texture_a, texture_clean) + F.l1_loss(texture_b, texture_target) + F.l1_loss(shape_b, shape_clean)
    return F.l1_loss(image, batch.target) + REGULARISER * terms, image


def task(
    sources: Sources,
    budget: Budget,
    *,
    seed: int,
    quality: Callable[[nn.Module], Mapping[str, float]],
    first: int = 0,
    loss: Callable[[Any, Batch], Tensor] = loss,
) -> Task:
    """The training task: batch `step` holds the samples after those of the step before, from sample `first` on."""
    where = device()
    generator = Generator(sources, budget.size, seed=TRAIN_SEED + 1000 * seed, device=where)

    def batches(step: int) -> Batch:
        indices = range(first + step * budget.batch, first + (step + 1) * budget.batch)
        if budget.samples is not None:
            indices = [i % budget.samples for i in indices]
        batch = generator.batch(indices, noise=True)
        a, b, clean, target = (x.to(memory_format=torch.channels_last) for x in patches(batch[:4], budget.patch, step))
        return Batch(a, b, clean, target, batch.factor)

    frame = torch.zeros(1, 3, budget.size, budget.size, device=where)
    return Task(example=(frame, frame, 10.0), batches=batches, loss=loss, quality=quality)


def patches(frames: Sequence[Tensor], side: int | None, step: int) -> list[Tensor]:
    """The same square of `side` pixels of all `frames`, another one at each step; with None all of them."""
    if side is None:
        return list(frames)
    height, width = frames[0].shape[-2:]
    draw = np.random.default_rng(step)
    top, left = int(draw.integers(height - side + 1)), int(draw.integers(width - side + 1))
    return [x[..., top : top + side, left : left + side] for x in frames]


def fit_options(budget: Budget) -> dict[str, Any]:
    """The options of `archlab.training.fit` that go with a budget; a paper-scale run keeps its rate constant."""
    options: dict[str, Any] = {"steps": budget.steps, "lr": budget.lr, "precision": budget.precision}
    options["prefetch"] = 4 if device().type == "cuda" else 0  # on a CPU the maker takes the cores from the training
    if budget.samples is None:
        options |= {"schedule": cosine(budget.steps, warmup=min(300, budget.steps // 10)), "clip_norm": 1.0}
    return options


def new_network(config: Config | None = None, *, seed: int) -> MagnificationNet:
    """An untrained network, by default the baseline, its weights fixed by `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MagnificationNet(config)
    return net.to(device(), memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
