"""share on small networks counted by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
from archlab.capture.recorder import capture

from .reshaped import IMAGE, TwoBranches, assert_own, assert_replays, conv, noise, params


def test_share_feeds_the_consumers_and_drops_the_branch_and_its_up_sampling():
    net = TwoBranches()
    before = copy.deepcopy(net.state_dict())
    single = al.share(net, IMAGE, keep="fine", drop="coarse")
    x = noise(1, 4, 12, 12)
    with torch.no_grad():
        fine = net.fine(x)
        assert torch.equal(single(x), net.mix(torch.cat([fine, fine], 1)))
    assert "interpolate" not in {op.name for op in capture(single, IMAGE).ops}
    assert params(net) - params(single) == params(net.coarse)
    assert_own(single, net, before)
    assert_replays(single, net, IMAGE)


def test_share_resamples_where_the_grids_differ():
    net = TwoBranches(up=False)
    single = al.share(net, IMAGE, keep="fine", drop="coarse")
    x = noise(1, 4, 12, 14)
    with torch.no_grad():
        wanted = net.mix(torch.cat([F.avg_pool2d(net.fine(x), 2)] * 2, 1))
        assert torch.allclose(single(x), wanted)
    assert_replays(single, net, IMAGE)


def test_share_names_what_does_not_fit():
    net = TwoBranches()
    with pytest.raises(ValueError, match="drop='course' is no module of this model; there are"):
        al.share(net, IMAGE, keep="fine", drop="course")
    net.coarse[0] = conv(4, 5, stride=2)
    net.mix = conv(9, 4)
    with pytest.raises(ValueError, match="the batch and the channels must be the same"):
        al.share(net, IMAGE, keep="fine", drop="coarse")


def test_share_refuses_what_is_computed_too_late():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x):
            first = self.a(x).relu()
            return first + self.b(x)

    with pytest.raises(ValueError, match="computed only after"):
        al.share(Late(), IMAGE, keep="b", drop="a")
    chain = nn.Sequential(conv(), conv())
    with pytest.raises(ValueError, match="1 is computed from 0"):
        al.share(chain, IMAGE, keep="1", drop="0")


def test_one_of_several_outputs_is_not_chosen_by_their_order():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.keep, self.drop = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, y):
            return self.keep(x), self.keep(y), self.drop(y)

    with pytest.raises(ValueError, match="'keep' is called 2 times beside one call of 'drop'"):
        al.share(Two(), (torch.randn(1, 4), torch.randn(1, 4)), keep="keep", drop="drop")
