"""Names of modules are data: whatever a key says, it is never written into code that is run."""

import pytest
import torch
from torch import nn

import archlab as al

HOSTILE = [  # torch refuses a dot in a name, and nothing else
    "class", "a b", "it's", 'say "hi"', "back\\slash", "new\nline", "0x", "ünï", "x;y", "lambda", "None", "self",
    '");open("HACKED", "w") #', "');open('HACKED', 'w') #", "open('HACKED', 'w')", "{x}", "%s", "a=b", "#", "\t",
]  # fmt: skip


class Named(nn.Module):
    """Blocks under a key, in a loop over a dict, and called by keywords that are keys."""

    def __init__(self, key: str):
        super().__init__()
        self.blocks = nn.ModuleDict({key: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))})
        self.act = nn.ModuleDict({key: nn.ReLU()})

    def forward(self, x):
        for name, block in self.blocks.items():
            x = x + self.act[name](block(x))
        return x


class Keywords(nn.Module):
    def __init__(self, key: str):
        super().__init__()
        self.key, self.a = key, nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(self.read(**{self.key: self.a(x)}))

    def read(self, **given):
        return given[self.key]


@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_is_never_run(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net, x = Named(key).eval(), torch.randn(1, 4, 6, 6)
    assert {site.how for site in al.sites(net, x)} == {"local"}
    thin = al.remove(net, x, kinds=["activation", "skip"])
    soft = al.switch(net, x, kinds=["activation", "skip"])
    al.set_omegas_(soft, 1.0)
    assert torch.allclose(soft(x), thin(x))
    folded = al.fold(al.remove(net, x, kinds="activation"), x)
    al.scale_width(net, x, widths={"blocks.*.0": 8})
    al.save(folded, "folded.safetensors")
    again = al.load("folded.safetensors", lambda: Named(key), x)
    assert torch.allclose(again.eval()(x), folded(x), atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["folded.safetensors"]


@pytest.mark.parametrize("key", [key for key in HOSTILE if key != "self"])
def test_a_keyword_is_never_run(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net, x = Keywords(key), torch.randn(2, 4)
    thin = al.remove(net, x, kinds="activation")
    assert torch.allclose(thin(x), net.a(x))
    assert not list(tmp_path.iterdir())
