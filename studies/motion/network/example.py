"""Examples of a magnification network, for the passes and the measures: a pair of frames; one frame of a stream."""

from typing import Any

import torch
from torch import nn

import archlab as al

SIDE = 96  # pixels of the example that the passes run: what they decide does not depend on it
STREAMED = 384  # pixels a side of the streamed frame that costs are counted on, as in the paper


def example_for(net: nn.Module, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Noise for two frames, and a factor."""
    like = next(net.parameters())
    frames = torch.rand(2, 1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(like) * 2 - 1
    return frames[0], frames[1], 10.0


def streamed(net: Any, height: int = STREAMED, width: int = STREAMED, device: torch.device | str = "cpu") -> al.Call:
    """One step of a video: a frame, and the shape of the one before; one encoder pass."""
    frame = torch.zeros(1, 3, height, width, device=device)
    shape = torch.zeros(1, net.config.width, height // 2, width // 2, device=device)
    return al.Call(lambda net, frame, shape, factor: net.stream(frame, shape, factor)[0], frame, shape, 10.0)
