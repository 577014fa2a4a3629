"""Blocks that are built alike lend each other the graph by which `sites` tells how they are rewritten; no others do."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import archlab as al
from archlab.rewrite import override


class Block(nn.Module):
    """A residual block; a test sets something on it that its code asks for."""

    def __init__(self, width: int = 2):
        super().__init__()
        self.inner, self.act = nn.Linear(2, width), nn.ReLU()
        self.outer = nn.Linear(width, 2)
        self.scale, self.sides, self.config, self.function = 1.0, [2, 2], None, torch.tanh

    def forward(self, x, draw=False):
        if draw or (self.config is not None and self.config.draw):
            random.random()  # which no graph can do
        if self._parameters.get("gate") is not None and self._parameters["gate"].item() > 0:
            x = x * 2
        return x + self.function(self.outer(self.act(self.inner(x))) * self.scale)


class Bare(Block):
    """Without a residual."""

    def forward(self, x):
        return self.outer(self.act(self.inner(x)))


class Slotted(Block):
    """Keeps something where `vars` does not show it."""

    __slots__ = ("hidden",)


@pytest.fixture
def traced(monkeypatch):
    """The modules whose code was traced, in order."""
    modules, trace = [], override.trace

    def noting(module, *rest):
        modules.append(module)
        return trace(module, *rest)

    monkeypatch.setattr(override, "trace", noting)
    return modules


def chain(*blocks: nn.Module) -> nn.Sequential:
    return nn.Sequential(*blocks)


def hows(model: nn.Module) -> list[list[str]]:
    """For each block of a chain, how the sites in it are rewritten."""
    found = [site for site in al.sites(model, torch.ones(1, 2)) if "/" in site.id]
    return [[str(s.how) for s in found if s.id.startswith(f"{n}/")] for n in range(len(model))]


def test_a_model_of_equal_blocks_is_traced_once_for_all_of_them(traced):
    made = hows(chain(*(Block() for _ in range(60))))
    assert made == [["local"] * len(made[0])] * 60 and made[0]
    assert sum(isinstance(module, Block) for module in traced) == 1


def test_blocks_of_two_kinds_in_turn_are_traced_once_a_kind(traced):
    hows(chain(*(cls() for _ in range(4) for cls in (Block, Bare))))
    assert sorted(type(m).__name__ for m in traced if isinstance(m, Block)) == ["Bare", "Block"]


def set_on(name, value):
    def change(block):
        setattr(block, name, value)

    return change


def tie(block):
    block.outer.weight = block.inner.weight


CHANGES = {
    "a number": set_on("scale", 0.5),
    "a number of another type": set_on("scale", 1),
    "the sign of nothing": set_on("scale", -0.0),
    "a number that it does not read": set_on("depth", 3),
    "a list": set_on("sides", [2, 3]),
    "an object": set_on("config", SimpleNamespace(draw=False)),
    "a function": set_on("function", torch.sigmoid),
    "a closure": set_on("function", lambda x: x * 2),
    "the class of a child": set_on("act", nn.GELU()),
    "a number of a child": set_on("act", nn.ReLU(inplace=True)),
    "a child more": set_on("more", nn.Identity()),
    "the mode": lambda block: block.eval(),
    "a hook": lambda block: block.inner.register_forward_hook(lambda *_: None),
    "one weight twice": tie,
    "a buffer": lambda block: block.register_buffer("mean", torch.zeros(2)),
    "a tensor": set_on("mean", torch.zeros(2)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_block_that_differs_in(change, traced):
    plain, other = Block(), Block()
    if change is CHANGES["the sign of nothing"]:
        plain.scale = 0.0
    change(other)
    hows(chain(plain, other))
    assert sum(isinstance(module, Block) for module in traced) == 2


def test_other_sizes_are_other_blocks(traced):
    hows(chain(Block(2), Block(3), Block(2), Block(3)))
    assert sum(isinstance(module, Block) for module in traced) == 2


def test_what_cannot_be_compared_is_traced_for_each(traced):
    hows(chain(Slotted(), Slotted()))
    assert sum(isinstance(module, Slotted) for module in traced) == 2


def test_a_block_that_asks_what_its_own_tensor_holds_is_traced_for_itself(traced):
    blocks = [Block(), Block()]
    for block, value in zip(blocks, (-1.0, 1.0), strict=True):
        block.gate = nn.Parameter(torch.tensor(value))
    hows(chain(*blocks))
    assert sum(isinstance(module, Block) for module in traced) == 2


def test_one_that_cannot_be_traced_lends_nothing_and_borrows_nothing():
    blocks = [Block(), Block(), Block()]
    for block, draw in zip(blocks, (False, True, False), strict=True):
        block.config = SimpleNamespace(draw=draw)
    first, second, third = hows(chain(*blocks))
    assert set(first) == set(third) == {"local"} and "local" not in second


class Told(nn.Module):
    """Calls equal blocks in unlike ways."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Block(), Block()

    def forward(self, x):
        return self.b(self.a(x), draw=True)


def test_equal_blocks_that_are_called_unlike_are_traced_for_each_way():
    found = {site.id: str(site.how) for site in al.sites(Told(), torch.ones(1, 2)) if "/" in site.id}
    assert {how for name, how in found.items() if name.startswith("a/")} == {"local"}
    assert "local" not in {how for name, how in found.items() if name.startswith("b/")}


def test_a_rewritten_model_is_recorded_by_the_modules_it_has():
    """A graph says which module it is of: what `switch` makes has one for each."""
    model = chain(Block(), Block())
    soft = al.switch(model, torch.ones(1, 2), kinds="activation")
    assert [s.id for s in al.sites(soft, torch.ones(1, 2), "skip")] == ["0/skip.0", "1/skip.0"]
