"""A causal language model of the characters of Python's standard library, and its task.

Every fifth module is held out. The text is that of the Python which runs, so another version has other numbers.
"""

import math
import sysconfig
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al

from .transformer import Layer

CHARACTERS = 128  # ASCII; what is not in it becomes the character 0
CONTEXT = 64


class LanguageModel(nn.Module):
    """Characters, B x T -> the logits of the next ones, B x T x 128."""

    def __init__(self, width: int = 64, layers: int = 6, heads: int = 4):
        super().__init__()
        self.characters, self.places = nn.Embedding(CHARACTERS, width), nn.Embedding(CONTEXT, width)
        self.layers = nn.Sequential(*(Layer(width, heads, causal=True) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CHARACTERS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.characters(x) + self.places(torch.arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.layers(x)))


@cache
def texts() -> tuple[Tensor, Tensor]:
    """The characters to train with, and those to evaluate on, of other modules."""
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    parts = []
    for chosen in ([m for i, m in enumerate(modules) if i % 5], modules[::5]):
        codes = torch.frombuffer(bytearray(b"".join(m.read_bytes() for m in chosen)), dtype=torch.uint8).long()
        parts.append(torch.where(codes < CHARACTERS, codes, 0))
    return parts[0], parts[1]


def windows(text: Tensor, count: int, seed: int) -> Tensor:
    """`count` pieces of `text`, each of CONTEXT + 1 characters, drawn by `seed`."""
    starts = torch.randint(len(text) - CONTEXT, (count,), generator=torch.Generator().manual_seed(seed))
    return text[starts[:, None] + torch.arange(CONTEXT + 1)]


def loss(net: nn.Module, pieces: Tensor) -> Tensor:
    """Cross-entropy of each next character, in nats."""
    pieces = pieces.to(next(net.parameters()).device)
    return F.cross_entropy(net(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())


def task(*, seed: int, batch: int, evaluated: int) -> al.Task:
    """Batches of `batch` pieces; quality: bits per character of `evaluated` pieces of held-out modules."""
    text, held_out = texts()
    judged = windows(held_out, evaluated, 0)

    @torch.no_grad()
    def quality(net: nn.Module) -> dict[str, float]:
        nats = float(loss(net.eval(), judged))
        return {"quality": nats / math.log(2), "loss": nats}

    return al.Task(
        example=judged[:1, :-1],
        batches=lambda step: windows(text, batch, 1_000_003 * (seed + 1) + step),
        loss=loss,
        quality=quality,
        measures={"quality": "lower", "loss": "lower"},
    )
