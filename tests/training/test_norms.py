"""Frozen norms: running statistics stay bit for bit, their affine parameters are trained, modes are put back."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import archlab as al
from archlab.training import fit


def batch(step):
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step)) + 2


def loss(model, x):
    return model(x).square().mean()


def quality(model):
    model.train()  # and leaves it so, as many do
    return {"size": loss(model.eval(), batch(-1)).item()}


TASK = al.Task(batch(0), batch, loss, quality, {"size": "lower"})


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x):
        return x + self.body(x)


def net():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), Block(), nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True), FrozenBatchNorm2d(4), nn.GroupNorm(2, 4),
        nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 1, 1),
    )  # fmt: skip


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def same(a, b):
    assert a.keys() == b.keys() and a
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("after_step", [None, lambda model, step: quality(model)])
def test_running_statistics_stay_and_affine_parameters_are_trained(after_step):
    model = net().eval()
    model[2].train()
    before, affine, modes = statistics(model), model[1].weight.clone(), [m.training for m in model.modules()]
    fit(model, TASK, steps=3, lr=0.1, freeze_norm=True, after_step=after_step, progress=False)
    assert same(before, statistics(model))
    assert not torch.equal(affine, model[1].weight)
    assert [m.training for m in model.modules()] == modes


def test_without_it_they_move():
    model = net()
    before = statistics(model)
    fit(model, TASK, steps=1, progress=False)
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert {name.rpartition(".")[0] for name in moved} == {"1", "3.body.1", "4", "5"}


def test_only_norms_are_in_eval_mode():
    seen = []

    def watched(model, x):
        seen.append([name for name, module in model.named_modules() if not module.training])
        return loss(model, x)

    fit(net(), al.Task(batch(0), batch, watched, quality), steps=1, freeze_norm=True, progress=False)
    assert seen == [["1", "3.body.1", "4", "5", "6"]]


@pytest.mark.parametrize("rewind", [False, True])
def test_every_phase_of_a_removal_keeps_them(rewind):
    model = net()
    options = dict(soft_steps=12, push_steps=2, tune_steps=2, lr_omega=0.3, progress=False, rewind=rewind)
    removal = al.learn_to_remove(model, TASK, kinds=["activation"], lam=5, freeze_norm=True, **options)
    assert removal.decisions["removed"].any()
    assert same(statistics(model), statistics(removal.model))


def test_the_unit_of_the_loss_is_measured_with_them():
    options = dict(soft_steps=4, push_steps=0, tune_steps=0, lr_omega=1, progress=False)
    model = net().eval()
    model[2].p = 0.0  # then eval mode is what freezing leaves of it
    found = [
        al.learn_to_remove(model, TASK, kinds="activation", lam=0, freeze_norm=frozen, **options).settings["loss_unit"]
        for frozen in (True, False)
    ]
    with torch.no_grad():
        expected = sum(loss(model, batch(step)).item() for step in range(8)) / 8
    assert found[0] == pytest.approx(expected, rel=1e-4) != found[1]


def test_a_loss_that_switches_to_train_mode_is_refused():
    task = al.Task(batch(0), batch, lambda model, x: loss(model.train(), x), quality)
    with pytest.raises(ValueError, match=r"freeze_norm.*model\.train"):
        fit(net(), task, steps=1, freeze_norm=True, progress=False)


def test_a_checkpoint_knows_whether_norms_are_frozen(tmp_path):
    fit(net(), TASK, steps=1, folder=tmp_path, freeze_norm=True, progress=False)
    with pytest.raises(ValueError, match="freeze_norm"):
        fit(net(), TASK, steps=1, folder=tmp_path, progress=False)
    with pytest.raises(TypeError, match="freeze_norm must be True or False"):
        fit(net(), TASK, steps=1, freeze_norm="yes", progress=False)
