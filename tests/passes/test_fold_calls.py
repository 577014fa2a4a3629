"""What a call may change is not folded: numbers, keys and indices that it gives, what is drawn, what is handed out."""

from collections import deque
from dataclasses import make_dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al


class Net(nn.Module):
    """Two convolutions, and between them what a case does."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 2, 1)
        self.shifts = nn.Parameter(torch.randn(10, 4))
        self.scales = nn.ParameterDict(
            {"small": nn.Parameter(torch.rand(4, 1, 1)), "large": nn.Parameter(torch.rand(4, 1, 1))}
        )


class ByIndex(Net):
    def forward(self, x, step):
        return self.last(self.first(x) + self.shifts[step].view(1, -1, 1, 1))


class ByNumber(Net):
    def forward(self, x, scale=None):
        return self.last(self.first(x) * (1.0 if scale is None else scale))


class ByWord(Net):
    def forward(self, x, mode="small"):
        return self.last(self.first(x) * {"small": 0.5, "large": 2.0}[mode])


class ByKey(Net):
    def forward(self, x, mode):
        return self.last(self.first(x) * self.scales[mode])


class ByLength(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.places = nn.Linear(4, 8), nn.Linear(8, 2), nn.Parameter(torch.randn(1, 8, 8))

    def forward(self, x):
        return self.last(self.first(x) + self.places[:, : x.shape[1]])


class ByChance(Net):
    def forward(self, x):
        return self.last(self.first(x) * F.gumbel_softmax(self.shifts[0], hard=True)[0])


class InTraining(Net):
    def forward(self, x):
        return self.last(F.dropout(self.first(x), 0.5, self.training))


class HandedOut(Net):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        inner = self.first(x)
        return self.form([inner, self.last(inner)])


class Fills(Net):
    """Puts what lies between into what the caller gave."""

    def forward(self, x, kept):
        hidden = self.first(x)
        kept.append(hidden) if isinstance(kept, list) else kept.update(hidden=hidden)
        return self.last(hidden)


SLOTTED = make_dataclass("Slotted", ["inner", "outer"], slots=True)
IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "net, example",
    [
        (ByIndex, (IMAGE, 3)), (ByNumber, IMAGE), (ByWord, (IMAGE, "small")), (ByWord, IMAGE),
        (ByKey, (IMAGE, "small")), (ByLength, torch.randn(2, 1, 4)), (ByChance, IMAGE), (InTraining, IMAGE),
        (lambda: HandedOut(deque), IMAGE), (Fills, (IMAGE, [])), (Fills, (IMAGE, {})),
        (lambda: HandedOut(lambda both: SLOTTED(*both)), IMAGE),
    ],
)  # fmt: skip
def test_what_another_call_would_change_is_not_folded(net, example):
    with pytest.raises(ValueError, match="nothing to fold among 2 linear layers"):
        al.fold(net().eval(), example)


def test_an_argument_that_is_said_to_be_a_tensor_or_a_flag_leaves_numbers_as_they_are():
    class Scaled(Net):
        def forward(self, x, mask: torch.Tensor | None = None, quiet: bool = False):
            return self.last(self.first(x) * 0.5)

    net = Scaled().eval()
    folded = al.fold(net, IMAGE)
    assert sum(isinstance(module, nn.Conv2d) for module in folded.modules()) == 1
    torch.testing.assert_close(folded(IMAGE), net(IMAGE))


@pytest.mark.parametrize("example", [IMAGE, al.Call(lambda net, x, by: net(x, by), IMAGE, 2)], ids=["default", "call"])
def test_a_factor_that_the_call_gives_is_not_folded(example):
    class Larger(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x, by=2):
            return self.conv(F.interpolate(x, scale_factor=by))

    with pytest.raises(ValueError, match="the call gives its factor, 2, and may give another"):
        al.fold_upsampling(Larger().eval(), example)


def test_what_is_frozen_stays_so_and_what_is_trained_in_part_is_trained():
    net = nn.Sequential(*(nn.Conv2d(*widths, 3, padding=1) for widths in ((3, 4), (4, 4), (4, 2))))
    net[0].bias.requires_grad_(False)
    hoisted = al.hoist_padding(net.eval(), torch.randn(1, 3, 16, 16))
    assert [name for name, p in hoisted.named_parameters() if not p.requires_grad] == ["0.bias"]
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).eval()
    net[1].requires_grad_(False)
    assert all(p.requires_grad for p in al.fold(net, IMAGE).parameters())
    net[0].requires_grad_(False)
    assert not any(p.requires_grad for p in al.fold(net, IMAGE).parameters())


def test_what_a_hook_of_the_backward_pass_listens_to_stays():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 2, 1)).eval()
    al.fold(net, IMAGE)  # as it is, it can be
    net[0].register_full_backward_hook(lambda module, given, made: None)
    with pytest.raises(ValueError, match="nothing to fold"):
        al.fold(net, IMAGE)
