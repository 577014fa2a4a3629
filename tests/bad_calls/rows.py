"""What the tables of bad calls are made of: a row, and what the calls share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

import archlab as al


@dataclass(frozen=True)
class Bad:
    """One call, and the words that its error must hold; without words it is rightly accepted."""

    name: str  # the public function, then what is wrong
    call: Callable[[], Any]
    words: tuple[str, ...]


def bad(name: str, call: Callable[[], Any], *words: str) -> Bad:
    """A call that must be refused in words."""
    assert words, f"{name}: the message must name the offender"
    return Bad(name, call, words)


def good(name: str, call: Callable[[], Any]) -> Bad:
    """A call that looks odd and is accepted."""
    return Bad(name, call, ())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.act, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.act(self.conv1(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(Residual(), Residual())
        self.tail = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        return self.tail(self.blocks(self.head(x)))


torch.manual_seed(0)
NET, X = Net().eval(), torch.rand(1, 3, 8, 8)
NAN, INF = float("nan"), float("inf")


@lru_cache
def switched() -> nn.Module:
    return al.switch(NET, X, kinds="activation")


def soft(*omegas: float) -> nn.Module:
    """A network with switches, at these values whatever they are."""
    import copy

    net = copy.deepcopy(switched())
    for parameter, value in zip(al.omega_parameters(net), omegas, strict=False):
        parameter.data.fill_(value)
    return net


def task(**options: Any) -> al.Task:
    """A task that is right but for what is said."""
    right: dict[str, Any] = {
        "example": X,
        "batches": lambda step: X,
        "loss": lambda net, x: net(x).square().mean(),
        "quality": lambda net: {"q": 1.0},
    }
    return al.Task(**right | options)
