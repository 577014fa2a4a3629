"""Removal without learning: the cheapest sites go first, to the budget; tuning and result are the learned one's."""

import copy
import functools
import math
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from archlab import cost, recipe, remove_at_random, remove_greedily
from archlab.removal.scores import scores
from archlab.training.checkpoint import CheckpointMismatch, load_checkpoint

from .nets import TASK, batch, blocks, quality

ROOT = Path(__file__).resolve().parents[2]
SHORT = dict(tune_steps=3, lr=1e-3, progress=False)
greedily = functools.partial(remove_greedily, kinds="block", calibration=2, **SHORT)
at_random = functools.partial(remove_at_random, kinds="block", **SHORT)


def gone(removal) -> list[str]:
    """The ids of the sites that went, in their order."""
    rows = removal.decisions[removal.decisions["removed"]]
    return list(rows.sort_values("order")["site"])


@pytest.mark.parametrize("method", [greedily, functools.partial(greedily, rescore=False), at_random])
@pytest.mark.parametrize("budget", [{"macs": 0.6}, {"params": 0.5}, {"sites": 0.5}, {"activations": 0.7, "macs": 0.8}])
def test_a_budget_is_met_by_the_last_site_that_overshoots(method, budget):
    net = blocks()
    removal = method(net, TASK, budget=budget)
    assert removal.finished and removal.left.keys() == budget.keys()
    assert all(removal.left[measure] <= share for measure, share in budget.items())
    if "macs" in budget:
        assert removal.left["macs"] == cost(removal.model, TASK.example).macs / cost(net, TASK.example).macs
    names = gone(removal)
    assert len(names) == len(recipe(removal.model).steps[-1].taken)
    fewer = names[:-1]
    over = method(net, TASK, budget={"sites": 1 - len(fewer) / 4}, tune_steps=0).left if fewer else {"sites": 1.0}
    assert over["sites"] > 1 - len(names) / 4 - 1e-9


def test_the_cheapest_for_what_they_save_go_first_and_the_weights_are_the_originals():
    net = blocks()
    removal = greedily(net, TASK, budget={"macs": 0.5}, rescore=False, tune_steps=0)
    ranked = scores(net, TASK, kinds="block", batches=2, progress=False)
    assert gone(removal) == ranked["site"].head(len(gone(removal))).tolist()
    expected = ranked.set_index("site")["delta_task_loss"]
    assert removal.decisions.set_index("site")["score"].to_dict() == pytest.approx(expected.to_dict())
    assert torch.equal(removal.model.last.weight, net.last.weight) and removal.history.empty and removal.omegas.empty
    assert list(removal.omegas.columns) == ["phase", "step", "site", "omega"]


def test_scored_anew_the_second_of_two_that_stand_in_for_one_another_stays():
    """Two blocks add the same: the second costs three times the first. A third adds something else, of 2.25 times."""
    net = blocks(scales=(1.0, 1.0, 1.0, 1.0), widths=(8, 8, 8, 8))
    with torch.no_grad():
        net.last.weight.copy_(torch.eye(8))
        for block, (place, size) in zip(net.blocks, [(0, 1.0), (0, 1.0), (0, 0.0), (1, 1.5)], strict=True):
            block.outer.weight.zero_()
            block.outer.bias.zero_()
            block.outer.bias[place] = size
    whole = copy.deepcopy(net).eval()

    def loss(model, x):
        return (model(x) - whole(x)).square().sum(-1).mean()

    task = replace(TASK, batches=lambda step: batch(step)[0], loss=loss)
    anew = greedily(net, task, budget={"sites": 0.3}, tune_steps=0)
    at_once = greedily(net, task, budget={"sites": 0.3}, rescore=False, tune_steps=0)
    assert gone(anew) == ["block.2", "block.0", "block.3"] and gone(at_once) == ["block.2", "block.0", "block.1"]
    assert list(anew.decisions["score"]) == pytest.approx([1.0, 3.0, 0.0, 2.25], abs=1e-5)
    assert list(at_once.decisions["score"]) == pytest.approx([1.0, 1.0, 0.0, 2.25], abs=1e-5)


@pytest.mark.parametrize("score", ["loss", "taylor", "influence", "error", "fit"])
def test_every_score_ranks_the_blocks_and_says_so(score):
    removal = greedily(blocks(), TASK, budget={"sites": 0.5}, score=score, tune_steps=0)
    assert removal.settings["score"] == score and len(gone(removal)) == 2
    assert removal.decisions["score"].notna().all()
    if score in ("loss", "error", "fit", "influence"):
        assert gone(removal)[0] == "block.0", "it does least"


def test_both_ways_a_quality_is_better_give_the_same_order():
    less, more = (
        greedily(blocks(), TASK, budget={"sites": 0.3}, score=name, tune_steps=0) for name in ("error", "fit")
    )
    assert gone(less) == gone(more)


def test_a_score_that_is_better_the_other_way_is_not_taken_from_the_folder(tmp_path):
    options = dict(budget={"sites": 0.3}, score="error", tune_steps=0, folder=tmp_path)
    greedily(blocks(), replace(TASK, measures={}), **options)
    with pytest.raises(CheckpointMismatch, match="better is None in the checkpoint and 'lower' here"):
        greedily(blocks(), TASK, **options)


def test_a_score_that_is_nan_decides_nothing():
    with pytest.raises(ValueError, match="score='odd' is NaN of the untouched model"):
        greedily(blocks(), replace(TASK, quality=lambda net: {"odd": math.nan}), budget={"sites": 0.3}, score="odd")


@pytest.mark.parametrize("method", [greedily, functools.partial(greedily, rescore=False), at_random])
def test_at_most_loss_is_used_up_and_not_exceeded(method):
    net, most = blocks(), 0.05
    removal = method(net, TASK, at_most_loss={"error": most}, tune_steps=0)
    before = quality(net)["error"]
    assert quality(removal.model)["error"] - before <= most + 1e-6 and removal.left == {}
    if method is not at_random:
        assert gone(removal)
    with pytest.warns(UserWarning, match=r"none of \d+ sites can go within \{'error': 1e-09\}: allow more"):
        nothing = method(net, TASK, at_most_loss={"error": 1e-9}, tune_steps=0)
    assert not gone(nothing) and torch.equal(nothing.model(batch(0)[0]), net(batch(0)[0]))


def test_all_kinds_and_what_lies_in_a_block_that_went():
    removal = remove_greedily(blocks(), TASK, kinds="all", budget={"macs": 0.5}, calibration=2, **SHORT)
    assert removal.left["macs"] <= 0.5 and len(removal.settings["resolved"]) == 8
    assert set(removal.decisions["kind"]) == {"block", "activation"}
    assert not [site for site in gone(removal) if "activation" in site], "they save no MACs"
    where = ["block.*", "blocks.2/activation.0"]  # the latter goes with its block
    with pytest.warns(UserWarning, match="the budget is not met: the 4 sites that went"):
        remove_at_random(blocks(), TASK, kinds="all", where=where, budget={"sites": 0.1}, seed=2, **SHORT)


def test_the_tuning_and_the_result_are_those_of_a_learned_removal(tmp_path):
    net = blocks()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    removal = greedily(net, TASK, budget={"macs": 0.6}, folder=tmp_path, evaluate=True, settings={"crop": 3})
    assert list(removal.history["phase"].unique()) == ["tune"] and len(removal.history) == 3
    assert list(removal.qualities["phase"]) == ["original", "discarded", "tuned"]
    assert list(removal.decisions.columns) == ["site", "kind", "module", "params", "macs", "score", "removed", "order"]
    assert {field.name for field in fields(removal)} >= {"left", "settings", "seconds"}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    saved = load_checkpoint(tmp_path / "tune")
    assert saved is not None and {"settings['crop']", "settings['removed']"} <= saved["identity"].keys()


def test_a_time_limit_stops_the_tuning_and_the_same_call_goes_on(tmp_path):
    whole = greedily(blocks(), TASK, budget={"macs": 0.6})
    for _ in range(8):
        removal = greedily(blocks(), TASK, budget={"macs": 0.6}, folder=tmp_path, time_limit_s=0.0)
        if removal.finished:
            break
    assert removal.finished
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, removal.model.state_dict()[name]), name


KILLED_IN_THE_SECOND_ROUND = """
import os, signal, sys
from archlab.removal.greedy import remove_greedily
from archlab.training.kept import Kept
from tests.removal.nets import TASK, blocks
keep = Kept.keep_
def keep_(self, key, value):
    if len(self.values) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return keep(self, key, value)
Kept.keep_ = keep_
remove_greedily(blocks(), TASK, kinds="block", budget={"sites": .3}, calibration=2, folder=sys.argv[1], progress=False)
"""


def test_a_kill_while_scoring_loses_one_round_at_most(tmp_path, monkeypatch):
    died = subprocess.run([sys.executable, "-c", KILLED_IN_THE_SECOND_ROUND, str(tmp_path)], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    whole = greedily(blocks(), TASK, budget={"sites": 0.3})
    again = greedily(blocks(), TASK, budget={"sites": 0.3}, folder=tmp_path)
    pd.testing.assert_frame_equal(whole.decisions, again.decisions)
    monkeypatch.setattr("archlab.removal.greedy.Costs._measured", None)  # all is in the folder
    pd.testing.assert_frame_equal(
        whole.decisions, greedily(blocks(), TASK, budget={"sites": 0.3}, folder=tmp_path).decisions
    )
    with pytest.raises(CheckpointMismatch, match="score is 'loss' in the checkpoint and 'taylor' here"):
        greedily(blocks(), TASK, budget={"sites": 0.3}, score="taylor", folder=tmp_path)


def test_a_seed_draws_the_order_and_another_draws_another():
    first, again, others = (
        gone(at_random(blocks(), TASK, budget={"sites": 0.3}, seed=0, tune_steps=0)),
        gone(at_random(blocks(), TASK, budget={"sites": 0.3}, seed=0, tune_steps=0)),
        [gone(at_random(blocks(), TASK, budget={"sites": 0.3}, seed=seed, tune_steps=0)) for seed in range(1, 5)],
    )
    assert first == again and len({tuple(order) for order in [first, *others]}) > 2


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, ValueError, "remove_greedily: either budget or at_most_loss says how much is to go; neither was given"),
        ({"budget": {"macs": 0.5}, "at_most_loss": {"error": 1}}, ValueError, "both were given"),
        ({"budget": {"mac": 0.5}}, ValueError, "a measure in budget must be one of 'macs'"),
        ({"budget": {"macs": 0.01}}, ValueError, "cannot be met: with all 4 chosen sites removed"),
        ({"budget": {"macs": 0.5}, "score": "tailor"}, ValueError,
         "score must be one of 'loss', 'taylor', 'influence', 'error', 'fit', got 'tailor'"),
        ({"budget": {"macs": 0.5}, "rescore": 1}, TypeError, "remove_greedily: rescore must be True or False, got 1"),
        ({"budget": {"macs": 0.5}, "calibration": 0}, ValueError, "calibration must be a whole number of at least 1"),
        ({"budget": {"macs": 0.5}, "tune_steps": -1}, ValueError, "tune_steps must be a whole number of at least 0"),
        ({"budget": {"macs": 0.5}, "lr": 0}, ValueError, "lr must be a finite number above 0, got 0"),
        ({"budget": {"macs": 0.5}, "lam": 0.3}, TypeError, "remove_greedily has no option 'lam'"),
        ({"budget": {"macs": 0.5}, "steps": 3}, TypeError, "'steps', which its phases set themselves"),
        ({"budget": {"macs": 0.5}, "clip_norm": -1}, ValueError, "clip_norm"),
        ({"at_most_loss": {"accuracy": 0.1}}, ValueError, "task.quality gives no such value, but error, fit"),
        ({"budget": {"macs": 0.5}, "kinds": "branch", "score": "influence"}, ValueError, "no module call"),
    ],
)  # fmt: skip
def test_bad_options(options, error, said):
    with pytest.raises(error, match=said):
        greedily(blocks(), TASK, **options)


def test_the_seed_is_checked():
    with pytest.raises(ValueError, match="remove_at_random: seed must be a whole number of at least 0, got -1"):
        at_random(blocks(), TASK, budget={"macs": 0.5}, seed=-1)
