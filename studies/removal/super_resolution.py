"""Pictures of twice as many pixels a side: pairs to learn from, and the task of VDSR and of EDSR.

VDSR works on the luminance of a picture that interpolation has grown, EDSR on the small picture in colour. Both are
evaluated by the luminance, as is usual.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import archlab as al

FACTOR = 2
TRAIN, TEST = ("T91", "BSD200"), ("Set5", "Set14", "B100")
SHAVED = 4  # pixels of a crop's border that are not evaluated
TO_Y = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # ITU-R BT.601: what red, green and blue add to 16 / 255

# What a network is given and what it should make of it, C x H x W each: 8 bits, or values in [0, 1].
Pair = tuple[Tensor, Tensor]


def luminance(rgb: Tensor) -> Tensor:
    """Y of colours in [0, 1], ... x 3 x H x W -> ... x 1 x H x W in [16, 235] / 255."""
    return (rgb * rgb.new_tensor(TO_Y)[:, None, None]).sum(-3, keepdim=True) + 16 / 255


def in_colour(picture: Image.Image) -> Pair:
    """The picture shrunk by bicubic interpolation, and itself, in 8 bits; sides are cut to whole multiples."""
    width, height = (side // FACTOR * FACTOR for side in picture.size)
    whole = picture.convert("RGB").crop((0, 0, width, height))
    small = whole.resize((width // FACTOR, height // FACTOR), Image.Resampling.BICUBIC)
    return tuple(torch.from_numpy(np.array(x)).permute(2, 0, 1) for x in (small, whole))  # type: ignore[return-value]


def interpolated(picture: Image.Image) -> Pair:
    """The luminance after bicubic shrinking and bicubic growing, and itself; sides are cut to whole multiples."""
    y = luminance(as_values(in_colour(picture)[1]))
    whole = Image.fromarray(y[0].numpy())
    small = whole.resize([side // FACTOR for side in whole.size], Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small.resize(whole.size, Image.Resampling.BICUBIC)))[None], y


def as_values(x: Tensor) -> Tensor:
    """Eight bits as values in [0, 1]; values as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


@cache
def pairs(root: Path, sets: Sequence[str], most: int | None, made: Callable[[Image.Image], Pair]) -> list[Pair]:
    """The first `most` pictures (None: all) of each of the `sets` in the folder `root`, each as `made` makes them."""
    return [made(Image.open(path)) for name in sets for path in sorted((root / name).iterdir())[:most]]


def cut(of: Pair, top: int, left: int, side: int) -> Pair:
    """A square of what is given, `side` pixels a side or what there is of it, and the same part of what is wanted."""
    scale = of[1].shape[-1] // of[0].shape[-1]
    places = [(slice(s * top, s * (top + side)), slice(s * left, s * (left + side))) for s in (1, scale)]
    return of[0][(..., *places[0])], of[1][(..., *places[1])]


def centre(of: Pair, side: int) -> Pair:
    """The middle of a picture, at most `side` pixels of what is wanted each way."""
    side = side * of[0].shape[-1] // of[1].shape[-1]
    top, left = (max(0, (length - side) // 2) for length in of[0].shape[1:])
    return cut(of, top, left, side)


def patches(found: list[Pair], count: int, side: int, seed: int) -> Pair:
    """`count` squares of pictures, mirrored and turned at random, B x C x side x side and what is wanted of them."""
    draw = torch.Generator().manual_seed(seed)
    pieces: tuple[list[Tensor], list[Tensor]] = [], []
    for number in torch.randint(len(found), (count,), generator=draw).tolist():
        room = torch.tensor(found[number][0].shape[1:]) - side
        top, left = (torch.rand(2, generator=draw) * room).int().tolist()
        turns = int(torch.randint(8, (), generator=draw))
        for into, piece in zip(pieces, cut(found[number], top, left, side), strict=True):
            turned = torch.rot90(as_values(piece), turns % 4, (1, 2))
            into.append(turned.flip(2) if turns > 3 else turned)
    return torch.stack(pieces[0]), torch.stack(pieces[1])


def squared(net: nn.Module, batch: Pair) -> Tensor:
    """Mean squared error, which VDSR is trained with."""
    given, wanted = on_device_of(net, batch)
    return F.mse_loss(net(given), wanted)


def absolute(net: nn.Module, batch: Pair) -> Tensor:
    """Mean absolute error, which EDSR is trained with."""
    given, wanted = on_device_of(net, batch)
    return F.l1_loss(net(given), wanted)


def on_device_of(net: nn.Module, batch: Pair) -> Pair:
    where = next(net.parameters()).device
    return batch[0].to(where), batch[1].to(where)


def task(
    data: Path,
    *,
    seed: int,
    batch: int,
    side: int,
    crop: int,
    most: int | None = None,
    made: Callable[[Image.Image], Pair] = interpolated,
    loss: Callable[[nn.Module, Pair], Tensor] = squared,
) -> al.Task:
    """Batches of `batch` patches, `side` pixels a side of what is given; `made` makes the pair of a picture.

    `loss` is what is trained with. Quality: Y-PSNR in dB, the mean over the middle `crop` pixels, of what is wanted, of
    the first `most` pictures (None: all) of each test set, and its negative as a loss.
    """
    trained = pairs(data / "sr" / "train", TRAIN, None, made)
    judged = [centre(one, crop) for one in pairs(data / "sr" / "test", TEST, most, made)]

    def quality(net: Any) -> dict[str, float]:
        mean = sum(psnr(net.eval(), one) for one in judged) / len(judged)
        return {"quality": mean, "loss": -mean}

    example = torch.zeros_like(as_values(judged[0][0]))[None]
    batches = lambda step: patches(trained, batch, side, 1_000_003 * (seed + 1) + step)  # noqa: E731
    return al.Task(example, batches, loss, quality, {"quality": "higher", "loss": "lower"})


@torch.no_grad()
def psnr(net: nn.Module, one: Pair) -> float:
    """Of what the network makes, by its luminance, in dB, but for a border."""
    given, wanted = on_device_of(net, (as_values(one[0])[None], as_values(one[1])[None]))
    both = (net(given).clamp(0, 1), wanted)
    made, wanted = (luminance(x) if x.shape[1] == 3 else x for x in both)
    inner = (..., slice(SHAVED, -SHAVED), slice(SHAVED, -SHAVED))
    return float(-10 * (made[inner] - wanted[inner]).square().mean().log10())
