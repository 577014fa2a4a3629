"""A small network of residual blocks and its task, for what is measured and removed site by site."""

import torch
from torch import nn

from archlab.training.task import Task


class Block(nn.Module):
    def __init__(self, scale: float, width: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(8, width), nn.Linear(width, 8)
        self.act = nn.ReLU()
        self.scale = scale

    def forward(self, x):
        return x + self.scale * self.outer(self.act(self.inner(x)))


class Blocks(nn.Module):
    """Blocks of rising influence and different size; a dropout, so that the mode matters."""

    def __init__(self, scales=(0.02, 0.1, 0.4, 1.0), widths=(8, 16, 8, 24)):
        super().__init__()
        self.blocks = nn.ModuleList(Block(scale, width) for scale, width in zip(scales, widths, strict=True))
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(8, 8)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(self.drop(x))


def blocks(seed: int = 0, **options) -> Blocks:
    torch.manual_seed(seed)
    return Blocks(**options)


TEACHER = blocks().eval()


def batch(step: int):
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
    with torch.no_grad():
        return x, TEACHER(x)


def loss(model, data):
    return nn.functional.mse_loss(model(data[0]), data[1]) + 0.1


def quality(model):
    model.eval()
    with torch.no_grad():
        error = nn.functional.mse_loss(model(batch(1000)[0]), batch(1000)[1]).item()
    return {"error": error, "fit": 1 - error}


TASK = Task(batch(0)[0], batch, loss, quality, measures={"error": "lower"})
