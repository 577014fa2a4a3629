"""scale_resolution on small networks counted by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
from archlab.capture.recorder import capture
from archlab.passes.resolution.layers import DOWN, UP, shuffled, unshuffled
from archlab.passes.resolution.scale import FACTORS

from .reshaped import IMAGE, Block, Code, assert_own, assert_replays, conv, noise, params


def test_a_coarser_span_costs_a_quarter_and_gives_the_same_grid():
    net = nn.Sequential(conv(), nn.Sequential(Block(), Block()), conv())
    before = copy.deepcopy(net.state_dict())
    coarse = al.scale_resolution(net, IMAGE, span="1", factor=2)
    assert params(coarse) - params(net) == 2 * (4 * 4 * 9 + 4)
    macs = al.cost(net[1], IMAGE).macs
    assert al.cost(coarse[1].span, torch.zeros(2, 4, 8, 8)).macs == macs / 4
    assert coarse(noise(1, 4, 13, 11)).shape == (1, 4, 13, 11)
    assert_own(coarse, net, before)
    assert_replays(coarse, net, IMAGE)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(("down", "up"), list(zip(DOWN, UP, strict=True)))
def test_any_data_comes_back_to_its_exact_size(dims, factor, down, up):
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](2, 2, 3, padding=1, padding_mode="replicate")
    net, sides = nn.Sequential(layer), (9, 8, 10)[:dims]
    made = al.scale_resolution(net, torch.zeros(1, 2, *sides), span="0", factor=factor, down=down, up=up)
    assert made(noise(1, 2, *sides)).shape == (1, 2, *sides)
    modes = {m.padding_mode for m in made.modules() if isinstance(m, nn.modules.conv._ConvNd)}
    assert modes == {"replicate"}


@pytest.mark.parametrize("how", [(d, u) for d in DOWN for u in ("nearest-conv", "pixel-shuffle")], ids="-".join)
@pytest.mark.parametrize(("dims", "factor", "kernel"), [(1, 2, 1), (2, 2, 3), (2, 4, 5), (3, 2, 3), (2, 1 / 2, 3)])
def test_new_layers_may_begin_as_means_and_copies(how, dims, factor, kernel):
    net = nn.Sequential(nn.Identity())
    x = noise(2, 3, *(8,) * dims)
    made = al.scale_resolution(
        net, x, span="0", factor=factor, down=how[0], up=how[1], kernel=kernel, activation=None, init="resample"
    )
    wanted = x  # finer and back
    if factor > 1 and kernel == 1 and how[0] == "conv":  # one pixel of each cell is all that it sees
        wanted = F.interpolate(x[..., ::2], scale_factor=2.0)
    elif factor > 1:
        wanted = F.interpolate((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1](x, factor), scale_factor=factor)
    torch.testing.assert_close(made(x), wanted)
    assert al.recipe(made).steps[-1].options["init"] == "resample"


def test_pixels_are_shuffled_as_torch_does():
    x = noise(2, 8, 3, 5)
    assert torch.equal(shuffled(x, 2), F.pixel_shuffle(x, 2))
    assert torch.equal(unshuffled(shuffled(x, 2)), x)
    assert torch.equal(unshuffled(shuffled(noise(1, 8, 3, 4, 5), 3)), noise(1, 8, 3, 4, 5))


def test_a_span_may_be_a_slice_of_a_sequential_or_of_code():
    net = nn.Sequential(Block(), Block(), Block())
    part = al.scale_resolution(net, IMAGE, span=("0", "1"))
    assert [name for name, _ in part.named_children()] == ["0", "2"]
    assert part(IMAGE).shape == IMAGE.shape
    assert_replays(part, net, IMAGE)
    code = Code()
    part = al.scale_resolution(code, IMAGE, span=("a", "b"), factor=4)
    grids = [op.out_shapes[0][-1] for op in capture(part, IMAGE).ops if op.name == "conv2d"]
    assert grids == [8, 4, 4, 4, 4, 4, 8, 16, 16, 16]
    assert part(noise(1, 4, 13, 15)).shape == (1, 4, 13, 15)
    assert_replays(part, code, IMAGE)


def test_spans_that_cannot_move_are_named():
    with pytest.raises(ValueError, match="reads what was made before its end"):
        al.scale_resolution(Code(crossing=True), IMAGE, span=("a", "b"))
    with pytest.raises(ValueError, match="must keep its grid"):
        al.scale_resolution(nn.Sequential(conv(stride=2)), IMAGE, span="0")
    with pytest.raises(ValueError, match="factor must be one of"):
        al.scale_resolution(Code(), IMAGE, span="a", factor=3)
    with pytest.raises(ValueError, match="'z' is no module of this model; there are"):
        al.scale_resolution(Code(), IMAGE, span="z")


def test_a_family_of_resolutions():
    nets = al.sweep_resolution(Code(), IMAGE, span="b", factors=(1, 2, 4))
    assert [params(net) - params(nets[1]) for net in nets.values()] == [0, 2 * 148, 4 * 148]


def test_norms_keep_their_mode_inside_a_span():
    net = nn.Sequential(nn.Sequential(conv(), nn.BatchNorm2d(4).eval()), conv()).train()
    net[0][1].eval()
    made = al.scale_resolution(net, IMAGE, span="0")
    assert made.training and made[0].before.training and not made[0].span[1].training


def test_a_call_that_cannot_be_traced_is_no_silent_removal():
    class Odd(Code):
        def forward(self, x, twice=False):
            x = self.b(self.a(x))
            return x * 2 if twice and float(x.sum()) > 0 else x  # decides by what it computes, in this call only

    made = al.scale_resolution(Odd(), IMAGE, span=("a", "b"))
    assert made(IMAGE).shape == IMAGE.shape
    with pytest.raises(RuntimeError, match="a is wired otherwise in its traced code"):
        made(noise(*IMAGE.shape), twice=True)


def test_an_output_within_the_span_is_refused_in_words():
    class Shows(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x):
            inner = self.a(x)
            return self.b(inner), inner

    with pytest.raises(ValueError, match=r"on another grid the outputs would have .*must not lie within the span"):
        al.scale_resolution(Shows(), IMAGE, span=("a", "b"))
