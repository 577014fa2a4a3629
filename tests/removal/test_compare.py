"""Models side by side, as they are or trained on."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
from archlab.removal.compare import compare
from archlab.training.task import Task


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def batch(step: int):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    return x, x.sum(1, keepdim=True)


def loss(model, data):
    return F.mse_loss(model(data[0]), data[1])


TASK = Task(torch.zeros(1, 4), batch, loss, lambda model: {"mse": loss(model, batch(10**6)).item()})


def test_one_row_a_model_with_costs_time_and_qualities():
    nets = al.sweep_width(net(), TASK.example, ratios=(1, 0.5))
    frame = compare(nets, TASK, seconds=0.01)
    assert list(frame.columns) == ["model", "params", "macs", "ms", "mse"] and list(frame["model"]) == [1, 0.5]
    assert list(frame["macs"]) == [40, 20] and (frame["ms"] > 0).all()


def test_trained_on_equally_and_left_untouched(tmp_path):
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = dict(steps=40, lr=1e-2, seconds=0, progress=False)
    tuned = compare({"a": model, "b": model}, TASK, **options, folder=tmp_path)
    assert tuned["mse"][0] == tuned["mse"][1] < compare({"a": model}, TASK, seconds=0)["mse"][0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert compare({"a": model, "b": model}, TASK, **options, folder=tmp_path).equals(tuned)


@pytest.mark.parametrize(
    ("models", "said"), [([net()], "must be a dict of models"), ({}, "one model or more"), ({"a": 3}, "must be a dict")]
)
def test_what_is_no_dict_of_models(models, said):
    with pytest.raises((TypeError, ValueError), match=said):
        compare(models, TASK)
