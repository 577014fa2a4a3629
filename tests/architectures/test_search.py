"""Searches: within the bounds, nothing twice, and after any kill the history of one that was not killed."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import archlab as al
from archlab.architectures.trials import candidates
from archlab.architectures.trials.evolution import Evolution, Trial, key_of
from archlab.experiments.live.pool import Told

OPTIONS = {f"block{number}": ["skip", 3, 5, 7] for number in range(6)}
COSTS = {"skip": 0, 3: 9, 5: 25, 7: 49}
SETTINGS = {"trials": 14, "objectives": {"gain": "higher"}, "within": {"cost": 80}, "population": 5, "progress": False}


def cost(options):
    return {"cost": sum(COSTS[option] for option in options.values())}


def gain(options):
    """Large kernels early and small ones late: what a bound on their sum makes hard to draw."""
    return {"gain": sum(COSTS[option] ** 0.5 / (1 + place) for place, option in enumerate(options.values()))}


CALLS, ENDS = [], {}  # of `gain_or_end`: what it was given, and what happens at the call of a number


def gain_or_end(options):
    """What ends it is in a global name, so that it is one function, also for a search that goes on without."""
    CALLS.append(options)
    ENDS.get(len(CALLS), lambda: None)()
    return gain(options)


def found_by(judge=gain, **options):
    return al.search(OPTIONS, judge, **{**SETTINGS, "amounts": cost, **options})


@pytest.fixture
def ends(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "CALLS", [])
    monkeypatch.setattr(sys.modules[__name__], "ENDS", {})
    return ENDS


def interrupt():
    raise KeyboardInterrupt


def test_evolution_proposes_nothing_twice_nothing_over_the_bound_and_better_than_chance():
    def run(evolution, seed=0):
        done = []
        for _ in range(200):
            options = evolution.propose(OPTIONS, done, seed, allowed=lambda options: cost(options)["cost"] <= 80)
            done.append(Trial(options, gain(options)["gain"]))
        return done

    bred, drawn = run(Evolution(population=20)), run(Evolution(population=20, mutated=0, crossed=0))
    assert len({key_of(trial.architecture) for trial in bred}) == 200
    assert all(cost(trial.architecture)["cost"] <= 80 for trial in bred)
    assert max(t.quality for t in bred) > max(t.quality for t in drawn)
    assert [t.architecture for t in bred[:20]] == [t.architecture for t in drawn[:20]], "the first generation is drawn"
    assert run(Evolution(population=20)) == bred != run(Evolution(population=20), seed=1)


def test_evolution_ranks_the_feasible_first_and_sees_earlier_generations_only():
    evolution = Evolution(population=2, parents=1, mutation=0.3, mutated=1.0, crossed=0.0)
    options = {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}
    done = [Trial({"a": 1, "b": 1}, 9.0, feasible=False), Trial({"a": 2, "b": 2}, 1.0), Trial({"a": 3, "b": 3}, 5.0)]
    tried = []
    evolution.propose(options, done, 0, allowed=lambda option: bool(tried.append(option)))
    assert {"a": 2, "b": 2} not in tried, "what is known already is not offered"
    assert sum(option["a"] == 2 or option["b"] == 2 for option in tried[:30]) > 25, "mutants of the feasible one"


def test_a_space_is_searched_until_nothing_is_left():
    found = al.search({"a": [1, 2], "b": [0, 1]}, lambda o: {"sum": o["a"] + o["b"]}, trials=9,
                      objectives={"sum": "higher"}, within={"size": 1}, amounts=lambda o: {"size": o["b"] * o["a"]},
                      progress=False)  # fmt: skip
    assert len(found.history) == 3 and not found.finished
    assert found.best in ({"a": 2, "b": 0}, {"a": 1, "b": 1}) and found.history["feasible"].all()


KILLED = """
import os, signal, sys
from tests.architectures import test_search

test_search.ENDS[int(sys.argv[2])] = lambda: os.kill(os.getpid(), signal.SIGKILL)
test_search.found_by(test_search.gain_or_end, folder=sys.argv[1])
"""


def test_after_sigkill_the_history_is_that_of_a_search_that_was_not_killed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, "8"], cwd=os.getcwd(), capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with open(tmp_path / "journal.log", "ab") as journal:
        journal.write(b'{"op_code": 4, "wor')  # it was killed within a line
    resumed = found_by(gain_or_end, folder=tmp_path)
    pd.testing.assert_frame_equal(resumed.history, found_by().history)
    assert [t.state.name for t in resumed.study.trials].count("FAIL") == 1 and len(resumed.study.trials) == 15


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_a_search_by_optunas_samplers_goes_on_where_it_failed(sampler, tmp_path, ends):
    options = {"sampler": sampler, "objectives": {"gain": "higher", "cost": "lower"}}
    ends |= {4: interrupt, 7: interrupt, 10: interrupt}  # at 7 with the first of a generation
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            found_by(gain_or_end, folder=tmp_path, **options)
    resumed, whole = found_by(gain_or_end, folder=tmp_path, **options), found_by(**options)
    pd.testing.assert_frame_equal(resumed.history, whole.history)
    assert (whole.history["feasible"] == (whole.history["cost"] <= 80)).all()
    ax = whole.plot()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("cost (lower is better)", "gain (higher is better)")
    assert len(whole.front) and whole.front["feasible"].all()
    more = found_by(gain_or_end, folder=tmp_path, **{**options, "trials": 16})
    pd.testing.assert_frame_equal(more.history[:14], whole.history)


def gain_or_kill(options):
    """A gain that depends on random numbers; kills the runner of the workers at a call, if a file says so.

    What is measured is noted there, in whichever process."""
    folder = Path(os.environ["ARCHLAB_TEST_FOLDER"])
    (folder / f"call-{uuid.uuid4()}").touch()
    if (folder / "kill").exists() and len(list(folder.glob("call-*"))) == 7:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)  # it ends with its runner
    return {"gain": gain(options)["gain"] + torch.rand(1).item()}


AMONG_WORKERS = """
import sys
from tests.architectures.test_search import found_by, gain_or_kill

found_by(gain_or_kill, folder=sys.argv[1], sampler="nsga2", objectives={"gain": "higher", "cost": "lower"}, workers=2)
"""


def test_a_search_by_workers_goes_on_after_sigkill_with_the_history_of_one_without(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHLAB_TEST_FOLDER", str(tmp_path))
    options = {"sampler": "nsga2", "objectives": {"gain": "higher", "cost": "lower"}}
    (tmp_path / "kill").touch()
    done = subprocess.run([sys.executable, "-c", AMONG_WORKERS, tmp_path], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (tmp_path / "kill").unlink()
    resumed = found_by(gain_or_kill, folder=tmp_path, workers=1, **options)
    calls = len(list(tmp_path.glob("call-*")))
    assert calls <= 14 + 2, "what was measured stays measured, but for what was under way in two workers"
    pd.testing.assert_frame_equal(resumed.history, found_by(gain_or_kill, **options).history)


def test_a_search_of_a_supernet_by_workers_has_the_history_of_one_without(monkeypatch):
    monkeypatch.setattr(candidates, "speed", lambda net, x, seconds: al.speed(net, x, seconds=seconds / 25))
    net, task = supernet_and_task()
    task = replace(task, quality=lambda net: {"distance": net(torch.rand(1, 2, 5, 5)).square().mean().item()})
    options = {"trials": 6, "population": 3, "norm_batches": 2, "progress": False, "within": {"latency_ms": math.inf}}
    searches = [al.search(net, task, workers=workers, **options).history for workers in (0, 1)]
    latency = [history.pop("latency_ms") for history in searches]
    pd.testing.assert_frame_equal(*searches)
    assert (latency[1] > 0).all()


def test_what_a_trial_raises_in_a_worker_names_it_and_the_trials_before_it_stay(tmp_path):
    def judge(options):
        if options["a"] == failing:
            raise ArithmeticError("no good")
        return {"gain": options["a"]}

    failing = al.search({"a": [1, 2, 3, 4]}, gain_of_a, trials=3, objectives={"gain": "higher"}, progress=False)
    failing = failing.history["a"][2]
    found = {"objectives": {"gain": "higher"}, "folder": tmp_path, "progress": False}
    with pytest.raises(RuntimeError, match=f'search: {{"a": {failing}}} failed: ArithmeticError: no good'):
        al.search({"a": [1, 2, 3, 4]}, judge, trials=4, workers=1, **found)
    assert len(al.search({"a": [1, 2, 3, 4]}, judge, trials=2, **found).history) == 2


class Answers:
    """Stands for a pool of workers, each of which has measured its trial at once."""

    def __init__(self, payload, folder):
        self.begun = BEGUN

    def begin(self, label, slot):
        self.begun.append(label)
        return lambda: Told("finished", {"gain": 1.0})

    def end(self):
        pass


BEGUN = []


def test_a_name_that_is_misspelt_is_refused_with_the_first_that_is_measured_and_leaves_the_folder_free(
    tmp_path, monkeypatch, ends
):
    monkeypatch.setattr("archlab.experiments.live.pieces.Pool", Answers)
    for options in ({"objectives": {"gian": "higher"}}, {"within": {"cots": 80}}):
        BEGUN.clear(), CALLS.clear()
        for workers in (2, 0):
            with pytest.raises(ValueError, match=r"'gian' is not among|'cots' is not among"):
                found_by(gain_or_end, folder=tmp_path, workers=workers, **options)
        assert len(BEGUN) == 2 and len(CALLS) == 1, "of a generation of 5"
    found = found_by(gain_or_end, folder=tmp_path)
    assert [trial.state.name for trial in found.study.trials] == ["COMPLETE"] * 14, "it is begun anew"


def gain_of_a(options):
    return {"gain": options["a"]}


def test_a_front_tells_trials_apart_by_all_that_they_asked_for():
    def size(trial):
        cost = trial.suggest_int("layers", 1, 2)
        if cost == 2:
            cost += trial.suggest_int("second", 0, 3)
        return {"cost": cost, "error": 1 / cost}

    found = al.search(size, trials=40, objectives={"cost": "lower", "error": "lower"}, sampler="random", progress=False)
    assert sorted(found.front["cost"]) == [1, 2, 3, 4, 5]


def test_a_function_of_the_trial_asks_for_what_it_needs(tmp_path):
    def train(trial):
        lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
        return {"error": (lr - 0.1) ** 2, "time": 1.0}

    options = {"objectives": {"error": "lower"}, "sampler": "tpe", "progress": False}
    for trials in (2, 3):  # SQLite takes half a second a trial
        stored = al.search(train, trials=trials, storage=f"sqlite:///{tmp_path}/search.db", **options)
    found = al.search(train, trials=12, **options)
    pd.testing.assert_frame_equal(found.history[:3], stored.history)
    assert found.best.keys() == {"lr"} and found.history["error"].min() < 0.01


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(3)))
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.blocks(x))


def supernet_and_task():
    x = torch.randn(2, 2, 5, 5)
    task = al.Task(
        x,
        batches=lambda step: x + step,
        loss=lambda net, x: net(x).square().mean(),
        quality=lambda net: {"distance": (net(x) - x).square().mean().item()},
        measures={"distance": "lower"},
    )
    return al.supernet(Net(), x, choices={"blocks.?": al.kernel(1, 3, 5, weights="shared")}), task


def test_the_architectures_of_a_supernet_are_searched_within_bounds():
    net, task = supernet_and_task()
    x = task.example
    before = {name: value.clone() for name, value in net.state_dict().items()}
    bound = al.space(net).macs({})
    found = al.search(net, task, trials=12, within={"macs": bound}, population=4, norm_batches=2, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert (found.history["macs"] <= bound).all() and found.history["feasible"].all()
    assert not found.history[list(al.space(net).options)].duplicated().any()
    best = al.choose(net, found.best)
    al.estimate_norms_(best, task, batches=2)
    assert task.quality(best.eval())["distance"] == found.history["distance"].min()
    assert al.cost(best, x).macs == found.history["macs"][found.history["distance"].idxmin()]
    assert found.plot().get_xlabel().startswith("macs")
    timed = al.search(
        net, task, trials=1, objectives={"distance": "lower"}, within={"latency_ms": 1e-9}, progress=False
    )
    assert timed.best is None and timed.history["latency_ms"][0] > 0 and not timed.history["feasible"][0]


def test_a_folder_of_another_search_is_refused(tmp_path):
    found_by(folder=tmp_path, trials=2)
    with pytest.raises(ValueError, match="was begun with seed 0, and not 1; use another folder"):
        found_by(folder=tmp_path, seed=1)
    with pytest.raises(ValueError, match="'search' there is another: task is another function"):
        found_by(lambda options: {"gain": 2 * gain(options)["gain"]}, folder=tmp_path)
    with pytest.raises(ValueError, match="amounts is another function"):
        found_by(amounts=lambda options: {"cost": 2 * cost(options)["cost"]}, folder=tmp_path)
    with open(tmp_path / "search.lock", "w") as lock:
        fcntl = pytest.importorskip("fcntl")
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="another process searches in"):
            found_by(folder=tmp_path)


@pytest.mark.parametrize("start", [3, {}, {"weights": [1]}, {"weights": {}, "batch": {}, "functions": {"task": {}}}])
def test_a_search_that_does_not_tell_what_it_began_with_is_refused(start, tmp_path):
    found_by(folder=tmp_path, trials=2).study.set_user_attr("archlab start", start)
    with pytest.raises(ValueError, match=r"what it began with is not told whole|its first batch was another"):
        found_by(folder=tmp_path)


def test_a_folder_of_another_function_of_the_trial_is_refused(tmp_path):
    def function(top):
        return lambda trial: {"y": trial.suggest_float("x", 0, top)}

    options = {"objectives": {"y": "lower"}, "sampler": "random", "folder": tmp_path, "progress": False}
    al.search(function(1), trials=2, **options)
    assert len(al.search(function(1), trials=3, **options).history) == 3
    with pytest.raises(ValueError, match="what is another function"):
        al.search(function(2), trials=3, **options)


def halved(net):
    return {"distance": net(torch.ones(1, 2, 5, 5)).abs().mean().item() / 2}


@pytest.mark.parametrize(
    ("change_", "error"),
    [
        (lambda net, task: (net, replace(task, quality=halved)), "task.quality is another function"),
        (lambda net, task: (net, replace(task, loss=lambda net, x: net(x).mean())), "task.loss is another function"),
        (lambda net, task: (net, replace(task, batches=lambda step: torch.zeros(2, 2, 5, 5))), "first batch"),
        (lambda net, task: (net, replace(task, settings={"crop": 3})), "begun with task.settings"),
        (lambda net, task: (net.blocks[1].bias.data.neg_(), task), r"other weights \(blocks\.1\.bias differs"),
        (lambda net, task: (net.norm.running_mean.add_(1), task), r"other weights \(norm\.running_mean differs"),
        (lambda net, task: (setattr(net, "norm", nn.InstanceNorm2d(2)), task), "begun with module norm BatchNorm2d"),
    ],
)
def test_a_folder_of_another_supernet_or_task_is_refused(change_, error, tmp_path):
    net, task = supernet_and_task()
    options = {"trials": 2, "folder": tmp_path, "progress": False}
    al.search(net, task, **options)
    al.set_architecture_(net, {"blocks.0": 5})  # at which one a supernet stands is no part of it
    assert len(al.search(net, task, **{**options, "trials": 3}).history) == 3
    _, task = change_(net, task)
    with pytest.raises(ValueError, match=error):
        al.search(net, task, **{**options, "trials": 4})


@pytest.mark.parametrize(
    "line",
    [b"no json\n", b"[]\n", b'{"op_code": 99}\n', b'{"op_code": 4}\n', json.dumps({"op_code": 0, "worker_id": "w",
     "study_name": "search", "directions": [1, 2]}).encode() + b"\n"],
)  # fmt: skip
def test_a_journal_from_elsewhere_is_refused(line, tmp_path):
    (tmp_path / "journal.log").write_bytes(line * 2)
    with pytest.raises(ValueError, match=r"this is no journal of a search|was begun with"):
        found_by(folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sampler": "grid"}, "sampler must be one of 'evolution', 'nsga2', 'tpe', 'random', got 'grid'"),
        ({"objectives": None}, "objectives must be a dict as"),
        ({"objectives": {"gain": "more"}}, "objectives.'gain'. must be one of 'higher', 'lower'"),
        ({"objectives": {"gian": "higher"}}, "'gian' is not among what was measured; there are cost, gain"),
        ({"objectives": {"gain": "higher", "cost": "lower"}}, "sampler must be 'nsga2' or 'tpe' for several"),
        ({"within": {"macs": 3}}, "'macs' is not among what was measured"),
        ({"within": 3}, "within must be a dict"),
        ({"workers": -1}, "workers must be a whole number of at least 0, got -1"),
        ({"workers": 2, "sampler": "tpe"}, "workers must be 0 for 'tpe', which draws each trial from all before it"),
        ({"trials": 0}, "trials must be a whole number of at least 1, got 0"),
        ({"populations": 3}, "no option 'populations'; there are population"),
        ({"population": 1}, "population must be a whole number of at least 2"),
        ({"folder": "a", "storage": "sqlite://"}, "a folder or a storage, one of the two"),
        ({"judge": lambda options: 3}, "what the search measured must be a dict of numbers by name, got 3"),
        (
            {"judge": lambda options: {"gain": "high"}},
            "what the search measured as 'gain' must be a number, got 'high'",
        ),
        ({"judge": lambda options: {"gain": 1, "block1": 2}}, "'block1' would be two columns"),
        ({"judge": None}, "task must be a function of an architecture, got None"),
    ],
)
def test_wrong_calls_say_what_is_wrong(options, error):
    with pytest.raises((ValueError, TypeError), match=error):
        found_by(**options)


def test_other_wrong_calls():
    with pytest.raises(ValueError, match="'x' would be two columns of the history"):
        al.search(lambda trial: {"x": trial.suggest_float("x", 0, 1)}, trials=1, sampler="tpe", progress=False,
                  objectives={"x": "lower"})  # fmt: skip
    with pytest.raises(ValueError, match="workers must be 0 where a function asks for its options"):
        al.search(lambda trial: {"a": 1}, trials=1, objectives={"a": "lower"}, sampler="random", workers=2)
    with pytest.raises(TypeError, match="what must be a supernet, a dict of options, or a function of a trial, got 3"):
        al.search(3, trials=1, objectives={"a": "lower"})
    with pytest.raises(ValueError, match="the evolution needs the options: give a dict"):
        al.search(lambda trial: {"a": 1}, trials=1, objectives={"a": "lower"})
    with pytest.raises(TypeError, match="the options of 'a' must be a list"):
        al.search({"a": "bc"}, gain, trials=1, objectives={"gain": "lower"})
    with pytest.raises(TypeError, match=r"an option of 'a' must be a number, a string or None.*give a name"):
        al.search({"a": [(1, 2)]}, gain, trials=1, objectives={"gain": "lower"})


def test_a_search_that_nothing_came_of_has_its_history_and_no_best():
    found = al.search(
        {"lr": [1, 10]}, lambda o: {"loss": math.nan}, trials=2, objectives={"loss": "lower"}, progress=False
    )
    assert found.best is None and found.finished and found.history["loss"].isna().tolist() == [True, True]
