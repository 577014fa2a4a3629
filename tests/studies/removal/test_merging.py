"""The study of merging runs on a small network, from its removals to its report."""

from dataclasses import replace

import pytest
import torch

import archlab as al
from archlab.experiments.runner import run
from studies.removal import merging
from studies.removal.vdsr import VDSR


def made(net, x):
    """A network, and the task to give the square root of `x`; all sites may go."""

    def loss(net, x):
        return (net(x) - x.sqrt()).square().mean()

    def quality(net):
        with torch.no_grad():
            return {"quality": -float(loss(net, x)), "loss": float(loss(net, x))}

    return net, al.Task(x, lambda step: x, loss, quality, {"quality": "higher", "loss": "lower"}), None


def small(request):
    torch.manual_seed(0)
    return made(VDSR(width=6, layers=2).eval(), torch.rand(2, 1, 12, 12))


def of_one_width(request):
    torch.manual_seed(0)
    return made(VDSR(width=6, layers=2).eval().residual_layer, torch.rand(2, 6, 9, 9))


@pytest.fixture
def found(monkeypatch, tmp_path):
    network = replace(merging.OF["VDSR"], make=small)
    monkeypatch.setattr(merging, "OF", {"VDSR": network})
    names = ("VDSR control", "VDSR merge 0.6", "VDSR learned, then folded 0.34", "VDSR greedy, then folded 0.34",
             "VDSR blocks 0.6")  # fmt: skip
    monkeypatch.setattr(merging, "ROWS", [row for row in merging.ROWS if row["name"] in names])
    rows = run(merging, preset="smoke", out=tmp_path / "reports", scratch=tmp_path / "scratch")
    assert rows.attrs["missing"] == {} and len(rows) == len(names)
    return rows.set_index("row"), tmp_path / "reports" / "merging" / "smoke"


def test_every_way_saves_and_the_report_says_how_much(found):
    rows, folder = found
    assert rows.loc["VDSR control", "left"] == 1 and rows.loc["VDSR control", "sites"] == 0
    assert rows.loc["VDSR merge 0.6", "left"] <= 0.6 and rows.loc["VDSR merge 0.6", "sites"] >= 1
    assert rows.loc["VDSR blocks 0.6", "left"] <= 0.6
    for way in ("learned, then folded", "greedy, then folded"):
        assert rows.loc[f"VDSR {way} 0.34", "sites"] == 2 and rows.loc[f"VDSR {way} 0.34", "left"] <= 1
    assert (rows["steps"] == 7).all()
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "## VDSR" in text and "greedy, then folded" in text and "nan" not in text and "](fronts.png)" in text
    assert (folder / "table.tex").is_file()


def test_where_merging_saves_nothing_the_report_says_so(monkeypatch, tmp_path):
    """As with two 3x3 convolutions of one width, which are dearer as one of 5x5."""
    monkeypatch.setattr(merging, "OF", {"ResNet-56": replace(merging.OF["VDSR"], make=of_one_width)})
    monkeypatch.setattr(merging, "ROWS", [row for row in merging.ROWS if row["network"] == "ResNet-56"])
    run(merging, preset="smoke", out=tmp_path / "reports", scratch=tmp_path / "scratch")
    text = (tmp_path / "reports" / "merging" / "smoke" / "report.md").read_text(encoding="utf-8")
    assert "**ResNet-56 merge 0.8**:" in text
