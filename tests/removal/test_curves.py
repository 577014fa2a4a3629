"""Runs of a curve in worker processes, after a kill, shared by processes; warm starts; the path over λ."""

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import archlab as al
from archlab.experiments.lease import lease
from archlab.experiments.live.pieces import Piece, Work, carry_out
from archlab.removal.curves import runs as curve_runs
from archlab.removal.settings import RemovalSettings
from archlab.training import cosine
from archlab.training.checkpoint import load_checkpoint
from archlab.training.kept import Kept
from archlab.training.task import Task


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.drop = (
            nn.Linear(4, 4),
            nn.Dropout(0.2),
        )  # random numbers, which must not depend on where it runs

    def forward(self, x):
        return x + self.drop(torch.relu(self.inside(x)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Residual() for _ in range(4)), nn.Linear(4, 1))


def batch(step: int):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    return x, x.sum(1, keepdim=True)


def loss(model, data):
    return nn.functional.mse_loss(model(data[0]), data[1])


def quality(model):
    return {"mse": loss(model.eval(), batch(10**6)).item()}


TASK = Task(batch(0)[0], batch, loss, quality, {"mse": "lower"})
FAST = dict(soft_steps=6, push_steps=1, tune_steps=1, lr=1e-2, lr_omega=0.5, seeds=1, progress=False)
TRADE = dict(kinds="block", measure="sites", budgets=[0.5], methods=["random", "greedy"], **FAST)


def test_a_killed_worker_and_an_error_name_their_runs_and_the_rest_is_kept(tmp_path):
    """What is missing is made by the next call, here; all is as if nothing had happened, to the bit."""
    asking, killed, failed = os.getpid(), tmp_path / "killed", tmp_path / "failed"

    def batches(step):
        if os.getpid() != asking and step > 0:
            if not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if not failed.exists():
                failed.touch()
                raise OSError("no such picture")
        return batch(step)

    task, folder = replace(TASK, batches=batches), tmp_path / "runs"
    with pytest.raises(RuntimeError, match="trade_off: control-0 killed by signal 9; not finished either: random"):
        al.trade_off(net(), task, **TRADE, folder=folder, workers=1)
    made = [path.name for path in (folder / "cells").glob("*.json")]
    assert len(made) == 3 and any(name.startswith("greedy") for name in made), "the original, one run, what they are of"
    again = al.trade_off(net(), task, **TRADE, folder=folder)
    pd.testing.assert_frame_equal(again.frame, al.trade_off(net(), TASK, **TRADE).frame, check_exact=True)


def test_an_error_here_names_its_run_and_the_others_are_made(tmp_path, monkeypatch):
    def fails(start, asked):
        raise ArithmeticError("no such thing")

    monkeypatch.setitem(curve_runs.METHODS, "random", fails)
    with pytest.raises(ArithmeticError, match="no such thing") as caught:
        al.trade_off(net(), TASK, **TRADE, folder=tmp_path)
    assert "raised in trade_off, random-sites-0.5-0; what is finished is kept" in caught.value.__notes__[-1]
    monkeypatch.setattr(curve_runs, "METHODS", {})
    assert len(al.trade_off(net(), TASK, **TRADE | dict(methods=["greedy"]), folder=tmp_path).frame) == 3


@pytest.mark.parametrize("rewind", [False, True])
def test_a_control_has_the_rates_of_a_learned_removal(rewind):
    options = dict(soft_steps=6, push_steps=3, tune_steps=4, lr=1e-2, lr_tune=3e-3, lr_omega=1.0, rewind=rewind,
                   schedule=cosine(6), tune_schedule=cosine(7))  # fmt: skip
    learned = al.learn_to_remove(net(), TASK, kinds="activation", budget={"sites": 0.5}, progress=False, **options)
    asked = curve_runs.Asked("activation", None, "site", options, RemovalSettings(lam=None, **options))
    factors = [asked.schedule(step) for step in range(asked.steps)]
    assert (learned.history["lr"] / 1e-2).tolist() == pytest.approx(factors)


def test_settings_reach_the_trainings_of_every_method(tmp_path):
    methods = {"methods": ["learned", "greedy"], "folder": tmp_path, "lr_omega": 1.0}
    al.trade_off(net(), TASK, **TRADE | methods, settings={"batch": 3})
    saved = [load_checkpoint(path.parent) for path in tmp_path.rglob("checkpoint.pt")]
    assert len(saved) > 2 and all("3" in repr(one["identity"]["settings['batch']"]) for one in saved)


def test_what_cannot_be_pickled_is_named():
    lock = threading.Lock()
    task = replace(TASK, quality=lambda model: quality(model) if lock else {})
    said = "trade_off: workers get copies .* but 'lock', used in task.quality, a lock, cannot be pickled"
    with pytest.raises(TypeError, match=said):
        al.trade_off(net(), task, **TRADE, workers=2)
    with pytest.raises(ValueError, match="'latency_ms' is measured"):
        al.trade_off(net(), TASK, **TRADE | dict(measure="latency_ms"), workers=2)
    with pytest.raises(ValueError, match="workers must be a whole number of at least 0, got -1"):
        al.trade_off(net(), TASK, **TRADE, workers=-1)


class Killed(BaseException):
    """What no `except Exception` sees, as a kill."""


def test_after_a_kill_nothing_is_made_twice(tmp_path, monkeypatch):
    keep, greedy, made = Kept.keep_, curve_runs.METHODS["greedy"], []

    def killed(self, key, value):
        if key.startswith("greedy"):
            raise Killed
        return keep(self, key, value)

    monkeypatch.setattr(Kept, "keep_", killed)
    with pytest.raises(Killed):
        al.trade_off(net(), TASK, **TRADE, folder=tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(curve_runs, "METHODS", {"greedy": lambda *given: made.append(given) or greedy(*given)})
    found = al.trade_off(net(), TASK, **TRADE, folder=tmp_path)
    assert len(made) == 1
    monkeypatch.undo()
    pd.testing.assert_frame_equal(found.frame, al.trade_off(net(), TASK, **TRADE).frame, check_exact=True)


def test_what_another_process_does_is_waited_for(tmp_path):
    done: list[str] = []
    work = Work(done.append, done.__contains__, lambda label: tmp_path / f"{label}.lease")
    told = []

    def other():
        with lease(tmp_path / "b.lease"):
            held.set()
            time.sleep(0.7)
            done.append("b")

    held = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    assert work.once("b") == "running elsewhere"
    a = Piece("a")
    pieces = [a, Piece("b"), Piece("c", {"a": a})]
    carry_out("call", pieces, work, workers=0, parts={}, lasting=True, tell=lambda *words: told.append(words))
    thread.join()
    assert sorted(done) == ["a", "b", "c"] and ("b", "running elsewhere, waiting for it") in told


WARM = dict(methods=["greedy"], budgets=[0.5, 0.75], warm_start=True)


def test_a_warm_start_goes_on_from_the_larger_budget_beside_a_control_as_long(tmp_path):
    before = {name: value.clone() for name, value in net().state_dict().items()}
    model = net()
    seen = []
    task = replace(TASK, batches=lambda step: seen.append(step) or batch(step))
    found = al.trade_off(model, task, **TRADE | WARM, folder=tmp_path)
    frame = found.frame.set_index(["method", "steps"])
    assert frame.index.tolist() == [("original", 0), ("control", 8), ("control", 16), ("greedy", 8), ("greedy", 16)]
    assert frame["budget"].tolist() == [1, 1, 1, 0.75, 0.5] and frame["sites"].tolist() == [0, 0, 0, 1, 2]
    assert frame.loc[("greedy", 16), "params"] < frame.loc[("greedy", 8), "params"]
    assert set(range(16)) <= set(seen), "the second run sees the batches after those of the first"
    cold = al.trade_off(model, TASK, **TRADE | WARM | dict(warm_start=False), folder=tmp_path).frame
    same = frame.loc[("greedy", 8), "mse"]
    assert cold.loc[cold["budget"] == 0.75, "mse"].item() == same, "the first run is the one without a warm start"
    assert cold.loc[cold["budget"] == 0.5, "mse"].item() != frame.loc[("greedy", 16), "mse"]
    summary = found.summary().set_index(["method", "steps"])
    assert summary.loc[("greedy", 16), "change"] == frame.loc[("greedy", 16), "mse"] - frame.loc[("control", 16), "mse"]
    assert "steps" in found.table().markdown() and found.plot().get_xlabel().startswith("MACs [M]")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_warm_start_after_a_call_without_one_finds_its_run(tmp_path):
    first = al.trade_off(net(), TASK, **TRADE | WARM | dict(budgets=[0.75]), folder=tmp_path).frame
    both = al.trade_off(net(), TASK, **TRADE | WARM, folder=tmp_path).frame
    assert both.loc[both["budget"] == 0.75, "mse"].item() == first.loc[first["budget"] == 0.75, "mse"].item()


def test_budgets_of_a_warm_start_are_shares_of_the_original():
    frame = al.trade_off(net(), TASK, **TRADE | WARM | dict(measure="macs", methods=["random"])).frame
    last = frame[frame["method"] == "random"].iloc[-1]
    assert 0.25 <= last["macs"] / frame["macs"].iloc[0] <= 0.5


def test_sites_that_were_not_chosen_stay_in_a_warm_start_whatever_they_are_called_then():
    """Of a sequence of activations, the ids of those behind one that went move up."""
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(4, 4), nn.ReLU())), nn.Linear(4, 1))
    options = TRADE | WARM | dict(kinds="activation", where=["activation.0", "activation.2"], budgets=[0.6, 0.1])
    frame = al.trade_off(model, TASK, **options).frame
    assert frame["sites"].tolist() == [0, 0, 0, 1, 2]


@pytest.mark.filterwarnings("ignore:learn_to_remove")
def test_the_path_over_lambda(tmp_path):
    options = dict(kinds="block", lams=[0.01, 5.0], **FAST)
    found = al.lambda_path(net(), TASK, **options, folder=tmp_path)
    frame = found.frame
    assert list(frame.columns) == ["method", "lam", "seed", "steps", "sites", "params", "macs", "mse"]
    assert frame["lam"].tolist() == [0, 0, 0.01, 5] and frame["method"].tolist()[1:] == ["control", *["learned"] * 2]
    assert frame["sites"].is_monotonic_increasing and frame["sites"].iloc[-1] > 0
    row = found.summary().iloc[-1]
    assert row["lam"] == 5 and row["change"] == frame["mse"].iloc[3] - frame["mse"].iloc[1]
    assert "λ" in found.table().markdown() and "λ" in (found.report(tmp_path / "page")).read_text(encoding="utf-8")
    options["lams"] = np.array([0.01, 5.0, 5.0 + 1e-14])  # an array, and one λ but for how it is rounded
    shared = al.trade_off(net(), TASK, kinds="block", budgets=[0.9], methods=["random"], **FAST, folder=tmp_path).frame
    assert "lam" not in shared and shared["mse"].iloc[1] == frame["mse"].iloc[1], "the control is kept, not its λ"
    assert al.lambda_path(net(), TASK, **options, folder=tmp_path).frame.equals(frame)
    ax = found.plot()
    assert (ax.get_xlabel(), ax.get_xscale()) == ("λ", "log")
    assert found.plot(x="removed").get_xlabel().startswith("MACs removed [%]")
    absolute = al.lambda_path(net(), TASK, **options | dict(lams=[5.0]), lam_unit="absolute").frame
    assert absolute["mse"].iloc[-1] != frame["mse"].iloc[-1], "a λ in another unit is another pressure"
    for lams in ([], [0.0], ["a"]):
        with pytest.raises((ValueError, TypeError), match="lams"):
            al.lambda_path(net(), TASK, **options | dict(lams=lams))
