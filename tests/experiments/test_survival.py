"""What cells return, what kills them, what runs beside them, what cannot be written: named, and the others go on."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from archlab.experiments import attempts
from archlab.experiments.lease import is_held, lease
from archlab.experiments.provenance import data_fingerprint
from archlab.experiments.results import RESERVED

from .lab import STUDY
from .test_runner import call


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        ("return None", "TypeError: a/1 (seed 0) returned None; a cell returns a dict of values"),
        ("return [1]", "TypeError: a/1 (seed 0) returned a list; a cell returns a dict of values"),
        ("return {'x': {1: 2, '1': 3}}", "ValueError: a/1 (seed 0)['x']: two of its keys are written the same"),
        ("return {'x': '\\ud800'}", "TypeError: a/1 (seed 0)['x'] cannot be written"),
        ("return {'\\ud800': 1}", "UnicodeEncodeError"),
        ("return {'x': 10 ** 5000}", "TypeError: a/1 (seed 0)['x'] cannot be written"),
        ("return {'x': 1j}", "TypeError: a/1 (seed 0)['x'] is of type complex"),
        ("return {'x': __import__('numpy').complex64(1)}", "TypeError: a/1 (seed 0)['x'] is of type complex"),
        ("exec x = []; x.append(x); raise KeyError(1)", "KeyError: 1"),
        ("exec sys.exit(0)", "the cell ended the program, by sys.exit(0)"),
        ("exec sys.exit()", "the cell ended the program, by sys.exit()"),
        ("exec sys.exit('no')", "the cell ended the program, by sys.exit('no')"),
        ("exec raise GeneratorExit", "GeneratorExit"),
        ("return {'kind': 'skip'}", "a value cannot be called 'kind', which is a column of the row"),
        *((f"return {{'{name}': 1}}", f"be called '{name}', which is a column of every table") for name in RESERVED),
    ],
)  # fmt: skip
def test_whatever_a_cell_returns_or_raises_the_others_go_on(lab, monkeypatch, behave, said):
    monkeypatch.setenv("BEHAVE_a_1", behave)
    for _ in range(2):
        rows = lab.run()
        assert said in rows.attrs["missing"].pop("a/1 (seed 0)") and rows.attrs["missing"] == {}
    assert rows["row"].tolist() == ["base", "b"] and call(lab) == 1
    monkeypatch.delenv("BEHAVE_a_1")
    assert lab.run().attrs["missing"] == {} and (lab.out / "report.md").exists()


def test_a_value_as_the_row_says_it_and_a_deep_one(lab, monkeypatch):
    monkeypatch.setenv("BEHAVE_a_1", "return {'kind': 'relu', 'score': float('nan'), 'deep': {'a': [1, (2,)]}}")
    rows = lab.run()
    assert rows.attrs["missing"] == {} and rows["deep"][1] == {"a": [1, [2]]}


def test_a_row_with_the_name_of_a_column_is_refused(lab):
    lab.edit(study=STUDY.format(helper=f"{lab.name}.helper").replace('"kind"', '"seed"'))
    with pytest.raises(ValueError, match="'seed' of 'base' is a column of every table; rename it"):
        lab.run()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.write_text("[" * 10**5)])
def test_whatever_lies_in_place_of_a_result_is_put_aside(lab, make):
    lab.run()
    (result,) = (lab.out / "cells").glob("base-0-*.json")
    values = json.loads(result.read_text())
    for wrong in ({"values": [1]}, {"ended": 3}, {"seconds": "1"}, {"conditions": None}):
        result.write_text(json.dumps(values | wrong))
        assert lab.run()["score"].tolist() == [1, 2, 2]
    result.unlink()
    make(result)
    assert lab.run()["score"].tolist() == [1, 2, 2] and lab.ran().count("base 0") == 6


def test_worthless_records_of_attempts_harm_nothing(lab, monkeypatch):
    monkeypatch.setenv("BEHAVE_base", "fail")
    lab.run(only="base")
    (home,) = lab.scratch.glob("base-0-*")
    (home / "attempts" / "001.json").write_text('{"seconds": "many"}')
    monkeypatch.delenv("BEHAVE_base")
    assert lab.run().attrs["missing"] == {}


CHECKPOINTED = """
import torch
from archlab.training import Task, fit
ROWS = ["base", "b"]
def cell(row, preset, seed, scratch):
    torch.manual_seed(0)
    task = Task(None, lambda step: torch.ones(2, 1), lambda net, x: net(x).square().mean(), lambda net: {})
    left = 0.0 if row == "base" and not (scratch.folder / "second").exists() else None
    (scratch.folder / "second").touch()
    went = fit(torch.nn.Linear(1, 1), task, steps=STEPS, folder=scratch.folder, time_limit_s=left, progress=False)
    if not went.finished:
        raise OutOfTime
    return {"steps": went.steps_done, "score": 0}
def needs(row): return []
STEPS = 3
"""


def foreign(path: Path) -> None:
    import torch

    saved = torch.load(path, weights_only=True)
    torch.save(saved | {"identity": saved["identity"] | {"steps": 99}}, path)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:400]), foreign])
def test_a_truncated_or_foreign_checkpoint_is_put_aside_and_the_cell_begins_again(lab, damage, capsys):
    lab.edit(study=STUDY.format(helper=f"{lab.name}.helper") + CHECKPOINTED)
    assert lab.run().attrs["missing"] == {"base (seed 0)": "out of time"}
    (checkpoint,) = lab.scratch.glob("base-0-*/*/checkpoint.pt")
    damage(checkpoint)
    left = checkpoint.read_bytes()
    rows = lab.run()
    assert rows.attrs["missing"] == {} and rows["steps"].tolist() == [3, 3]
    assert checkpoint.with_name("checkpoint.pt.aside").read_bytes() == left
    assert "the checkpoint is kept as" in capsys.readouterr().err


def test_a_cell_with_two_trainings_in_one_folder_fails_and_does_not_go_round(lab):
    twice = CHECKPOINTED.replace(
        "    return {", "    fit(torch.nn.Linear(1, 2), task, steps=2, folder=scratch.folder)\n    return {"
    )
    lab.edit(study=STUDY.format(helper=f"{lab.name}.helper") + twice)
    for _ in range(2):
        lab.run()
    missing = lab.run().attrs["missing"]
    assert all("this checkpoint belongs to another training" in why for why in missing.values()) and len(missing) == 2


def test_two_runners_share_the_cells_and_both_report(lab, monkeypatch, capsys):
    monkeypatch.setenv("BEHAVE_base", "held")
    found = {}
    runners = [threading.Thread(target=lambda n=n: found.update({n: lab.run(seeds=2)})) for n in range(2)]
    for runner in runners:
        runner.start()
    until = time.monotonic() + 30
    while len(lab.ran()) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert sorted(lab.ran()) == ["base 0", "base 1"], "each runs one"
    (lab.folder / "go").touch()
    for runner in runners:
        runner.join(60)
    assert all(rows.attrs["missing"] == {} and len(rows) == 6 for rows in found.values())
    assert len(lab.ran()) == 6, "each cell once"


def test_a_cell_that_another_runner_gives_up_is_taken_over(lab, monkeypatch):
    lab.run(only="base")
    rerun = threading.Thread(target=lambda: lab.run(only="b"))
    (b,) = [cell for cell in lab.cells() if cell.name == "b"]
    with lease(b.lease):
        rerun.start()
        time.sleep(0.3)
        assert "b 0" not in lab.ran()
    rerun.join(30)
    assert "b 0" in lab.ran()


def full(lab, monkeypatch, part: str) -> None:
    """No more room for files with `part` in their path."""
    write = attempts.write_whole

    def writes(path, content, **options):
        if part in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content, **options)

    monkeypatch.setattr(attempts, "write_whole", writes)


@pytest.mark.parametrize("part", ["cells/a-1-0", "a-1-0-"])
def test_a_full_disk_is_named_and_the_others_go_on(lab, monkeypatch, part):
    """Under the results, and under what is kept meanwhile."""
    full(lab, monkeypatch, part)
    rows = lab.run()
    assert rows["row"].tolist() == ["base", "b"]
    assert "OSError: [Errno 28] No space left on device: " in rows.attrs["missing"]["a/1 (seed 0)"]
    monkeypatch.undo()


def test_no_cell_runs_whose_result_could_not_be_kept(lab):
    lab.out.mkdir(parents=True)
    (lab.out / "cells").write_text("a file")
    missing = lab.run().attrs["missing"]
    assert missing["base (seed 0)"].startswith(f"failed: {Path('reports/table/smoke/cells')} cannot be written to (")
    assert missing["b (seed 0)"] == "waits for base (seed 0)" and lab.ran() == []


def unwritable(path, *_, **options):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_a_finished_study_needs_no_write(lab, monkeypatch, capsys):
    """Neither its rows nor its folders; a report that cannot be written is named."""
    first = lab.run()
    monkeypatch.setattr("archlab.experiments.runner.write_whole", unwritable)
    monkeypatch.setattr(attempts, "write_whole", unwritable)
    monkeypatch.setattr(Path, "write_text", unwritable)
    monkeypatch.setattr(Path, "write_bytes", unwritable)
    rows = lab.run()
    assert rows.equals(first) and rows.attrs["missing"] == {}
    assert rows.attrs["unwritten"] == [f"[Errno 13] Permission denied: '{Path('reports/table/smoke/report.md')}'"]
    assert "not written: [Errno 13]" in capsys.readouterr().err
    assert call(lab) == 1


def test_an_unreadable_result_is_named_and_not_made_again(lab, monkeypatch):
    lab.run()
    (result,) = (lab.out / "cells").glob("a-1-0-*.json")
    opened = Path.open

    def opens(path, *args, **kwargs):
        return unwritable(path) if path.name == result.name else opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opens)
    missing = lab.run().attrs["missing"]
    assert missing == {"a/1 (seed 0)": f"failed: {result.relative_to(lab.folder)} cannot be read (Permission denied)"}
    monkeypatch.undo()
    assert result.exists()


def test_a_cell_that_hangs_is_killed_at_its_limit_and_named(lab, monkeypatch):
    lab.run(only="base")
    monkeypatch.setenv("BEHAVE_b", "slow")
    begun = time.monotonic()
    missing = lab.run(cell_limit_s=0.6, only="b").attrs["missing"]
    assert time.monotonic() - begun < 20
    assert missing["b (seed 0)"].startswith("killed: it ran longer than the limit of 0.01 min a cell; see ")
    assert call(lab, "--cell-limit", "0.01", "--only", "b") == 1
    assert call(lab, "--cell-limit", "0") == 2 and call(lab, "--cell-limit", "1", "--executor", "here") == 2


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_no_worker_outlives_its_runner_and_its_cell_is_taken_over_at_once(lab, monkeypatch):
    lab.run(only="base")
    script = f"from archlab.experiments import run; run({lab.module!r}, preset='smoke', workers=1, only={{!r}})"
    environment = {**os.environ, "BEHAVE_b": "slow", "BEHAVE_a_1": "slow"}
    environment["PYTHONPATH"] = os.pathsep.join([str(lab.folder), *sys.path])
    runners = {
        name: subprocess.Popen([sys.executable, "-c", script.format(name)], env=environment) for name in ("a/1", "b")
    }
    until = time.monotonic() + 120
    while len(lab.ran()) < 3:
        assert all(runner.poll() is None for runner in runners.values()) and time.monotonic() < until
        time.sleep(0.05)
    workers = [json.loads(path.read_text())["pid"] for path in lab.scratch.glob("*/lease.json")]
    assert len(workers) == 2 and all(alive(worker) for worker in workers)
    runners["a/1"].send_signal(signal.SIGTERM)
    runners["b"].send_signal(signal.SIGKILL)
    assert runners["a/1"].wait(20) == 128 + signal.SIGTERM and runners["b"].wait(20) == -signal.SIGKILL
    until = time.monotonic() + 5
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.02)
    begun = time.monotonic()
    assert lab.run().attrs["missing"] == {} and time.monotonic() - begun < 10
    records = [json.loads(path.read_text()) for path in lab.scratch.glob("a-1-0-*/attempts/001.json")]
    assert [record["outcome"] for record in records] == ["interrupted"]


def holder_of(path: Path) -> dict:
    with lease(path):
        return json.loads(path.read_text())


def dead() -> int:
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize(
    ("other", "age_s", "taken"),
    [
        ({}, 0, True),  # on this machine, in this container: seen to be dead
        ({"boot": "before"}, 0, False),  # a fresh heartbeat counts where the number says nothing
        ({"pids": "pid:[1]"}, 0, False),
        ({"host": "another"}, 0, False),
        ({"boot": None, "pids": None, "started": None}, 0, False),
        ({"pids": "pid:[1]"}, 100, True),
    ],
)
def test_a_dead_number_counts_only_where_it_would_be_seen(tmp_path, other, age_s, taken):
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(holder_of(path) | {"token": "x", "pid": dead()} | other))
    os.utime(path, (time.time() - age_s,) * 2)
    assert is_held(path) != taken
    with lease(path) as mine:
        assert (mine is not None) == taken


def test_a_later_process_with_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path):
    path = tmp_path / "lease.json"
    held = holder_of(path)
    if held["started"] is None:
        pytest.skip("this system does not say when a process started")
    path.write_text(json.dumps(held | {"token": "x", "started": "1"}))
    assert not is_held(path)
    zombie = subprocess.Popen(["true"])
    time.sleep(0.2)
    path.write_text(json.dumps(held | {"token": "x", "pid": zombie.pid}))
    assert not is_held(path)
    zombie.wait()


def test_data_behind_links_are_in_the_fingerprint(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data / "a", elsewhere / "deep"):
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(b"123")
    before = data_fingerprint(data)
    (data / "linked").symlink_to(elsewhere)
    linked = data_fingerprint(data)
    (elsewhere / "deep" / "1.png").write_bytes(b"1234")
    changed = data_fingerprint(data)
    assert len({before, linked, changed}) == 3
    (elsewhere / "round").symlink_to(data)  # links in a ring, to itself and to nowhere
    (data / "self").symlink_to(data / "self")
    (data / "nowhere").symlink_to(tmp_path / "absent")
    for n in range(30):  # 30! ways to walk
        (data / f"{n}").mkdir()
        for m in range(30):
            (data / f"{n}" / f"{m}").symlink_to(data / f"{m}")
    begun = time.monotonic()
    assert data_fingerprint(data) == data_fingerprint(data) != changed and time.monotonic() - begun < 5
    with pytest.raises(ValueError, match="no such data folder"):
        data_fingerprint(data / "nowhere")
