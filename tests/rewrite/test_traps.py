"""Known traps, one test each: what goes wrong in naive surgery, against what is computed here by hand.

Here: ops in place, and one op at several places. What a trace bakes in is in `test_traps_tracing.py`, what becomes of a
rewritten model (copies, files, processes) in `test_traps_after.py`.
"""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al
from tests.contracts.zoo import ZOO, Residual, conv, image
from tests.rewrite.traps import assert_near, both, switched

# --- in-place ops and aliasing ---------------------------------------------------------------------


def test_in_place_relu_is_really_blended():
    """Blending ``relu_(x)`` with x after the fact blends the ReLU with itself."""
    net, x = ZOO["inplace"].build(), image()
    linear = net.e(net.d(net.c(net.b(net.a(x)))))
    for made in both(net, x):
        assert_near(made(x), linear)
    half = switched(net, x, omega=0.5)

    def act(y: Tensor) -> Tensor:
        return 0.5 * y + 0.5 * F.relu(y)

    assert_near(half(x), net.e(act(net.d(act(net.c(act(net.b(act(net.a(x))))))))))


def test_the_overwritten_input_of_an_in_place_relu_is_read_again():
    net, x = ZOO["preactivation"].build(), image()
    y = net.a(x)
    half = switched(net, x, omega=0.5)(x)
    for made in both(net, x):
        assert_near(made(x), y + net.b(y))
    mixed = 0.5 * y + 0.5 * F.relu(y)
    assert_near(half, mixed + net.b(mixed))


def test_an_input_changed_in_place_is_still_changed():
    """fx makes ``v += 1`` a new tensor; the caller then reads the old one."""
    net, x = ZOO["mutates_input"].build(), image()
    v = net.stem(x) + 1
    for made in both(net, x):
        assert_near(made(x), net.tail(v + net.inner.a(v)))


def test_a_block_that_works_in_place_on_its_input():
    class AddsInPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv()

        def forward(self, x):
            x += F.relu(self.a(x))
            return x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block, self.tail = conv(), AddsInPlace(), conv()

        def forward(self, x):
            y = self.stem(x)
            z = self.block(y)
            return self.tail(y * z)

    net, x = Net(), image()
    y = net.stem(x)
    for made in both(net, x, kinds="block"):
        assert_near(made(x), net.tail(y * y))
    half = y + 0.5 * F.relu(net.block.a(y))
    assert_near(switched(net, x, kinds="block", omega=0.5)(x), net.tail(half * half))
    for made in both(net, x, kinds="skip"):
        step = F.relu(net.block.a(y))
        assert_near(made(x), net.tail(step * step))


def test_out_times_a_does_not_reach_the_input_of_a_removed_block():
    net, x = ZOO["aliasing"].build(), image()
    stem = net.stem(x)
    for made in both(net, x, kinds="block"):
        assert_near(made(x), net.tail(0.5 * stem * stem))
        before = x.clone()
        made(x)
        assert torch.equal(x, before)


def test_removing_everything_does_not_change_the_callers_tensor():
    class InPlaceOnInput(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.tail = Residual(), conv()

        def forward(self, x):
            return self.tail(self.block(x).mul_(2))

    net, x = InPlaceOnInput(), image()
    before = x.clone()
    for made in both(net, x, kinds="block"):
        assert_near(made(x), net.tail(2 * before))
        assert torch.equal(x, before), "the block became an identity, and mul_ changed the caller's input"


# --- one op, several places ------------------------------------------------------------------------


def test_a_shared_activation_is_switched_call_by_call():
    net, x = ZOO["shared_activation"].build(), image()
    ids = [s.id for s in al.sites(net, x)]
    first = al.remove(net, x, kinds="activation", where=ids[0])
    second = al.remove(net, x, kinds="activation", where=ids[1])
    assert_near(first(x), net.c(F.relu(net.b(net.a(x)))))
    assert_near(second(x), net.c(net.b(F.relu(net.a(x)))))


def test_two_adds_on_one_source_line():
    net, x = ZOO["one_line"].build(), image()
    skips = [s.id for s in al.sites(net, x) if s.kind == "skip"]
    h = F.relu(net.a(x))
    for made in both(net, x, kinds="skip", where=skips[0]):
        assert_near(made(x), net.c(h + F.relu(net.b(h))))
    h = x + F.relu(net.a(x))
    for made in both(net, x, kinds="skip", where=skips[1]):
        assert_near(made(x), net.c(F.relu(net.b(h))))


def test_two_instances_of_one_class_keep_apart():
    net, x = ZOO["stack"].build(), image()
    one = al.remove(net, x, kinds="activation", where="blocks.0/*")
    assert isinstance(one.blocks[0], Residual) and type(one.blocks[1]) is Residual
    y = net.norm(net.head(x))
    y = y + net.blocks[0].conv2(net.blocks[0].conv1(y))
    assert_near(one(x), net.tail(net.blocks[1](y)))
    assert torch.equal(Residual.forward(net.blocks[0], y), net.blocks[0](y)), "the class itself was changed"


def test_activations_in_lambdas_comprehensions_and_helpers():
    def helper(y):
        return F.relu(y)

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(conv() for _ in range(2))
            self.tail = conv()
            self.act = torch.tanh

        def forward(self, x):
            parts = [F.gelu(layer(x)) for layer in self.layers]
            double = lambda y: 2 * F.silu(y)  # noqa: E731
            return self.tail(helper(sum(parts)) + double(x) + self.act(x))

    net, x = Hidden(), image()
    assert sorted(s.op for s in al.sites(net, x) if s.kind == "activation") == ["gelu", "gelu", "relu", "silu", "tanh"]
    for made in both(net, x):
        assert_near(made(x), net.tail(net.layers[0](x) + net.layers[1](x) + 2 * x + x))


@pytest.mark.parametrize("kind", ["skip", "branch"])
def test_a_switched_add_has_the_layout_of_its_first_operand(kind):
    """MaxViT: with the operands in the other order, the sum's layout made a later kernel round otherwise."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv()

        def forward(self, x):
            y = self.a(x).to(memory_format=torch.channels_last)
            return (y + x).relu(), (x + y).relu()

    net, x = Mixed(), image()
    soft = al.switch(net, x, kinds=kind)
    assert [t.stride() for t in soft(x)] == [t.stride() for t in net(x)]


@pytest.mark.parametrize(("entry", "kind"), [("gates", "gate"), ("projection", "join")])
def test_gates_and_joins_are_taken_only_by_name(entry, kind):
    net, x = ZOO[entry].build(), ZOO[entry].example()
    assert any(site.kind == kind for site in al.sites(net, x))
    others = [k for k in al.KINDS if k not in (kind, "branch")]
    assert all(f"/{kind}." not in f"/{site}" for site in al.omegas(al.switch(net, x, kinds=others))["site"])
    with pytest.raises(ValueError, match="no site of kind activation"):
        al.switch(net, x, kinds="activation", where=f"{kind}.*")
    for function in (al.sensitivity, al.learn_to_remove):
        kinds = inspect.signature(function).parameters["kinds"].default
        assert kinds is inspect.Parameter.empty or kind not in kinds
    assert list(al.omegas(al.switch(net, x, kinds=kind))["kind"].unique()) == [kind]
