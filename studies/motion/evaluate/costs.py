"""What a magnification network costs, by the paper's rule: one streamed frame of 384 x 384, one encoder pass."""

from typing import Any

import archlab as al

from ..network.example import streamed


def costs(net: Any) -> dict[str, float]:
    """Parameters in thousands, and the paper's FLOPs of one streamed frame at 384 x 384 (one encoder pass), in G."""
    cost = al.cost(net, streamed(net), convention="paper")
    return {"params_k": cost.params / 1e3, "flops_g": cost.macs / 1e9}
