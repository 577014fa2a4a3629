"""Modules that let time pass on a clock that stands still otherwise, so that what is measured is known; and one that
writes down what it is run under."""

import torch
from torch import nn

from archlab.measure import environment

X = torch.zeros(2, 3)


class Hands:
    """A clock's hands: `now` in seconds, and who let time pass, in order."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def move(self, ms: float, name: str = "") -> None:
        self.now += ms / 1e3
        self.calls.append(name)


HANDS = Hands()


class Takes(nn.Module):
    """Takes the milliseconds `ms`, or in each call the next of them and the last for ever. The identity."""

    def __init__(self, *ms: float, name: str = ""):
        super().__init__()
        self.ms, self.name = list(ms), name

    def forward(self, x):
        HANDS.move(self.ms.pop(0) if len(self.ms) > 1 else self.ms[0], self.name)
        return x


SEEN: list[dict] = []


class Sees(nn.Module):
    """Writes down what it is run under. Its weight is 4-dimensional."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("ids", torch.arange(3))
        self.register_buffer("turns", torch.ones(3, dtype=torch.complex64))

    def forward(self, x, ids=None):
        SEEN.append(
            {
                "inference": torch.is_inference_mode_enabled(),
                "autocast": torch.is_autocast_enabled(x.device.type),
                "training": self.training,
                "benchmark": torch.backends.cudnn.benchmark,
                "float32": environment.float32_precision(torch.device("cuda")),
                "weight": self.conv.weight.dtype,
                "x": x.dtype,
                "ids": (self.ids.dtype, None if ids is None else ids.dtype),
                "turns": self.turns.dtype,
                "last": [t.is_contiguous(memory_format=torch.channels_last) for t in (x, self.conv.weight)],
                "own": vars(self.conv).get("forward"),
                "plain": not (x.is_inference() or self.conv.weight.is_inference()),
            }
        )
        return self.conv(x)


IMAGE = torch.randn(1, 3, 8, 8)
