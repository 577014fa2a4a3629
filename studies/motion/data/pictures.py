"""One picture from a file that anybody may have made: in bounded time and memory, upright, 8 bits a channel.

Pillow opens a pipe and waits, takes a bomb for a picture, starts other programs for some formats, and makes a 16-bit
picture white. A folder of photos from the web has a few of each.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # whatever a file is called
MOST_PIXELS = 89_000_000  # about what Pillow itself takes for a bomb: 270 MB in memory
MOST_SIDE = 32_768  # pixels: a strip of fewer rows is mirrored to hundreds
MOST_BYTES = 1 << 29  # of a file


class BrokenPicture(OSError):
    """A file that holds no picture, or one that is not taken; it says which and why."""

    def __init__(self, file: Path, reason: str):
        super().__init__(f"{file} cannot be read ({reason}); mend or remove it")
        self.reason = reason


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """A picture that is not decoded yet.

    Raises:
        BrokenPicture: there is none, or it is too large; and for whatever goes wrong while it is used.
        OSError: the file cannot be opened.
    """
    try:
        if not file.is_file():  # a pipe would be waited for, a device read for ever
            raise BrokenPicture(file, "it is no regular file")
        if (size := file.stat().st_size) > MOST_BYTES:
            raise BrokenPicture(file, f"{size >> 20} MB are too many")
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS or max(image.size) > MOST_SIDE:
                raise BrokenPicture(file, f"{image.width} x {image.height} pixels are too many")
            yield image
    except Exception as error:  # decoders raise whatever they stumble over
        if isinstance(error, BrokenPicture) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise BrokenPicture(file, str(error).strip() or type(error).__name__) from error


def check(file: Path) -> None:
    """Look at a file without decoding it. Raises OSError where it holds no picture, as far as can be seen so."""
    with opened(file) as image:
        is_jpeg = image.format in ("JPEG", "MPO")
        image.verify()
    if is_jpeg and not _ends(file):
        raise BrokenPicture(file, "it is truncated")


def readable(files: Sequence[Path], skipped: dict[str, str]) -> list[Path]:
    """Those of `files` that hold pictures; the others are added to `skipped`, with the reason."""
    good = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is skipped, and said so
        for file in files:
            try:
                check(file)
                good.append(file)
            except OSError as error:
                skipped[str(file)] = reason_of(error)
    return good


def reason_of(error: OSError) -> str:
    """Why a picture cannot be read, without its name."""
    return error.reason if isinstance(error, BrokenPicture) else error.strerror or str(error)


def read(file: Path, mode: str, short_side: int) -> np.ndarray:
    """A picture, upright, as "RGB" or "RGBA", its short side at most so many pixels."""
    with opened(file) as image:
        return shrunk(converted(_upright(image), mode), short_side)


def converted(image: Image.Image, mode: str) -> Image.Image:
    """`image` as "RGB" or "RGBA", with 16 bits a channel brought to 8, which Pillow would cut off.

    Raises:
        ValueError: it is not known which of its values is white.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("32 bits a pixel, of which white is not known")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels, of which white is not known")
    if "transparency" in image.info or image.mode in ("PA", "LA"):
        image = image.convert("RGBA")
    return image.convert(mode)


def shrunk(image: Image.Image, short_side: int) -> np.ndarray:
    """The pixels of `image`, averaged where its short side is longer."""
    ratio = short_side / min(image.size)
    if ratio < 1:
        image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BOX)
    return np.array(image)


def first_that_decodes(loaders: Sequence[Callable[[], np.ndarray]], index: int, broken: set[int]) -> np.ndarray:
    """What the loader `index` gives; where its picture is broken, which is said once, the next one that is not.

    Some files look whole until they are decoded. Which picture stands for one depends on the files alone.
    """
    for number in (*range(index, len(loaders)), *range(index)):
        if number not in broken:
            try:
                return loaders[number]()
            except BrokenPicture as error:
                broken.add(number)
                warnings.warn(f"{error}: the next picture stands for it", stacklevel=3)
    raise OSError(f"none of the {len(loaders)} pictures can be decoded")


def _upright(image: Image.Image) -> Image.Image:
    """`image` turned as its camera was."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken notes about a picture that may be whole
        return image


def _ends(file: Path) -> bool:
    """Whether a JPEG has its end marker, which Pillow only misses when it decodes the whole."""
    with file.open("rb") as data:
        data.seek(max(0, os.fstat(data.fileno()).st_size - 4096))
        return b"\xff\xd9" in data.read()
