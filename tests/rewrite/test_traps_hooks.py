"""Hooks that change what a module gets, gives or hands back: they are the user's, and stay where the op goes."""

import copy

import pytest
import torch
from torch import nn

import archlab as al
from tests.rewrite.traps import assert_near, switched

HOOKS = {
    "output": lambda act: act.register_forward_hook(lambda module, args, output: output * 2),
    "output_with_kwargs": lambda act: act.register_forward_hook(
        lambda module, args, kwargs, output: output * 2, with_kwargs=True
    ),
    "input": lambda act: act.register_forward_pre_hook(lambda module, args: (args[0] + 1,)),
    "input_with_kwargs": lambda act: act.register_forward_pre_hook(
        lambda module, args, kwargs: ((args[0] + 1,), kwargs), with_kwargs=True
    ),
    "gradient": lambda act: act.register_full_backward_hook(lambda module, given, got: (given[0] * 3,)),
    "gradient_before": lambda act: act.register_full_backward_pre_hook(lambda module, got: (got[0] * 3,)),
    "look": lambda act: act.register_forward_hook(lambda module, args, output: None),
}


def results(net: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the gradient of the first layer's weight."""
    out = net(x)
    (gradient,) = torch.autograd.grad(out.sin().sum(), [net[0].weight])
    return out, gradient


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_stays_where_its_activation_goes(name):
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(2, 4)
    HOOKS[name](net[1])
    wanted = copy.deepcopy(net)
    wanted[1].forward = lambda x: x
    for made in (switched(net, x), al.remove(net, x, kinds="activation")):
        for got, right in zip(results(made, x), results(wanted, x), strict=True):
            assert_near(got, right)
    for got, right in zip(results(switched(net, x, omega=0.0), x), results(net, x), strict=True):
        assert torch.equal(got, right)


def test_a_hook_that_only_looks_changes_no_sites_name():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4)
    before = [site.id for site in al.sites(net, x)]
    HOOKS["look"](net[1])
    assert [site.id for site in al.sites(net, x)] == before


def test_what_a_hook_computes_is_no_site():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), torch.randn(2, 4)
    net[0].register_forward_hook(lambda module, args, output: output.relu())
    found = al.sites(net, x)
    assert [site.op for site in found] == ["tanh"]
    assert [(s.op, s.reason) for s in found.skipped] == [("relu", "a hook computes it")]
    assert_near(al.remove(net, x, kinds="activation")(x), net[2](net[0](x)))
