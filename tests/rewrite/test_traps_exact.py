"""Traps in which a pass said "exact" and was not, or changed what it was to look at; each on a model of its own."""

import random
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
from tests.rewrite.traps import assert_near


class Sign(torch.autograd.Function):
    """A straight-through estimator: the sign forward, the identity backward."""

    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, g):
        return g


class Reverse(torch.autograd.Function):
    """A gradient-reversal layer: its input itself forward."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, g):
        return -g


class Split(torch.autograd.Function):
    """Two outputs, and a weight among the inputs."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return F.relu(x) * weight, x * 2

    @staticmethod
    def backward(ctx, a, b):
        x, weight = ctx.saved_tensors
        return 3 * a * weight + b, (a * x).sum(0)


class Estimator(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(4, 4)

    def forward(self, x):
        return self.c(Sign.apply(F.hardtanh(x)))


class Adversarial(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.features(x))
        return self.c(x), self.d(torch.tanh(Reverse.apply(x)))


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.weight = nn.Linear(4, 4), nn.Parameter(torch.rand(4))

    def forward(self, x):
        a, b = Split.apply(torch.relu(self.a(x)), self.weight)
        return a + torch.sigmoid(b)


def gradients(net, x):
    net.zero_grad()
    x = x.clone().requires_grad_()
    out = net(x)
    sum(
        (t * torch.arange(t.numel()).reshape(t.shape)).sum() for t in (out if isinstance(out, tuple) else (out,))
    ).backward()
    return [x.grad, *(p.grad for n, p in net.named_parameters() if "omega" not in n)]


@pytest.mark.parametrize("build", [Estimator, Adversarial, Weighted])
def test_a_custom_backward_is_kept(build):
    net, x = nn.Sequential(nn.Linear(4, 4), build()), torch.randn(3, 4)
    assert all(site.grad for site in al.sites(net, x, kinds="activation"))
    soft = al.switch(net, x, kinds="activation")
    for mine, theirs in zip(gradients(soft, x), gradients(net, x), strict=True):
        assert torch.equal(mine, theirs)


def test_the_backward_behind_a_removed_activation_is_the_functions():
    net, x = nn.Sequential(nn.Linear(4, 4), Estimator()), torch.randn(3, 4)
    thin = al.remove(net, x, kinds="activation")
    for mine, theirs in zip(gradients(thin, x), gradients(nn.Sequential(net[0], Signed(net[1].c)), x), strict=True):
        assert_near(mine, theirs)


class Signed(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c

    def forward(self, x):
        return self.c(Sign.apply(x))


def test_what_runs_inside_of_a_custom_function_is_no_site():
    found = al.sites(Weighted(), torch.randn(3, 4), kinds="activation")
    assert [site.op for site in found] == ["relu", "sigmoid"]
    assert "a custom autograd function: what it computes cannot be seen" in set(found.skipped_frame()["reason"])


class Attributes(nn.Module):
    """Ops on attributes of tensors that are traced."""

    def __init__(self):
        super().__init__()
        self.a, self.h = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        g = self.a(x) @ x.T
        y = F.relu(g.T) @ x + torch.tanh(g.mT) @ x
        return self.h(y + (y + y.ndim).real)

    def by_hand(self, x):
        g = self.a(x) @ x.T
        y = 2 * (g.T @ x)
        return self.h(y + y + y.ndim)


def test_an_edit_behind_an_attribute_of_a_tensor():
    net, x = Attributes(), torch.randn(3, 4)
    thin = al.remove(net, x, kinds="activation")
    assert_near(thin(x), net.by_hand(x))
    assert {site.how for site in al.sites(net, x)} == {"local"}


class Clamps(nn.Module):
    """Keeps its weights small in its forward, as some spiking and non-negative networks do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            self.a.weight.clamp_(-0.01, 0.01)
        return self.b(torch.relu(self.a(x)))


PUBLIC = {
    "sites": lambda net, x: al.sites(net, x),
    "cost": lambda net, x: al.cost(net, x),
    "switch": lambda net, x: al.switch(net, x, kinds="activation"),
    "remove": lambda net, x: al.remove(net, x, kinds="activation"),
    "fold": lambda net, x: al.fold(net, x, cost=lambda layer, shape: 1.0),
    "speed": lambda net, x: al.speed(net, x, seconds=0.01),
    "replace": lambda net, x: al.replace(net, "1", nn.Identity),
}


@pytest.mark.parametrize("call", PUBLIC)
@pytest.mark.parametrize(
    ("build", "example"),
    [
        (lambda: nn.Sequential(nn.Embedding(10, 4, max_norm=1.0), nn.Linear(4, 4), nn.ReLU()), torch.arange(10)[None]),
        (lambda: nn.Sequential(nn.Linear(4, 4), Clamps()), torch.randn(3, 4)),
    ],
    ids=["embedding", "clamps"],
)
def test_looking_changes_no_weight(call, build, example):
    net = build().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    try:
        PUBLIC[call](net, example)
    except ValueError as error:
        assert call == "fold" and "nothing to fold" in str(error)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


class Chance(nn.Module):
    """Draws from every generator there is, one of its own among them, under a lock of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.own, self.lock = nn.Linear(4, 4), torch.Generator().manual_seed(5), threading.Lock()

    def forward(self, x):
        with self.lock:
            own = torch.rand((), generator=self.own)
        return torch.relu(self.a(x)) + own + random.random() + np.random.rand() + torch.rand(())


@pytest.mark.parametrize("call", [name for name in PUBLIC if name not in ("fold", "replace")])
def test_generators_are_as_before(call):
    net, x = Chance(), torch.randn(3, 4)

    def states():
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), net.own.get_state()]

    before = states()
    PUBLIC[call](net, x)
    for mine, theirs in zip(states(), before, strict=True):
        assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs


@dataclass
class Encoded:
    h: torch.Tensor


@dataclass
class Answer:
    encoded: Encoded
    y: torch.Tensor


class Nested(nn.Module):
    """Returns what lies between two layers inside an object inside an object."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        h = self.a(x)
        return Answer(Encoded(h), self.c(torch.relu(self.b(h))))


class Keeps(Nested):
    """Keeps it on itself, for whoever looks later."""

    def forward(self, x):
        self.features = [self.a(x)]
        return self.c(torch.relu(self.b(self.features[0])))


@pytest.mark.parametrize("build", [Nested, Keeps])
def test_what_is_returned_or_kept_inside_is_not_merged_away(build):
    with pytest.raises(ValueError, match="nothing to fold"):
        al.fold(build().eval(), torch.randn(1, 3, 6, 6))


def test_a_module_under_two_names_goes_under_both():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            self.features = nn.Sequential(self.stem, self.block)

        def forward(self, x):
            x = self.stem(x)
            return x + self.block(x)

    net, x = Net(), torch.randn(2, 4)
    thin = al.remove(net, x, kinds="branch")
    assert sum(p.numel() for p in thin.parameters()) == 20
    assert thin.features[1] is thin.block


class Lambdas(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.ops = {"a": lambda x: torch.relu(self.a(x))}

    def forward(self, x):
        return self.ops["a"](x)


class Hooked(nn.Module):
    """A hook that writes into a dict of the model, which a copy would not read."""

    def __init__(self):
        super().__init__()
        self.a, self.seen = nn.Linear(4, 4), {}
        seen = self.seen
        self.a.register_forward_hook(lambda module, args, output: seen.__setitem__("a", output))

    def forward(self, x):
        self.a(x)
        return torch.relu(self.seen["a"])


@pytest.mark.parametrize(
    ("build", "told"), [(Lambdas, "'ops'.*'self', the model itself"), (Hooked, "a .*'seen', seen")]
)
def test_functions_that_hold_the_original_are_refused(build, told):
    for call in (PUBLIC["sites"], PUBLIC["remove"], PUBLIC["cost"]):
        with pytest.raises(TypeError, match=told):
            call(build(), torch.randn(2, 4))


class Causal(nn.Module):
    """What is masked has no finite score."""

    def forward(self, x):
        scores = (x @ x.transpose(-2, -1)).masked_fill(torch.ones(3, 3).triu(1).bool(), float("-inf"))
        return torch.softmax(scores, -1) @ x


@pytest.mark.parametrize("call", [al.switch, al.remove])
def test_what_infinities_would_stand_for_is_refused(call):
    with pytest.raises(ValueError, match=r"gate\.0 the model gives infinities or NaN, which the original does not"):
        call(Causal(), torch.randn(2, 3, 4), kinds="gate")
