"""EDSR-baseline (Lim et al. 2017), twice as many pixels a side: 16 residual blocks of 64 channels, no normalization.

It sees the small picture, in colour, and grows it at its end. The paper's supplement removes parts of it.
"""

import torch
from torch import Tensor, nn

MEAN = (0.4488, 0.4371, 0.4040)  # of the pictures of DIV2K, red, green and blue, which EDSR takes off


class Block(nn.Module):
    """Two convolutions beside the identity: B x `width` x H x W -> the same."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.relu = nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu(self.conv1(x)))


class EDSR(nn.Module):
    """Colour in [0, 1], B x 3 x H x W -> B x 3 x 2H x 2W."""

    mean: Tensor

    def __init__(self, width: int = 64, blocks: int = 16):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.grow = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x - self.mean)
        x = x + self.last(self.blocks(x))
        return self.tail(self.grow(x)) + self.mean
