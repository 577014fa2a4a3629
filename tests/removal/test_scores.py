"""Scores are signed, sorted and right: against removal itself, a finite difference, a cosine by hand; and resumable."""

import importlib
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from archlab import learn_to_remove, remove, sensitivity, set_omegas_, sites, switch
from archlab.removal.probe.alone import only_
from archlab.removal.scores import scores
from archlab.training.checkpoint import CheckpointMismatch
from archlab.training.task import Task

from .nets import TASK, batch, blocks, loss, quality

ROOT = Path(__file__).resolve().parents[2]
measuring = importlib.import_module("archlab.removal.scores")  # the room's name for it is the function


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return scores(blocks(), TASK, progress=False)


def mean_loss(model, batches=8) -> float:
    with torch.no_grad():
        return sum(float(loss(model.eval(), batch(step))) for step in range(batches)) / batches


def test_each_change_is_that_of_the_physical_removal(frame):
    net = blocks()
    for row in frame.to_dict("records"):
        thin = remove(net, TASK.example, kinds=row["kind"], where=row["site"])
        assert row["task_loss"] == pytest.approx(mean_loss(thin), rel=1e-5)
        assert row["delta_task_loss"] == pytest.approx(mean_loss(thin) - mean_loss(net), abs=1e-6)
        assert row["fit"] == pytest.approx(quality(thin)["fit"], rel=1e-5)
        assert row["delta_error"] == pytest.approx(-row["delta_fit"], abs=1e-6)
    assert frame.attrs["untouched"] == {"task_loss": mean_loss(net), **quality(net)}
    lower = ("error", "delta_error", "task_loss", "delta_task_loss")
    assert frame.attrs["better"] == dict.fromkeys(lower, "lower")


def test_sorted_by_loss_per_saving_and_what_saves_nothing_comes_last(frame):
    saving = frame[frame["macs"] > 0]
    assert list(saving.index) == list(range(len(saving))) and len(saving) == 4 < len(frame)
    assert saving["loss_per_saving"].is_monotonic_increasing
    assert frame["loss_per_saving"].isna().sum() == 4 and frame["kind"].tail(4).eq("activation").all()
    whole = sum(op.macs for op in sites(blocks(), TASK.example).record.ops)
    expected = saving["delta_task_loss"] / (saving["macs"] / whole)
    np.testing.assert_allclose(saving["loss_per_saving"], expected)
    assert frame["module"].head(4).tolist() == ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]


def test_a_removal_that_helps_is_negative_and_comes_first():
    net = blocks()
    with torch.no_grad():  # what spoils the output
        net.blocks[3].outer.bias += 3
    task = replace(TASK, loss=lambda model, data: nn.functional.mse_loss(model(data[0]), data[1]))
    found = scores(net, task, kinds="block", progress=False)
    assert found["delta_task_loss"].iloc[0] < 0 and found["delta_task_loss"].max() > 0
    assert found["module"].iloc[0] == "blocks.3" and found["loss_per_saving"].iloc[0] < 0


def test_taylor_is_the_slope_of_a_finite_difference(frame):
    net, step = blocks().double().eval(), 1e-5
    example = TASK.example.double()

    def at(soft):
        pairs = [[x.double() for x in batch(number)] for number in range(8)]
        with torch.no_grad():
            return sum(float(loss(soft, pair)) for pair in pairs) / 8

    slopes = frame.set_index("site")["taylor"]
    for kind in ("activation", "block"):
        soft = switch(net, example, kinds=kind).double()
        for site in slopes.index[frame["kind"] == kind]:
            set_omegas_(soft, 0.0)
            before = at(soft)
            set_omegas_(soft, {site: step})
            assert slopes[site] == pytest.approx((at(soft) - before) / step, abs=2e-4)


def test_influence_is_one_minus_the_cosine_and_nan_where_nothing_is_seen():
    net = blocks().eval()
    found = scores(net, TASK, kinds=["activation", "branch", "block"], batches=1, progress=False).set_index("site")
    x = batch(0)[0]
    with torch.no_grad():
        by_hand = 1 - torch.cosine_similarity(x, net.blocks[0](x), dim=-1).mean().item()
    assert found["influence"]["block.0"] == pytest.approx(by_hand, abs=1e-6)
    assert found["influence"][found["kind"] == "branch"].isna().all()
    inner = net.blocks[0].inner(x)
    by_hand = 1 - torch.cosine_similarity(inner, inner.relu(), dim=-1).mean().item()
    assert found["influence"]["blocks.0/activation.0"] == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 4, 3, 3)])
def test_influence_is_of_tokens_or_of_whole_items_also_in_place(shape, inplace):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    task = Task(x, lambda step: x, lambda net, x: net(x.clone()).mean(), lambda net: {"one": 1.0})
    found = scores(nn.Sequential(nn.ReLU(inplace)), task, batches=1, progress=False)
    a, b = (x, x.relu()) if len(shape) == 3 else (x.flatten(1), x.relu().flatten(1))
    assert found["influence"][0] == pytest.approx(1 - torch.cosine_similarity(a, b, dim=-1).mean().item(), abs=1e-6)


class Cut(nn.Module):
    """An activation that no gradient reaches, and one behind it."""

    def forward(self, x):
        return x.relu().detach().tanh() * 2


def test_where_no_gradient_reaches_the_slope_is_nan():
    task = Task(batch(0)[0], lambda step: batch(step)[0], lambda net, x: net(x).mean(), lambda net: {"one": 1.0})
    found = scores(Cut(), task, progress=False).set_index("site")["taylor"]
    assert math.isnan(found["activation.0"]) and not math.isnan(found["activation.1"])


def test_model_modes_and_the_global_generators_are_left_alone():
    net, before = blocks().train(), torch.get_rng_state()
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    torch.set_rng_state(before)
    noisy = replace(TASK, loss=lambda model, data: loss(model, data) + torch.rand(()))
    found = scores(net, noisy, kinds="block", progress=False)
    assert torch.equal(torch.get_rng_state(), before) and net.training and net.drop.training
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert found["delta_task_loss"].abs().min() < 0.01, "each site sees the same noise"


def test_all_leaves_out_what_conflicts_and_says_why(frame):
    left_out = frame.attrs["resolved"]
    assert left_out["blocks.0/skip.0"].startswith("the other operand of the add of blocks.0/branch.0")
    assert left_out["blocks.0/branch.0"] == "the same removal as block.0"
    assert set(frame["kind"]) == {"block", "activation"} and len(left_out) == 8
    assert frame.attrs["refused"] == {}
    named = scores(blocks(), TASK, kinds=["skip", "branch", "block"], batches=1, progress=False)
    assert len(named) == 12 and named.attrs["resolved"] == {}


def test_where_the_block_is_not_chosen_its_branch_is_taken():
    found = scores(blocks(), TASK, where="blocks.0*/*", batches=1, progress=False)
    assert set(found["site"]) == {"blocks.0/activation.0", "blocks.0/branch.0"}
    assert list(found.attrs["resolved"]) == ["blocks.0/skip.0"]


def test_what_scores_and_sensitivity_list_learn_to_remove_takes(frame, capsys):
    with pytest.raises(ValueError, match="operands of one sum"):
        learn_to_remove(blocks(), TASK, kinds=["skip", "branch"], progress=False)
    removal = learn_to_remove(
        blocks(), TASK, kinds="all", budget={"macs": 0.6}, soft_steps=20, push_steps=2, tune_steps=2, lr_omega=0.2
    )
    assert set(removal.decisions["site"]) == set(frame["site"])
    assert removal.settings["resolved"] == frame.attrs["resolved"]
    assert "kinds='all' left out 8 of the sites" in capsys.readouterr().err
    ranked = sensitivity(blocks(), TASK, kinds="all", progress=False)
    assert set(ranked["site"]) == set(frame["site"]) and ranked.attrs["resolved"] == frame.attrs["resolved"]


def test_milliseconds_where_asked_for():
    found = scores(blocks(), TASK, where="block.3", batches=1, latency=True, progress=False)
    assert list(found.columns)[4:7] == ["macs", "latency_saved_ms", "task_loss"]
    assert found["latency_saved_ms"].notna().all()


KILLED_AT_THE_THIRD_SITE = """
import os, signal, sys
from archlab.removal.probe.alone import only_
from archlab.removal.scores import scores
from archlab.training.kept import Kept
from tests.removal.nets import TASK, blocks
keep = Kept.keep_
def keep_(self, key, value):
    if len(self.values) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return keep(self, key, value)
Kept.keep_ = keep_
scores(blocks(), TASK, kinds="block", folder=sys.argv[1], progress=False)
"""


def test_a_kill_loses_one_site_at_most(tmp_path, monkeypatch):
    died = subprocess.run([sys.executable, "-c", KILLED_AT_THE_THIRD_SITE, str(tmp_path)], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    measured = []

    def noting(soft, gone):
        measured.extend(gone)
        only_(soft, gone)

    monkeypatch.setattr(measuring, "only_", noting)
    again = scores(blocks(), TASK, kinds="block", folder=tmp_path, progress=False)
    assert measured == ["block.2", "block.3"], "the untouched model and two blocks were kept"
    pd.testing.assert_frame_equal(again, scores(blocks(), TASK, kinds="block", progress=False))
    measured.clear()
    more = scores(blocks(), TASK, kinds=["block", "branch"], folder=tmp_path, progress=False)
    assert len(more) == 8 and len(measured) == 4 and all("branch" in site for site in measured)


def test_workers_find_the_same_numbers(frame):
    """Also of a model and a task that no module has, as in a notebook, and with groups of one kind apart."""

    class Own(type(blocks())):
        pass

    torch.manual_seed(0)
    shift = torch.full((8,), 0.1)
    task = replace(TASK, loss=lambda model, data: loss(model, data) + (model(data[0]) + shift).square().mean())
    net, options = Own(), dict(kinds=["block", "branch"], where="block*", batches=2, progress=False)
    pd.testing.assert_frame_equal(
        scores(net, task, **options, workers=1), scores(net, task, **options), check_exact=True
    )


def test_a_folder_of_another_model_task_or_count_is_refused(tmp_path):
    scores(blocks(), TASK, kinds="block", batches=2, folder=tmp_path, progress=False)
    for model, task, batches, said in (
        (blocks(1), TASK, 2, "other weights"),
        (blocks(), replace(TASK, quality=lambda net: {"error": 1.0}), 2, "task.quality is another function"),
        (blocks(), replace(TASK, batches=lambda step: batch(step + 7)), 2, "first batch"),
        (blocks(), TASK, 3, "batches is 2 in the checkpoint and 3 here"),
    ):
        with pytest.raises(CheckpointMismatch, match=said):
            scores(model, task, kinds="block", batches=batches, folder=tmp_path, progress=False)
    with pytest.raises(CheckpointMismatch, match="example"):
        scores(blocks(), TASK, kinds="block", batches=2, folder=tmp_path, progress=False, example=batch(3)[0])


@pytest.mark.parametrize("content", ["", "[]", '{"facts": 3}', '{"of": 3, "value": {}}', "\x00"])
def test_what_stands_in_a_broken_file_is_measured_anew(tmp_path, content):
    options = dict(where="block.0", batches=1, folder=tmp_path, progress=False)
    found = scores(blocks(), TASK, **options)
    files = sorted((tmp_path / "scores").iterdir())
    assert len(files) == 3, "what they are of, the untouched model, a site"
    for file in files:
        whole = file.read_bytes()
        file.write_text(content)
        pd.testing.assert_frame_equal(scores(blocks(), TASK, **options), found, check_exact=True)
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"batches": 0}, ValueError, "scores: batches must be a whole number of at least 1, got 0"),
        ({"latency": "no"}, TypeError, "scores: latency must be True or False, got 'no'"),
        ({"folder": 3}, TypeError, "scores: folder must be the path of a folder, or None, got 3"),
        ({"progress": None}, TypeError, "progress must be True or False, got None"),
        ({"kinds": "al"}, ValueError, "kind 'al' is unknown"),
        ({"where": "nowhere.*"}, ValueError, r"where='nowhere"),
    ],
)
def test_bad_arguments(options, error, said):
    with pytest.raises(error, match=said):
        scores(blocks(), TASK, **options)


def test_a_quality_with_the_name_of_a_column_is_refused():
    with pytest.raises(ValueError, match="'taylor' is a column"):
        scores(blocks(), replace(TASK, quality=lambda net: {"taylor": 1.0}), progress=False)
