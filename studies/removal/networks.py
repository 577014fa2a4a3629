"""The networks of the study, each with its task: eight, of five fields.

Four come with weights that others, or another study, trained;
four are trained here, in one to seven minutes of a core.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import archlab as al
from studies.classify.images import Images, find_images, normalised, training_batch
from studies.classify.models import load_resnet
from studies.motion.data.sources import find_sources
from studies.motion.evaluate.quality import HeldOut, evaluate
from studies.motion.network.models import baseline
from studies.motion.table1 import in_residual_blocks
from studies.motion.train import training

from . import classification, keywords, language, super_resolution, textures, vdsr
from .edsr import EDSR

RESNETS = Path("weights") / "cifar_resnet"


@dataclass(frozen=True)
class Effort:
    """How much a preset spends on one network.

    Attributes:
        soft, push, tune: Steps of a learned removal; every other method tunes for as many in all.
        batch: Items a step.
        evaluated: Held-out items (of VDSR and EDSR: of each test set, at most).
        scored: Batches that scores are measured on.
        subsets: Random subsets of sites that the scores are tried on, each tuned for `short` steps.
        training: Steps of the training of a network without weights.
    """

    soft: int
    push: int
    tune: int
    batch: int
    evaluated: int
    scored: int = 2
    subsets: int = 8
    short: int = 15
    training: int = 0

    @property
    def steps(self) -> int:
        """Of every method, in all."""
        return self.soft + self.push + self.tune


@dataclass(frozen=True)
class Request:
    """What a network's task is made for."""

    effort: Effort
    seed: int
    data: Path | None
    scratch: Any  # the cell's, which the rendered samples lie beside


Made = tuple[nn.Module, al.Task, Any]  # the network, its task, and which sites (None: all of the kind)


@dataclass(frozen=True)
class Network:
    """One network of the study.

    Attributes:
        field: What it is for.
        kind: The kind of site that may go.
        measure: What its task's quality is, with the unit.
        better: Which way that is better.
        lr: Rate of the weights in every phase and of every method.
        cpu: What the preset cpu spends.
        make: The network as the removal finds it (one without weights: untrained), and the task of a seed.
        about: Where its weights and data are from.
        lr_training: Rate of its own training; None: it comes with weights.
        precision: Of every training, as `archlab.training.fit` takes it: what is quicker on a CPU with AMX. Without
            AMX bf16 is slow; see `studies.motion.train.training.on_this_machine`.
    """

    field: str
    kind: str
    measure: str
    better: str
    lr: float
    cpu: Effort
    make: Callable[[Request], Made]
    about: str
    lr_training: float | None = None
    precision: str = "fp32"

    def effort(self, preset: str) -> Effort:
        """What a preset spends: smoke, next to nothing."""
        if preset == "cpu":
            return self.cpu
        least = {"soft": 4, "push": 1, "tune": 2, "batch": 4, "evaluated": 4, "scored": 1, "subsets": 3, "short": 1}
        return replace(self.cpu, **least, training=min(self.cpu.training, 8))


def resnet(weights: str, request: Request) -> Made:
    """A CIFAR ResNet; of the images half is for training, half held out, class by class in turn."""
    folder = _given(request.data) / RESNETS
    found = sorted(folder.glob(f"{weights}*.pth"))
    if len(found) != 1:
        raise ValueError(
            f"{folder} must have one {weights}*.pth, has {len(found)}; studies/guides/studies.md says more"
        )
    train, held_out = cifar(folder)
    judged = held_out.first(request.effort.evaluated)

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return training_batch(train, request.effort.batch, step=step, seed=request.seed)

    net = load_resnet(found[0])
    return net, classification.task(batches, (normalised(judged.pixels), judged.labels)), None


@cache
def cifar(folder: Path) -> tuple[Images, Images]:
    """The images, read once a process."""
    return find_images(folder)


def public_vdsr(request: Request) -> Made:
    """VDSR, from public weights, on small patches."""
    net = vdsr.load_vdsr(_given(request.data) / vdsr.WEIGHTS)
    return net, of_pictures(request), None


def edsr(request: Request) -> Made:
    """EDSR-baseline, untrained."""
    task = of_pictures(request, made=super_resolution.in_colour, loss=super_resolution.absolute)
    return _seeded(EDSR, request.seed), task, None


def of_pictures(request: Request, **how: Any) -> al.Task:
    """Super-resolution as a network does it; see `super_resolution.task`."""
    effort = request.effort
    return super_resolution.task(
        _given(request.data), seed=request.seed, batch=effort.batch, side=PATCH, crop=CROP, most=effort.evaluated, **how
    )


PATCH, CROP = 24, 64  # pixels a side: of what the network sees in training, and of what is evaluated of a picture
SAMPLES = 400  # of 96 x 96 pixels are rendered to train the magnification network with


def magnification(request: Request) -> Made:
    """The magnification baseline of `studies.motion`, on patches of 48 of samples of 96 pixels."""
    net, effort = baseline(pretrained=True), request.effort
    small = effort.evaluated < AT_LEAST
    # Of these the data alone count: samples, patches and batches. Steps, rate and precision are the study's own.
    budget = training.Budget(
        size=48 if small else 96, batch=effort.batch, steps=effort.steps, lr=1e-4, precision="fp32",
        patch=32 if small else 48, rendered=8 if small else SAMPLES,
    )  # fmt: skip
    samples = list(HeldOut(find_sources(request.data, "val"), budget.size, effort.evaluated))

    def quality(model: Any) -> dict[str, float]:
        ssim = float(evaluate(model.eval(), samples, perceptual=False)["ssim"].mean())
        return {"quality": ssim, "loss": 1 - ssim}

    task = training.task_for(request.scratch, budget, seed=request.seed, quality=quality)
    return net, replace(task, measures={"quality": "higher", "loss": "lower"}), in_residual_blocks(net, "")


AT_LEAST = 10  # samples; with fewer, as in the preset smoke, they are small as well


def language_model(request: Request) -> Made:
    """The language model, untrained."""
    effort = request.effort
    task = language.task(seed=request.seed, batch=effort.batch, evaluated=effort.evaluated)
    return _seeded(language.LanguageModel, request.seed), task, None


def vision_transformer(request: Request) -> Made:
    """The small ViT, untrained."""
    effort = request.effort
    task = textures.task(seed=request.seed, batch=effort.batch, evaluated=effort.evaluated)
    return _seeded(textures.VisionTransformer, request.seed), task, None


def word_network(request: Request) -> Made:
    """The network of spoken words, untrained."""
    effort = request.effort
    task = keywords.task(seed=request.seed, batch=effort.batch, evaluated=effort.evaluated)
    return _seeded(keywords.WordNetwork, request.seed), task, None


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def _given(data: Path | None) -> Path:
    if data is None:
        raise ValueError(
            "--data must name a folder with weights/cifar_resnet, weights/sr/vdsr_sd.pth, sr/train and sr/test, as "
            'studies/guides/studies.md says; rows of the others run without: --only "language model*"'
        )
    return data


HERE = "trained here, for each seed anew"
_OWN = Effort(240, 40, 200, 16, 1000, scored=8, short=30, training=3000)  # of a network that is trained here
NETWORKS: dict[str, Network] = {  # in the order of the report, the fast ones first
    "word network": Network(
        "speech", "block", "accuracy [%]", "higher", 1e-3, _OWN, word_network,
        f"1-D residual network, 16 synthetic words in noise; {HERE}", lr_training=2e-3,
    ),
    "small ViT": Network(
        "image classification", "branch", "accuracy [%]", "higher", 1e-3, _OWN,
        vision_transformer, f"which of 12 photographs a piece is of; {HERE}", lr_training=1e-3,
    ),
    "language model": Network(
        "language", "branch", "bits per character", "lower", 1e-3,
        replace(_OWN, batch=8, evaluated=100, training=4000), language_model,
        f"characters of Python's standard library; {HERE}", lr_training=2e-3,
    ),
    "ResNet-20": Network(
        "image classification", "block", "accuracy [%]", "higher", 5e-4, Effort(200, 32, 168, 16, 2000, scored=8),
        partial(resnet, "resnet20"), "CIFAR-10; public weights, fine-tuned on images as JPEG", precision="bf16",
    ),
    "VDSR": Network(
        "super-resolution", "activation", "Y-PSNR [dB]", "higher", 1e-4, Effort(160, 32, 128, 4, 20, scored=4),
        public_vdsr, f"×2; public weights; the middle {CROP} x {CROP} pixels of pictures of Set5, Set14, B100",
        precision="bf16",
    ),
    "EDSR-baseline": Network(
        "super-resolution", "block", "Y-PSNR [dB]", "higher", 1e-4, Effort(160, 32, 128, 4, 20, training=5000),
        edsr, f"×2; {HERE}; evaluated as VDSR", lr_training=4e-4, precision="bf16",
    ),
    "magnification": Network(
        "video motion magnification", "block", "SSIM", "higher", 1e-4,
        Effort(96, 16, 88, 2, 32), magnification,
        "the baseline of studies/motion, held-out samples of 96 x 96 pixels", precision="bf16",
    ),
    "ResNet-56": Network(
        "image classification", "block", "accuracy [%]", "higher", 5e-4,
        Effort(80, 16, 72, 16, 1000, scored=4), partial(resnet, "resnet56"),
        "CIFAR-10; public weights", precision="bf16",
    ),
}  # fmt: skip
