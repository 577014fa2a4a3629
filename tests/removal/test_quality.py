"""Qualities are measured alike by every call, and measuring them changes nothing."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import archlab as al

from .nets import TASK, batch, blocks, quality

NOT_TUNED = {"kinds": "block", "budget": {"sites": 0.5}, "tune_steps": 0, "evaluate": True, "progress": False}


def untouched(call: str, net: nn.Module, task: al.Task) -> float:
    """The error of the model as it is, as a call finds it."""
    if call in ("scores", "sensitivity"):
        return getattr(al, call)(net, task, kinds="block", progress=False).attrs["untouched"]["error"]
    if call == "compare":
        return al.compare({"net": net}, task, seconds=0)["error"][0]
    if call == "trade_off":
        options = dict(budgets=[0.5], measure="sites", methods=["random"], seeds=1, soft_steps=1, push_steps=0)
        return al.trade_off(net, task, kinds="block", **options, tune_steps=0, progress=False).frame["error"][0]
    if call == "learn_to_remove":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return al.learn_to_remove(net, task, **NOT_TUNED, soft_steps=1, push_steps=0).qualities["error"][0]
    return getattr(al, call)(net, task, **NOT_TUNED).qualities["error"][0]


@pytest.mark.parametrize(
    "call", ["scores", "sensitivity", "compare", "trade_off", "learn_to_remove", "remove_greedily"]
)
def test_a_quality_is_that_of_evaluation_whatever_mode_the_model_is_in(call):
    """It draws, and leaves the model in training, where a norm keeps what it sees."""
    net = nn.Sequential(blocks(scales=(0.1, 0.4), widths=(4, 4)), nn.BatchNorm1d(8))
    before, drawn = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()

    def careless(model):
        assert not model.training and not torch.is_grad_enabled()
        found = (model(batch(1000)[0]) - batch(1000)[1]).square().mean() + torch.rand(())
        model.train()(batch(1000)[0])
        return {"error": found.item()}

    torch.manual_seed(0)
    with torch.no_grad():
        by_hand = careless(net.eval())["error"]
    net.load_state_dict(before)
    torch.set_rng_state(drawn)
    assert untouched(call, net.train(), replace(TASK, quality=careless)) == by_hand
    assert net.training and net[0].drop.training and net[1].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    if call != "learn_to_remove":  # whose dropout draws
        assert torch.equal(torch.get_rng_state(), drawn)


def test_a_quality_that_becomes_nan_is_lost_and_one_that_is_nan_is_an_error():
    net = blocks()

    def second(model):
        found = quality(model)["error"]
        return {"error": found, "ratio": math.nan if found > 1e-9 else 1.0}

    limits = {"kinds": "block", "at_most_loss": {"error": 10.0, "ratio": 10.0}, "tune_steps": 0, "progress": False}
    with pytest.warns(UserWarning, match="none of 4 sites can go within"):
        removal = al.remove_greedily(net, replace(TASK, quality=second), **limits)
    assert not removal.decisions["removed"].any()
    with pytest.raises(ValueError, match="'ratio' is NaN"):
        al.remove_greedily(net, replace(TASK, quality=lambda model: {"error": 1.0, "ratio": math.nan}), **limits)
