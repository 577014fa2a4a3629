"""The magnification network of Oh et al. (ECCV 2018) and its descendants, from one configuration.

Images are RGB in [-1, 1], N x 3 x H x W with H and W divisible by the coarsest stride (4 for the
baseline). `factor` is the total gain: a motion d between the frames becomes factor * d, so
factor = 1 is frame B (the paper's alpha is factor - 1).
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import Tensor, nn

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"  # with their facts beside them
PRETRAINED, PRETRAINED_LIGHTWEIGHT = WEIGHTS / "baseline.safetensors", WEIGHTS / "lightweight.safetensors"
PRETRAINED_PROPOSED = WEIGHTS / "proposed.safetensors"


@dataclass(frozen=True)
class Config:
    """What differs between the networks of the paper; the defaults are the baseline (paper, Fig. 3).

    `width` is the channel count of the shape and texture maps; the decoder has twice as many. `encoder` is
    ``"residual"`` (two branches of residual blocks) or the (kernel, stride) of each layer of a linear encoder
    without activations, whose one output serves as shape and texture. `texture` is what the decoder does to the
    texture: ``"up"`` (nearest x2, conv, ReLU), ``"conv"`` (conv, ReLU) or ``"same"``. `merge` are the strides of
    the convolutions between concatenation and blocks; each stride of 2 adds an up stage behind the blocks.
    """

    width: int = 32
    encoder: Literal["residual"] | tuple[tuple[int, int], ...] = "residual"
    encoder_blocks: tuple[int, int, int] = (3, 2, 2)  # common, texture, shape
    manipulator_blocks: int = 1
    texture: Literal["up", "conv", "same"] = "up"
    merge: tuple[int, ...] = ()
    decoder_blocks: int = 9


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution with bias and reflect padding, as everywhere in this network."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect")


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(x)))``"""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = conv(channels, channels, 3)
        self.act = nn.ReLU()
        self.conv2 = conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.conv1(x)))


def blocks(count: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


class Encoder(nn.Module):
    """Frame -> (texture at a quarter of the resolution, shape at half), both of `width` channels."""

    def __init__(self, config: Config):
        super().__init__()
        c = config.width
        common, texture, shape = config.encoder_blocks
        self.conv1 = conv(3, c // 2, 7)
        self.act1 = nn.ReLU()
        self.conv2 = conv(c // 2, c, 3, stride=2)
        self.act2 = nn.ReLU()
        self.common = blocks(common, c)
        self.texture_conv = conv(c, c, 3, stride=2)
        self.texture_act = nn.ReLU()
        self.texture = blocks(texture, c)
        self.shape_conv = conv(c, c, 3)
        self.shape_act = nn.ReLU()
        self.shape = blocks(shape, c)

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act1(self.conv1(frame))
        x = self.common(self.act2(self.conv2(x)))
        texture = self.texture(self.texture_act(self.texture_conv(x)))
        shape = self.shape(self.shape_act(self.shape_conv(x)))
        return texture, shape


class LinearEncoder(nn.Module):
    """Frame -> one map of `width` channels at half the resolution, twice: a single branch without activations."""

    def __init__(self, config: Config):
        super().__init__()
        assert config.encoder != "residual"
        widths = [3] + [config.width // 2] * (len(config.encoder) - 1) + [config.width]
        self.layers = nn.Sequential(
            *(conv(a, b, k, s) for (k, s), (a, b) in zip(config.encoder, pairwise(widths), strict=True))
        )

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        shape = self.layers(frame)
        return shape, shape


class Manipulator(nn.Module):
    """Shapes of frames A and B, factor -> the magnified shape: ``B + h((factor - 1) * relu(conv(B - A)))``."""

    def __init__(self, config: Config):
        super().__init__()
        c = config.width
        self.conv1 = conv(c, c, 7)
        self.act = nn.ReLU()
        self.conv2 = conv(c, c, 3)
        self.blocks = blocks(config.manipulator_blocks, c)

    def forward(self, shape_a: Tensor, shape_b: Tensor, factor: float | Tensor) -> Tensor:
        if isinstance(factor, Tensor):
            factor = factor.to(shape_b.dtype).reshape(-1, 1, 1, 1)
        difference = self.act(self.conv1(shape_b - shape_a))
        return shape_b + self.blocks(self.conv2((factor - 1) * difference))


class UpStage(nn.Module):
    """Nearest x2, conv, ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = conv(inputs, outputs, 3)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


class Decoder(nn.Module):
    """(texture, magnified shape) -> image."""

    def __init__(self, config: Config):
        super().__init__()
        c, d = config.width, 2 * config.width
        self.texture: nn.Module = nn.Identity()
        if config.texture == "up":
            self.texture = UpStage(c, c)
        elif config.texture == "conv":
            self.texture = nn.Sequential(conv(c, c, 3), nn.ReLU())
        merge = [layer for stride in config.merge for layer in (conv(d, d, 3, stride), nn.ReLU())]
        self.merge = nn.Sequential(*merge)
        self.blocks = blocks(config.decoder_blocks, d)
        self.up = nn.Sequential(*(UpStage(d, d) for stride in (*config.merge, 2) if stride == 2))
        self.conv1 = conv(d, c, 3)
        self.act = nn.ReLU()
        self.conv2 = conv(c, 3, 7)

    def forward(self, texture: Tensor, shape: Tensor) -> Tensor:
        x = torch.cat([self.texture(texture), shape], dim=1)
        x = self.up(self.blocks(self.merge(x)))
        return self.conv2(self.act(self.conv1(x)))


class MagnificationNet(nn.Module):
    """Two frames and a factor -> the magnified frame, N x 3 x H x W; `factor` is a number or a tensor of N."""

    def __init__(self, config: Config | None = None):
        super().__init__()
        self.config = config = config or Config()
        self.encoder = Encoder(config) if config.encoder == "residual" else LinearEncoder(config)
        self.manipulator = Manipulator(config)
        self.decoder = Decoder(config)

    def encode(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """(texture, shape) of one frame."""
        return self.encoder(frame)

    def forward(self, frame_a: Tensor, frame_b: Tensor, factor: float | Tensor) -> Tensor:
        _, shape_a = self.encode(frame_a)
        texture_b, shape_b = self.encode(frame_b)
        return self.decoder(texture_b, self.manipulator(shape_a, shape_b, factor))

    def stream(self, frame: Tensor, previous_shape: Tensor, factor: float | Tensor) -> tuple[Tensor, Tensor]:
        """(magnified frame, shape of `frame`), given the shape of the reference frame: one encoder pass a frame.

        This is what costs are counted on. Keep the shape for the next call, or the first one for a fixed reference.
        """
        texture, shape = self.encode(frame)
        return self.decoder(texture, self.manipulator(previous_shape, shape, factor)), shape


def baseline(*, width: int = 32, pretrained: bool = False) -> MagnificationNet:
    """The network of Oh et al., 966,979 parameters at width 32; other widths are the rows of the paper's Fig. 6.

    `pretrained`: with the weights of `studies/motion/weights`, in half precision there; baseline.json beside them says
    how they were trained and what they reach. Raises ValueError for another width than 32, FileNotFoundError where they
    are not there.
    """
    if pretrained and width != 32:
        raise ValueError(f"the trained weights are of width 32, got width={width}")
    net = MagnificationNet(Config(width=width))
    if pretrained:
        load_model(net, PRETRAINED)
    return net


LIGHTWEIGHT = Config(width=12)


def lightweight(*, pretrained: bool = False) -> MagnificationNet:
    """A baseline of 12 channels and 138,099 parameters, in place of the network of Singh et al. (WACV 2023).

    An approximation: known of that network are its size, about 120,000 parameters, and that it is a baseline with fewer
    channels. Its layers are not public in detail, and neither code nor weights were found.

    `pretrained`: with the weights that an earlier run of row "width 12" of `studies.motion.train.networks` had, in half
    precision; lightweight.json beside them says how they were trained. Raises FileNotFoundError where they are not
    there.
    """
    net = MagnificationNet(LIGHTWEIGHT)
    if pretrained:
        load_model(net, PRETRAINED_LIGHTWEIGHT)
    return net


# Fig. 7 and 11: decoder at a quarter and an eighth of the resolution.
QUARTER = Config(merge=(2,))
EIGHTH = Config(merge=(2, 2))
Reading = Literal["A", "B", "C"]
# Fig. 11, single linear encoder: three readings of an unpublished design, before depth and width are scaled. B is what
# archlab's passes derive from the baseline; A and C are designed by hand (other kernels).
LINEAR: dict[Reading, Config] = {
    "A": Config(encoder=((7, 2),), texture="same", merge=(2, 1)),
    "B": Config(encoder=((13, 2),), texture="conv", merge=(2,)),
    "C": Config(encoder=((3, 1), (3, 2)), texture="same", merge=(2, 1)),
}


def scaled(config: Config) -> Config:
    """Fig. 11's last structural step: half the channels, four times the blocks in the decoder."""
    return replace(config, width=config.width // 2, decoder_blocks=4 * config.decoder_blocks)


def proposed(*, reading: Reading = "A", pretrained: bool = False) -> MagnificationNet:
    """The paper's real-time network in one of three readings of its design: A and C made by hand, B by the passes.

    `pretrained`: with the weights (reading A) of an earlier run of `studies.motion.figures.by_passes`, 20,000 steps
    long, in half precision; proposed.json beside them says how they were trained and what they reach.
    Raises ValueError for an unknown reading and for trained weights of another than A, FileNotFoundError where they are
    not there.
    """
    if reading not in LINEAR:
        raise ValueError(f"reading must be one of {', '.join(LINEAR)}, got {reading!r}")
    if pretrained and reading != "A":
        raise ValueError(f"the trained weights are of reading A, got reading={reading!r}")
    net = MagnificationNet(scaled(LINEAR[reading]))
    if pretrained:
        load_model(net, PRETRAINED_PROPOSED)
    return net
