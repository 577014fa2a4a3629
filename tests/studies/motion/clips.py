"""A clip of a photo that moves, and what the plain network shows of it."""

import numpy as np
import torch
from skimage.data import astronaut

from studies.motion.video.temporal import STATIC

CPU = {"device": "cpu", "precision": "fp32"}


def clip(count=4, height=40, width=56):
    """A photo that moves by a quarter of a pixel a frame."""
    photo, moved = astronaut(), []
    for t in range(count):
        part = photo[80 + t : 80 + t + 4 * height, 120 : 120 + 4 * width].astype(float)
        moved.append(part.reshape(height, 4, width, 4, 3).mean(axis=(1, 3)).round().astype(np.uint8))
    return moved


def levels(net, a, b, factor):
    """What the plain network shows of frame `b` moving away from `a`: float32 levels, not rounded, H x W x 3."""
    images = [torch.from_numpy(np.array(x)).permute(2, 0, 1)[None].float() / 127.5 - 1 for x in (a, b)]
    with torch.inference_mode():
        return ((net(*images, factor)[0].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).numpy()


def assert_within(tolerance, image, wanted):
    """`image`, 8 bits, is the rounding of something within `tolerance` of `wanted` on the network's scale [-1, 1]."""
    assert image.dtype == np.uint8 and image.shape == wanted.shape
    assert np.abs(image - wanted).max() <= 0.5 + 127.5 * tolerance
    assert np.abs(image.astype(int) - wanted.round().astype(int)).max() <= 1


def plain(net, video, factor, filter=STATIC):
    before = [video[0], *([video[0]] * (len(video) - 1) if filter == STATIC else video[:-1])]
    return [levels(net, a, b, factor) for a, b in zip(before, video, strict=True)]
