"""The paper's networks derived from the baseline by archlab's passes, step by step, with the baseline's weights.

Each step is one pass; `al.recipe` of the result replays them on another baseline. The networks are those that
`models` builds from a configuration: ¼×, ⅛×, the widths of Fig. 6 and reading B of Fig. 11 (A and C have other kernels,
which no pass makes of the baseline's).
"""

from collections.abc import Iterator

import torch
from torch import nn

import archlab as al

from .models import MagnificationNet

SIDE = 96  # pixels of the example that the passes run: what they decide does not hang on it


def example_for(net: nn.Module, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor, float]:
    """An example of a magnification network: noise for two frames, and a factor."""
    like = next(net.parameters())
    frames = torch.rand(2, 1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(like) * 2 - 1
    return frames[0], frames[1], 10.0


def coarser(net: MagnificationNet, factor: int) -> MagnificationNet:
    """The decoder's blocks on a grid `factor` times coarser: 2 is the paper's ¼×, 4 its ⅛×."""
    return al.scale_resolution(net, example_for(net), span="decoder.blocks", factor=factor)  # type: ignore[return-value]


def narrower(net: MagnificationNet, width: int) -> MagnificationNet:
    """The channels of Fig. 6: all of them in proportion, the most important ones kept."""
    ratio = width / net.config.width
    return al.scale_width(net, example_for(net), ratio=ratio, init="prune")  # type: ignore[return-value]


def real_time(net: MagnificationNet) -> Iterator[tuple[str, MagnificationNet]]:
    """From the baseline to the real-time network in reading B, as (what was done, the network then)."""
    example = example_for(net)

    def step(name: str, made: nn.Module) -> tuple[str, MagnificationNet]:
        return name, made  # type: ignore[return-value]

    kinds = ["activation", "block"]
    linear = al.remove(net, example, kinds=kinds, where="encoder*")
    yield step("encoder without activations and residual blocks", linear)
    single = al.share(linear, example, keep="encoder.shape", drop="encoder.texture")
    yield step("a single branch", single)
    hoisted = al.hoist_padding(single, example, where="encoder*")
    yield step("padding moved to the first layer", hoisted)
    folded = al.fold(hoisted, example, where="encoder*")
    yield step("a single linear layer", folded)
    quarter = al.scale_resolution(folded, example, span="decoder.blocks", factor=2)
    yield step("decoder's blocks on the quarter grid", quarter)
    half = al.scale_width(quarter, example, ratio=0.5, init="prune")
    yield step("half the channels", half)
    deep = al.scale_depth(half, example, span="decoder.blocks.span", count=36, init="preserve")
    yield step("four times the blocks", deep)
