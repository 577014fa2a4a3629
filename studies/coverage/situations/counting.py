"""What is counted."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al

from .judge import Calls


def scripted_parts() -> str:
    """07. Multiply-adds inside torch.jit.script."""
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid()))
    net = nn.Sequential(nn.Conv2d(3, 8, 1), scripted, nn.Conv2d(8, 2, 1))
    return _counted(net, torch.randn(1, 3, 6, 6), 36 * (24 + 576 + 16))


def _counted(net: nn.Module, x: Any, by_hand: int) -> str:
    macs = al.cost(net, x).macs
    assert macs == by_hand, f"{macs} multiply-adds, by hand {by_hand}"
    return f"{macs} multiply-adds, as by hand"


def recurrent_kernels() -> str:
    """08. An LSTM counts in sites and steps as in cost."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.h(F.relu(self.r(F.relu(self.i(x)))[0]))

    net = Calls(forward, i=nn.Linear(10, 16), r=nn.LSTM(16, 16, 2, batch_first=True), h=nn.Linear(16, 4)).eval()
    x, by_hand = torch.randn(3, 7, 10), 21 * (160 + 2 * 4 * 512 + 64)
    told = repr(al.sites(net, x)).splitlines()[-1]
    assert f"{by_hand:,}" in told, f"sites says: {told}; by hand {by_hand:,}"
    return _counted(net, x, by_hand)


def matrix_times_vector() -> str:
    """09. Products other than of matrices: vector, bilinear, addbmm."""

    def forward(self: Any, x: Tensor) -> Any:
        return x @ self.w, self.b(x, x), torch.addbmm(torch.zeros(5, 5), x[None], x.T[None])

    net = Calls(forward, w=nn.Parameter(torch.randn(8)), b=nn.Bilinear(8, 8, 3))
    return _counted(net, torch.randn(5, 8), 40 + 5 * 3 * 72 + 200)
