"""Odd but real Python: views, gradients, parameters and parts of which torch does not know."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import archlab as al
from archlab.rewrite.rewrite import CannotRewrite
from tests.rewrite.traps import assert_near, both, switched


class OnAView(nn.Module):
    """An activation in place on a view; the tensor it is a view of is read afterwards."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        hidden = self.a(x)
        F.relu(hidden.view(-1), inplace=True)
        return self.b(hidden)


class BehindAView(OnAView):
    """The other way round: what is changed in place has a view, which is read afterwards."""

    def forward(self, x):
        hidden = self.a(x)
        flat = hidden.view(-1)
        F.relu_(hidden)
        return self.b(flat.view(2, 4))


@pytest.mark.parametrize("build", [OnAView, BehindAView])
def test_a_change_in_place_is_seen_through_views(build):
    net, x = build(), torch.randn(2, 4)
    assert [site.how for site in al.sites(net, x)] == ["local"]
    assert torch.equal(switched(net, x, omega=0.0)(x), net(x))
    half = switched(net, x, omega=0.5)
    wanted = net.a(x)
    assert_near(half(x), net.b(0.5 * wanted + 0.5 * wanted.relu()))
    for made in both(net, x):
        assert_near(made(x), net.b(net.a(x)))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def branch(self, x):
        return F.silu(self.a(x)) + x

    def forward(self, x):
        return torch.tanh(self.b(checkpoint(self.branch, x, use_reentrant=False)))


def test_what_is_run_again_on_the_way_back_is_not_intercepted():
    net, x = Checkpointed(), torch.randn(2, 4)
    hows = {site.op: (site.how, site.reason) for site in al.sites(net, x, kinds="activation")}
    assert hows["silu"][0] == "refused" and "checkpointed" in hows["silu"][1]
    thin = al.remove(net, x, kinds="activation", where="activation.1")
    thin(x).sum().backward()
    net.b(net.branch(x)).sum().backward()
    assert_near(thin.a.weight.grad, net.a.weight.grad)
    with pytest.raises(CannotRewrite, match=r"activation\.0 .*checkpointed"):
        al.remove(net, x, kinds="activation")


class OtherParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        double = {name: 2 * p for name, p in self.inner.named_parameters()}
        return torch.relu(torch.func.functional_call(self.inner, double, (x,)))


def test_a_module_called_with_other_parameters():
    net, x = OtherParameters(), torch.randn(2, 4)
    assert torch.equal(al.switch(net, x, kinds="activation")(x), net(x))
    for made in both(net, x):
        assert_near(made(x), 2 * net.inner(x))


class Force(nn.Module):
    """The gradient of an energy, as models of molecules compute it."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 1))

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return torch.relu(-slope)


def test_a_model_that_asks_for_a_gradient():
    net, x = Force(), torch.randn(2, 4)
    assert {site.op for site in al.sites(net, x, kinds="activation")} == {"softplus", "relu"}
    constant = -(net.energy[2].weight @ net.energy[0].weight).expand(2, 4)
    for made in both(net, x):
        assert_near(made(x), constant)


class Unregistered(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.parts = nn.Linear(4, 4), [nn.Linear(4, 4), nn.ReLU()]

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return torch.tanh(self.a(x))


def test_modules_in_a_plain_list(tmp_path):
    net, x = Unregistered(), torch.randn(2, 4)
    found = al.sites(net, x)
    assert [site.op for site in found] == ["tanh"] and found[0].how != "refused"
    assert "no registered part of the model" in found.skipped[0].reason
    thin = al.remove(net, x, kinds="activation")
    assert_near(thin(x), net.a(net.parts[1](net.parts[0](x))))
    with pytest.raises(TypeError, match=r"keeps a Linear in 'parts', a plain list.*ModuleList"):
        al.save(thin, tmp_path / "thin")


class Writing(nn.Module):
    def forward(self, x):
        made = torch.empty_like(x)
        torch.tanh(x, out=made)
        return torch.relu(x) + made


def test_an_op_that_writes_elsewhere_is_no_site():
    found = al.sites(Writing(), torch.randn(2, 4))
    assert [site.op for site in found if site.kind == "activation"] == ["relu"]
    assert any("out=" in skipped.reason for skipped in found.skipped)


class Tolerant(nn.Module):
    """Goes on without a number that it could not get; a trace cannot give it one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = F.relu(self.a(x))
        try:
            scale = 2 + abs(x.sum().item())
        except Exception:
            scale = 1.0
        return self.b(x) * scale


def test_what_a_trace_refuses_and_the_model_catches_is_refused():
    net, x = Tolerant(), torch.randn(2, 4)
    soft = switched(net, x, omega=0.0)
    hidden = net.a(x)
    assert_near(soft(x), net(x))
    for made in both(net, x):
        assert_near(made(x), net.b(hidden) * (2 + abs(hidden.sum())))
