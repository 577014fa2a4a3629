"""Cells run once whatever is killed; stale, corrupt and half-done things are seen; workers leave each other alone."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from archlab.experiments.attempts import run_cell
from archlab.experiments.cells import cells_of
from archlab.experiments.command import command
from archlab.experiments.executors.by_name import EXECUTORS
from archlab.experiments.lease import lease
from archlab.experiments.provenance import data_fingerprint
from archlab.experiments.runner import plan_for, run
from archlab.markup import frame_of_csv

from .lab import STUDY


def test_each_cell_runs_once_and_the_table_is_derived(lab):
    rows = lab.run(seeds=2)
    assert lab.ran() == ["base 0", "base 1", "a/1 0", "a/1 1", "b 0", "b 1"]
    assert list(rows.columns) == ["row", "kind", "preset", "seed", "score", "steps", "stale", "seconds"]
    assert rows["score"].tolist() == [1, 2, 2, 4, 2, 4] and not rows["stale"].any()
    assert rows.attrs["missing"] == {}
    assert [Path(folder).parent.name.split("-")[-2] for folder in rows.attrs["folders"].values()] == ["0"] * 3
    assert rows.attrs["conditions"].items() >= {"preset": "smoke", "data": "default", "seeds": 2}.items()
    assert {"device", "torch", "commit", "wall_s", "threads"} <= rows.attrs["conditions"].keys()
    assert (lab.out / "report.md").read_text().startswith("base 1\nbase 2")
    first = (lab.out / "rows.csv").read_bytes()
    files = {path.name: path.stat().st_mtime_ns for path in (lab.out / "cells").iterdir()}
    assert len(files) == 6
    (lab.out / "rows.csv").unlink()
    lab.run(seeds=2)
    assert len(lab.ran()) == 6, "done cells are skipped"
    assert (lab.out / "rows.csv").read_bytes() == first
    assert {path.name: path.stat().st_mtime_ns for path in (lab.out / "cells").iterdir()} == files


def test_a_row_may_run_with_fewer_seeds_than_are_asked_for(lab):
    module = lab.folder / lab.name / "table.py"
    text = module.read_text()
    module.write_text(text + 'def seeds(row): return 1 if row["name"] == "b" else 5\n')
    assert lab.run(seeds=2)[["row", "seed"]].to_numpy().tolist() == [
        ["base", 0], ["base", 1], ["a/1", 0], ["a/1", 1], ["b", 0]
    ]  # fmt: skip
    assert not lab.run(seeds=2).attrs["missing"]


@pytest.mark.parametrize(
    "body, words",
    [
        ('1 if row["name"] == "base" else 2', "needs 'base' of table with seed 1, which that row does not run with"),
        ("0", r"table\.seeds\(.* must be a whole number of at least 1, got 0"),
    ],
)
def test_seeds_that_do_not_add_up_are_refused_in_words(lab, body, words):
    module = lab.folder / lab.name / "table.py"
    module.write_text(module.read_text() + f"def seeds(row): return {body}\n")
    with pytest.raises(ValueError, match=words):
        lab.run(seeds=2)


def test_what_a_spreadsheet_would_compute_is_text_in_rows_csv_and_read_back_as_it_was(lab, monkeypatch):
    texts = {f"text {number}": text for number, text in enumerate(["=1+1", "-1", "'@x", "'x", "\ty", "\n=2", "plain"])}
    values = {**texts, "=SUM(A1)": 1, "number": -0.5, "norm": "None", "other": "NA"}
    monkeypatch.setenv("BEHAVE_base", f"return {values!r}")
    rows = lab.run(only="base")
    written = pd.read_csv(lab.out / "rows.csv")
    assert written["text 0"][0] == "'=1+1" and written["'=SUM(A1)"][0] == 1 and written["number"][0] == -0.5
    read = frame_of_csv(lab.out / "rows.csv")
    assert read[list(values)].to_dict("records") == [values] and list(read) == list(rows)


def test_results_hold_no_path_or_host_of_this_machine(lab):
    lab.run()
    for path in (lab.out / "cells").iterdir():
        assert str(lab.folder) not in path.read_text()


def test_only_brings_what_it_needs(lab):
    assert lab.run(only="b")["row"].tolist() == ["base", "b"]
    assert not (lab.out / "report.md").exists(), "a report is of all rows"
    rows = lab.run(only="base", stale="rerun")
    assert rows["row"].tolist() == ["base", "b"], "what is there stays in rows.csv"
    assert rows.attrs["missing"] == {"a/1 (seed 0)": "not chosen by only"}
    assert len(lab.run(only="a/*")) == 3 and (lab.out / "report.md").exists()
    with pytest.raises(ValueError, match=r"only='c\*' matches no row of .*: base, a/1, b"):
        lab.run(only="c*")


def test_a_change_of_code_marks_rows_and_rerun_makes_them_anew(lab):
    lab.run()
    lab.edit(helper="VALUE = 10\n")
    kept = lab.run()
    assert kept["stale"].all() and kept["score"].tolist() == [1, 2, 2] and len(lab.ran()) == 3
    anew = lab.run(stale="rerun")
    assert not anew["stale"].any() and anew["score"].tolist() == [10, 20, 20] and len(lab.ran()) == 6
    assert len(list((lab.out / "cells").iterdir())) == 6, "the stale results stay"
    assert lab.run()["score"].tolist() == [10, 20, 20], "what is not stale counts"


def test_comments_docstrings_and_layout_make_nothing_stale(lab):
    lab.run()
    lab.edit(helper='"""What it is."""\n\n# because\nVALUE = (\n    1\n)\n')
    assert not lab.run()["stale"].any()


def identities(lab, **options) -> list[tuple[str, str]]:
    """Key and content of each cell as the code is now."""
    importlib.invalidate_caches()
    return [(cell.key, cell.content) for cell in cells_of(plan_for(lab.module, "smoke", None, 1, "keep", "a", "b"))]


def test_where_code_lies_and_what_it_is_called_make_nothing_stale(lab):
    before = lab.run()
    moved, study = lab.folder / f"moved_{lab.name}", (lab.folder / lab.name / "table.py").read_text()
    (lab.folder / lab.name).rename(moved)
    (moved / "helper.py").rename(moved / "of_help.py")
    study = study.replace("import os, sys, time\n", "import time\nimport sys, os\n")
    study = study.replace(f"from {lab.name}.helper import", "from .of_help import")
    (moved / "table.py").write_text(study)
    lab.module = f"{moved.name}.table"
    after = lab.run()
    assert after.drop(columns="seconds").equals(before.drop(columns="seconds")) and not after["stale"].any()
    assert len(lab.ran()) == 3


def test_a_result_is_known_by_the_name_of_its_study(lab):
    lab.edit(study=STUDY.format(helper=f"{lab.name}.helper") + "\nNAME = 'letters'\n")
    lab.run()
    results = [json.loads(path.read_text()) for path in (lab.folder / "reports/letters/smoke/cells").iterdir()]
    assert {result["study"] for result in results} == {"letters"}
    named = identities(lab)
    lab.edit(study=STUDY.format(helper=f"{lab.name}.helper") + "\nNAME = 'numbers'\n")
    assert not {key for key, _ in named} & {key for key, _ in identities(lab)}


def test_results_and_begun_work_of_an_older_archlab_are_told_and_do_not_count(lab, monkeypatch, capsys):
    """Its keys had the module's name in them, and its files told no scheme."""
    monkeypatch.setenv("BEHAVE_b", "fail")
    lab.run()
    assert "older archlab" not in capsys.readouterr().err
    cells, homes = (
        sorted((lab.out / "cells").iterdir()),
        sorted(path for path in lab.scratch.iterdir() if path.is_dir()),
    )
    for path in [*cells, *(file for home in homes for file in home.glob("attempts/*.json"))]:
        told = {k: v for k, v in json.loads(path.read_text()).items() if k != "scheme"}
        path.write_text(json.dumps(told | ({"key": "old" + told["key"]} if "key" in told else {})))
    for path in [*cells, *homes]:
        path.rename(path.with_name(f"old{path.name}"))
    monkeypatch.delenv("BEHAVE_b")
    rows = lab.run()
    assert len(lab.ran()) == 6 and not rows["stale"].any()
    told = capsys.readouterr().err
    assert "3 cells are of an older archlab, which named them otherwise" in told and "do not count here" in told
    assert all(f"old{name}-0-" in told for name in ("a-1", "b", "base"))


def test_data_and_preset_make_other_cells(lab):
    lab.run()
    photos = lab.folder / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"123")
    lab.run(data=photos)
    assert len(lab.ran()) == 6
    before = data_fingerprint(photos)
    (photos / "a.png").write_bytes(b"1234")
    assert data_fingerprint(photos) != before
    run(lab.module, preset="cpu")
    assert (lab.folder / "reports" / "table" / "cpu" / "report.md").exists()


def test_a_failed_cell_is_named_and_the_others_go_on(lab, monkeypatch, capsys):
    monkeypatch.setenv("BEHAVE_a_1", "fail")
    rows = lab.run()
    assert rows["row"].tolist() == ["base", "b"]
    assert rows.attrs["missing"] == {"a/1 (seed 0)": "failed: RuntimeError: no good"}
    assert "RuntimeError: no good" in capsys.readouterr().err
    assert (lab.out / "rows.csv").exists() and not (lab.out / "report.md").exists()
    monkeypatch.delenv("BEHAVE_a_1")
    assert lab.run().attrs["missing"] == {}
    (home,) = lab.scratch.glob("a-1-0-*")
    attempts = [json.loads(path.read_text()) for path in sorted((home / "attempts").iterdir())]
    assert [attempt["outcome"] for attempt in attempts] == ["failed: RuntimeError: no good", "finished"]


def test_what_needs_a_missing_cell_waits(lab, monkeypatch):
    monkeypatch.setenv("BEHAVE_base", "fail")
    missing = lab.run().attrs["missing"]
    assert missing["b (seed 0)"] == "waits for base (seed 0)" and lab.ran() == ["base 0"]


def test_files_that_did_not_come_with_a_result_are_told_with_what_makes_them_again(lab, monkeypatch):
    lab.run(only="base")
    shutil.rmtree(lab.folder / "scratch")  # as in a clone, where results are committed and scratch is not
    monkeypatch.setenv("BEHAVE_b", "exec scratch.needed['base'].folder")
    failed = lab.run(only="b").attrs["missing"]["b (seed 0)"]
    assert "its result was made on another machine" in failed
    Path(re.search("delete (.*), and the row", failed)[1]).unlink()
    assert lab.run(only="b")["row"].tolist() == ["base", "b"] and lab.ran() == ["b 0", "base 0", "b 0"]


def test_the_time_limit_cuts_inside_a_cell_and_the_next_call_goes_on(lab, monkeypatch):
    monkeypatch.setenv("BEHAVE_base", "long")
    calls = 0
    while lab.run(time_limit_s=100).attrs["missing"]:
        calls += 1
    assert calls == 5 and lab.ran().count("base 0") == 6
    (result,) = (lab.out / "cells").glob("base-0-*.json")
    assert json.loads(result.read_text())["attempts"] == 6
    assert lab.run(time_limit_s=0, seeds=2).attrs["missing"]["b (seed 1)"].startswith("waits for base")


def test_seconds_are_those_of_the_work_behind_a_result(lab, monkeypatch):
    monkeypatch.setenv("BEHAVE_base", "exec time.sleep(1.0)")
    first = lab.run(only="base")
    lab.edit(helper="VALUE = 2\n")
    monkeypatch.delenv("BEHAVE_base")
    again = lab.run(only="base", stale="rerun")
    assert first["seconds"][0] >= 1.0 and again["seconds"][0] < 1.0 and again["score"][0] == first["score"][0] + 1


def test_work_begun_by_older_code_is_gone_on_with(lab, monkeypatch, capsys):
    monkeypatch.setenv("BEHAVE_base", "long")
    lab.run(time_limit_s=100)
    lab.edit(helper="VALUE = 7\n")
    lab.run(time_limit_s=100)
    (home,) = lab.scratch.glob("base-0-*")
    (work,) = [path for path in home.iterdir() if len(path.name) == 16]
    assert len(list(work.iterdir())) == 2 and "going on from what it had begun" in capsys.readouterr().err
    lab.edit(helper="VALUE = 8\n")
    lab.run(time_limit_s=100, stale="rerun")
    assert len([path for path in home.iterdir() if len(path.name) == 16]) == 2, "rerun begins in a folder of its own"


def test_work_that_newer_code_cannot_go_on_with_is_given_back(lab):
    study = STUDY.format(helper=f"{lab.name}.helper")
    body = """
import torch
from archlab.training import Task, fit
ROWS = ["base"]
def cell(row, preset, seed, scratch):
    task = Task(None, lambda step: torch.ones(2, 1), lambda net, x: net(x).square().mean(), lambda net: {})
    left = 0.0 if STEPS == 3 else None
    went = fit(torch.nn.Linear(1, 1), task, steps=STEPS, folder=scratch.folder, time_limit_s=left, progress=False)
    if not went.finished:
        raise OutOfTime
    return {"steps": STEPS, "score": 0}
def needs(row): return []
"""
    lab.edit(study=study + body + "STEPS = 3\n")
    assert lab.run().attrs["missing"] == {"base (seed 0)": "out of time"}
    lab.edit(study=study + body + "STEPS = 4\n")
    assert lab.run()["steps"].tolist() == [4]
    (home,) = lab.scratch.glob("base-0-*")
    assert len(list(home.glob("*/checkpoint.pt"))) == 2


@pytest.mark.parametrize("content", ["", '{"row": "base", "val', "[]", "{}"])
def test_an_unreadable_result_is_put_aside_and_made_again(lab, content, capsys):
    lab.run()
    (result,) = (lab.out / "cells").glob("base-0-*.json")
    result.write_text(content)
    assert lab.run()["score"].tolist() == [1, 2, 2]
    assert lab.ran().count("base 0") == 2
    assert result.with_suffix(".unreadable").read_text() == content
    assert "not a readable result; kept as" in capsys.readouterr().err


def test_a_killed_run_loses_only_the_cell_it_was_in(lab, monkeypatch):
    script = f"from archlab.experiments import run; run({lab.module!r}, preset='smoke')"
    environment = {**os.environ, "BEHAVE_b": "slow", "PYTHONPATH": os.pathsep.join([str(lab.folder), *sys.path])}
    child = subprocess.Popen([sys.executable, "-c", script], env=environment)
    until = time.monotonic() + 60
    while "b 0" not in lab.ran():
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    rows = lab.run(time_limit_s=0.2)  # while it runs: its lease is respected
    assert rows.attrs["missing"] == {"b (seed 0)": "running elsewhere"}
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    rows = lab.run()
    assert rows.attrs["missing"] == {} and lab.ran() == ["base 0", "a/1 0", "b 0", "b 0"]
    (home,) = lab.scratch.glob("b-0-*")
    attempts = [json.loads(path.read_text()) for path in sorted((home / "attempts").iterdir())]
    assert [attempt["outcome"] for attempt in attempts] == ["began", "finished"]


def test_workers_run_cells_apart_and_a_killed_one_disturbs_nobody(lab, monkeypatch):
    missing = lab.run(workers=1, time_limit_s=0).attrs["missing"]
    assert missing["b (seed 0)"] == "waits for base (seed 0)" and lab.ran() == []
    lab.run(only="base")
    monkeypatch.setenv("BEHAVE_a_1", "kill")
    rows = lab.run(workers=2)
    assert rows["row"].tolist() == ["base", "b"] and rows["score"].tolist() == [1, 2]
    missing = rows.attrs["missing"]["a/1 (seed 0)"]
    assert missing.startswith("killed by signal 9; see ") and Path(missing.rpartition("see ")[2]).exists()
    (home,) = lab.scratch.glob("b-0-*")
    assert (home / "log.txt").exists()


def test_a_row_of_another_study_is_made_once_in_its_own_folder(lab):
    other = STUDY.format(helper=f"{lab.name}.helper").replace('ROWS = [{"name": "base", "kind": "none"}, ', "ROWS = [")
    other = other.replace('return [] if row["name"] == "base" else ["base"]', 'return [(table, "base")]')
    other = other.replace('needed["base"]', 'needed[table, "base"]') + f"\nfrom {lab.name} import table\n"
    (lab.folder / lab.name / "figure.py").write_text(other)
    rows = run(f"{lab.name}.figure", preset="smoke")
    assert rows["row"].tolist() == ["a/1", "b"] and rows["score"].tolist() == [2, 2]
    assert lab.ran() == ["base 0"], "in the folders of the study that it is of"
    assert lab.run()["row"].tolist() == ["base", "a/1", "b"]
    assert lab.ran().count("base 0") == 1
    missing = run(f"{lab.name}.figure", preset="smoke", seeds=2, time_limit_s=0).attrs["missing"]
    assert missing == {"base (seed 1)": "out of time"} | {
        f"{n} (seed 1)": "waits for base (seed 1)" for n in ("a/1", "b")
    }


def test_an_executor_is_one_function_and_one_line(lab, monkeypatch):
    seen = []

    def cloud(cells, workers, deadline):
        seen.append((len(cells), workers, deadline))
        return {cell: run_cell(cell, deadline) for cell in cells}

    monkeypatch.setitem(EXECUTORS, "cloud", cloud)
    assert lab.run(executor="cloud", workers=7)["score"].tolist() == [1, 2, 2]
    assert call(lab, "--executor", "cloud") == 0
    assert seen == [(3, 7, None), (3, 0, None)]


def test_processes_without_a_number_are_one(lab):
    assert lab.run(executor="processes", only="base")["score"].tolist() == [1]
    assert list(lab.scratch.glob("base-0-*/log.txt"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"preset": "huge"}, "preset must be one of 'smoke', 'cpu', got 'huge'"),
        ({"preset": "smoke", "stale": "drop"}, "stale must be one of 'keep', 'rerun', got 'drop'"),
        ({"preset": "smoke", "seeds": 0}, "seeds must be a whole number of at least 1, got 0"),
        ({"preset": "smoke", "workers": -1}, "workers must be a whole number of at least 0, got -1"),
        ({"preset": "smoke", "executor": "cloud"}, "executor: there is no 'cloud'; there are here, processes"),
        (
            {"preset": "smoke", "executor": "dask"},
            "the executor 'dask' needs the address of a Dask scheduler",
        ),
        ({"preset": "smoke", "scheduler": ""}, "scheduler must be the address of a Dask scheduler, .* got ''"),
        ({"preset": "smoke", "scheduler": "tcp://h:1", "executor": "here"}, "'here' takes none, got 'tcp://h:1'"),
        ({"preset": "smoke", "data": "nowhere"}, "data must be a folder that is there, got 'nowhere'"),
    ],
)
def test_bad_options(lab, options, said):
    with pytest.raises(ValueError, match=said):
        run(lab.module, **options)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("ROWS = ['a', 'a']", "names must differ"),
        (
            "def needs(row): return ['bose']",
            "row 'base' needs 'bose' of table, where no such row stands before it; there is none",
        ),
        ("import archlab.names\ndef needs(row): return ROWS[0:0] or [(archlab.names, 'x')]", "archlab.names: no study"),
        ("def depends(row): return ['no_such.module']", "no_such.module: no Python file"),
    ],
)
def test_rows_that_do_not_add_up(lab, more, said):
    lab.edit(study=STUDY.format(helper=f"{lab.name}.helper") + more + "\n")
    with pytest.raises(ValueError, match=said):
        lab.run()


def test_a_value_that_json_cannot_write_is_named(lab):
    lab.edit(study=STUDY.format(helper=f"{lab.name}.helper").replace('"steps": 5', '"steps": {"of": object()}'))
    missing = lab.run().attrs["missing"]["base (seed 0)"]
    assert missing.startswith("failed: TypeError: base (seed 0)['steps']['of'] is of type object: a cell returns")


def call(lab, *words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["table", *words])
        with pytest.raises(SystemExit) as ended:
            command(lab.module)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_line(lab, monkeypatch, capsys):
    assert call(lab, "--help") == 0
    helped = capsys.readouterr().out
    assert "A study of nothing much." in helped and "--time-limit" in helped
    assert call(lab, "--preset", "huge") == 2
    assert "preset must be one of 'smoke', 'cpu'" in capsys.readouterr().err
    assert call(lab, "--executor", "cloud") == 2
    assert "there are here, processes" in capsys.readouterr().err
    assert call(lab, "--time-limit", "0") == 75
    assert "no report yet: 3 cells are missing, 0 are there" in capsys.readouterr().err
    assert call(lab, "--only", "base") == 0, "what was asked for is done"
    assert "no report yet: 2 cells are missing, 1 are there" in capsys.readouterr().err
    monkeypatch.setenv("BEHAVE_b", "fail")
    assert call(lab) == 1 and not (lab.out / "report.md").exists()
    capsys.readouterr()
    assert call(lab, "--partial") == 1 and (lab.out / "report.md").read_text() == "base 1\na/1 2"
    assert "the report is of part: 1 cells are missing, 2 are there" in capsys.readouterr().err
    monkeypatch.delenv("BEHAVE_b")
    assert call(lab) == 0 and (lab.out / "report.md").exists()
    lab.edit(helper="VALUE = 2\n")
    assert call(lab) == 0
    assert "3 rows are of older code and marked stale; --stale rerun makes them anew" in capsys.readouterr().err


def test_a_report_that_needs_a_missing_row_says_that_it_was_given_part(lab):
    text = STUDY.format(helper=f"{lab.name}.helper")
    lab.edit(study=text.replace("(folder /", 'rows.set_index("row").loc["b"]; (folder /'))
    with pytest.raises(KeyError) as caught:
        lab.run(only="base", partial=True)
    assert "was given part of the rows" in caught.value.__notes__[0]
    assert lab.run(partial=True).attrs["missing"] == {} and (lab.out / "report.md").exists()


def test_a_lease_is_held_by_one_and_given_back(tmp_path):
    path = tmp_path / "lease.json"
    with lease(path) as mine:
        assert mine is not None and mine()
        with lease(path) as other:
            assert other is None
        assert mine() and path.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "age_s", "taken"),
    [
        ({"token": "x", "host": "another machine", "pid": 1}, 0, False),
        ({"token": "x", "host": "another machine", "pid": 1}, 100, True),
        ({"token": "x", "host": os.uname().nodename, "pid": os.getpid()}, 0, False),
        ("half a li", 0, False),
        ("half a li", 100, True),
    ],
)
def test_an_abandoned_lease_is_taken_over(tmp_path, content, age_s, taken):
    path = tmp_path / "lease.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, (time.time() - age_s,) * 2)
    with lease(path, stale_s=60) as mine:
        assert (mine is not None) == taken


def test_the_heartbeat_keeps_a_long_lease(tmp_path):
    path = tmp_path / "lease.json"
    with lease(path, stale_s=0.3) as mine:
        path.write_text(path.read_text().replace(str(os.getpid()), "null"))  # so that silence alone decides
        time.sleep(0.8)
        with lease(path, stale_s=0.3) as other:
            assert other is None and mine is not None and mine()
