"""share, scale_resolution, scale_depth and replace on small networks counted by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al
from archlab.capture.recorder import capture
from archlab.passes.resolution.layers import DOWN, UP, shuffled, unshuffled
from archlab.passes.resolution.scale import FACTORS

IMAGE = torch.zeros(2, 4, 16, 16)


def conv(into: int = 4, out: int = 4, kernel: int = 3, **options) -> nn.Module:
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, **options)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def params(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


class Block(nn.Module):
    def __init__(self, channels: int = 4):
        super().__init__()
        self.a, self.act, self.b = conv(channels, channels), nn.ReLU(), conv(channels, channels)

    def forward(self, x):
        return x + self.b(self.act(self.a(x)))


class TwoBranches(nn.Module):
    """A coarse and a fine branch; the coarse one is brought up before both are joined."""

    def __init__(self, up: bool = True):
        super().__init__()
        self.up = up
        self.coarse, self.fine = nn.Sequential(conv(stride=2), nn.ReLU()), nn.Sequential(conv(), nn.Tanh())
        self.mix = conv(8, 4)

    def forward(self, x):
        coarse, fine = self.coarse(x), self.fine(x)
        if self.up:
            return self.mix(torch.cat([F.interpolate(coarse, scale_factor=2.0), fine], 1))
        return self.mix(torch.cat([coarse, F.avg_pool2d(fine, 2)], 1))


class Code(nn.Module):
    """Blocks called one by one, with a value that passes by."""

    def __init__(self, crossing: bool = False):
        super().__init__()
        self.crossing = crossing
        self.a, self.b, self.c = Block(), Block(), Block()

    def forward(self, x):
        first = self.a(x)
        return self.c(self.b(first)) + (first if self.crossing else x)


def assert_replays(made: nn.Module, net: nn.Module, example, modules=None) -> None:
    """The recipe, as text, makes a model of the same structure, and the file the same model."""
    again = al.apply(al.Recipe.from_json(al.recipe(made).to_json()), copy.deepcopy(net), example, modules=modules)
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (made, again)]
    assert shapes[0] == shapes[1]
    al.save(made, "made.safetensors")
    loaded = al.load("made.safetensors", lambda: copy.deepcopy(net), example, modules=modules)
    x = noise(*IMAGE.shape)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), made.eval()(x))


def assert_own(made: nn.Module, net: nn.Module, before: dict) -> None:
    """`net` is as it was, and `made` shares nothing with it."""
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    own = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    assert not own & {t.untyped_storage().data_ptr() for t in made.state_dict().values()}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- share ---------------------------------------------------------------------------------------


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


# --- scale_resolution -----------------------------------------------------------------------------


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


# --- scale_depth, replace --------------------------------------------------------------------------


def test_new_blocks_start_as_identities_or_fresh():
    net = nn.Sequential(conv(), nn.Sequential(Block(), Block()), conv())
    before = copy.deepcopy(net.state_dict())
    deep = al.scale_depth(net, IMAGE, span="1", count=5, init="preserve")
    x = noise(1, 4, 9, 9)
    with torch.no_grad():
        assert torch.equal(deep(x), net(x))
    assert len(deep[1]) == 5
    assert_own(deep, net, before)
    assert_replays(deep, net, IMAGE)
    fresh = al.scale_depth(net, IMAGE, span="1", count=4)
    weights = [block.a.weight for block in fresh[1]]
    assert not torch.equal(weights[2], weights[1])
    assert not torch.equal(weights[2], weights[3])
    short = al.scale_depth(net, IMAGE, span="1", count=1)
    assert params(net) - params(short) == params(net[1][1])


def test_depth_works_after_a_removal_and_in_a_list_of_blocks():
    net = nn.Sequential(conv(), nn.Sequential(Block(), Block(), Block()))
    thin = al.remove(net, IMAGE, kinds="block", where="1/block.1")
    deep = al.scale_depth(thin, IMAGE, span="1", count=4, init="preserve")
    x = noise(1, 4, 9, 9)
    with torch.no_grad():
        assert torch.equal(deep(x), thin(x))
        assert torch.equal(thin(x), net[1][2](net[1][0](net[0](x))))
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    deep = al.scale_depth(layers.eval(), torch.zeros(1, 5, 8), span="layers", count=3, init="preserve")
    assert len(deep.layers) == 3


def test_depth_names_what_it_cannot_do():
    net = nn.Sequential(conv(), nn.Sequential(nn.Sequential(conv(), nn.Tanh())))
    with pytest.raises(ValueError, match="cannot start as an identity"):
        al.scale_depth(net, IMAGE, span="1", count=2, init="preserve")
    with pytest.raises(ValueError, match="must be a Sequential or ModuleList of blocks"):
        al.scale_depth(net, IMAGE, span="0", count=2)
    with pytest.raises(ValueError, match="another than 1, which '1' has"):
        al.scale_depth(net, IMAGE, span="1", count=1)

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x):
            return self.blocks[1](self.blocks[0](x))

    with pytest.raises(ValueError, match=r"blocks\.2 is not called"):
        al.scale_depth(Named(), IMAGE, span="blocks", count=3)


def test_replace_needs_its_factory_again():
    net = nn.Sequential(conv(), nn.ReLU(), conv())
    made = al.replace(net, "1", nn.LeakyReLU, negative_slope=0.3)
    assert made[1].negative_slope == 0.3
    assert isinstance(net[1], nn.ReLU)
    assert_replays(made, net, IMAGE, {"LeakyReLU": nn.LeakyReLU})
    with pytest.raises(ValueError, match="give its factory in modules, which has nothing"):
        al.apply(al.recipe(made), net, IMAGE)
    with pytest.raises(ValueError, match="'9' is no module"):
        al.replace(net, "9", nn.ReLU)
    with pytest.raises(TypeError, match="JSON"):
        al.replace(net, "1", nn.LeakyReLU, negative_slope=object())


# --- removal in transformers ------------------------------------------------------------------------


def transformers_() -> dict[str, tuple]:
    from transformers import GPT2Config, GPT2LMHeadModel

    from ..contracts.zoo_real import CLASSIFICATION

    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=32)
    return {
        "vit": (CLASSIFICATION["tv_vision_transformer"].factory(), noise(1, 3, 32, 32), "encoder.layers.*/branch.0"),
        "swin": (CLASSIFICATION["tv_swin"].factory(), noise(1, 3, 32, 32), "features.*/branch.1"),
        "gpt2": (GPT2LMHeadModel(config), {"input_ids": torch.arange(10)[None]}, "transformer.h.*/branch.1"),
    }


@pytest.mark.parametrize("name", ["vit", "swin", "gpt2"])
def test_branches_of_transformers_can_go(name):
    """Attention of a ViT, the MLPs of a Swin and of a GPT-like model: the thin model is exact, the parameters gone."""
    net, example, where = transformers_()[name]
    net = net.double().eval()
    example = example.double() if isinstance(example, Tensor) else example
    sites = al.sites(net, example, kinds="branch", where=where)
    thin = al.remove(net, example, kinds="branch", where=where)
    step = al.recipe(thin).steps[-1]
    assert len(step.taken) == len(sites) > 1
    assert "allowed 1e-10" in step.checked
    assert set(step.how.values()) == {"local"}
    assert params(net) - params(thin) >= sum(site.params for site in sites) > 0
    assert al.cost(thin, example).macs < al.cost(net, example).macs


# --- what a review by fresh eyes found ----------------------------------------------------------------


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


def test_blocks_that_were_rewritten_know_their_place_when_copied():
    net = nn.Sequential(conv(), nn.Sequential(Block(), Block()))
    thin = al.remove(net, IMAGE, kinds="skip", where="1.1/*")
    deep = al.scale_depth(thin, IMAGE, span="1", count=4)
    assert {s.path for s in al.sites(deep, IMAGE, kinds="activation")} == {f"1.{i}" for i in range(4)}
    coarse = al.scale_resolution(thin, IMAGE, span="1")
    assert al.remove(coarse, IMAGE, kinds="activation", where="1.span*")(IMAGE).shape == IMAGE.shape


def test_fresh_blocks_are_fresh_or_refused_and_identities_are_tried_on_noise():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

        def forward(self, x):
            return x + F.conv2d(x, self.weight)

    with pytest.raises(ValueError, match=r"0\.weight would be a copy in the new blocks"):
        al.scale_depth(nn.Sequential(Own()), IMAGE, span="", count=2)
    assert len(al.scale_depth(nn.Sequential(Own()), IMAGE, span="", count=2, init="preserve")) == 2
    with pytest.raises(ValueError, match="cannot start as an identity"):
        al.scale_depth(nn.Sequential(nn.Conv2d(4, 4, 1, bias=False)), IMAGE, span="", count=2, init="preserve")


def test_spans_in_the_wrong_order_and_names_taken_before():
    net = nn.Sequential(Block(), Block(), Block())
    with pytest.raises(ValueError, match="'0' runs before '2'"):
        al.scale_resolution(net, IMAGE, span=("2", "0"))
    once = al.scale_resolution(Code(), IMAGE, span=("a", "b"))
    names = [name for name, _ in once.named_children()]
    assert "a_before" in names and "b_after" in names
    with pytest.raises(ValueError, match="the factory needs a name"):
        al.replace(net, "0", lambda: nn.Identity())


class Finds(nn.Module):
    """Gives as many numbers as are above the mean, as a detector gives as many boxes as it finds."""

    def __init__(self):
        super().__init__()
        blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(3)]
        self.stem, self.body, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(*blocks), nn.Conv2d(4, 1, 1)
        self.beside = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        scores = self.head(self.body(x) + self.beside(x))
        return scores[scores > scores.mean()]


@pytest.mark.parametrize(
    "reshaped",
    [
        lambda net, x: al.scale_resolution(net, x, span="body", factor=2),
        lambda net, x: al.scale_depth(net, x, span="body", count=5),
        lambda net, x: al.scale_depth(net, x, span="body", count=1),
        lambda net, x: al.scale_width(net, x, ratio=0.5),
        lambda net, x: al.share(net, x, keep="beside", drop="body"),
    ],
    ids=["coarser", "deeper", "shallower", "narrower", "shared"],
)
def test_outputs_as_long_as_what_was_found_may_change_in_length(reshaped):
    torch.manual_seed(1)
    net, x = Finds().eval(), torch.randn(1, 1, 16, 16)
    new = reshaped(net, x)
    assert new(x).shape != net(x).shape and new(x).dim() == 1
    assert "keep their shapes" not in al.recipe(new).steps[-1].checked
    again = al.apply(al.recipe(new), net, x)
    assert [p.shape for p in again.parameters()] == [p.shape for p in new.parameters()]


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
