"""Residual networks for small images (He et al. 2016, section 4.2), built from the weights that others trained."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of residual blocks, the mean over all pixels, one linear layer.

    `blocks` to a stage, hence 6·blocks + 2 layers; `width` channels in the first stage, twice as many in each
    further one, which halves height and width. `shortcut`: how the first block of a stage bridges the change, "A"
    (without parameters: pixels left out, channels of zeros added) or "B" (a 1x1 convolution). Default: ResNet-20
    for CIFAR-10. Parameters are named as in the usual public weights.

    >>> sum(p.numel() for p in CifarResNet().parameters())
    269722
    """

    def __init__(self, blocks: int = 3, width: int = 16, classes: int = 10, shortcut: str = "A"):
        super().__init__()
        if shortcut not in ("A", "B"):
            raise ValueError(f"shortcut must be 'A' or 'B', got {shortcut!r}")
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, 1, blocks, shortcut)
        self.layer2 = _stage(width, 2 * width, 2, blocks, shortcut)
        self.layer3 = _stage(2 * width, 4 * width, 2, blocks, shortcut)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, B x 3 x H x W -> logits, B x classes."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: B x `channels` x H x W -> B x `width` x H/`stride` x W/`stride`."""

    def __init__(self, channels: int, width: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if stride == 1 and channels == width:
            self.shortcut = nn.Sequential()
        elif shortcut == "A":
            self.shortcut = Subsample(channels, width, stride)
        else:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class Subsample(nn.Module):
    """Shortcut A: every `stride`-th pixel, between channels of zeros."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        before = (width - channels) // 2
        self.stride, self.padding = stride, (0, 0, 0, 0, before, width - channels - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)


def _stage(channels: int, width: int, stride: int, blocks: int, shortcut: str) -> nn.Sequential:
    first = Block(channels, width, stride, shortcut)
    return nn.Sequential(first, *(Block(width, width, 1, shortcut) for _ in range(blocks - 1)))


def load_resnet(path: str | Path) -> CifarResNet:
    """The network whose weights `path` holds, in evaluation mode; its size is read from the weights.

    `path`: a state dict written by `torch.save`, or a dict with one under "state_dict"; names may begin with
    "module.", as `nn.DataParallel` makes them. Raises ValueError for another file or another network.
    """
    state = _read(Path(path))
    if not {"conv1.weight", "linear.weight"} <= state.keys():
        raise ValueError(
            f"{path}: not the state dict of a CIFAR ResNet, which has conv1.weight and linear.weight; this one has "
            f"{', '.join([*state][:3])}, …"
        )
    net = CifarResNet(
        blocks=sum(name.startswith("layer1.") and name.endswith(".conv1.weight") for name in state),
        width=len(state["conv1.weight"]),
        classes=len(state["linear.weight"]),
        shortcut="B" if any(".shortcut." in name for name in state) else "A",
    )
    own = net.state_dict()
    for name in {**own, **state}:
        here, there = (tuple(d[name].shape) if name in d else "missing" for d in (own, state))
        if here != there and not name.endswith("num_batches_tracked"):  # old files do not have it
            raise ValueError(
                f"{path}: not the state dict of a CIFAR ResNet: {name} is {there}, in the network of this depth and "
                f"width it is {here}"
            )
    net.load_state_dict(state)
    return net.eval()


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a file of weights that torch.load can read: {reason}") from error
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: holds a {type(content).__name__} that is no state dict (names and tensors)")
    return {name.removeprefix("module."): value for name, value in content.items()}
