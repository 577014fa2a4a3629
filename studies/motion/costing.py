"""What a magnification network costs, by the paper's rule: one streamed frame of 384 x 384, one encoder pass."""

from typing import Any

import torch

import archlab as al

STREAMED = 384  # pixels a side


def costs(net: Any) -> dict[str, float]:
    """Parameters in thousands, and the paper's FLOPs of one streamed frame at 384 x 384 (one encoder pass), in G."""
    cost = al.cost(net, streamed(net), convention="paper")
    return {"params_k": cost.params / 1e3, "flops_g": cost.macs / 1e9}


def streamed(net: Any, height: int = STREAMED, width: int = STREAMED, device: torch.device | str = "cpu") -> al.Call:
    """One step of a video as an example: a frame, and the shape of the one before."""
    frame = torch.zeros(1, 3, height, width, device=device)
    shape = torch.zeros(1, net.config.width, height // 2, width // 2, device=device)
    return al.Call(lambda net, frame, shape, factor: net.stream(frame, shape, factor)[0], frame, shape, 10.0)
