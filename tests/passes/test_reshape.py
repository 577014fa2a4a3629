"""scale_depth and replace on small networks counted by hand; what holds of all passes that reshape."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al

from .reshaped import IMAGE, Block, Code, assert_own, assert_replays, conv, noise, params


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
