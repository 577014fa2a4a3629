"""Traps of the things around a forward: attributes it sets, lists it fills, modes it asks for, tensors it shares."""

import copy
import functools
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al
from tests.contracts.zoo import conv, image
from tests.rewrite.traps import assert_near, both

from ..contracts.zoo import Residual


def how(model):
    return set(al.recipe(model).steps[-1].how.values())


class Average(nn.Module):
    """Keeps a running mean of its own, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.a, self.calls = conv(), 0
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        y = self.a(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.mean().detach()
        self.calls += 1
        return F.relu(y - self.mean)


def test_what_a_forward_sets_on_its_module_is_set_at_every_call():
    net, x = Average().train(), image()
    for made in both(net, x):
        made.train()
        before = made.calls
        for _ in range(3):
            made(x)
        assert made.calls == before + 3 and made.mean.item() != net.mean.item()
    assert not isinstance(net.mean, torch.fx.Proxy) and net.calls == 0


class Turns(nn.Module):
    """What it does depends on an attribute of its class, on one of a child, on the gradient mode, on chance."""

    turns = 2

    def __init__(self, chance=False):
        super().__init__()
        self.a, self.drop, self.chance = conv(), nn.Dropout(0.5), chance

    def forward(self, x):
        for _ in range(self.turns):
            x = F.relu(self.a(x))
        if self.drop.training:
            x = x + 10 * self.drop.p
        if torch.is_grad_enabled():
            x = x + 100
        if self.chance and random.random() < 0.5:
            x = x + 1000
        return x


def test_what_decides_elsewhere_is_no_constant():
    net, x = Turns().eval(), image()
    soft = al.switch(net, x, kinds="activation")
    assert how(soft) == {"local"}
    for turns in (2, 3):
        soft.turns = net.turns = turns
        for training in (False, True):
            soft.train(training), net.train(training)
            assert torch.equal(soft(x), net(x))
            with torch.no_grad():
                assert torch.equal(soft(x), net(x))
    soft.drop.p = net.drop.p = 0.25
    assert torch.equal(soft(x), net(x))


def test_a_library_whose_folder_begins_like_torchs_is_a_models_code():
    scope = {}
    code = "def forward(self, x):\n    y = torch.relu(self.a(x))\n    return y + 1 if torch.is_grad_enabled() else y"
    exec(compile(code, torch.__path__[0] + "vision/models/fake.py", "exec"), {"torch": torch}, scope)
    net, x = type("Fake", (Turns,), scope)(), image()
    soft = al.switch(net, x, kinds="activation")
    with torch.no_grad():
        assert torch.equal(soft(x), net(x))
    assert torch.equal(soft(x), net(x))


def test_chance_outside_torch_is_drawn_at_every_call():
    net, x = Turns(chance=True).eval(), image()
    random.seed(1)
    soft = al.switch(net, x, kinds="activation")
    assert how(soft) == {"intercepted"}
    random.seed(2)
    made = [soft(x).mean().item() > 500 for _ in range(16)]
    random.seed(2)
    assert made == [net(x).mean().item() > 500 for _ in range(16)] and len(set(made)) == 2


class Skips(nn.Module):
    """A U-Net that hands its skips on in a list, which the encoders fill."""

    class Encode(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv()

        def forward(self, x, skips):
            x = F.relu(self.a(x))
            skips.append(x)
            return x

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(self.Encode() for _ in range(2))
        self.up = nn.ModuleList(conv() for _ in range(2))

    def forward(self, x):
        skips = []
        for encode in self.down:
            x = encode(x, skips)
        for decode in self.up:
            x = decode(x) + skips.pop()
        return x


def test_a_list_that_is_filled_for_the_caller_is_filled():
    net, x = Skips(), image()
    first = net.down[0].a(x)
    second = net.down[1].a(first)
    for made in both(net, x, kinds="activation"):
        assert_near(made(x), net.up[1](net.up[0](second) + second) + first)


class Tree(nn.Module):
    """Modules of one class inside each other, none of which can be traced."""

    def __init__(self, inner=None):
        super().__init__()
        self.a, self.inner = conv(), inner

    def forward(self, x):
        assert x.sum() != 0
        if self.inner is not None:
            x = self.inner(x)
        return F.relu(self.a(x))


def test_a_module_of_the_same_class_inside_keeps_its_own_sites():
    net, x = Tree(Tree()), image()
    inner = net.inner
    for made in both(net, x, where="activation.0"):
        assert how(made) & {"intercepted", "bypassed"}
        assert_near(made(x), net.a(F.relu(inner.a(x))))
    for made in both(net, x):
        assert_near(made(x), net.a(inner.a(x)))


class InPlaceAdd(nn.Module):
    """A residual add in place, beside an activation."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x):
        out = self.b(F.relu(self.a(x)))
        out += x
        return F.relu(out)


def test_an_add_in_place_is_found_again_in_a_thin_model():
    net, x = InPlaceAdd(), image()
    thin = al.remove(net, x, kinds="activation")
    assert [site.id for site in al.sites(thin, x, kinds="skip")] == ["skip.0"]
    assert_near(al.remove(thin, x, kinds="skip")(x), net.b(net.a(x)))


class Repeats(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = conv()

    def forward(self, x, count):
        for _ in range(count):
            x = x + self.step(x)
        return x


def test_a_module_of_a_removed_branch_cannot_be_called_any_more():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = conv()

        def forward(self, x, again=False):
            y = x + self.step(x)
            return self.step(y) if again else y

    net, x = Net(), image()
    thin = al.remove(net, x, kinds="branch")
    assert_near(thin(x), x)
    assert not list(thin.parameters())
    with pytest.raises(RuntimeError, match="reaches step, which was removed"):
        thin(x, True)


class ViewChanged(nn.Module):
    """Changes the result of its activation through a view."""

    def __init__(self):
        super().__init__()
        self.a = conv()

    def forward(self, x):
        z = F.relu(x)
        z[:, :2].mul_(0.5)
        w = F.relu(x.flatten(2))
        w *= 2
        return self.a(z) + w.reshape(x.shape)


def test_what_is_changed_through_a_view_is_not_the_callers():
    net, x = ViewChanged(), image()
    kept = x.clone()
    for made in both(net, x):
        z = x.clone()
        z[:, :2] *= 0.5
        assert_near(made(x), net.a(z) + 2 * x)
        assert torch.equal(x, kept)


class Normalises(nn.Module):
    """Changes its input, as some preprocessing does."""

    def __init__(self):
        super().__init__()
        self.a = conv()

    def forward(self, x):
        x -= x.mean()
        x /= 2
        return F.relu(self.a(x))


def test_the_example_is_not_changed():
    net, x = Normalises(), image() + 3
    kept = x.clone()
    al.sites(net, x)
    for made in both(net, x):
        assert torch.equal(x, kept)
        assert_near(made(x.clone()), net.a((x - x.mean()) / 2))


def test_a_switched_model_that_was_moved_is_discarded_where_it_is():
    net, x = Residual(), image()
    soft = al.switch(net, x, kinds=("activation", "skip")).double()
    al.set_omegas_(soft, 1.0)
    thin = al.discard(soft)
    assert_near(thin(x.double()), soft(x.double()))
    assert next(thin.parameters()).dtype is torch.float64


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = conv()

    def forward(self, pair):
        x, weight = pair
        return x + self.a(x) * weight


class GivesPair(nn.Module):
    def forward(self, x):
        return x, x.mean()


def test_a_block_that_is_given_a_tuple_is_left():
    net, x = nn.Sequential(GivesPair(), Pair()), image()
    sites = al.sites(net, x)
    assert not [site for site in sites if site.kind == "block"]
    assert any("part of a tuple" in left.reason for left in sites.skipped)


class Sometimes(nn.Module):
    """Cannot be traced when it is asked to double; its activation may be that of another module as well."""

    def __init__(self, act):
        super().__init__()
        self.a, self.act = conv(), act

    def forward(self, x, double=False):
        if x.dim() == 4 and x.shape[3] > 1000:
            return x
        x = self.a(x)
        if double and x.sum() != 0:
            x = x * 2
        return self.act(x)


def test_a_child_with_a_forward_of_its_own_is_refused():
    net, x = Sometimes(nn.ReLU()), image()
    net.act.forward = F.relu
    with pytest.raises(ValueError, match="this ReLU has a 'forward' of its own, set on the instance"):
        al.remove(net, (x, True), kinds="activation")


class Partial(nn.Module):
    """Chooses the method that a call runs when it is made, as timm's FasterNet does; its class has no forward."""

    def __init__(self, way: str):
        super().__init__()
        self.inner, self.scale = conv(), nn.Parameter(torch.tensor(0.5))
        self.forward = getattr(self, way)

    def traced(self, x):
        return x + self.scale * torch.tanh(self.inner(x))

    def untraced(self, x):
        return x + self.scale * torch.tanh(self.inner(x)) if x.sum() != 0 else x

    def without(self, kind, x):
        inner = self.inner(x)
        return x + self.scale * inner if kind == "activation" else self.scale * torch.tanh(inner)


@pytest.mark.parametrize("way", ["traced", "untraced"])
@pytest.mark.parametrize("kind", ["activation", "skip"])
def test_a_method_of_its_own_class_that_a_module_calls_is_followed(way, kind):
    net, x = nn.Sequential(Partial(way), Partial(way)), image()
    soft = al.switch(net, x, kinds=kind)
    for made in (net, soft):
        made(x).square().sum().backward()
    assert torch.equal(soft(x), net(x))
    assert all(torch.equal(p.grad, soft.get_parameter(name).grad) for name, p in net.named_parameters())
    wanted = net[1].without(kind, net[0].without(kind, x))
    for made in both(net, x, kind):
        assert_near(made(x), wanted)
        twin = copy.deepcopy(made)
        assert_near(twin(x), wanted)
        twin[0].scale.data.zero_()
        assert_near(made(x), wanted)
        assert all(part.forward.__self__ is part for model in (net, made, twin) for part in model)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))


def test_a_child_that_calls_a_method_of_its_own_class_is_bypassed():
    class Calling(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Partial("traced")

        def forward(self, x):
            return self.part(x) if x.sum() != 0 else self.part(-x)

    net, x = Calling(), image()
    for made in both(net, x, "block"):
        assert torch.equal(made(x), x)


def test_what_else_stands_for_a_forward_is_refused():
    x, other = image(), Partial("traced")
    for forward in (other.traced, other.forward, lambda x: torch.relu(x) + x):
        net = nn.Sequential(Partial("traced"))
        net[0].forward = forward
        with pytest.raises(ValueError, match="this Partial has a 'forward' of its own, set on the instance"):
            al.remove(net, x, kinds="activation")


def test_an_activation_that_two_modules_share_is_met_in_both():
    act, x = nn.ReLU(), image()
    net = nn.Sequential(Sometimes(act), Sometimes(act))
    for made in both(net, x):
        for i in (0, 1):
            assert_near(made[i](x), net[i].a(x))
            assert_near(made[i](x, double=True), 2 * net[i].a(x))


def test_a_question_that_another_call_cannot_answer():
    net, x = Sometimes(nn.ReLU()), image()
    for made in both(net, x):
        assert_near(made(x[0]), net.a(x[0]))


class ByTurns(nn.Module):
    """One line that calls several functions, of which some hand their input on."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x = self.linear(x)
        for function in (functools.partial(F.dropout, p=0.1, training=self.training), Tensor.float, F.relu, torch.neg):
            x = function(x)
        return x


def test_a_call_that_hands_its_input_on_is_counted_where_a_line_calls_several():
    net, x = ByTurns().eval(), torch.randn(5, 4)
    soft = al.switch(net, x, kinds="activation")
    al.set_omegas_(soft, 1.0)
    for model in (soft, al.remove(net, x, kinds="activation")):
        assert torch.equal(model(x), -net.linear(x))


class AfterDropout(nn.Module):
    """What dropout was given, which in evaluation it gives back, is read again after a sum in place."""

    def __init__(self, as_function):
        super().__init__()
        self.linear, self.drop, self.act, self.as_function = nn.Linear(4, 4), nn.Dropout(0.5), nn.ReLU(), as_function

    def forward(self, x):
        given = self.linear(x)
        made = self.act(F.dropout(given, 0.5, self.training) if self.as_function else self.drop(given))
        made += 1
        return given * made


@pytest.mark.parametrize("as_function", [False, True])
def test_what_goes_behind_dropout_leaves_what_dropout_was_given(as_function):
    net, x = AfterDropout(as_function), torch.randn(5, 4)
    thin = al.remove(net.train(), x, kinds="activation").eval()
    given = net.linear(x)
    torch.testing.assert_close(thin(x), given * (given + 1))
