"""Where pictures come from: folders of every layout, broken files, splits without overlap."""

import os
import socket
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from studies.motion.data import pictures
from studies.motion.data.generator import Generator
from studies.motion.data.sources import Shapes, find_sources, tiled


def photo(path, *, seed: int, size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)


@pytest.fixture
def folder(tmp_path):
    for i in range(10):
        photo(tmp_path / f"{i}.png", seed=i)
    return tmp_path


def test_a_plain_folder_is_split_without_overlap(folder):
    train, val = (find_sources(folder, split) for split in ("train", "val"))
    assert (len(train.backgrounds), len(val.backgrounds)) == (8, 2)
    seen = {train.backgrounds[i].sum().item() for i in range(8)}
    assert not seen & {val.backgrounds[i].sum().item() for i in range(2)}
    assert train.backgrounds[0].shape == (3, 40, 30) and train.objects[0].shape[0] == 4
    assert isinstance(train.objects, Shapes)


def test_photos_and_cut_outs_by_split(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            photo(tmp_path / "backgrounds" / split / f"{i}.jpg", seed=i)
            photo(tmp_path / "objects" / split / f"{i}.png", seed=i, mode="RGBA")
    sources = find_sources(tmp_path, "val")
    assert (len(sources.backgrounds), len(sources.objects)) == (2, 2)
    assert sources.objects[0].shape == (4, 40, 30)


def voc_root(folder, count):
    """A PASCAL VOC root: each photo with one object of 50 x 50 pixels, one that is too small, and a border."""
    mask = np.zeros((80, 80), np.uint8)
    mask[10:60, 20:70] = 1
    mask[0:5, 0:5] = 2
    mask[60:61] = 255
    (folder / "SegmentationObject").mkdir()
    for i in range(count):
        photo(folder / "JPEGImages" / f"{i}.jpg", seed=i, size=(80, 80))
        Image.fromarray(mask).save(folder / "SegmentationObject" / f"{i}.png")


def coco_folder(folder):
    for i in range(3):
        photo(folder / "train2017" / f"{i}.jpg", seed=i)
        photo(folder / "val2017" / f"{i}.jpg", seed=9 + i)


def test_a_pascal_voc_root_gives_its_segmented_objects(tmp_path):
    voc_root(tmp_path, 10)
    sources = find_sources(tmp_path, "train")
    assert (len(sources.backgrounds), len(sources.objects)) == (8, 8)
    assert sources.objects[0].shape == (4, 50, 50) and sources.objects[0][3].min() == 1


def test_a_coco_folder(tmp_path):
    coco_folder(tmp_path)
    assert find_sources(tmp_path, "val").fingerprint.startswith("COCO")


def test_broken_pictures_are_named_and_counted(folder):
    (folder / "0.png").write_bytes(b"this is no picture")
    with pytest.warns(UserWarning, match=r"1 broken pictures skipped: .*0\.png"):
        sources = find_sources(folder, "train")
    assert len(sources.backgrounds) == 7 and sources.skipped[0].endswith("0.png")


def test_a_truncated_jpeg_is_broken_too(tmp_path):
    voc_root(tmp_path, 8)
    whole = (tmp_path / "JPEGImages" / "1.jpg").read_bytes()
    (tmp_path / "JPEGImages" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"1 broken pictures skipped: .*1\.jpg"):
        sources = find_sources(tmp_path, "train")
    assert (len(sources.backgrounds), len(sources.objects)) == (6, 6)  # nor is its object taken
    assert "1 broken files skipped" in sources.fingerprint


def bomb(path, width: int = 50_000, height: int = 50_000) -> None:
    """A PNG of 2.5 billion pixels in a few bytes of header, and none of its rows."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b""))


def a_socket(path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets may not be long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def sparse(path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def other_program(path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


WRONG = {
    "bomb": (bomb, "exceeds limit of"),
    "smaller bomb": (lambda path: bomb(path, 10_000, 10_000), "10000 x 10000 pixels are too many"),
    "strip": (lambda path: bomb(path, 60_000, 2), "60000 x 2 pixels are too many"),
    "pipe": (os.mkfifo, "it is no regular file"),
    "socket": (a_socket, "it is no regular file"),
    "folder": (os.mkdir, "it is no regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
    "link to itself": (lambda path: path.symlink_to(path), "it is no regular file"),
    "link to nothing": (lambda path: path.symlink_to("absent"), "it is no regular file"),
    "nothing in it": (lambda path: path.write_bytes(b""), "cannot identify"),
    "terabyte": (sparse, "1048576 MB are too many"),
    "postscript": (other_program, "cannot identify"),
    "header alone": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "."),
}


@pytest.mark.parametrize(("make", "reason"), WRONG.values(), ids=WRONG)
def test_whatever_is_no_picture_is_skipped_and_named_with_the_reason(folder, make, reason):
    (folder / "0.png").unlink()
    make(folder / "0.png")
    begun = time.monotonic()
    with pytest.warns(UserWarning, match=rf"1 broken pictures skipped: .*0\.png \(.*{reason}"):
        sources = find_sources(folder, "train")
    assert len(sources.backgrounds) == 7 and time.monotonic() - begun < 2


def test_a_picture_that_shows_itself_broken_only_when_it_is_decoded_is_passed_over(folder):
    """A cut BMP looks whole; the next picture stands for it, which is said once."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "00.bmp")
    whole = (folder / "00.bmp").read_bytes()
    (folder / "00.bmp").write_bytes(whole[: len(whole) // 2])
    sources = find_sources(folder, "train")
    assert len(sources.backgrounds) == 9
    with pytest.warns(UserWarning, match=r"00\.bmp cannot be read .*: the next picture stands for it"):
        assert torch.equal(sources.backgrounds[1], sources.backgrounds[2])
    assert torch.equal(sources.backgrounds[1], sources.backgrounds[-8]) and len(list(sources.backgrounds)) == 9
    batch = Generator(sources, 48).batch(range(5), noise=False)
    assert bool(torch.isfinite(batch.a).all())


def test_a_folder_of_pictures_that_all_break_is_an_error():
    def breaks():
        raise pictures.BrokenPicture("x.png", "it is cut")

    with pytest.warns(UserWarning), pytest.raises(OSError, match="none of the 2 pictures can be decoded"):
        pictures.first_that_decodes([breaks, breaks], 1, set())


def modes():
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    grey = Image.fromarray((ramp * 255).astype(np.uint8))
    rgb = Image.merge("RGB", (grey,) * 3)
    yield "16 bits.png", Image.fromarray((ramp * 65535).astype(np.uint16)), {}
    yield "16 bits.tiff", Image.fromarray((ramp * 65535).astype(np.uint16)), {}
    yield "cmyk.jpg", rgb.convert("CMYK"), {"quality": 95}
    yield "palette.png", rgb.quantize(256), {"transparency": bytes([7] * 256)}
    yield "alpha.png", rgb.convert("LA"), {}
    yield "bits.png", rgb, {"bits": 8}
    yield "animated.webp", rgb, {"save_all": True, "append_images": [rgb.rotate(180)], "lossless": True}
    yield "animated.png", rgb, {"save_all": True, "append_images": [rgb.rotate(180)]}
    yield "turned.jpg", rgb.transpose(Image.Transpose.ROTATE_90), {"exif": exif(6), "quality": 95}
    yield "wrong notes.jpg", rgb, {"exif": b"Exif\0\0MM\0*\xff\xff\xff\xff", "quality": 95}


def exif(orientation: int) -> Image.Exif:
    notes = Image.Exif()
    notes[0x0112] = orientation
    return notes


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_pictures_of_every_kind_are_read_as_they_look(tmp_path):
    """Each is the same ramp from black to white, from top to bottom."""
    expected = torch.linspace(0, 1, 64 * 64).reshape(64, 64).expand(3, -1, -1)
    for name, image, options in modes():
        image.save(tmp_path / name, **options)
        pictures.check(tmp_path / name)
        pixels = torch.from_numpy(pictures.read(tmp_path / name, "RGB", 512)).permute(2, 0, 1) / 255
        assert pixels.shape == (3, 64, 64) and (pixels - expected).abs().max() < 0.06, name
        assert pictures.read(tmp_path / name, "RGBA", 512).shape == (64, 64, 4)


@pytest.mark.parametrize("image", [Image.new("F", (20, 20)), Image.fromarray(np.full((20, 20), 1 << 20, np.int32))])
def test_values_of_which_white_is_not_known_are_broken(tmp_path, image):
    image.save(tmp_path / "x.tiff")
    with pytest.raises(pictures.BrokenPicture, match=r"x\.tiff cannot be read \(.*white is not known\)"):
        pictures.read(tmp_path / "x.tiff", "RGB", 512)


def test_a_mask_that_is_none_is_skipped_with_its_object(tmp_path):
    voc_root(tmp_path, 10)
    masks = tmp_path / "SegmentationObject"
    for i in range(3):
        (masks / f"{i}.png").unlink()
    os.mkfifo(masks / "0.png")
    bomb(masks / "1.png")
    photo(masks / "2.png", seed=0, size=(80, 80))
    with pytest.warns(UserWarning, match="3 broken pictures skipped"):
        sources = find_sources(tmp_path, "train")
    assert (len(sources.backgrounds), len(sources.objects)) == (8, 5)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 3)])
def test_a_picture_of_one_pixel_a_side_can_be_tiled_too(size):
    assert min(tiled(torch.rand(3, *size), 40, 30).shape[1:]) >= 30


def test_photos_of_coco_with_objects_of_voc(tmp_path):
    coco_folder(tmp_path)
    voc_root(tmp_path, 10)
    sources = find_sources(tmp_path, "train")
    assert (len(sources.backgrounds), len(sources.objects)) == (3, 8)
    assert sources.backgrounds[0].shape == (3, 40, 30) and sources.objects[0].shape == (4, 50, 50)


def test_pictures_over_the_limit_are_decoded_each_time(folder, monkeypatch):
    monkeypatch.setattr("studies.motion.data.sources.KEPT_BYTES", 2 * 3 * 40 * 30)
    backgrounds = find_sources(folder, "train").backgrounds
    first = [backgrounds[i] for i in range(8)]
    assert len(backgrounds._kept) == 2
    assert all((backgrounds[i] == first[i]).all() for i in range(8))


def test_too_few_pictures_is_an_error(tmp_path):
    photo(tmp_path / "one.png", seed=0)
    with pytest.raises(ValueError, match=r"1 readable photos for 'train' \(0 broken\), need 2"):
        find_sources(tmp_path, "train")
    with pytest.raises(ValueError, match="no such folder"):
        find_sources(tmp_path / "absent", "train")
    with pytest.raises(ValueError, match="split must be"):
        find_sources(tmp_path, "test")


def test_the_default_needs_no_download_and_its_splits_share_no_pixel():
    train, val = (find_sources(None, split) for split in ("train", "val"))
    assert len(train.backgrounds) == len(val.backgrounds) >= 10
    assert all(train.backgrounds[i].shape[0] == 3 for i in range(len(train.backgrounds)))
