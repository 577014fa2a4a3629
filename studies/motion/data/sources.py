"""Where the pictures of the synthetic data come from: photos for backgrounds, cut-outs for foregrounds.

Read as they are needed and kept in memory as bytes, short side at most `SHORT_SIDE` pixels.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from archlab.experiments import data_fingerprint

from .cut_outs import CutOuts
from .pictures import BrokenPicture, converted, first_that_decodes, opened, read, readable, reason_of, shrunk

SHORT_SIDE = 512  # of a kept photo: more detail than a crop of 384 shows
KEPT_BYTES = 4 << 30  # of decoded pictures in memory; those that come later are decoded each time
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}

# Colour photographs inside scikit-image's own package; its documentation names their (free) licences.
SAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "color.png", "hubble_deep_field.jpg", "ihc.png",
           "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg")  # fmt: skip
GREY_SAMPLES = ("brick.png", "camera.png", "grass.png", "gravel.png", "moon.png", "coins.png")


class Pictures(Sequence[Tensor]):
    """Pictures as float tensors in [0, 1], C x H x W; decoded at first use, kept as bytes up to `KEPT_BYTES`."""

    def __init__(self, loaders: Sequence[Callable[[], np.ndarray]]):
        self._loaders = list(loaders)
        self._kept: dict[int, Tensor] = {}
        self._bytes = 0
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self._loaders)

    def __getitem__(self, index):
        return self.raw(index).float() / 255

    def raw(self, index: int) -> Tensor:
        """The picture as it is kept: bytes."""
        index = range(len(self))[index]
        picture = self._kept.get(index)
        if picture is None:
            decoded = first_that_decodes(self._loaders, index, self._broken)
            picture = torch.from_numpy(decoded).permute(2, 0, 1).contiguous()
            if self._bytes + picture.nbytes <= KEPT_BYTES:
                self._kept[index] = picture
                self._bytes += picture.nbytes
        return picture


@dataclass(frozen=True)
class Sources:
    """Backgrounds (3 x H x W) and cut-outs (4 x H x W, the last is alpha), and the files that could not be read."""

    backgrounds: Pictures
    objects: Sequence[Tensor]
    name: str
    skipped: tuple[str, ...] = field(default=())

    @cached_property
    def cut_outs(self) -> CutOuts:
        """The objects as they are drawn."""
        return CutOuts(self.objects)

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the data in a report and in a cell's hash."""
        kind = "shapes cut from them" if isinstance(self.objects, Shapes) else "cut-outs"
        skipped = f", {len(self.skipped)} broken files skipped" if self.skipped else ""
        return f"{self.name}: {len(self.backgrounds)} photos, {len(self.objects)} {kind}{skipped}"


def find_sources(root: str | Path | None, split: str) -> Sources:
    """The pictures under `root` for `split` (``"train"`` or ``"val"``).

    `root` may be a folder with ``backgrounds/<split>`` and ``objects/<split>``; a PASCAL VOC root
    (``JPEGImages``, ``SegmentationObject``); a COCO folder (``train2017``/``val2017``); both side by side, for the
    paper's data, photos of COCO and objects of VOC; or a folder of photos, of which every fifth is held out. Without
    cut-outs, textured shapes are cut from the photos. None takes scikit-image's sample photos. Broken pictures are
    skipped with a warning that names them; so are what is no regular file, and pictures that are too large.

    Raises ValueError where fewer than two photos are left.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    if root is None:
        return _samples(split)
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"--data {root}: no such folder")
    skipped: dict[str, str] = {}
    coco = {"train": "train2017", "val": "val2017"}[split]
    objects: list[Callable[[], np.ndarray]] = []
    if (root / coco).is_dir():
        photos, name = readable(_files(root / coco), skipped), f"COCO {root.name}"
    elif (root / "JPEGImages").is_dir():
        photos, name = [], f"VOC {root.name}"
    elif (root / "backgrounds" / split).is_dir():
        photos, name = readable(_files(root / "backgrounds" / split), skipped), root.name
        objects = [_loader(f, "RGBA") for f in readable(_files(root / "objects" / split), skipped)]
    else:
        photos, name = readable(_split(_files(root), split), skipped), root.name
    if (root / "JPEGImages").is_dir():
        voc_photos = readable(_split(_files(root / "JPEGImages"), split), skipped)
        objects = _voc_objects(root, voc_photos, skipped)
        photos = photos or voc_photos
    if len(photos) < 2:
        raise ValueError(f"--data {root}: {len(photos)} readable photos for {split!r} ({len(skipped)} broken), need 2")
    if skipped:
        named = [f"{file} ({reason})" for file, reason in list(skipped.items())[:5]]
        warnings.warn(f"{len(skipped)} broken pictures skipped: {', '.join(named)}", stacklevel=2)
    backgrounds = Pictures([_loader(f, "RGB") for f in photos])
    cut_outs: Sequence[Tensor] = Pictures(objects) if objects else Shapes(backgrounds)
    return Sources(backgrounds, cut_outs, f"{name}/{split}", tuple(skipped))


def fingerprint(preset: str, data: Path | None) -> Any:
    """What the pictures are: those folders of `data` that are read."""
    if data is None:
        return "scikit-image samples"
    parts = [data / name for name in ("backgrounds", "objects") if (data / name).is_dir()]
    return [data_fingerprint(part) for part in parts or [data]]


def _samples(split: str) -> Sources:
    """scikit-image's photos: for training their left five eighths, for validation the right quarter."""
    folder = resources.files("skimage.data")

    def part(name: str) -> np.ndarray:
        with folder.joinpath(name).open("rb") as file:
            image = shrunk(Image.open(file).convert("RGB"), SHORT_SIDE)
        width = image.shape[1]
        return image[:, : width * 5 // 8] if split == "train" else image[:, width * 3 // 4 :]

    backgrounds = Pictures([lambda n=n: part(n) for n in SAMPLES + GREY_SAMPLES])
    return Sources(backgrounds, Shapes(backgrounds), f"scikit-image samples/{split}")


class Shapes(Sequence[Tensor]):
    """Smooth random shapes cut from photos, for lack of real cut-outs: 256 of them, fixed by their number."""

    def __init__(self, photos: Sequence[Tensor], *, size: int = 160):
        self.photos, self.size = photos, size

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index):
        draw = np.random.default_rng((7, index))
        photo = self.photos[int(draw.integers(len(self.photos)))]
        h, w = (min(self.size, side) for side in photo.shape[1:])
        top, left = (int(draw.integers(side - s + 1)) for side, s in zip(photo.shape[1:], (h, w), strict=True))
        y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
        angle = np.arctan2(y, x)
        waves = range(1, 5)
        outline = 0.7 + sum(draw.normal(0, 0.12 / k) * np.cos(k * angle + draw.uniform(0, 2 * np.pi)) for k in waves)
        distance = (outline - np.hypot(x, y)) * min(h, w) / 2  # in pixels, inside positive
        alpha = torch.from_numpy(np.clip(distance + 0.5, 0, 1)).float()
        return torch.cat([photo[:, top : top + h, left : left + w], alpha[None]])


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.glob("*") if f.suffix.lower() in ENDINGS) if folder.is_dir() else []


def _split(files: list[Path], split: str) -> list[Path]:
    return [f for i, f in enumerate(files) if (i % 5 == 4) == (split == "val")]


def _loader(file: Path, mode: str) -> Callable[[], np.ndarray]:
    return lambda: read(file, mode, SHORT_SIDE)


def _voc_objects(root: Path, photos: list[Path], skipped: dict[str, str]) -> list[Callable[[], np.ndarray]]:
    """One loader for each object mask of at least 32 pixels a side."""
    masks = [root / "SegmentationObject" / f"{p.stem}.png" for p in photos]
    found: list[Callable[[], np.ndarray]] = []
    for photo, mask_file in zip(photos, masks, strict=True):
        if not os.path.lexists(mask_file):
            continue
        try:
            with opened(mask_file) as image, opened(photo) as its_photo:
                mask = np.array(image)
                if mask.shape != its_photo.size[::-1]:
                    raise BrokenPicture(mask_file, f"it is no mask of {photo.name}, of one number a pixel")
        except OSError as error:
            skipped[str(mask_file)] = reason_of(error)
            continue
        for number in sorted(set(np.unique(mask)) - {0, 255}):
            rows, columns = np.nonzero(mask == number)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            if min(box[2] - box[0], box[3] - box[1]) >= 32:
                found.append(lambda p=photo, m=mask_file, n=number, b=box: _cut(p, m, n, b))
    return found


def _cut(photo: Path, mask_file: Path, number: int, box: tuple[int, int, int, int]) -> np.ndarray:
    with opened(photo) as image, opened(mask_file) as mask:
        alpha = ((np.array(mask.crop(box)) == number) * 255).astype(np.uint8)
        return np.dstack([np.array(converted(image, "RGB").crop(box)), alpha])


def tiled(picture: Tensor, height: int, width: int) -> Tensor:
    """`picture` mirrored at its right and lower edge until it has at least `height` x `width` pixels."""
    one_row, one_column = (side == 1 for side in picture.shape[1:])  # which no mirror makes more of
    picture = picture.expand(-1, height if one_row else -1, width if one_column else -1)
    while picture.shape[1] < height or picture.shape[2] < width:
        missing = (max(0, width - picture.shape[2]), max(0, height - picture.shape[1]))
        pad = (0, min(missing[0], picture.shape[2] - 1), 0, min(missing[1], picture.shape[1] - 1))
        picture = F.pad(picture[None], pad, mode="reflect")[0]
    return picture
