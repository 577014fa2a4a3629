"""What `sites` says goes with a site is what `cost` loses once that site alone is removed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al


class Calls(nn.Module):
    """A module from its children and its forward."""

    def __init__(self, forward: Callable[..., Any], **children: nn.Module):
        super().__init__()
        self.own = forward
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, *inputs: Tensor) -> Any:
        return self.own(self, *inputs)


def layer(width: int = 4, out: int = 4) -> nn.Linear:
    return nn.Linear(width, out)


def conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)


def mixture() -> nn.Module:
    """Experts write their tokens into one tensor, statement by statement, which the branch adds."""

    def forward(self: Any, x: Tensor) -> Tensor:
        mixed = torch.zeros_like(x)
        for k, expert in enumerate((self.a, self.b)):
            mixed.index_add_(0, torch.arange(k, 3), expert(x[k:3]))
        mixed *= 2
        return x + mixed

    return Calls(forward, a=layer(), b=layer())


def written_through_a_view() -> nn.Module:
    """What is written into a part of the shortcut stays, though nothing reads the part as such without the branch."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        part = self.same(x)[:, :2]
        part.mul_(2)
        return x + self.b(torch.cat([part, part], 1))

    return Calls(forward, a=layer(), b=layer(), same=nn.Identity())


def computed_by_the_caller() -> nn.Module:
    """What a branch reads is computed by another module's code, which goes on doing so."""
    inner = Calls(lambda self, x, y: x + self.l(y), l=layer())
    return Calls(lambda self, x: self.inner(self.a(x), self.b(x)), a=layer(), b=layer(), inner=inner)


def one_output_of_two() -> nn.Module:
    """A call stays where one of its outputs is read."""
    heads = Calls(lambda self, x: (self.a(x), self.b(x)), a=layer(), b=layer())

    def forward(self: Any, x: Tensor) -> Tensor:
        kept, added = self.heads(x)
        return kept + torch.tanh(added)

    return Calls(forward, heads=heads)


def read_by_a_block_alone() -> nn.Module:
    """What only a block reads beside its input goes with it."""
    block = Calls(lambda self, x, e: F.relu(self.l(x)) * e, l=layer())
    return Calls(lambda self, x: self.block(self.a(x), self.e(x[:, :2])), a=layer(), e=layer(2, 1), block=block)


def joined_positions() -> nn.Module:
    """Along positions, of which no layer says how many there are."""

    def forward(self: Any, x: Tensor) -> Tensor:
        fine = self.a(x)
        coarse = self.b(F.avg_pool2d(fine, 2))
        return torch.cat([self.head(y).flatten(2) for y in (fine, coarse)], 2)

    return Calls(forward, a=conv(2, 2), b=conv(2, 2), head=conv(2, 3))


def read_by_one_layer_twice() -> nn.Module:
    """The columns of a layer that two concatenations are read by do not go with one of them."""

    def slope(self: Any, time: Tensor, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(torch.cat([x, time.expand(x.shape[0], 1)], 1))))

    def forward(self: Any, x: Tensor) -> Tensor:
        time = torch.zeros(1, 1)
        for _ in range(2):
            x = x + slope(self, time + 0.5, x + 0.5 * slope(self, time, x))
            time = time + 1
        return x

    return Calls(forward, a=layer(5), b=layer())


TOKENS, IMAGE = (lambda: torch.randn(3, 4)), (lambda: torch.randn(1, 2, 4, 4))
MODELS: list[tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = [
    (mixture, TOKENS, "branch.0"),
    (written_through_a_view, TOKENS, "join.0"),
    (computed_by_the_caller, TOKENS, "inner/join.0"),
    (one_output_of_two, TOKENS, "join.0"),
    (read_by_a_block_alone, TOKENS, "block.0"),
    (joined_positions, IMAGE, "concat.0"),
    (read_by_one_layer_twice, TOKENS, "concat.0"),
]


@pytest.mark.parametrize(("build", "given", "name"), MODELS, ids=[build.__name__ for build, *_ in MODELS])
def test_what_is_promised_goes(build, given, name):
    net, x = build().eval(), given()
    site = next(site for site in al.sites(net, x) if site.id == name)
    thin = al.remove(net, x, kinds=site.kind, where=name)
    before, after = al.cost(net, x), al.cost(thin, x)
    assert (site.params, site.macs) == (before.params - after.params, before.macs - after.macs)
