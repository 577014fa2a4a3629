"""remove on networks that keep a cache, or that draw random numbers: what is left still works."""

import pytest
import torch
from torch import nn

import archlab as al

from .test_depth import STACKS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2", "whisper decoder"])
@pytest.mark.parametrize("number", [0, 1])
def test_without_an_attention_the_cache_gives_the_text_that_no_cache_gives(name, number):
    build, example, span, _ = STACKS[name]
    net = build(4)
    first = next(s.id for s in al.sites(net, example, kinds="branch") if s.path.startswith(f"{span}.{number}"))
    thin = al.remove(net, example, kinds="branch", where=first)
    assert "but the 2 that only what was removed gave" in al.recipe(thin).steps[-1].checked
    start = {key: value for key, value in example.items() if not key.startswith("decoder")}
    texts = [thin.generate(**start, max_new_tokens=8, do_sample=False, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*texts)
    places = [m.layer_idx for m in net.modules() if hasattr(m, "layer_idx")]
    assert places == [m.layer_idx for m in build(4).modules() if hasattr(m, "layer_idx")], "the input was changed"


class Scaled(nn.Module):
    """A residual block that computes with its place in the stack."""

    def __init__(self, layer_idx: int):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.layer_idx = layer_idx

    def forward(self, x):
        return x + self.inner(x) / (1 + self.layer_idx)


def test_a_place_that_is_computed_with_stays():
    net, x = nn.Sequential(*(Scaled(i) for i in range(3))), torch.randn(2, 4)
    thin = al.remove(net, x, kinds="block", where="block.0")
    assert [block.layer_idx for block in thin[1:]] == [1, 2]
    assert torch.equal(thin(x), net[2](net[1](x)))


class Dropped(nn.Module):
    """Stochastic depth: in training, the branch is left out at random."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        kept = torch.rand(x.shape[0], 1) > 0.5 if self.training else 1.0
        return x + self.layer(x) * kept


def test_what_draws_random_numbers_is_compared_where_it_draws_none():
    net, x = nn.Sequential(*(Dropped() for _ in range(3))).train(), torch.randn(8, 4)
    thin = al.remove(net, x, kinds="block", where="block.0")
    assert thin.training
    assert "in evaluation mode" in al.recipe(thin).steps[-1].checked
    assert torch.equal(thin.eval()(x), net[2].eval()(net[1].eval()(x)))
