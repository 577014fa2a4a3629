"""The split is disjoint and balanced; batches repeat; unreadable data are named."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from studies.classify.images import DEVIATION, MARGIN, MEAN, Images, find_images, normalised, split, training_batch


def picture(path, colour, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_the_split_is_disjoint_whole_and_balanced():
    paths = [f"test/{name}/{i:04d}.jpg" for name in ("airplane", "bird", "cat") for i in range(10)]
    train, held_out = split(paths)
    assert not set(train) & set(held_out) and {*train, *held_out} == set(paths)
    for part in (train, held_out):
        assert [path.split("/")[1] for path in part] == ["airplane", "bird", "cat"] * 5
    assert split(reversed(paths)) == (train, held_out)


def test_folders_train_and_val_are_the_two_parts():
    paths = ["set/train/a/1.png", "set/train/b/1.png", "set/train/b/2.png", "set/val/a/9.png"]
    assert split(paths) == (paths[:3], paths[3:])


def test_other_folders_above_the_classes_are_refused():
    with pytest.raises(ValueError, match="got x/few, x/many"):
        split(["x/few/a/1.png", "x/many/a/1.png"])


@pytest.mark.parametrize("zipped", [False, True])
def test_pixels_and_labels_of_a_folder_and_of_a_zip(tmp_path, zipped):
    root = tmp_path / "set"
    for number in range(4):
        picture(root / "red" / f"{number}.png", (50 + number, 0, 0))
        picture(root / "green" / f"{number}.PNG", (0, 50 + number, 0))
    (root / "red" / "notes.txt").write_text("no image")
    if zipped:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for path in root.rglob("*"):
                archive.write(path, path.relative_to(root))
        root = tmp_path
    train, held_out = find_images(root, (None, 3))
    assert train.classes == held_out.classes == ("green", "red")
    assert train.labels.tolist() == [0, 1, 0, 1] and held_out.labels.tolist() == [0, 1, 0]
    assert train.pixels.shape == (4, 3, 8, 8) and train.pixels.dtype == torch.uint8
    assert train.pixels[:, :, 0, 0].tolist() == [[0, 50, 0], [50, 0, 0], [0, 52, 0], [52, 0, 0]]
    assert held_out.first(2).pixels[:, :, 7, 7].tolist() == [[0, 51, 0], [51, 0, 0]]


def test_normalised_has_mean_0_and_deviation_1_for_the_stated_statistics():
    grey = torch.tensor(MEAN).mul(255).round().to(torch.uint8).view(1, 3, 1, 1)
    assert normalised(grey).abs().max() < 0.01
    step = normalised(grey + 10) - normalised(grey)
    torch.testing.assert_close(step.flatten(), 10 / 255 / torch.tensor(DEVIATION))


def test_a_batch_depends_on_step_and_seed_alone_and_only_moves_and_mirrors():
    pixels = torch.randint(1, 256, (6, 3, 8, 8), dtype=torch.uint8)
    images = Images(pixels, torch.arange(6), tuple("abcdef"))
    batch, labels = training_batch(images, 32, step=3, seed=1)
    torch.rand(5)
    again, _ = training_batch(images, 32, step=3, seed=1)
    assert torch.equal(batch, again)
    for step, seed in ((4, 1), (3, 2)):
        assert not torch.equal(batch, training_batch(images, 32, step=step, seed=seed)[0])
    black = np.pad(pixels.numpy(), ((0, 0), (0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    for image, label in zip(batch[:4], labels[:4], strict=True):
        variants = (
            torch.from_numpy(turned[:, top : top + 8, left : left + 8].copy())[None]
            for turned in (black[label], black[label][:, :, ::-1])
            for top in range(2 * MARGIN + 1)
            for left in range(2 * MARGIN + 1)
        )
        assert any(torch.equal(normalised(variant)[0], image) for variant in variants)


def test_unreadable_data_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"class folders, as cat/7\.png; none is there"):
        find_images(tmp_path)
    picture(tmp_path / "loose.png", "red")
    with pytest.raises(ValueError, match=r"class folders.*; loose\.png lies in none"):
        find_images(tmp_path)
    (tmp_path / "loose.png").unlink()
    picture(tmp_path / "a" / "1.png", "red")
    with pytest.raises(ValueError, match="1 images are too few"):
        find_images(tmp_path)
    picture(tmp_path / "a" / "2.png", "red", size=(9, 8))
    with pytest.raises(ValueError, match=r"a/2\.png: images must be of one size, 8x8 here, got 9x8"):
        find_images(tmp_path)
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a/2\.png: not an image"):
        find_images(tmp_path)
    (tmp_path / "images.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"images\.zip: not a zip"):
        find_images(tmp_path)
    (tmp_path / "more.zip").touch()
    with pytest.raises(ValueError, match=r"one zip of images is read, here are images\.zip, more\.zip"):
        find_images(tmp_path)
