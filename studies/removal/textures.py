"""A small ViT that tells from which photograph a piece of 24 x 24 grey pixels is, and its task.

The photographs are those that scikit-image ships. Training takes pieces of the left part of each, evaluation of the
right, so that what is to be known is how a surface looks. Each piece has mean 0, deviation 1, and noise on it.
"""

from functools import cache

import torch
from skimage import color, data
from torch import Tensor, nn

import archlab as al

from . import classification
from .transformer import Layer

PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "immunohistochemistry",
          "moon", "retina", "rocket")  # fmt: skip
SIDE, PATCH = 24, 4
NOISE = 0.5
LEFT = 0.6  # the share of a photograph's width that is trained with


class VisionTransformer(nn.Module):
    """Grey pieces, B x 1 x 24 x 24 -> logits; a token a patch of 4 x 4 pixels, the mean of all in the end."""

    def __init__(self, width: int = 48, layers: int = 6, heads: int = 4):
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, PATCH)
        self.places = nn.Parameter(0.02 * torch.randn((SIDE // PATCH) ** 2, width))
        self.layers = nn.Sequential(*(Layer(width, heads, causal=False) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(PHOTOS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.layers(x)).mean(1))


@cache
def parts() -> tuple[list[Tensor], list[Tensor]]:
    """Of each photograph in grey the left and the right part."""
    grey = [torch.tensor(color.rgb2gray(p) if (p := getattr(data, name)()).ndim == 3 else p / 255.0) for name in PHOTOS]
    at = [int(LEFT * photo.shape[1]) for photo in grey]
    return [p[:, :x].float() for p, x in zip(grey, at, strict=True)], [
        p[:, x:].float() for p, x in zip(grey, at, strict=True)
    ]


def pieces(photos: list[Tensor], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` pieces and the photographs that they are of, drawn by `seed`."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(photos), (count,), generator=draw)
    cut = []
    for label, place in zip(labels.tolist(), torch.rand(count, 2, generator=draw), strict=True):
        top, left = (place * (torch.tensor(photos[label].shape) - SIDE)).int().tolist()
        cut.append(photos[label][top : top + SIDE, left : left + SIDE])
    found = torch.stack(cut)[:, None]
    found = (found - found.mean((2, 3), keepdim=True)) / (found.std((2, 3), keepdim=True) + 1e-2)
    return found + NOISE * torch.randn(found.shape, generator=draw), labels


def task(*, seed: int, batch: int, evaluated: int) -> al.Task:
    """Batches of `batch` pieces; quality: accuracy and cross-entropy of `evaluated` held-out pieces."""
    left, right = parts()
    return classification.task(
        lambda step: pieces(left, batch, 1_000_003 * (seed + 1) + step), pieces(right, evaluated, 0)
    )
