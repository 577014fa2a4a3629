"""Models that no record can be made of as they are: refused, naming the part and what to do."""

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import archlab as al
from tests.rewrite.traps import assert_near


class Inside(nn.Module):
    """A model with something in it that is no plain module."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part, self.head = part, nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(self.head(self.part(x)))


def _layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


CALLS = {
    "sites": lambda net, x: al.sites(net, x),
    "cost": lambda net, x: al.cost(net, x),
    "remove": lambda net, x: al.remove(net, x, kinds="activation"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # lazy layers announce themselves
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("build", "told"),
    [
        (
            lambda: Inside(nn.LazyLinear(4)),
            r"part \(LazyLinear\) makes its weight when it first runs: run the model once",
        ),
        (lambda: Inside(nn.LazyBatchNorm1d()), r"part \(LazyBatchNorm1d\) makes its weight"),
        (lambda: nn.DataParallel(_layers()), r"this model is wrapped in a DataParallel: pass its \.module"),
        (lambda: torch.compile(_layers(), backend="eager"), r"this model is compiled: pass its \._orig_mod"),
    ],
    ids=["lazy", "lazy norm", "wrapped", "compiled"],
)
def test_what_is_no_plain_module(build, told, call):
    with pytest.raises(TypeError, match=told):
        CALLS[call](build(), torch.randn(2, 4))


@pytest.mark.filterwarnings("ignore:Using `torch.compile", "ignore:The .grad attribute")
@pytest.mark.parametrize(
    ("wrap", "inner"),
    [(nn.DataParallel, "module"), (lambda part: torch.compile(part, backend="eager"), "_orig_mod")],
    ids=["wrapped", "compiled"],
)
def test_a_wrapped_part_is_read_and_left_as_it_is(wrap, inner):
    net, x = Inside(wrap(_layers())), torch.randn(2, 4)
    hows = {site.id: (site.how, site.reason) for site in al.sites(net, x)}
    assert hows["activation.0"] == ("local", "")
    how, reason = hows[f"part.{inner}/activation.0"]
    assert how == "refused" and f"set it to part.{inner}, and wrap or compile it again" in reason
    assert al.cost(net, x).macs == 2 * 2 * 16
    assert_near(al.remove(net, x, kinds="activation", where="activation.0")(x), net.head(net.part(x)))
    with pytest.raises(ValueError, match=f"set it to part.{inner}"):
        al.remove(net, x, kinds="activation")


class AloneOnly(nn.Module):
    """Fails in the modes of torch that archlab records in."""

    def forward(self, x):
        if _get_current_function_mode_stack():
            raise TypeError("no implementation found")
        return x


def test_a_model_that_runs_but_not_in_the_modes_of_a_record():
    for call in CALLS.values():
        with pytest.raises(TypeError, match=r"part \(AloneOnly\) runs by itself, but not in the"):
            call(Inside(AloneOnly()), torch.randn(2, 4))


def test_a_part_that_is_compiled_in_place_is_read_as_it_is_written():
    net, x = Inside(_layers()), torch.randn(2, 4)
    net.part.compile(backend="eager")
    assert [site.id for site in al.sites(net, x)] == ["part/activation.0", "activation.0"]
    thin = al.remove(net, x, kinds="activation")
    assert torch.equal(thin(x), net.head(net.part[0](x)))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it
def test_compiled_functions_are_read_as_they_are_written():
    @torch.compile(backend="eager")
    def act(x):
        return torch.relu(x) * 2

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return act(self.a(x))

    net, x = Net(), torch.randn(2, 4)
    assert [site.op for site in al.sites(net, x)] == ["relu"]
    assert torch.allclose(al.remove(net, x, kinds="activation")(x), net.a(x) * 2)
