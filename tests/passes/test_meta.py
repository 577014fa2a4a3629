"""Passes on the meta device: what a large network would be, without its weights. Steps say that nothing is compared."""

import pytest
import torch
from torch import nn

import archlab as al
from archlab.training import fit


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))

    def forward(self, x):
        return x + self.f(x)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(Block(), Block()), nn.Conv2d(8, 3, 1)).eval()


PASSES = {
    "switch": lambda net, x: al.switch(net, x, kinds="skip"),
    "branches": lambda net, x: al.remove(net, x, kinds="branch", where="1.0*"),
    "activations": lambda net, x: al.remove(net, x, kinds="activation"),
    "fold": al.fold,
    "wider": lambda net, x: al.scale_width(net, x, ratio=2.0, init="preserve"),
    "deeper": lambda net, x: al.scale_depth(net, x, span="1", count=5, init="preserve"),
}


@pytest.mark.parametrize("name", PASSES)
def test_the_network_costs_what_the_real_one_does_and_the_step_says_what_was_not_compared(name):
    x = torch.zeros(1, 3, 8, 8)
    real, planned = (PASSES[name](network().to(device), x.to(device)) for device in ("cpu", "meta"))
    assert {p.device.type for p in planned.parameters()} == {"meta"}
    assert al.cost(planned, x.to("meta")).macs == al.cost(real, x).macs
    assert {n: p.shape for n, p in planned.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    assert "not compared" in al.recipe(planned).steps[-1].checked
    assert "not compared" not in al.recipe(real).steps[-1].checked


@pytest.mark.parametrize("folder", [None, "kept"])
def test_what_has_no_values_is_neither_trained_nor_scored(folder, tmp_path):
    x = torch.zeros(1, 3, 8, 8, device="meta")
    task = al.Task(x, lambda step: x, lambda net, batch: net(batch).mean(), lambda net: {"quality": 1.0})
    where = {"progress": False, "folder": folder and tmp_path / folder}
    for call in (
        lambda net: fit(net, task, steps=1, **where),
        lambda net: al.scores(net, task, **where),
        lambda net: al.remove_greedily(net, task, kinds="block", budget={"sites": 0.5}, **where),
    ):
        with pytest.raises(ValueError, match="the model lies on the meta device"):
            call(network().to("meta"))
