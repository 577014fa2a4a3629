"""Which way a quality is better is said once, in `Task.measures`: tables and figures of what was measured know it."""

import pandas as pd
import pytest
import torch
from torch import nn

import archlab as al


@pytest.fixture(scope="module")
def measured():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    x = torch.randn(16, 2)

    def error(net):
        return (net(x) - x.sum(1, keepdim=True)).square().mean()

    def quality(net):
        return {"error": error(net).item(), "fit": -error(net).item(), "size": 1.0}

    task = al.Task(x, lambda step: x, lambda net, x: error(net), quality, {"error": "lower", "fit": "higher"})
    options = dict(soft_steps=4, push_steps=0, tune_steps=2, lr_omega=1, evaluate=True, progress=False)
    removal = al.learn_to_remove(net, task, kinds="activation", lam=0, **options)
    return al.sensitivity(net, task, progress=False), removal.qualities


def test_frames_say_what_is_better(measured):
    sensitivity, qualities = measured
    assert qualities.attrs["better"] == {"error": "lower", "fit": "higher"}
    assert sensitivity.attrs["better"] == {
        "error": "lower", "delta_error": "lower", "fit": "higher", "delta_fit": "higher",
    }  # fmt: skip


def test_tables_set_the_best_in_bold(measured):
    for frame in measured:
        best = al.table(frame.round(4)).best
        rounded = frame.round(3)
        assert list(best["error"]) == list(rounded["error"] == rounded["error"].min())
        assert list(best["fit"]) == list(rounded["fit"] == rounded["fit"].max())
        assert not best["size"].any()
    frame = measured[0]
    shown = al.table(frame, columns=[al.Column("site", "site"), al.Column("error", "MSE")])
    assert shown.best["MSE"].sum() == 1
    assert not al.table(frame, better={}).best.to_numpy().any()
    assert al.table(frame, columns=[al.Column("error", "MSE", better="higher")]).best["MSE"].argmax() == (
        frame["error"].argmax()
    )


def test_figures_say_which_way(measured):
    sensitivity, qualities = measured
    ax = al.plot.tradeoff(qualities, x="fit", y="error", label="phase")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("fit (higher is better)", "error (lower is better)")
    ax = al.plot.tradeoff(qualities, x="size", y="error", label="phase", better={"error": "higher"})
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("size (lower is better)", "error (higher is better)")
    assert al.plot.sensitivity(sensitivity, quality="error").get_xlabel() == (
        "change of error without the site (lower is better)"
    )
    assert al.plot.sensitivity(sensitivity, quality="size").get_xlabel() == "change of size without the site"


def test_a_frame_of_ones_own_may_say_it_or_not():
    frame = pd.DataFrame({"name": ["a", "b"], "error": [1.0, 2.0]})
    assert not al.table(frame).best.to_numpy().any()
    frame.attrs["better"] = {"error": "lower", "gone": "higher"}
    assert list(al.table(frame).best["error"]) == [True, False]
    frame.attrs["better"] = {"error": "down"}
    with pytest.raises(ValueError, match="'higher', 'lower'"):
        al.table(frame)
