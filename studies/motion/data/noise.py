"""Quantisation and photon noise, and random numbers that are the same on every device and in every batch."""

import math

import torch
from torch import Tensor


def quantise(image: Tensor, generator: torch.Generator) -> Tensor:
    """`image` in [0, 1] rounded to 8 bits at random, so that its mean keeps changes below one level."""
    return levels(image, torch.rand(image.shape, generator=generator, device=image.device)) / 255


def levels(image: Tensor, noise: Tensor) -> Tensor:
    """`image` in [0, 1] as whole numbers up to 255, `noise` in [0, 1) deciding which of the two nearest."""
    return (image * 255).add_(noise).floor_().clamp_(0, 255)


def photon_noise(image: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """`image` in [-1, 1] with noise whose variance grows with brightness: ``x + level n sqrt((x + 1) / 127.5)``."""
    return with_noise(image, level, torch.randn(image.shape, generator=generator, device=image.device))


def with_noise(image: Tensor, level: float | Tensor, normal: Tensor) -> Tensor:
    """`photon_noise` of given normal numbers."""
    return ((image + 1) / 127.5).clamp_(min=0).sqrt_().mul_(normal).mul_(level).add_(image)


def uniform(seeds: Tensor, *shape: int) -> Tensor:
    """N x `shape` numbers in (0, 1) of 16 bits, fixed by `seeds` (N, int32) alone: a hash of seed and position.

    `torch.rand` needs a call a seed, and gives other numbers on a GPU. The last axis of `shape` is even.
    """
    count = math.prod(shape) // 2  # a hash of 32 bits is two numbers
    x = torch.arange(count, dtype=torch.int32, device=seeds.device).mul_(-1640531527) + seeds[:, None]  # 2^32 / golden
    for shift, factor in ((16, -2048144789), (13, -1028477387)):  # MurmurHash3's finalizer, in signed numbers
        x ^= (x >> shift).bitwise_and_(0x7FFFFFFF >> (shift - 1))
        x *= factor
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    return x.view(torch.int16).float().add_(32768.5).mul_(2.0**-16).view(-1, *shape)


def normal(seeds: Tensor, *shape: int) -> Tensor:
    """N x `shape` standard normal numbers, fixed by `seeds` (N, int32) alone; the first axis of `shape` is even."""
    first, second = uniform(seeds, 2, shape[0] // 2, *shape[1:]).unbind(1)  # Box and Muller
    radius, angle = first.log().mul_(-2).sqrt_(), second * (2 * math.pi)
    return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=1)
