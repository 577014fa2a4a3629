"""What a pass returns has what was set on the parameters of the model, and the hooks of their gradients."""

import pytest
import torch
from torch import nn

import archlab as al

X = torch.ones(2, 4)
PASSES = {
    "remove": lambda net: al.remove(net, X, kinds="activation"),
    "switch": lambda net: al.switch(net, X, kinds="activation"),
    "scale_width": lambda net: al.scale_width(net, X, ratio=0.5),
}


def network():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    net[0].weight.no_weight_decay, net[0].weight.owner = True, net[0]
    return net


@pytest.mark.parametrize("name", ["remove", "switch", "scale_width"])
def test_what_was_set_on_a_parameter_stays(name):
    net = network()
    made = PASSES[name](net)
    assert made[0].weight.no_weight_decay and made[0].weight.owner is made[0]
    assert net[0].weight.owner is net[0]


@pytest.mark.parametrize("name", ["remove", "switch"])
def test_hooks_of_gradients_stay(name):
    net, seen = network(), []
    net[0].weight.register_hook(lambda gradient: torch.zeros_like(gradient))
    net[2].weight.register_post_accumulate_grad_hook(seen.append)
    made = PASSES[name](net)
    seen.clear()
    made(X).sum().backward()
    assert not made[0].weight.grad.any() and made[0].bias.grad.any()
    assert seen == [made[2].weight]


def test_hooks_stand_once_on_what_was_chosen_of_a_supernet():
    convolutions = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.Conv1d(2, 1, 3, padding=1))
    x = torch.ones(1, 1, 5)
    net = al.supernet(convolutions, x, choices={"0": al.kernel(3, 5)})
    for p in net.parameters():
        p.register_hook(lambda gradient: gradient / 2)
    gradients = []
    for model in (net, al.choose(net, {"0": 3})):
        model(x).sum().backward()
        gradients.append([float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None])
    assert gradients[0] == pytest.approx(gradients[1])
