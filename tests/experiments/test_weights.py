"""A folder of trained weights stands for the trainings that take from it, and for nothing else."""

import pytest

from .lab import STUDY

GIVEN = """
import hashlib
def given(row, weights):
    file = weights / (row["name"] + ".txt")
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None

def made(row, preset, seed, scratch):
    if row["name"] == "base" and scratch.weights is not None:
        return {"score": int((scratch.weights / "base.txt").read_text()), "steps": 0}
    assert scratch.weights is None
    return cell(row, preset, seed, scratch)

def cell_for(row):
    return made
"""


@pytest.fixture
def taking(lab):
    """A study whose row "base" takes base.txt."""
    lab.edit(study=STUDY.format(helper=f"{lab.name}.helper") + GIVEN)
    return lab


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "base.txt").write_text("40")
    return folder


@pytest.mark.parametrize(("workers", "only", "scores"), [(0, "*", [40, 41, 41]), (1, "a/1", [40, 41])])
def test_a_row_takes_weights_instead_of_training(taking, weights, workers, only, scores):
    rows = taking.run(weights=weights, workers=workers, only=only)
    assert rows["score"].tolist() == scores, "the other rows start from it"
    assert rows.attrs["conditions"]["weights"] == "weights"


def test_results_of_other_weights_are_others_and_all_stay(taking, weights):
    own = taking.run()["score"].tolist()
    assert taking.run(weights=weights)["score"].tolist() == [40, 41, 41]
    (weights / "base.txt").write_text("50")
    assert taking.run(weights=weights)["score"].tolist() == [50, 51, 51]
    ran = len(taking.ran())
    assert taking.run()["score"].tolist() == own
    assert len(taking.ran()) == ran, "what was trained here is still there"


def test_weights_that_nothing_takes_are_an_error(taking, weights, tmp_path):
    (weights / "base.txt").rename(weights / "bass.txt")
    with pytest.raises(ValueError, match=r"weights must be a folder with weights that a row of .* takes, got"):
        taking.run(weights=weights)
    with pytest.raises(ValueError, match="weights must be a folder that is there, got"):
        taking.run(weights=tmp_path / "nowhere")
