"""The study runs from a folder of weights and images to its report; the published weights give what they should."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from archlab.experiments.command import command
from archlab.experiments.runner import run
from studies.classify.images import find_images
from studies.classify.models import CifarResNet, load_resnet
from studies.classify.resnet20 import ROWS, find_weights
from studies.classify.training import BUDGETS, count_correct, fine_tuning

STUDY = "studies.classify.resnet20"


@pytest.fixture
def tiny(tmp_path):
    """A folder with an untrained ResNet-14 of width 4 and 20 images in each of three classes."""
    folder = tmp_path / "data"
    noise = np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cow")):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = noise.integers(0, 120, (16, 16, 3), dtype=np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    torch.save(CifarResNet(blocks=2, width=4, classes=3).state_dict(), folder / "mine.pth")
    return folder


def test_smoke_runs_from_a_folder_to_its_report(tiny, tmp_path):
    options = {"preset": "smoke", "data": tiny, "out": tmp_path / "reports", "scratch": tmp_path / "scratch"}
    rows = run(STUDY, **options)
    assert rows.attrs["missing"] == {} and rows["row"].tolist() == [row["name"] for row in ROWS]
    rows = rows.set_index("row")
    assert rows.loc["pretrained", "images"] == 30 and rows.loc["pretrained", "train_images"] == 30
    assert rows["accuracy"].between(0, 1).all()
    evaluated = rows.drop(index="sensitivity")
    assert ((evaluated["low"] <= evaluated["accuracy"]) & (evaluated["accuracy"] <= evaluated["high"])).all()
    sites = {"activation": 13, "skip": 4, "block": 4}
    assert pd.DataFrame(rows.loc["sensitivity", "alone"])["kind"].value_counts().to_dict() == sites
    for name, row in evaluated[evaluated["kind"].notna()].iterrows():
        assert row["sites"] == sites[row["kind"]] == len(row["omegas"]["omega"]), name
        thinner = row["macs"] < rows.loc["pretrained", "macs"]
        assert thinner == (row["kind"] == "block" and row["removed"] > 0), name
    folder = tmp_path / "reports" / "resnet20" / "smoke"
    written = {path.name for path in folder.iterdir() if path.is_file()}
    pictures = {"omegas.png", "sensitivity.png", "tradeoff.png"}
    assert written == {"rows.csv", "table.md", "table.tex", "report.md", "sensitivity.csv", *pictures}
    text = (folder / "report.md").read_text()
    assert "| fine-tuned" in text and "data data" in text and "nan" not in text
    assert all(f"({name})" in text for name in pictures)


def test_without_data_one_line_says_what_is_needed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["resnet20", "--preset", "smoke"])
    with pytest.raises(SystemExit, match="2"):
        command(STUDY)
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "--data must name a folder with the weights of a CIFAR ResNet (one .pth) and images in class folders" in said


def test_weights_are_one_file(tmp_path):
    with pytest.raises(ValueError, match="has no file of weights"):
        find_weights(tmp_path)
    (tmp_path / "b.pth").touch()
    assert find_weights(tmp_path).name == "b.pth"
    (tmp_path / "a.pth").touch()
    with pytest.raises(ValueError, match=r"has a\.pth, b\.pth"):
        find_weights(tmp_path)
    (tmp_path / "resnet20-x.th").touch()
    assert find_weights(tmp_path).name == "resnet20-x.th"


def test_weights_for_other_classes_are_refused(tiny, tmp_path):
    torch.save(CifarResNet(blocks=1, width=4, classes=10).state_dict(), tiny / "mine.pth")
    options = {"preset": "smoke", "data": tiny, "out": tmp_path / "reports", "scratch": tmp_path / "scratch"}
    missing = run(STUDY, only="pretrained", **options).attrs["missing"]
    assert "mine.pth knows 10 classes, the images have 3" in missing["pretrained (seed 0)"]


def test_fine_tuning_has_the_rates_of_a_removal():
    budget = BUDGETS["cpu"]
    rates = [fine_tuning(budget)(step) for step in range(budget.steps)]
    assert set(rates[: budget.soft_steps + budget.push_steps + 1]) == {1.0}
    assert rates[-1] == pytest.approx(0, abs=1e-9) and rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    "name, blocks", [("resnet20_cifar10jpg_finetuned2ep_sd.pth", 3), ("resnet56_cifar10_sd.pth", 9)]
)
def test_published_weights_fit(shared_data, name, blocks):
    assert len(load_resnet(shared_data / "weights" / "cifar_resnet" / name).layer1) == blocks


def test_published_accuracy_and_the_split_of_real_images(shared_data):
    folder = shared_data / "weights" / "cifar_resnet"
    train, held_out = find_images(folder, (10, 300))
    assert held_out.labels.bincount().tolist() == [30] * 10 and train.labels.tolist() == list(range(10))
    accuracy = count_correct(load_resnet(find_weights(folder)), held_out) / 300
    assert accuracy == pytest.approx(0.872, abs=0.04)  # 87.2 % on all 10,000; two standard errors of 300
