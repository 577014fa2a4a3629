"""Learned removal of channels of activations: a budget of elements, resuming, and what is told of it."""

import pandas as pd
import pytest
import torch

import archlab as al
from archlab.removal.budget import AMOUNTS

from ..report.pages import read
from .nets import TASK, blocks

OPTIONS = dict(
    kinds="activation", granularity="channel", soft_steps=40, push_steps=4, tune_steps=4, lr=1e-3, lr_omega=0.1,
    progress=False,
)  # fmt: skip
BUDGET = {"activations": 0.4}


def activations(model) -> float:
    return AMOUNTS["activations"](model, TASK.example)


@pytest.fixture(scope="module")
def removal():
    return al.learn_to_remove(blocks(), TASK, **OPTIONS, budget=BUDGET, evaluate=True)


def test_a_budget_of_elements_is_met_by_no_more_than_the_last_channel(removal):
    whole = activations(blocks())
    assert removal.left["activations"] == pytest.approx(activations(removal.model) / whole)
    assert 0.4 - 1 / 56 < removal.left["activations"] <= 0.4  # of 56 channels of one size
    went = removal.decisions.groupby("site")["removed"].agg(["sum", "size"])
    assert (went["sum"] > 0).all() and (went["sum"] < went["size"]).any(), "in part"
    assert list(removal.decisions)[:3] == ["site", "channel", "kind"]


def test_the_phases_lead_to_what_was_decided(removal):
    qualities = removal.qualities.set_index("phase")["error"]
    assert qualities["discarded"] == pytest.approx(qualities["pushed"], rel=1e-4)
    tracks = removal.omegas[removal.omegas["phase"] == "push"].groupby("site")["omega"].last()
    pd.testing.assert_series_equal(
        tracks, removal.decisions.groupby("site")["removed"].mean(), check_names=False, check_dtype=False, rtol=1e-6
    )


def test_it_goes_on_after_a_stop_to_the_same_end(removal, tmp_path):
    options = OPTIONS | dict(budget=BUDGET, folder=tmp_path, save_every=5)
    cut = al.learn_to_remove(blocks(), TASK, **options, time_limit_s=0.2)
    assert not cut.finished
    again = al.learn_to_remove(blocks(), TASK, **options)
    assert again.finished
    pd.testing.assert_frame_equal(again.decisions, removal.decisions)
    x = TASK.example
    assert torch.equal(again.model.eval()(x), removal.model.eval()(x))


@pytest.mark.parametrize("goal", [{"at_most_loss": {"error": 0.02}}, {"lam": 0.05, "weigh": "activations"}])
def test_other_goals(goal):
    found = al.learn_to_remove(blocks(), TASK, **OPTIONS, **goal)
    assert 0 < found.decisions["removed"].sum() < 56


def test_what_is_told(removal, tmp_path):
    went = removal.decisions["removed"].sum()
    assert f"{went} of 56 channels, with them " in repr(removal)
    page = read(removal.report(tmp_path))
    assert f"Blocks without {went} of 56 channels" in page.text and removal.settings["granularity"] == "channel"
    sites = pd.read_csv(tmp_path / "sites.csv")
    assert list(sites["channels"]) == [8, 16, 8, 24] and sites["channels gone"].sum() == went


def test_what_has_no_channels_is_refused_before_anything_is_trained():
    for kinds in ("branch", "all"):
        with pytest.raises(ValueError, match=rf"learn_to_remove: granularity='channel' .* got kinds='{kinds}'"):
            al.learn_to_remove(blocks(), TASK, **OPTIONS | dict(kinds=kinds), budget=BUDGET)
    with pytest.raises(ValueError, match="learn_to_remove: keep='freeze' goes with granularity='site'"):
        al.learn_to_remove(blocks(), TASK, **OPTIONS, keep="freeze")
    with pytest.raises(ValueError, match=r"budget\['macs'\] of 0.5 cannot be met: with all 56 chosen channels removed"):
        al.learn_to_remove(blocks(), TASK, **OPTIONS, budget={"macs": 0.5})
