"""What the runner does for each cell stays small beside a cell of milliseconds."""

import os
import subprocess
from collections import Counter

import pytest

from archlab.experiments.results import results_of
from archlab.files import write_whole


def test_a_cell_waits_for_the_disk_once_and_git_is_asked_once_a_run(lab, monkeypatch):
    lab.run(only="base")
    calls = Counter()

    def counted(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **o: (calls.update([name]), function(*a, **o))[1])

    counted(os, "fsync")
    counted(subprocess, "run")
    assert len(lab.run(seeds=3)) == 9
    assert calls["fsync"] <= 2 * (8 + 1), "its result and the folder that has it; rows.csv"
    assert calls["run"] == 0, "the commit is that of the first cell"


def test_results_of_a_key_are_its_own(tmp_path):
    for name in ("a-0-1f-22.json", "a-0-1f-11.json", "a-0-1f0-33.json", "a-0-1f-44.json.part", "b-0-1f-11.json"):
        (tmp_path / name).touch()
    assert [path.name for path in results_of(tmp_path, "a-0-1f")] == ["a-0-1f-11.json", "a-0-1f-22.json"]
    assert results_of(tmp_path / "none", "a") == []


@pytest.mark.parametrize("synced", [True, False])
def test_a_file_is_whole_or_as_before_synced_or_not(tmp_path, monkeypatch, synced):
    write_whole(tmp_path / "file", b"old", synced=synced)
    write_whole(tmp_path / "file", b"new", synced=synced)
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError, match="killed here"):
        write_whole(tmp_path / "file", b"newer", synced=synced)
    assert (tmp_path / "file").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1
