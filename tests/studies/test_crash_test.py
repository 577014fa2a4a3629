"""The crash test strikes, compares and reports: its smoke preset, of a study and a removal."""

import pytest

from archlab.experiments import run
from studies.crash_test import blows, jobs, study


def test_a_killed_removal_and_a_study_on_a_full_disk_leave_what_undisturbed_ones_do(tmp_path):
    folders = {"out": tmp_path / "reports", "scratch": tmp_path / "scratch"}
    for only in ("removal: SIGKILL*", "study: disk full"):
        rows = run(study, preset="smoke", only=only, **folders)
    struck = rows.set_index("row")
    assert struck["same"].tolist() == struck["blows"].tolist() == [2, 1] and struck["different"].tolist() == [[], []]
    assert "named, the runner ended" in struck.loc["study: disk full", "told"]
    rows.attrs["conditions"] |= {"device": "CPU"}
    study.report(rows, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "After 3 of 3 blows" in text and "Different" not in text and "SIGKILL at a random moment" in text


def test_what_is_different_is_seen(tmp_path, monkeypatch):
    """A blow after which something is lost."""
    left = {"rows": 1}
    monkeypatch.setattr(study, "finished", lambda job, folder, preset: left)
    lossy = {"SIGKILL at a random moment": (lambda *asked: ("hit", {"rows": 0}), ("study",))}
    monkeypatch.setattr(study, "BLOWS", lossy)
    row = {"name": "study: SIGKILL at a random moment", "job": "study", "blow": "SIGKILL at a random moment"}
    found = study.blow(row, "smoke", 0, type("Scratch", (), {"folder": tmp_path}))
    assert found["same"] == 0 and len(found["different"]) == found["blows"] == 1


def test_a_job_that_always_ends_before_it_is_met_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(blows, "TRIES", 1)
    with pytest.raises(RuntimeError, match="search ended 1 times before it was met"):
        blows.met("search", tmp_path, "smoke", 9, 120.0)
    assert jobs.left_by(tmp_path / "0")["best"]
