"""Images to classify, from class folders or a zip of these: how they are read, split and fed to a network."""

import io
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

# What the usual public CIFAR weights were trained with: the mean and deviation of ImageNet, not of CIFAR.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MARGIN = 4  # pixels by which a training image is moved at most (He et al. 2016, section 4.2)


@dataclass(frozen=True, eq=False)
class Images:
    """`pixels`: N x 3 x H x W, uint8; `labels`: N, positions in `classes`. The classes take turns."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> "Images":
        """The first `count` (None: all), hence of each class as many."""
        return Images(self.pixels[:count], self.labels[:count], self.classes)


def find_images(root: Path, most: tuple[int | None, int | None] = (None, None)) -> tuple[Images, Images]:
    """The images under `root` to train with and those to evaluate on, at most as many as `most` says.

    `root` holds class folders (``cat/7.png``), or one zip of such; classes are in alphabetic order, as
    torchvision's ImageFolder has them. How they are split: see `split`. Raises ValueError where there are none, and
    for an image that cannot be read or that has another size than the first.
    """
    archives = sorted(root.glob("*.zip"))
    if len(archives) > 1:
        raise ValueError(f"{root}: one zip of images is read, here are {', '.join(path.name for path in archives)}")
    if not archives:
        paths = (path.relative_to(root).as_posix() for path in root.rglob("*"))
        return _load(str(root), paths, lambda path: (root / path).read_bytes(), most)
    try:
        with zipfile.ZipFile(archives[0]) as archive:
            return _load(str(archives[0]), archive.namelist(), archive.read, most)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archives[0]}: not a zip that can be read: {error}") from error


def split(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """The paths to train with and those to evaluate on.

    With folders "train" and "test" (or "val") above the classes, these are the two; else the images of each class,
    by name, go to the one and the other in turn. Within both the classes take turns.

    >>> split(["cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/2.png"])
    (['cat/1.png', 'dog/1.png', 'cat/3.png'], ['cat/2.png', 'dog/2.png'])
    """
    parts: dict[str, dict[str, list[str]]] = {}
    for path in sorted(paths):
        *above, class_, _ = path.split("/")
        parts.setdefault("/".join(above), {}).setdefault(class_, []).append(path)
    if len(parts) == 1:
        (classes,) = parts.values()
        return _in_turn(names[::2] for names in classes.values()), _in_turn(names[1::2] for names in classes.values())
    named = {folder.rpartition("/")[2]: classes for folder, classes in parts.items()}
    if len(parts) == 2 and named.keys() in ({"train", "test"}, {"train", "val"}):
        train, held_out = named.pop("train"), *named.values()
        return _in_turn(train.values()), _in_turn(held_out.values())
    raise ValueError(
        f"class folders must lie in one folder, or in 'train' and 'test' (or 'val'); got {', '.join(sorted(parts))}"
    )


def normalised(pixels: Tensor) -> Tensor:
    """uint8 pixels, N x 3 x H x W, as the network was trained to see them."""
    mean, deviation = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return ((pixels.float() / 255 - mean) / deviation).contiguous(memory_format=torch.channels_last)


def training_batch(images: Images, size: int, *, step: int, seed: int) -> tuple[Tensor, Tensor]:
    """`size` images drawn at random, mirrored half the time, moved by up to `MARGIN` pixels; their labels.

    The same for the same `step` and `seed`.
    """
    draw = torch.Generator().manual_seed(1_000_003 * seed + step)
    chosen = torch.randint(len(images), (size,), generator=draw)
    mirrored = torch.rand(size, generator=draw) < 0.5
    tops, lefts = torch.randint(2 * MARGIN + 1, (2, size), generator=draw).tolist()
    pixels = images.pixels[chosen]
    pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
    height, width = pixels.shape[2:]
    pixels = F.pad(pixels, (MARGIN,) * 4)
    moved = [p[:, t : t + height, l : l + width] for p, t, l in zip(pixels, tops, lefts, strict=True)]
    return normalised(torch.stack(moved)), images.labels[chosen]


def _in_turn(lists: Iterable[list[str]]) -> list[str]:
    return [path for row in zip_longest(*lists) for path in row if path is not None]


def _load(
    source: str, paths: Iterable[str], read: Callable[[str], bytes], most: tuple[int | None, int | None]
) -> tuple[Images, Images]:
    paths = [path for path in paths if path.lower().endswith(IMG_EXTENSIONS)]
    loose = [path for path in paths if "/" not in path]
    if not paths or loose:
        here = f"{loose[0]} lies in none" if loose else "none is there"
        raise ValueError(f"{source}: images must lie in class folders, as cat/7.png; {here}")
    classes = tuple(sorted({path.split("/")[-2] for path in paths}))
    train, held_out = (part[:count] for part, count in zip(split(paths), most, strict=True))
    if not train or not held_out:
        raise ValueError(f"{source}: {len(paths)} images are too few to train with some and to evaluate on others")
    pixels: list[np.ndarray] = []
    for path in [*train, *held_out]:
        pixels.append(_decoded(read(path), f"{source}, {path}"))
        if pixels[-1].shape != pixels[0].shape:
            (h, w, _), (height, width, _) = pixels[-1].shape, pixels[0].shape
            raise ValueError(f"{source}, {path}: images must be of one size, {width}x{height} here, got {w}x{h}")
    both = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([classes.index(path.split("/")[-2]) for path in [*train, *held_out]])
    at = len(train)
    return Images(both[:at], labels[:at], classes), Images(both[at:], labels[at:], classes)


def _decoded(content: bytes, name: str) -> np.ndarray:
    """H x W x 3, uint8."""
    try:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{name}: not an image that can be read: {error}") from error
