"""The search spaces of the paper's Fig. 13: which residual blocks are there, and how large their kernels are.

The paper gives four sets of bounds and nothing of the networks. Here each is the baseline with fewer channels in the
decoder: a convolution after the concatenation takes its channels down, and what follows has these. Encoder and
manipulator keep their 32 channels; every residual block of encoder and decoder may be left out, or have kernels of 3,
5 or 7.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import archlab as al
from studies.device import device

from .example import SIDE, STREAMED, streamed
from .models import Config, MagnificationNet, UpStage, blocks, conv

KERNELS = (3, 5, 7)
STACKS = ("encoder.common", "encoder.texture", "encoder.shape", "decoder.blocks")  # what holds the residual blocks
TO_G = (STREAMED / SIDE) ** 2 / 1e9  # from multiply-adds at SIDE pixels to G of them at STREAMED


@dataclass(frozen=True)
class Bounds:
    """What the paper bounds: blocks of the encoder and of the decoder, channels of the decoder, FLOPs.

    FLOPs are taken as multiply-adds of one streamed frame of 384 x 384.
    """

    encoder_blocks: tuple[int, int, int]  # common, texture, shape: 7 in all
    decoder_blocks: int
    channels: int
    macs_g: float


BOUNDS = {
    "a": Bounds((3, 2, 2), 9, 8, 10.0),
    "b": Bounds((3, 2, 2), 9, 16, 10.0),
    "c": Bounds((3, 2, 2), 9, 32, 20.0),
    "d": Bounds((3, 2, 2), 18, 8, 10.0),
}


class NarrowDecoder(nn.Module):
    """(texture, magnified shape) -> image, with `channels` where the baseline has twice the `width`."""

    def __init__(self, width: int, channels: int, count: int):
        super().__init__()
        self.texture = UpStage(width, width)
        self.merge = nn.Sequential(conv(2 * width, channels, 3), nn.ReLU())
        self.blocks = blocks(count, channels)
        self.up = UpStage(channels, channels)
        self.conv1 = conv(channels, channels // 2, 3)
        self.act = nn.ReLU()
        self.conv2 = conv(channels // 2, 3, 7)

    def forward(self, texture: Tensor, shape: Tensor) -> Tensor:
        x = torch.cat([self.texture(texture), shape], dim=1)
        x = self.up(self.blocks(self.merge(x)))
        return self.conv2(self.act(self.conv1(x)))


def whole(bounds: Bounds) -> MagnificationNet:
    """The network with all blocks that `bounds` allow, kernels of 3; each block in a container of its own, so that one
    choice is whether the container is there, another the kernels of what is in it."""
    net = MagnificationNet(Config(encoder_blocks=bounds.encoder_blocks))
    net.decoder = NarrowDecoder(net.config.width, bounds.channels, bounds.decoder_blocks)  # type: ignore[assignment]
    for path in STACKS:
        stack = net.get_submodule(path)
        assert isinstance(stack, nn.Sequential)
        for index, block in enumerate(stack):
            stack[index] = nn.Sequential(block)
    return net


def supernet(name: str, *, seed: int) -> nn.Module:
    """The supernet of a set of bounds, a key of `BOUNDS`, untrained: its weights fixed by `seed`."""
    if name not in BOUNDS:
        raise ValueError(f"supernet: name must be one of the sets of bounds {', '.join(BOUNDS)}, got {name!r}")
    net = copy.deepcopy(_built(name, seed))
    return net.to(device(), memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@cache
def _built(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = whole(BOUNDS[name])
        choices = {}
        for path in STACKS:
            choices |= {f"{path}.*": al.optional(), f"{path}.*.0": al.kernel(*KERNELS)}
        return al.supernet(net, streamed(net, SIDE, SIDE), choices=choices)


def allowed_macs(name: str, net: nn.Module) -> tuple[float, float]:
    """The least multiply-adds of the space and the most that the bound allows, at `SIDE` pixels."""
    return float(al.space(net).macs_range[0]), BOUNDS[name].macs_g / TO_G


def macs_g(net: nn.Module, architecture: Mapping[str, Any]) -> float:
    """The multiply-adds of an architecture, in G, of one streamed frame of 384 x 384."""
    return al.space(net).macs(architecture) * TO_G


def told(architecture: Mapping[str, Any]) -> dict[str, str]:
    """By part, the kernels of the blocks that an architecture keeps, in their order: "5 3 7", "–" for none."""
    parts = {"encoder": "", "decoder": ""}
    for path, option in architecture.items():
        if option != "skip" and path.endswith(".0") and architecture.get(path.removesuffix(".0")) == "keep":
            parts[path.partition(".")[0]] += f"{option} "
    return {part: kernels.strip() or "–" for part, kernels in parts.items()}
