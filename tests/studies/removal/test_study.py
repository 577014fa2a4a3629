"""The study runs from a training to its report, and its rows are what the issue asks for."""

import pytest

from archlab.experiments.runner import run
from archlab.experiments.study import Scratch
from studies.removal import study
from studies.removal.networks import NETWORKS

NETWORK = "word network"


def test_smoke_runs_from_a_training_to_its_report(monkeypatch, tmp_path):
    removals = ("learned 0.34", "learned, rewind 0.34", "greedy 0.34", "polarized, rewind 0.34", "annealed")
    kept = ("training", "original", "control", *removals, "scores")
    rows = [row for row in study.ROWS if row["name"] in {f"{NETWORK} {name}" for name in kept}]
    monkeypatch.setattr(study, "ROWS", rows)
    found = run(study, preset="smoke", out=tmp_path / "reports", scratch=tmp_path / "scratch")
    assert found.attrs["missing"] == {} and len(found) == len(kept)
    found = found.set_index("row")
    for name in removals:
        row = found.loc[f"{NETWORK} {name}"]
        assert row["sites"] == len(row["removed"]) == 6 and row["of"] == 9, name  # 3 of 9 are the most within .34
        assert row["macs"] < found.loc[f"{NETWORK} control", "macs"] and row["steps"] == 7, name
    assert found.loc[f"{NETWORK} control", "steps"] == 7
    folder = tmp_path / "reports" / "removal" / "smoke"
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert f"### {NETWORK}" in text and "annealed, going on" in text and "](curves.png)" in text and "nan" not in text
    assert (folder / "curves.png").is_file() and (folder / "scores.tex").is_file()


def test_every_network_has_all_methods_at_both_budgets():
    removals = [row for row in study.ROWS if row["what"] == "removal"]
    pairs = {(row["network"], row["method"], row["budget"]) for row in removals}
    assert len(pairs) == len(removals) == len(NETWORKS) * 5 * 2
    assert len({network.field for network in NETWORKS.values()}) >= 4
    gates = [row for row in study.ROWS if row["what"] == "gate"]
    assert len(gates) == len(NETWORKS) * 2 * 2 + 3 * 3 * 2  # the plain blend is a removal of each network
    names = [row["name"] for row in study.ROWS]
    assert len(set(names)) == len(names)
    assert all(names.index(needed) < names.index(row["name"]) for row in study.ROWS for needed in study.needs(row))


@pytest.mark.parametrize("network", ["ResNet-20", "VDSR"])
def test_a_network_without_its_data_says_what_it_needs(network, tmp_path):
    row = {"what": "original", "network": network}
    with pytest.raises(ValueError, match="--data must name a folder"):
        study.start(row, "smoke", 0, Scratch(tmp_path))
