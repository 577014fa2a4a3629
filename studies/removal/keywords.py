"""A residual network that tells spoken-like words apart in noisy waveforms, and its task.

The words are synthetic. Each is a row of three of six sounds: four vowels, with two formants each, and two fricatives,
noise of a band. A speaker has a pitch, formants shifted by up to 12 %, a tempo and a start; noise of about the same
power is added. Words share sounds and differ in their order, so that no short piece of a waveform tells them.
"""

import math

import torch
from torch import Tensor, nn

import archlab as al

from . import classification

RATE, LENGTH = 4000, 2000  # samples a second; samples of a waveform
VOWELS = ((300, 870), (400, 1700), (700, 1150), (550, 1500))  # the two formants of each, Hz
BANDS = ((900, 1400), (1500, 1950))  # of the fricatives, Hz
WORDS = ((0, 4, 1), (1, 4, 0), (0, 5, 1), (1, 5, 0), (2, 4, 3), (3, 4, 2), (2, 5, 3), (3, 5, 2), (0, 2, 1), (1, 2, 0),
         (4, 0, 3), (4, 3, 0), (5, 1, 2), (5, 2, 1), (0, 3, 5), (3, 0, 5))  # fmt: skip
NOISE = 1.5  # its deviation, that of a word being 1
BANDWIDTH = 90.0  # of a formant, Hz


class Block(nn.Module):
    """Two convolutions of 5 beside the identity: B x `width` x T -> the same."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(width, width, 5, padding=2, bias=False), nn.BatchNorm1d(width)
        self.conv2, self.norm2 = nn.Conv1d(width, width, 5, padding=2, bias=False), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


class WordNetwork(nn.Module):
    """Waveforms, B x 1 x 2000 -> logits: two strided convolutions, residual blocks, the mean over time."""

    def __init__(self, width: int = 24, blocks: int = 9):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(1, width, 32, 8, 12), nn.ReLU(), nn.Conv1d(width, width, 8, 4, 2), nn.BatchNorm1d(width),
            nn.ReLU(),
        )  # fmt: skip
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.head = nn.Linear(width, len(WORDS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(2))


def waveforms(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` spoken words with noise on them, B x 1 x 2000, and which words they are, drawn by `seed`."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=draw)

    labels = torch.randint(len(WORDS), (count,), generator=draw)
    sounds = torch.tensor(WORDS)[labels]
    time = torch.arange(LENGTH) / RATE
    pitch, shift, start = uniform(90, 180, 1, 1), uniform(0.88, 1.12, 1, 1), uniform(0.02, 0.1)
    ends = start[:, None] + uniform(0.08, 0.13, 3).cumsum(1)
    harmonics = torch.arange(1, 12)[:, None]
    frequency = pitch * harmonics  # B x 11 x 1
    tones = torch.sin(2 * math.pi * frequency * time + uniform(0, 2 * math.pi, 11, 1))
    noise = torch.fft.rfft(torch.randn(count, LENGTH, generator=draw))
    bins = torch.fft.rfftfreq(LENGTH, 1 / RATE)
    made = []
    for formants in VOWELS:
        strength = sum(torch.exp(-0.5 * ((frequency - shift * f) / BANDWIDTH) ** 2) for f in formants)
        made.append((strength * tones).sum(1))
    for low, high in BANDS:
        made.append(torch.fft.irfft(noise * ((bins > low) & (bins < high)), LENGTH))
    every = torch.stack(made, 1)
    every = every / (every.std(2, keepdim=True) + 1e-3)
    begins, spoken = torch.cat([start[:, None], ends[:, :-1]], 1), torch.zeros(count, LENGTH)
    for place in range(sounds.shape[1]):
        sounding = (time >= begins[:, place, None]) & (time < ends[:, place, None])
        spoken += every[torch.arange(count), sounds[:, place]] * sounding
    return (spoken + NOISE * torch.randn(count, LENGTH, generator=draw))[:, None], labels


def task(*, seed: int, batch: int, evaluated: int) -> al.Task:
    """Batches of `batch` words; quality: accuracy and cross-entropy of `evaluated` others."""
    return classification.task(lambda step: waveforms(batch, 1_000_003 * (seed + 1) + step), waveforms(evaluated, 0))
