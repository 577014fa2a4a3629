"""hoist_padding: the ring that its step names is that of the model's output."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al

WIDTH = 4


def conv(**options) -> nn.Module:
    return nn.Conv2d(WIDTH, WIDTH, 3, **{"padding": 1} | options)


def chain() -> nn.Module:
    """Three convolutions in a row: hoisted, the last one's output changes in a ring of two pixels."""
    return nn.Sequential(conv(), conv(), conv())


def in_chain(address: str) -> bool:
    return address.startswith(("chain", "0."))


def hoisted(net: nn.Module, *example: torch.Tensor) -> nn.Module:
    return al.hoist_padding(net, example, where=in_chain, cost=lambda layer, shape: 1.0)


def measured(made: nn.Module, net: nn.Module, x: torch.Tensor) -> int:
    """How far from the border the outputs differ."""
    with torch.no_grad():
        apart = (made(x) - net(x)).abs().amax((0, 1)) > 0
    rows = torch.arange(apart.shape[0])
    to_border = torch.minimum(rows, rows.flip(0))
    to_border = torch.minimum(to_border[:, None], to_border)
    return 1 + int(to_border[apart].max())


def told(made: nn.Module) -> int:
    step = al.recipe(made).steps[-1]
    found = re.fullmatch(r"equal outside a ring of (\d+) pixels of the model's output", step.checked)
    assert found and step.equality == "interior", step.checked
    assert step.checked in repr(al.recipe(made))
    return int(found[1])


def denoiser(behind: int) -> nn.Module:
    """Layers as in a DnCNN behind the chain."""
    rest = [layer for _ in range(behind) for layer in (nn.Tanh(), conv(bias=False), nn.BatchNorm2d(WIDTH).eval())]
    return nn.Sequential(chain(), *rest)


BEHIND = {
    "a stride": (nn.Sequential(nn.Tanh(), conv(stride=2)), 2),
    "two strides": (nn.Sequential(nn.Tanh(), conv(stride=2), nn.Tanh(), conv(stride=2)), 2),
    "a dilated layer": (nn.Sequential(nn.Tanh(), conv(dilation=3, padding=3)), 5),
    "pixels doubled": (nn.Sequential(nn.Upsample(scale_factor=2), nn.Tanh(), conv()), 5),
    "a transposed layer": (nn.Sequential(nn.Tanh(), nn.ConvTranspose2d(WIDTH, WIDTH, 4, 2, 1)), 5),
    "pooling": (nn.Sequential(nn.Tanh(), nn.MaxPool2d(2)), 1),
    "channels shuffled": (nn.Sequential(nn.Tanh(), nn.PixelShuffle(2)), 4),
}


@pytest.mark.parametrize("behind", [0, 1, 5, 9])
def test_every_layer_behind_the_chain_widens_the_ring(behind):
    net, x = denoiser(behind).double(), torch.randn(1, WIDTH, 32, 32, dtype=torch.float64)
    made = hoisted(net, x)
    assert al.recipe(made).steps[-1].how == {"0.2": "its output has changed in a ring of 2 pixels"}
    assert told(made) == 2 + behind == measured(made, net, x)


@pytest.mark.parametrize("name", BEHIND)
def test_the_ring_is_in_pixels_of_the_output(name):
    behind, ring = BEHIND[name]
    net, x = nn.Sequential(chain(), behind).double(), torch.randn(1, WIDTH, 32, 32, dtype=torch.float64)
    made = hoisted(net, x)
    assert told(made) == ring
    assert measured(made, net, x) <= ring


class Squeezed(nn.Module):
    """A map that the mean over all of it scales."""

    def __init__(self):
        super().__init__()
        self.chain, self.gate = chain(), nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x):
        x = self.chain(x).tanh()
        return x * self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid()


class Attended(nn.Module):
    """A map whose positions look at each other, and a class for it."""

    def __init__(self):
        super().__init__()
        self.chain, self.attention = chain(), nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x):
        tokens = self.chain(x).flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].mean(1)


@pytest.mark.parametrize("kind", [Squeezed, Attended])
def test_what_looks_at_the_whole_map_carries_it_everywhere(kind):
    step = al.recipe(hoisted(kind(), torch.randn(1, WIDTH, 24, 24))).steps[-1]
    assert step.equality == "none"
    assert step.checked.startswith("the model's output has changed everywhere")


def test_a_dead_unit_hides_no_part_of_the_ring():
    """The ring is the network's: after a step of training the unit may live."""
    net = nn.Sequential(chain(), nn.ReLU(), conv())
    nn.init.constant_(net[0][2].bias, -100.0)
    assert told(hoisted(net, torch.randn(1, WIDTH, 24, 24))) == 3


def test_a_ring_may_be_as_wide_as_the_example():
    """What it is on a larger picture is said all the same."""
    assert told(hoisted(denoiser(9), torch.randn(1, WIDTH, 20, 20))) == 11


def test_every_output_has_its_own_ring():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain, self.other = chain(), conv()

        def forward(self, x):
            h = self.chain(x).tanh()
            return self.other(h), self.other(x), h.mean((2, 3))

    step = al.recipe(hoisted(Net(), torch.randn(1, WIDTH, 24, 24))).steps[-1]
    assert step.checked == "the model's outputs have changed: 0 in a ring of 3 pixels, 1 nowhere, 2 everywhere"
    assert step.equality == "interior"


@pytest.mark.parametrize("seed", range(3))
def test_outputs_whose_number_hangs_on_values_are_no_reason_to_refuse(seed):
    """As a detector's boxes: other borders, other boxes. They change everywhere, what they were found in does not."""

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain, self.other = chain(), conv()

        def forward(self, x):
            scores = self.chain(x)[:, 0]
            kept = scores > 0.2
            return {"boxes": kept.nonzero(), "scores": scores[kept], "map": scores[:, None], "alone": self.other(x) > 0}

    torch.manual_seed(seed)
    net, x = Detector(), torch.randn(1, WIDTH, 12, 12)
    made = hoisted(net, x)
    step = al.recipe(made).steps[-1]
    assert step.checked == (
        "the model's outputs have changed: 0 everywhere, 1 everywhere, 2 in a ring of 2 pixels, 3 nowhere"
    )
    assert torch.equal(made(x)["alone"], net(x)["alone"])
    assert len(al.recipe(al.fold(made, x, where=in_chain, cost=lambda layer, shape: 1.0)).steps) == 2


def test_outputs_as_many_as_values_say():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain = chain()

        def forward(self, x):
            y = self.chain(x)
            return [row for row in y[0, 0] if row.mean() > self.least]

    torch.manual_seed(0)
    net, x = Parts(), torch.randn(1, WIDTH, 12, 12)
    for least, said in ((9.0, "no tensor that could be compared"), (net.chain(x)[0, 0].mean().item(), "1 everywhere")):
        net.least = least
        assert said in al.recipe(hoisted(net, x)).steps[-1].checked


def test_a_model_that_runs_in_its_own_precision_only():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain, self.last = chain(), conv()

        def forward(self, x):
            return self.last(self.chain(x.float()).tanh().float()).float()

    net = Net()
    assert told(hoisted(net, torch.randn(1, WIDTH, 24, 24))) == 3
