"""Cells and searches on a Dask cluster: a real scheduler, a worker that a nanny runs, and what kills them."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pandas as pd
import pytest
import torch

import archlab as al
from archlab.experiments.executors import scheduler as reached
from archlab.experiments.live.cluster import Cluster, ClusterPool
from archlab.experiments.live.pickled import pickled
from archlab.experiments.live.pool import computing

from .test_runner import call

if importlib.util.find_spec("distributed") is None:
    pytest.skip("Dask's distributed is not installed: pip install 'archlab[cluster]'", allow_module_level=True)

pytestmark = pytest.mark.xdist_group("cluster")  # one scheduler for all of them

MORE = """
import torch
from torch.utils.data import DataLoader

def cell(row, preset, seed, scratch):
    with open(scratch.folder.parents[1] / "ran.txt", "a") as ran:
        ran.write(f"{row['name']}\\n")
    if row["name"] == "a/1" and not (scratch.folder / "begun").exists():
        (scratch.folder / "begun").touch()
        os.kill(os.getppid(), 9)  # the worker of the cluster, with whom this process ends
        time.sleep(60)
    loader = DataLoader(torch.ones(4), num_workers=1 if row["name"] == "base" else 0)
    score = sum(batch.sum().item() for batch in loader)
    threads = os.environ["OMP_NUM_THREADS"]
    return {"score": score, "steps": 1, "threads": threads, "needed": [*scratch.needed], "where": os.getcwd()}

def resources(row, preset):
    return TAKES.get(row["name"], {})

TAKES = {"base": {"GPU": 1}}
"""


@contextlib.contextmanager
def started(*words, folder):
    """A process with those that it starts, ended with the block."""
    with open(folder / f"{words[1].rpartition('.')[2]}.log", "ab") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def started_scheduler(tmp_path_factory):
    """The address of a scheduler with one worker, of two cells at once and one GPU by its word."""
    folder = tmp_path_factory.mktemp("cluster")
    told = folder / "scheduler.json"
    own = ["--scheduler-file", str(told), "--no-dashboard"]
    with started("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *own, folder=folder):
        words = ["--nthreads", "2", "--resources", "GPU=1", "--local-directory", str(folder), *own]
        with started("-m", "distributed.cli.dask_worker", *words, folder=folder):
            until = time.monotonic() + 60
            while not told.exists():
                assert time.monotonic() < until, (folder / "dask_scheduler.log").read_text()
                time.sleep(0.1)
            yield json.loads(told.read_text())["address"]


@pytest.fixture
def scheduler(started_scheduler):
    """The same, once its worker is there: it takes a while to start, and again after it was killed."""
    from distributed import Client

    with Client(started_scheduler, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
    return started_scheduler


def test_cells_run_on_a_cluster_and_outlive_a_worker_that_is_killed(lab, scheduler, monkeypatch, capfd):
    """The first attempt at one kills the worker that it runs in; what it needs loads data by a process of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    lab.edit(study=(lab.folder / lab.name / "table.py").read_text() + MORE)
    rows = lab.run(scheduler=scheduler, only="a/1")
    assert [*rows.attrs["missing"]] == ["b (seed 0)"], capfd.readouterr().err + logs(lab)
    assert rows["score"].tolist() == [4, 4] and rows["needed"].tolist() == [[], ["base"]]
    assert rows["threads"].tolist() == ["3"] * 2 and set(rows["where"]) == {str(lab.folder)}
    outcomes = [json.loads(path.read_text())["outcome"] for path in sorted(lab.scratch.glob("a-1-0-*/attempts/*.json"))]
    assert outcomes == ["began", "finished"]
    assert (lab.scratch / "ran.txt").read_text().split() == ["base", "a/1", "a/1"]
    assert not list(lab.scratch.glob("runner-*")), "what says that the runner lives is gone with it"


def test_a_cell_that_takes_what_no_worker_has_waits_until_the_time_limit(lab, scheduler, capfd):
    more = MORE.replace('{"GPU": 1}', '{"TPU": 2}')
    lab.edit(study=(lab.folder / lab.name / "table.py").read_text() + more)
    missing = lab.run(scheduler=scheduler, only="base", time_limit_s=0.5).attrs["missing"]
    assert missing["base (seed 0)"] == "out of time" and "no worker has TPU=2 yet" in capfd.readouterr().err


def test_what_takes_no_numbers_is_refused(lab, scheduler):
    more = MORE.replace('{"GPU": 1}', '{"GPU": "1"}')
    lab.edit(study=(lab.folder / lab.name / "table.py").read_text() + more)
    with pytest.raises(ValueError, match="resources must be a dict of numbers"):
        lab.run(scheduler=scheduler)


def test_without_a_scheduler_or_the_package_the_error_says_what_to_do(lab, monkeypatch, capsys):
    monkeypatch.setattr(reached, "CONNECT_S", 0.5)
    with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 .*dask scheduler"):
        lab.run(scheduler="tcp://127.0.0.1:9")
    assert call(lab, "--scheduler", "tcp://127.0.0.1:9") == 1
    monkeypatch.setattr(reached.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .archlab.cluster."):
        lab.run(scheduler="tcp://127.0.0.1:9")
    assert call(lab, "--scheduler", "tcp://127.0.0.1:9") == 2 and "pip install" in capsys.readouterr().err


def test_a_search_on_a_cluster_has_the_history_of_one_here_though_a_worker_is_killed(scheduler, tmp_path):
    x = torch.ones(1, 2, 5, 5)

    def quality(net):
        (tmp_path / f"{os.getppid()} {uuid.uuid4()}").touch()
        if kills.exists() and len(list(tmp_path.iterdir())) == 5:  # with the search's folder, at the third
            kills.unlink()
            os.kill(os.getppid(), 9)  # the worker of the cluster, with whom this process ends
            time.sleep(60)
        return {"distance": net(x).square().mean().item() + torch.rand(1).item()}

    kills = tmp_path / "kills"
    kills.touch()
    task = al.Task(x, lambda step: x, lambda net, batch: net(batch).mean(), quality, measures={"distance": "lower"})
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3, padding=1), torch.nn.BatchNorm2d(2))
    net = al.supernet(model, x, choices={"0": al.kernel(1, 3, 5, 7, 9, weights="shared")})
    options = {"trials": 5, "population": 3, "norm_batches": 1, "progress": False}
    found = al.search(net, task, scheduler=scheduler, workers=1, folder=tmp_path / "search", **options)
    calls = [path for path in tmp_path.iterdir() if " " in path.name]
    assert len(calls) == 6, "what a killed worker had under way is measured again"
    assert str(os.getpid()) not in {path.name.split()[0] for path in calls}, "nothing is measured here"
    pd.testing.assert_frame_equal(found.history, al.search(net, task, **options).history)
    assert len(list((tmp_path / "search" / "measured").iterdir())) == 5, "what is measured is kept here"


def test_a_worker_ends_what_its_caller_does_not_want_any_more(scheduler, tmp_path):
    """So it is where a search fails, is interrupted or is killed: the scheduler lets go of what it asked for."""

    def work(label):
        (tmp_path / str(os.getpid())).touch()
        time.sleep(60)

    payload = pickled("search", (computing(), work), {}, remedy="")
    pool = ClusterPool(payload, Cluster(scheduler), deadline=None)
    assert pool.begin("a", 0)() is None
    wait_until(lambda: any(tmp_path.iterdir()), "a piece begins")
    process = Path("/proc", next(tmp_path.iterdir()).name)
    pool.end()
    wait_until(lambda: not process.exists(), "its process ends")


def wait_until(is_so, what):
    until = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < until, f"not in time: {what}"
        time.sleep(0.02)


def test_what_a_cluster_cannot_search_is_refused_by_name(monkeypatch):
    lock = threading.Lock()
    given = {"trials": 2, "objectives": {"gain": "higher"}, "progress": False, "scheduler": "tcp://127.0.0.1:9"}
    with pytest.raises(
        TypeError, match=r"search: .* but 'lock', used in task, a lock, cannot .* leave scheduler=None$"
    ):
        al.search({"a": [1, 2]}, lambda options: lock, **given)
    with pytest.raises(ValueError, match="search: scheduler must be None for 'tpe'"):
        al.search({"a": [1, 2]}, lambda options: {}, sampler="tpe", **given)
    with pytest.raises(ValueError, match="search: scheduler must be None where a function asks"):
        al.search(lambda trial: {}, sampler="random", **given)
    monkeypatch.setattr(reached, "CONNECT_S", 0.5)
    with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 .*dask scheduler"):
        al.search({"a": [1, 2]}, lambda options: {}, **given)
    monkeypatch.setattr(reached.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .archlab.cluster."):
        al.search({"a": [1, 2]}, lambda options: {}, **given)


def logs(lab) -> str:
    return "".join(path.read_text() for path in lab.scratch.glob("*/log.txt"))
