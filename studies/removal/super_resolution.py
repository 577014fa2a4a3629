"""VDSR (Kim et al. 2016), twice as many pixels a side, from weights that others trained, and its task.

It sees the luminance of a picture that bicubic interpolation has brought to its size, and adds what is missing.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import archlab as al

FACTOR = 2
WEIGHTS = Path("weights") / "sr" / "vdsr_sd.pth"
TRAIN, TEST = ("T91", "BSD200"), ("Set5", "Set14", "B100")
SHAVED = 4  # pixels of a crop's border that are not evaluated
Pair = tuple[Tensor, Tensor]  # as interpolated and as it should be, each H x W in [0, 1]


class Conv(nn.Module):
    """A 3x3 convolution and its ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))


class VDSR(nn.Module):
    """Luminance, B x 1 x H x W -> the same, sharper. Parameters are named as in the public weights."""

    def __init__(self, width: int = 64, layers: int = 18):
        super().__init__()
        self.input = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.residual_layer = nn.Sequential(*(Conv(width) for _ in range(layers)))
        self.output = nn.Conv2d(width, 1, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.output(self.residual_layer(self.relu(self.input(x))))


def load_vdsr(path: Path) -> VDSR:
    """The network whose state dict `path` holds; its size is read from the weights."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    net = VDSR(len(state["input.weight"]), sum(name.startswith("residual_layer.") for name in state))
    net.load_state_dict(state)
    return net.eval()


def luminance(picture: Image.Image) -> np.ndarray:
    """Y of ITU-R BT.601, in [16, 235] / 255, as super-resolution is evaluated."""
    weights = np.array([65.481, 128.553, 24.966], np.float32) / 255
    return (np.asarray(picture.convert("RGB"), np.float32) @ weights + 16) / 255


def pair(picture: Image.Image) -> Pair:
    """The luminance after bicubic shrinking and bicubic growing, and itself; sides are cut to whole multiples."""
    y = luminance(picture)
    height, width = (side // FACTOR * FACTOR for side in y.shape)
    whole = Image.fromarray(y[:height, :width])
    small = whole.resize((width // FACTOR, height // FACTOR), Image.Resampling.BICUBIC)
    grown = small.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(grown)), torch.from_numpy(np.array(whole))


@cache
def pairs(root: Path, sets: Sequence[str], most: int | None) -> list[Pair]:
    """The first `most` pictures (None: all) of each of the `sets` in the folder `root`."""
    return [pair(Image.open(path)) for name in sets for path in sorted((root / name).iterdir())[:most]]


def centre(of: Pair, side: int) -> Pair:
    """The middle of a picture, at most `side` pixels each way."""
    top, left = (max(0, (length - side) // 2) for length in of[0].shape)
    return tuple(x[top : top + side, left : left + side] for x in of)  # type: ignore[return-value]


def patches(found: list[Pair], count: int, side: int, seed: int) -> Pair:
    """`count` squares of pictures, mirrored and turned at random, B x 1 x side x side; drawn by `seed`."""
    draw = torch.Generator().manual_seed(seed)
    cut = []
    for number in torch.randint(len(found), (count,), generator=draw).tolist():
        both = torch.stack(found[number])
        place = torch.rand(2, generator=draw) * (torch.tensor(both.shape[1:]) - side)
        top, left = place.int().tolist()
        turns = int(torch.randint(8, (), generator=draw))
        piece = torch.rot90(both[:, top : top + side, left : left + side], turns % 4, (1, 2))
        cut.append(piece.flip(2) if turns > 3 else piece)
    all_of_them = torch.stack(cut, 1)[:, :, None]
    return all_of_them[0], all_of_them[1]


def loss(net: nn.Module, batch: Pair) -> Tensor:
    """Mean squared error."""
    given, wanted = (x.to(next(net.parameters()).device) for x in batch)
    return (net(given) - wanted).square().mean()


def task(data: Path, *, seed: int, batch: int, side: int, crop: int, most: int | None = None) -> al.Task:
    """Batches of `batch` patches of `side` pixels; quality: Y-PSNR in dB, the mean over the middle `crop` pixels of the
    first `most` pictures (None: all) of each test set, and its negative as a loss."""
    trained = pairs(data / "sr" / "train", TRAIN, None)
    judged = [centre(one, crop) for one in pairs(data / "sr" / "test", TEST, most)]

    @torch.no_grad()
    def quality(net: nn.Module) -> dict[str, float]:
        where, values = next(net.parameters()).device, []
        inner = (slice(SHAVED, -SHAVED), slice(SHAVED, -SHAVED))
        for given, wanted in judged:
            made = net.eval()(given[None, None].to(where))[0, 0].cpu().clamp(0, 1)
            values.append(float(-10 * (made[inner] - wanted[inner]).square().mean().log10()))
        mean = sum(values) / len(values)
        return {"quality": mean, "loss": -mean}

    return al.Task(
        example=torch.zeros(1, 1, crop, crop),
        batches=lambda step: patches(trained, batch, side, 1_000_003 * (seed + 1) + step),
        loss=loss,
        quality=quality,
        measures={"quality": "higher", "loss": "lower"},
    )
