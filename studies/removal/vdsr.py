"""VDSR (Kim et al. 2016), for weights that others trained.

It sees the luminance of a picture that bicubic interpolation has brought to its size, and adds what is missing.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

WEIGHTS = Path("weights") / "sr" / "vdsr_sd.pth"


class Conv(nn.Module):
    """A 3x3 convolution and its ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))


class VDSR(nn.Module):
    """Luminance, B x 1 x H x W -> the same, sharper. Parameters are named as in the public weights."""

    def __init__(self, width: int = 64, layers: int = 18):
        super().__init__()
        self.input = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.residual_layer = nn.Sequential(*(Conv(width) for _ in range(layers)))
        self.output = nn.Conv2d(width, 1, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.output(self.residual_layer(self.relu(self.input(x))))


def load_vdsr(path: Path) -> VDSR:
    """The network whose state dict `path` holds; its size is read from the weights."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    net = VDSR(len(state["input.weight"]), sum(name.startswith("residual_layer.") for name in state))
    net.load_state_dict(state)
    return net.eval()
