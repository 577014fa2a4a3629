"""Code that asks a module for its class: a rewritten module has one of its own, which equals the one that it had."""

import abc
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
from archlab.rewrite.rewrite import CannotRewrite
from tests.rewrite.traps import assert_near, both


class Conditioned(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.code = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, code):
        return x + F.silu(self.inner(x) + self.code(code))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + F.gelu(self.inner(x))


class Mixed(nn.Module):
    """Calls its layers by a rule that asks for their class."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Conditioned(), Plain()])

    def forward(self, x):
        code = x
        for layer in self.layers:
            x = layer(x, code) if self.takes_code(layer) else layer(x)
        return x


class Equal(Mixed):
    def takes_code(self, layer):
        return type(layer) == Conditioned  # noqa: E721


class Among(Mixed):
    def takes_code(self, layer):
        return layer.__class__ in (Conditioned, nn.Bilinear)


TAKES_CODE = {Conditioned: True, Plain: False}


class Keyed(Mixed):
    def takes_code(self, layer):
        return TAKES_CODE[type(layer)]


class Named(Mixed):
    def takes_code(self, layer):
        return type(layer).__name__ == "Conditioned"


class Same(Mixed):
    def takes_code(self, layer):
        return type(layer) is Conditioned


def _is_conditioned(layer):
    return layer.__class__ is Conditioned


class SameInAFunction(Mixed):
    def takes_code(self, layer):
        return _is_conditioned(layer)


class Doubling(nn.Module):
    """Where the question is answered otherwise, nothing fails: another number comes out."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Plain(), nn.Linear(4, 4)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            if type(layer) is Plain:
                x = x * 2
        return x


@pytest.mark.parametrize("build", [Equal, Among, Keyed, Named])
def test_the_class_that_a_module_had_is_still_found(build):
    net, x = build(), torch.randn(2, 4)
    assert {site.how for site in al.sites(net, x, kinds="activation")} == {"local"}
    wanted = copy.deepcopy(net)
    first, second = wanted.layers
    by_hand = x + first.inner(x) + first.code(x)
    by_hand = by_hand + second.inner(by_hand)
    for made in both(net, x):
        assert_near(made(x), by_hand)


@pytest.mark.parametrize("build", [Same, SameInAFunction, Doubling])
@pytest.mark.parametrize("call", [al.switch, al.remove])
def test_the_very_class_is_asked_for(build, call):
    with pytest.raises(CannotRewrite, match=r"compares classes with `is`.*isinstance"):
        call(build(), torch.randn(2, 4), kinds="activation")


def test_a_class_with_a_metaclass_of_its_own():
    class Registered(abc.ABCMeta):
        pass

    class Net(nn.Module, metaclass=Registered):
        def forward(self, x):
            return torch.relu(x) if type(self) == Net else x  # noqa: E721

    made = al.switch(Net(), torch.randn(2, 4), kinds="activation")
    assert isinstance(type(made), Registered) and isinstance(made, Net)
    assert made(torch.tensor([-1.0, 1.0])).tolist() == [0.0, 1.0]


def test_a_failure_of_the_rewritten_model_names_the_sites_and_the_module():
    class Strict(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            assert bool((y >= 0).all()), "negative"
            return y

    with pytest.raises(CannotRewrite, match=r"0/activation\.0 .*0 \(Strict\): AssertionError: negative.*`where`"):
        al.remove(nn.Sequential(Strict()), torch.randn(2, 4), kinds="activation")
