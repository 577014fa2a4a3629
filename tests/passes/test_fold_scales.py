"""fold: norms, scales and shifts however they are written, layers at several sizes; and the reason where not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import archlab as al
from archlab.capture.recorder import capture

X = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))


def filled(net: nn.Module) -> nn.Module:
    """In evaluation mode, no parameter or statistic at a value that hides what it does."""
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return net.eval()


def norms() -> dict[str, nn.Module]:
    from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d

    return {
        "frozen": FrozenBatchNorm2d(4), "synchronised": nn.SyncBatchNorm(4), "timm": BatchNormAct2d(4),
        "timm, frozen": FrozenBatchNormAct2d(4),
    }  # fmt: skip


class Indexed(nn.Module):
    """Adds a table that is looked up by indices, as Swin's position bias."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.table = nn.Parameter(torch.randn(3, 4))
        self.register_buffer("index", torch.tensor([0, 2]))

    def forward(self, x):
        return self.b(self.a(x) + self.table[self.index].mean(0))


def test_a_shift_that_is_looked_up_by_indices_is_worked_out_or_left():
    net, x = Indexed().eval(), torch.randn(3, 4)
    folded = al.fold(net, x)
    assert torch.allclose(folded(x), net(x), atol=1e-5)
    assert {op.name for op in capture(folded, x).ops} == {"linear"}


@pytest.mark.parametrize("name", norms())
def test_every_batch_norm_goes_into_the_convolution(name):
    net = filled(nn.Sequential(nn.Conv2d(4, 4, 3), norms()[name], nn.ReLU()))
    folded = al.fold(net, X)
    kept = {op.name for op in capture(folded, X).ops} - {"relu", "relu_", "clone"}
    assert kept == {"conv2d"}
    assert torch.allclose(folded(X), net(X), atol=1e-4)
    assert al.recipe(folded).steps[-1].equality == "exact"
    again = al.apply(al.Recipe.from_json(al.recipe(folded).to_json()), net, X)
    assert torch.equal(again(X), folded(X))


class Written(nn.Module):
    """A convolution, then code that scales and shifts."""

    def __init__(self, code):
        super().__init__()
        self.conv, self.code = nn.Conv2d(4, 4, 3), code
        self.gamma, self.scale = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.tensor(0.7))
        for name in ("mean", "variance"):
            self.register_buffer(name, torch.rand(4) + 0.5)

    def forward(self, x):
        return self.code(self, self.conv(x))


CODE = {
    "numbers": lambda net, x: x * 2.0 + 1,
    "halves": lambda net, x: (x - 3) / 2,
    "in place": lambda net, x: (0.5 * x).add(1.5),
    "layer scale": lambda net, x: x * net.gamma.reshape(1, -1, 1, 1),
    "layer scale, indexed": lambda net, x: net.gamma[:, None, None] * x,
    "learned scale": lambda net, x: x * net.scale,
    "exponential": lambda net, x: x * net.scale.exp(),
    "batch norm": lambda net, x: F.batch_norm(x, net.mean, net.variance, net.gamma, net.gamma, False, 0.1, 1e-3),
    "batch norm, bare": lambda net, x: F.batch_norm(x, net.mean, net.variance),
}


@pytest.mark.parametrize("name", CODE)
def test_scales_and_shifts_in_code_go_into_the_convolution(name):
    net = Written(CODE[name]).eval()
    folded = al.fold(net, X)
    assert [op.name for op in capture(folded, X).ops] == ["conv2d"]
    assert torch.allclose(folded(X), net(X), atol=1e-5)


class Called(Written):
    def forward(self, x, factor=2.0):
        return self.conv(x) * factor


class Asked(Written):
    def forward(self, x):
        return self.conv(x) * x.shape[-1]


class Twice(nn.Module):
    """One block called with two numbers."""

    def __init__(self):
        super().__init__()
        self.block = Called(None)

    def forward(self, x):
        return self.block(x, 2.0), self.block(x, 3.0)


@pytest.mark.parametrize("kind", [lambda: Called(None), lambda: Asked(None), Twice])
def test_a_number_that_may_be_another_in_the_next_call_stays(kind):
    with pytest.raises(ValueError, match="nothing to fold"):
        al.fold(kind().eval(), X)


class Shared(nn.Module):
    """A head for maps of several sizes."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, *maps):
        return [self.head(x) for x in maps]


def test_one_layer_at_several_sizes():
    net, maps = filled(Shared()), (X, X[..., :5, :6], X[:1])
    folded = al.fold(net, maps)
    assert al.recipe(folded).steps[-1].taken == ("head.0", "head.1")
    for found, wanted in zip(folded(*maps), net(*maps), strict=True):
        assert torch.allclose(found, wanted, atol=1e-4)


def test_a_functional_convolution_is_named_as_what_it_is():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.norm = nn.Parameter(torch.rand(4, 4, 3, 3)), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(F.conv2d(x, self.weight))

    with pytest.raises(ValueError, match=r"conv2d\.0: a conv2d by a parameter of the code around it"):
        al.fold(filled(Net()), X)


class Root(nn.Module):
    """An RMSNorm that shows its weight when it is printed, as those of language models do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    def extra_repr(self):
        return str(tuple(self.weight.shape))


def test_a_norm_whose_weight_went_into_the_next_layer_can_be_printed():
    net, x = nn.Sequential(nn.Linear(4, 4), Root(), nn.Linear(4, 2)).eval(), torch.randn(3, 4)
    folded = al.fold(net, x)
    assert folded[1].weight is None and torch.allclose(folded(x), net(x), atol=1e-6)
    assert repr(copy.deepcopy(folded)) == repr(folded) == repr(net).replace("Root((4,))", "Root()")
