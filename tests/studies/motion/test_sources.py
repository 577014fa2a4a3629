"""Where pictures come from: folders of every layout, broken files, splits without overlap."""

import numpy as np
import pytest
from PIL import Image

from studies.motion.data.sources import Shapes, find_sources


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
