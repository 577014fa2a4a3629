"""What training the magnification network means, at each preset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archlab.experiments import OutOfTime, Scratch
from archlab.training import Task, cosine, fit
from studies.device import device

from ..data.generator import TRAIN_SEED, Batch, Generator
from ..data.rendered_set import RenderedSet, rendered_set
from ..data.sources import Sources, find_sources, fingerprint
from ..network.fast import pad_as_torch_, pad_in_half_
from ..network.models import Config, MagnificationNet
from .averaging import AveragedAdam

REGULARISER = 0.1  # weight of the three representation terms (paper; Oh et al. also give 1.0 in code)


@dataclass(frozen=True)
class Budget:
    """How much a preset trains: pixels of a sample's side, samples a step, steps, first learning rate.

    With `patch`, a step sees one square of that many pixels of each sample: steps teach, not pixels. With `rendered`,
    the samples are drawn from a set of so many that is rendered once. `average`: decay of the mean of the weights that
    is kept in the end; None: the last weights.
    """

    size: int
    batch: int
    steps: int
    lr: float
    samples: int | None = None  # size of a fixed training set; None: every sample is new
    precision: str = "bf16"
    patch: int | None = None
    rendered: int | None = None
    average: float | None = None


# cpu, measured: 13,722 steps of 8 patches of 48 pixels of 30,000 rendered samples in 80 minutes of two busy cores with
# AMX gave SSIM .889 on held-out samples, where 8,500 steps of 4 patches gave .811. A step of it takes 0.16 s there, and
# 0.44 s of one core without AMX. The frames of 20,000 samples take 1.7 GB of disk.
_PATCHES = {"size": 96, "lr": 1e-3, "patch": 48, "rendered": 20_000, "average": 0.999}
BASELINE = {
    "smoke": Budget(size=48, batch=2, steps=40, lr=4e-4, precision="fp32", patch=32, rendered=64, average=0.9),
    "cpu": Budget(batch=8, steps=13_000, **_PATCHES),
    "cpu-fp32": Budget(batch=8, steps=8500, precision="fp32", **_PATCHES),
    # What taught most in the same time on a CPU, with larger patches as a GPU has room; not yet run on one.
    "gpu": Budget(size=192, batch=16, steps=20_000, lr=1e-3, patch=64, rendered=20_000, average=0.999),
    "paper": Budget(size=384, batch=4, steps=300 * 95_000 // 4, lr=1e-4, samples=95_000, precision="fp32"),
}


def budget_for(preset: str) -> Budget:
    """What the baseline gets at `preset` on this machine."""
    return BASELINE[on_this_machine(preset)]


def on_this_machine(preset: str) -> str:
    """`preset`, or its variant for a machine like this.

    Only with AMX is bf16 faster than fp32 on a CPU. With AVX-512's bf16 alone a step of 8 patches of 48 pixels took
    0.67 s against 0.44 s in fp32, of 64 pixels 1.40 s against 0.77 s (one core); without either, 20 times as long.
    """
    if preset == "cpu" and not torch.cpu._is_amx_tile_supported():
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


def task_for(
    scratch: Scratch,
    budget: Budget,
    *,
    seed: int,
    quality: Callable[[nn.Module], Mapping[str, float]] = lambda net: {},
    first: int = 0,
    loss: Callable[[Any, Batch], Tensor] = loss,
) -> Task:
    """`task` of a cell's pictures; a rendered set lies where all cells share it."""
    sources, rendered = find_sources(scratch.data, "train"), None
    if budget.rendered is not None:
        generator = Generator(sources, budget.size, seed=TRAIN_SEED + 1000 * seed, device=device())
        folder = (scratch.shared or scratch.folder) / "rendered"
        rendered = rendered_set(generator, budget.rendered, folder, pictures=fingerprint("", scratch.data))
    return task(sources, budget, seed=seed, quality=quality, first=first, loss=loss, rendered=rendered)


def task(
    sources: Sources,
    budget: Budget,
    *,
    seed: int,
    quality: Callable[[nn.Module], Mapping[str, float]],
    first: int = 0,
    loss: Callable[[Any, Batch], Tensor] = loss,
    rendered: RenderedSet | None = None,
) -> Task:
    """The training task: batch `step` is that of ``first + step``, of samples after those of the batch before, or drawn
    from a `rendered` set."""
    where = device()
    generator = Generator(sources, budget.size, seed=TRAIN_SEED + 1000 * seed, device=where)

    def batches(step: int) -> Batch:
        number = first + step
        if rendered is not None:
            draw = np.random.default_rng((seed, number))
            batch = rendered.batch(draw, budget.batch, patch=budget.patch, device=where)
        else:
            indices: Sequence[int] = range(number * budget.batch, (number + 1) * budget.batch)
            if budget.samples is not None:
                indices = [i % budget.samples for i in indices]
            batch = generator.batch(indices, noise=True)
        frames = batch[:4] if rendered is not None else patches(batch[:4], budget.patch, number)
        a, b, clean, target = (x.to(memory_format=torch.channels_last) for x in frames)
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


def train_(
    net: MagnificationNet,
    task: Task,
    budget: Budget,
    scratch: Scratch,
    *,
    title: str,
    optimizer: type[AveragedAdam] = AveragedAdam,
    half_padding: bool = True,
) -> dict[str, Any]:
    """Train `net` in place as `budget` says, in the cell's folder: the steps, and the curve of the loss.

    Raises OutOfTime where the cell's time ends first.
    """
    options, averaged = fit_options(budget), []
    if (decay := budget.average) is not None:

        def made(groups: Any) -> torch.optim.Optimizer:
            averaged.append(optimizer(groups, decay=decay))
            return averaged[-1]

        options["optimizer"] = made
    settings = {"network": title, "size": budget.size, "batch": budget.batch}
    settings |= {"patch": budget.patch, "rendered": budget.rendered}
    if half_padding:
        pad_in_half_(net)
    went = fit(
        net, task, folder=scratch.folder, time_limit_s=scratch.time_left_s(), title=title, settings=settings, **options
    )
    pad_as_torch_(net)
    if not went.finished:
        raise OutOfTime
    if averaged:
        averaged[-1].use_means_()
    every = max(1, len(went.history) // 200)
    losses = went.history["loss"].groupby(went.history["step"] // every).mean()
    return {"steps": went.steps_done, "loss": losses.iloc[-1], "losses": [round(v, 5) for v in losses]}


def new_network(config: Config | None = None, *, seed: int) -> MagnificationNet:
    """An untrained network, by default the baseline, its weights fixed by `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MagnificationNet(config)
    return net.to(device(), memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
