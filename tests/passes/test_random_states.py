"""Passes that make nothing new leave every global generator as it was: what is drawn after them does not change."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import archlab as al


class Net(nn.Module):
    """Something for every pass: padded and plain chains, a block, two equal branches, an upsampling, dropout."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 2, 3, padding=1),
            nn.BatchNorm2d(2),
            nn.ReLU(),
            nn.Conv2d(2, 4, 1),
        )
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Dropout(0.1))
        self.one, self.other = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 3, padding=1))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(x)
        return self.up(self.one(x) * self.other(x) + 0.1 * torch.rand(1))


X = torch.ones(1, 3, 8, 8)
PASSES = {
    "sites": lambda net: al.sites(net, X),
    "cost": lambda net: al.cost(net, X),
    "speed": lambda net: al.speed(net, X, seconds=0.01),
    "switch": lambda net: al.switch(net, X, kinds="branch"),
    "remove": lambda net: al.remove(net, X, kinds="branch"),
    "fold": lambda net: al.fold(net.eval(), X),
    "fold by latency": lambda net: al.fold(net.eval(), X, cost=lambda layer, shape: 1.0),
    "hoist_padding": lambda net: al.hoist_padding(net.eval(), X),
    "fold_upsampling": lambda net: al.fold_upsampling(net.eval(), X),
    "share": lambda net: al.share(net.eval(), X, keep="one", drop="other"),
    "supernet": lambda net: al.supernet(net, X, choices={"block": al.optional()}),
}


def states():
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


@pytest.mark.parametrize("name", PASSES)
def test_nothing_is_drawn_from_the_callers_generators(name):
    net, before = Net(), states()
    PASSES[name](net)
    assert states() == before
