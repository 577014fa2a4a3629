"""The networks of the figures derived from a trained baseline by archlab's passes, as the starts of their trainings.

The passes decide which weights stay, but for one step by hand (`redesigned`): `al.scale_width` keeps the channels of
largest importance, `al.scale_resolution` puts in layers that begin as means and copies of pixels, `al.scale_depth`
blocks that change nothing, `al.remove`, `al.share`, `al.hoist_padding` and `al.fold` turn the encoder into one layer.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

import archlab as al

from ..network.example import example_for
from ..network.models import EIGHTH, LINEAR, QUARTER, Config, MagnificationNet, scaled

FACTORS = {QUARTER: 2, EIGHTH: 4}  # how much coarser the blocks of the decoder run: the paper's ¼× and ⅛×
# Fig. 11's rows: what each is derived from, where that is not the baseline.
BEFORE = {
    **{linear: QUARTER for linear in LINEAR.values()},
    **{scaled(linear): linear for linear in LINEAR.values()},
}


def from_baseline(config: Config, net: MagnificationNet) -> MagnificationNet:
    """The network of `config` with what `net`, a trained baseline, has learned: step by step, untrained in between."""
    before = BEFORE.get(config)
    return derived(config, net if before is None else from_baseline(before, net))


def derived(config: Config, net: MagnificationNet) -> MagnificationNet:
    """The network of `config` with what `net`, the one before it, has learned.

    Raises ValueError where no pass leads from one to the other.
    """
    if config == net.config:
        return carried(net, config)
    if config in FACTORS and net.config == Config():
        return carried(coarser(net, FACTORS[config]), config)
    if config == replace(net.config, width=config.width):
        return carried(narrower(net, config.width), config)
    if config in LINEAR.values() and net.config == QUARTER:
        *_, (_, single) = linear_encoder(net)
        start = carried(single, LINEAR["B"])
        return start if config == LINEAR["B"] else redesigned(start, config)
    if config == scaled(net.config):
        return carried(scaled_net(net), config)
    raise ValueError(f"no pass leads from {net.config} to {config}")


def coarser(net: nn.Module, factor: int) -> MagnificationNet:
    """The decoder's blocks at a resolution `factor` times lower, the new layers as means and copies of pixels."""
    made = al.scale_resolution(net, example_for(net), span="decoder.blocks", factor=factor, init="resample")
    return cast(MagnificationNet, made)


def narrower(net: MagnificationNet, width: int) -> MagnificationNet:
    """The channels of Fig. 6: all of them in proportion, the most important ones kept."""
    ratio = width / net.config.width
    return cast(MagnificationNet, al.scale_width(net, example_for(net), ratio=ratio, init="prune"))


def linear_encoder(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """From the residual encoder to one linear layer, as (what was done, the network then)."""
    example = example_for(net)
    linear = al.remove(net, example, kinds=["activation", "block"], where="encoder*")
    yield "encoder without activations and residual blocks", linear
    single = al.share(linear, example, keep="encoder.shape", drop="encoder.texture")
    yield "a single branch", single
    hoisted = al.hoist_padding(single, example, where="encoder*")
    yield "padding moved to the first layer", hoisted
    yield "a single linear layer", al.fold(hoisted, example, where="encoder*")


def scaled_net(net: nn.Module, blocks: str = "decoder.blocks") -> nn.Module:
    """Half the channels, the most important ones, and four times the blocks in the decoder, the new ones identities."""
    example = example_for(net)
    half = al.scale_width(net, example, ratio=0.5, init="prune")
    count = 4 * len(cast(nn.Sequential, net.get_submodule(blocks)))
    return al.scale_depth(half, example, span=blocks, count=count, init="preserve")


def carried(net: nn.Module, config: Config) -> MagnificationNet:
    """The network of `config`, which has the same ops as `net` under other names, with the weights of `net`."""
    new = MagnificationNet(config)
    new.load_state_dict(dict(zip(new.state_dict(), net.state_dict().values(), strict=True)))
    return new


def redesigned(net: MagnificationNet, config: Config) -> MagnificationNet:
    """Reading A or C of the linear encoder from B, by hand: the middle of the one kernel, and a convolution behind the
    strided one that begins as the identity. What else both have is kept."""
    new: Any = MagnificationNet(config)
    kept = net.state_dict()
    with torch.no_grad():
        for name, tensor in new.state_dict().items():
            if name in kept and kept[name].shape == tensor.shape:
                tensor.copy_(kept[name])
        for layer in new.decoder.merge[2::2]:
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)
        if len(new.encoder.layers) == 1:
            whole, (middle,) = kept["encoder.layers.0.weight"], new.encoder.layers
            margin = (whole.shape[-1] - middle.weight.shape[-1]) // 2
            middle.weight.copy_(whole[..., margin:-margin, margin:-margin])
    return new
