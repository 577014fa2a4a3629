"""What the tests of reshaping passes share: small networks counted by hand, and what holds of all that is made."""

import copy
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al

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
    with tempfile.TemporaryDirectory() as folder:
        al.save(made, Path(folder) / "made.safetensors")
        loaded = al.load(Path(folder) / "made.safetensors", lambda: copy.deepcopy(net), example, modules=modules)
    x = noise(*IMAGE.shape)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), made.eval()(x))


def assert_own(made: nn.Module, net: nn.Module, before: dict) -> None:
    """`net` is as it was, and `made` shares nothing with it."""
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    own = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    assert not own & {t.untyped_storage().data_ptr() for t in made.state_dict().values()}
