"""What training and evaluating a classifier mean, at each preset."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archlab.training import Task, cosine
from studies.device import device

from .images import Images, normalised, training_batch

# The same for every row of a study.
P, TAU = 1.0, 0.5  # exponent of the penalty; ω above τ is removed
LR = 1e-4  # of the weights, in every phase; with nothing removed, 3e-4 and 5e-4 cost a pretrained ResNet-20 accuracy
TRAVEL = 3.0  # lr_ω · soft steps: Adam moves ω by about lr_ω a step, so it can cross [0, 1] three times
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Budget:
    """How much a preset trains: images a step, steps of each phase; how many images it uses (None: all)."""

    batch: int
    soft_steps: int
    push_steps: int
    tune_steps: int
    train_images: int | None = None
    held_out_images: int | None = None
    sensitivity_images: int | None = None  # of those to evaluate on: every site costs an evaluation

    @property
    def steps(self) -> int:
        return self.soft_steps + self.push_steps + self.tune_steps

    @property
    def lr_omega(self) -> float:
        return TRAVEL / self.soft_steps


BUDGETS = {
    "smoke": Budget(8, 4, 1, 3, train_images=200, held_out_images=200, sensitivity_images=50),
    "cpu": Budget(32, 150, 40, 110, sensitivity_images=1000),
    "gpu": Budget(128, 2000, 500, 1500),
}


def task_for(train: Images, held_out: Images, budget: Budget, *, seed: int) -> Task:
    """Cross-entropy on augmented batches of `train`; `quality` is the accuracy on `held_out`."""

    def batches(step: int) -> tuple[Tensor, Tensor]:
        return training_batch(train, budget.batch, step=step, seed=seed)

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = (part.to(device()) for part in batch)
        return F.cross_entropy(net(inputs), labels)

    example = normalised(held_out.pixels[:1]).to(device())
    return Task(example, batches, loss, lambda net: {"accuracy": count_correct(net, held_out) / len(held_out)})


def fine_tuning(budget: Budget) -> Callable[[int], float]:
    """The schedule of a training without removal: as long as one with it, and as its last phase falling to 0."""
    return cosine(budget.steps, hold=budget.soft_steps + budget.push_steps)


@torch.no_grad()
def count_correct(net: nn.Module, images: Images) -> int:
    """How many of `images` `net`, in evaluation mode, puts into their class; its mode is put back."""
    training, correct = net.training, 0
    net.eval()
    for first in range(0, len(images), EVALUATION_BATCH):
        part = slice(first, first + EVALUATION_BATCH)
        scores = net(normalised(images.pixels[part].to(device())))
        correct += int((scores.argmax(1).cpu() == images.labels[part]).sum())
    net.train(training)
    return correct
