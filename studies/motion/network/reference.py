"""A yardstick: a public network of Oh et al.'s architecture, trained by others on the authors' own data.

It differs from `baseline()`: a 3 x 3 first manipulator layer, no convolution on the texture and none of 64 channels
behind the blocks, the magnified difference is added to the shape of A, images are in [0, 1]. Its weights have no
licence: they are read from a local file and never belong to this project.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILE = Path("weights") / "reference" / "magnet_879843.pth"  # below the data folder


def padded(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(inputs, outputs, kernel, stride)]


class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block = nn.Sequential(*padded(channels, channels, 3), nn.ReLU(), *padded(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(*padded(3, 16, 7), nn.ReLU(), *padded(16, 32, 3, 2), nn.ReLU())
        self.res = nn.Sequential(*(Block(32) for _ in range(3)))
        self.texture = nn.Sequential(*padded(32, 32, 3, 2), nn.ReLU(), Block(32), Block(32))
        self.shape = nn.Sequential(*padded(32, 32, 3), nn.ReLU(), Block(32), Block(32))

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        x = self.res(self.conv(frame))
        return self.texture(x), self.shape(x)


class Manipulator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(*padded(32, 32, 3), nn.ReLU())
        self.conv2 = nn.Sequential(*padded(32, 32, 3), Block(32))

    def forward(self, shape_a: Tensor, shape_b: Tensor, factor: Tensor) -> Tensor:
        return shape_a + self.conv2(factor * self.conv1(shape_b - shape_a))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.res = nn.Sequential(*(Block(64) for _ in range(9)))
        self.deconv = nn.Sequential(
            nn.UpsamplingNearest2d(scale_factor=2), *padded(64, 32, 3), nn.ReLU(), *padded(32, 3, 7)
        )

    def forward(self, texture: Tensor, shape: Tensor) -> Tensor:
        up = F.interpolate(texture, scale_factor=2.0, mode="nearest")
        return self.deconv(self.res(torch.cat([up, shape], dim=1)))


class Reference(nn.Module):
    """Two frames in [-1, 1] and N factors (total gain) -> the magnified frame in [-1, 1], as `MagnificationNet`."""

    def __init__(self):
        super().__init__()
        self.encoder, self.manipulator, self.decoder = Encoder(), Manipulator(), Decoder()

    def forward(self, frame_a: Tensor, frame_b: Tensor, factor: Tensor) -> Tensor:
        _, shape_a = self.encoder((frame_a + 1) / 2)
        texture_b, shape_b = self.encoder((frame_b + 1) / 2)
        return self.decoder(texture_b, self.manipulator(shape_a, shape_b, factor.reshape(-1, 1, 1, 1))) * 2 - 1


def reference(data: Path | None) -> Reference | None:
    """The network with its weights from below the data folder; None where they are not there."""
    if data is None or not (data / FILE).is_file():
        return None
    net = Reference()
    net.load_state_dict(torch.load(data / FILE, map_location="cpu", weights_only=True))
    return net.eval()
