"""Loops: a line of code that does the same each turn is one site, at every length; over layers, one a layer."""

import pytest
import torch
from torch import nn

import archlab as al
from tests.rewrite.traps import assert_near, both, switched


class OverTime(nn.Module):
    """A residual recurrence over the steps of its input, after a stem."""

    def __init__(self, untraceable: bool = False):
        super().__init__()
        self.stem, self.f, self.g = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.act, self.untraceable = nn.Tanh(), untraceable

    def forward(self, x):
        x = torch.relu(self.stem(x))
        h = x[:, 0]
        for t in range(1, x.shape[1]):
            h = h + self.f(self.act(self.g(h + x[:, t])))
            if self.untraceable and float(h.detach().abs().sum()) < 0:
                break
        return h

    def thin(self, x):
        """Without activations."""
        x = self.stem(x)
        h = x[:, 0]
        for t in range(1, x.shape[1]):
            h = h + self.f(self.g(h + x[:, t]))
        return h


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("untraceable", [False, True], ids=["traced", "intercepted"])
def test_a_loop_over_time_is_one_site_at_every_length(steps, untraceable):
    net = OverTime(untraceable)
    x = torch.randn(3, steps, 4)
    found = al.sites(net, x, kinds=["activation", "skip"])
    assert [(site.id, site.calls) for site in found] == [
        ("activation.0", 1), ("activation.1", steps - 1), ("skip.0", steps - 1),
    ]  # fmt: skip
    for made in both(net, x):
        for length in (2, 3, 5, 9):
            longer = torch.randn(3, length, 4)
            assert_near(made(longer), net.thin(longer))


def test_all_turns_of_a_skip_go():
    net, x = OverTime(), torch.randn(3, 3, 4)
    thin = al.remove(net, x, kinds="skip")
    longer = torch.randn(3, 7, 4)
    h = torch.relu(net.stem(longer))[:, 0]
    for t in range(1, 7):
        h = net.f(net.act(net.g(h + torch.relu(net.stem(longer))[:, t])))
    assert_near(thin(longer), h)


def test_a_turn_has_the_omega_of_its_line():
    net, x = OverTime(), torch.randn(3, 4, 4)
    soft = switched(net, x, "activation", omega=0.0)
    assert len(al.omegas(soft)) == 2
    al.set_omegas_(soft, {"activation.1": 0.5})
    h = torch.relu(net.stem(x))[:, 0]
    for t in range(1, 4):
        y = net.g(h + torch.relu(net.stem(x))[:, t])
        h = h + net.f(0.5 * y + 0.5 * torch.tanh(y))
    assert_near(soft(x), h)


class OverLayers(nn.Module):
    """A loop over layers, by modules and by parameters."""

    def __init__(self, depth: int = 3):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.weights = nn.ParameterList(torch.randn(4, 4) for _ in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        return x


def test_a_loop_over_layers_has_a_site_a_layer():
    net, x = OverLayers(), torch.randn(2, 4)
    counts = al.sites(net, x).frame()["kind"].value_counts()
    assert counts["activation"] == 6 and counts["skip"] == 3
    thin = al.remove(net, x, kinds="activation", where=["activation.1", "activation.5"])
    y = x
    for number, layer in enumerate(net.layers):
        y = y + (layer(y) if number == 1 else torch.relu(layer(y)))
    for number, weight in enumerate(net.weights):
        y = y @ weight if number == 2 else torch.tanh(y @ weight)
    assert_near(thin(x), y)


class Cell(nn.Module):
    """A layer with code of its own, of several ops."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(4, 4)

    def forward(self, x):
        return 2 * self.f(x) + 1


class OverTwoCells(nn.Module):
    """A loop over two layers: the second turn alone is fed by a layer, once."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList(Cell() for _ in range(2))

    def forward(self, x):
        for cell in self.cells:
            x = torch.relu(cell(x))
        return x


def test_a_loop_over_two_layers_with_code_of_their_own_has_a_site_a_layer():
    net, x = OverTwoCells(), torch.randn(2, 4)
    thin = al.remove(net, x, kinds="activation", where="activation.1")
    assert_near(thin(x), net.cells[1](torch.relu(net.cells[0](x))))


class Alternating(nn.Module):
    """Two cells in turn, in a loop over time: no turn is like the one before."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x, steps: int):
        for t in range(steps):
            x = x + torch.relu(self.cells[t % 2](x))
        return x


def test_turns_that_differ_are_sites_of_their_own():
    net, x = Alternating(), torch.randn(2, 4)
    assert [s.calls for s in al.sites(net, (x, 4), kinds="activation")] == [1, 1, 1, 1]
    with pytest.raises(RuntimeError, match="the example passed 4 times"):
        al.remove(net, (x, 4), kinds="activation")(x, 6)


class Skipping(nn.Module):
    """A loop in which some turns have less to remove: a gate's state begins as zeros, a ReLU is left out at first."""

    def __init__(self):
        super().__init__()
        self.f, self.g = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, steps: int, skip: float = 1.0, branch: float = 1.0, relu=torch.relu):
        h = torch.zeros(x.shape)
        for t in range(steps):
            h = self.f(h) + x if skip == branch else branch * self.f(h) + skip * x
            h = relu(h) if t else h
            if t % 2:
                h = h + self.g(h)
        return h


@pytest.mark.parametrize("kind", ["skip", "branch", "activation"])
def test_a_line_in_some_turns_only_counts_the_turns_that_ran_it_and_goes_at_every_length(kind):
    """In the first turn the state is a constant, so that the first sum is no skip there; it goes as in the others."""
    net, x = Skipping(), torch.randn(2, 4)
    found = al.sites(net, (x, 6), kinds=kind)
    calls, options = {
        "skip": ([6, 3], {"skip": 0.0}), "branch": ([6, 3], {"branch": 0.0}),
        "activation": ([5], {"relu": lambda h: h}),
    }[kind]  # fmt: skip
    assert sorted((site.calls for site in found), reverse=True) == calls
    site = max(found, key=lambda site: site.calls)
    thin = al.remove(net, (x, 6), kinds=kind, where=site.id)
    for steps in (1, 2, 3, 8):
        assert_near(thin(x, steps), net(x, steps, **options))
    before, after = (al.cost(model, (x, 6)) for model in (net, thin))
    assert (site.params, site.macs) == (before.params - after.params, before.macs - after.macs)


def test_a_turn_whose_sum_is_of_another_shape_is_right_or_refused():
    class Broadcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(4, 4)

        def forward(self, x, steps: int):
            h = torch.zeros(())
            for _ in range(steps):
                h = h + torch.tanh(self.f(h + x))
            return h

    net, x = Broadcast(), torch.randn(2, 4)
    inner, outer = (s.id for s in al.sites(net, (x, 3), kinds="skip"))
    y = torch.zeros(())
    for _ in range(5):
        y = torch.tanh(net.f(y + x))
    assert_near(al.remove(net, (x, 3), kinds="skip", where=outer)(x, 5), y)
    with pytest.raises(ValueError, match=f"with {inner} rewritten the model fails in f"):
        al.remove(net, (x, 3), kinds="skip", where=inner)


def test_sensitivity_has_a_row_a_site():
    net, x = OverTime(), torch.randn(3, 6, 4)
    task = al.Task(x, lambda step: x, lambda net, x: net(x).square().mean(), lambda net: {"mean": net(x).mean().item()})
    assert len(al.sensitivity(net, task, kinds="activation", progress=False)) == 2


@pytest.mark.parametrize("first", range(3))
def test_what_is_left_of_a_sequential_of_blocks_is_switched_whichever_went_before(first):
    """The turns of its loop that went count among those that have an edit of their own."""

    class Block(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    torch.manual_seed(0)
    net, x = nn.Sequential(*(Block(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)), nn.Linear(4, 1)), torch.ones(2, 4)
    thin = al.remove(net, x, kinds="block", where=f"block.{first}")
    assert_near(switched(thin, x, kinds="block")(x), net[-1](x))
