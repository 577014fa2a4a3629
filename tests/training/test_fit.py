"""A resumed training is the uninterrupted one, bit for bit; what fails says where, and keeps what was good."""

import functools
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pytest
import torch
from torch import nn

from archlab.files import write_whole
from archlab.training.checkpoint import (
    FILE,
    Checkpointing,
    CheckpointMismatch,
    copy_state_,
    load_checkpoint,
    save_checkpoint,
)
from archlab.training.fit import fit
from archlab.training.history import TrainingFailed
from archlab.training.optimization import Optimization, constant, cosine
from archlab.training.options import names_of
from archlab.training.progress import Display
from archlab.training.task import Task


def net(width: int = 4) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.ReLU(), nn.Linear(width, 1)
        )


def batch(step: int):
    made = torch.Generator().manual_seed(step)
    x = torch.randn(8, 3, generator=made)
    return x, x.sum(1, keepdim=True)


def loss(model, data):
    return nn.functional.mse_loss(model(data[0]), data[1])


def quality(model):
    with torch.no_grad():
        return {"mse": loss(model, batch(10_000)).item()}


TASK = Task(torch.zeros(8, 3), batch, loss, quality)
OPTIONS = dict(
    steps=30,
    lr=1e-2,
    optimizer=functools.partial(torch.optim.AdamW, weight_decay=1e-2),
    schedule=cosine(30, warmup=5),
    progress=False,
)


def same(a: nn.Module, b: nn.Module) -> None:
    for (name, left), right in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


class Stop(Exception):
    pass


def killed_at(step: int):
    def after(model, now):
        if now == step:
            raise Stop

    return after


def test_fit_learns_and_records_each_step():
    model = net()
    before = quality(model.eval())["mse"]
    went = fit(model, TASK, **OPTIONS | dict(steps=150, schedule=constant))
    assert quality(model)["mse"] < before / 4
    assert went.finished and went.steps_done == 150 and list(went.history["step"]) == list(range(150))
    assert not model.training, "the mode is put back"


@pytest.mark.parametrize("prefetch", [0, 3])
def test_resumed_equals_uninterrupted(tmp_path, prefetch):
    torch.manual_seed(1)
    whole = net()
    torch.manual_seed(1)
    expected = fit(whole, TASK, **OPTIONS)
    torch.manual_seed(1)
    with pytest.raises(Stop):
        fit(net(), TASK, **OPTIONS, folder=tmp_path, save_every=5, after_step=killed_at(17), prefetch=prefetch)
    assert load_checkpoint(tmp_path)["step"] == 15
    torch.manual_seed(99)  # another process would not have this one's random state
    again = net()
    went = fit(again, TASK, **OPTIONS, folder=tmp_path, save_every=5, prefetch=prefetch)
    same(whole, again)
    pd.testing.assert_frame_equal(went.history, expected.history)
    assert went.seconds > 0 and went.finished


def test_the_time_limit_stops_cleanly_and_the_next_call_goes_on(tmp_path):
    parts = net()
    calls, went = 0, None
    while went is None or not went.finished:
        went = fit(parts, TASK, **OPTIONS, folder=tmp_path, time_limit_s=0.0)  # one step a call
        calls += 1
        assert went.steps_done == calls
    assert calls == OPTIONS["steps"]
    again = net()
    assert fit(again, TASK, **OPTIONS, folder=tmp_path).finished, "a finished training is only loaded"
    same(parts, again)


def test_same_random_start_same_weights_in_parts(tmp_path):
    torch.manual_seed(3)
    whole = net()
    fit(whole, TASK, **OPTIONS)
    torch.manual_seed(3)
    while not fit(parts := net(), TASK, **OPTIONS, folder=tmp_path, time_limit_s=0.0).finished:
        torch.manual_seed(4)
    same(whole, parts)


def test_kill_loses_at_most_the_steps_since_the_last_checkpoint(tmp_path):
    """`kill -9` in the middle, then the same call: the weights of a run that nobody touched."""
    script = textwrap.dedent(
        """
        import sys, time
        import torch
        torch.set_num_threads(1)
        sys.path[:0] = sys.argv[2].split(":")
        from test_fit import OPTIONS, TASK, fit, net
        torch.manual_seed(5)
        slow = lambda model, step: time.sleep(0.02 if step < 20 else 30)
        fit(net(), TASK, **OPTIONS, folder=sys.argv[1], save_every=3, after_step=slow)
        """
    )
    roots = os.pathsep.join([os.path.dirname(__file__), os.getcwd()])
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), roots])
    until = time.monotonic() + 60
    while (saved := load_checkpoint(tmp_path)) is None or saved["step"] < 18:
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    saved = load_checkpoint(tmp_path)
    assert saved is not None and saved["step"] == 18
    torch.manual_seed(6)
    resumed = net()
    went = fit(resumed, TASK, **OPTIONS, folder=tmp_path)
    torch.manual_seed(5)
    whole = net()
    fit(whole, TASK, **OPTIONS)
    same(whole, resumed)
    assert list(went.history["step"]) == list(range(30))


@pytest.mark.parametrize(
    ("model", "change", "named"),
    [
        (net(5), {}, r"0\.weight is float32\(4, 3\) in the checkpoint and float32\(5, 3\) here"),
        (nn.Linear(3, 1), {}, "0.weight is .* in the checkpoint and absent here"),
        (net(), {"steps": 31, "schedule": constant}, "steps is 30 in the checkpoint and 31 here"),
        (net(), {"schedule": constant}, "schedule is"),
        (net(), {"lr": 3e-3}, "parameter group 0 is"),
        (net(), {"optimizer": torch.optim.SGD}, "optimizer is AdamW in the checkpoint and SGD here"),
        (net(), {"settings": {"crop": 128}}, r"settings\['crop'\] is 96 in the checkpoint and 128 here"),
    ],
)
def test_another_trainings_checkpoint_is_refused(tmp_path, model, change, named):
    options = OPTIONS | {"settings": {"crop": 96}}
    fit(net(), TASK, **options, folder=tmp_path, time_limit_s=0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointMismatch, match=named) as caught:
        fit(model, TASK, **options | change, folder=tmp_path)
    assert caught.value.path == tmp_path / FILE
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"half a file", "cut"])
def test_an_unreadable_checkpoint_is_named(tmp_path, content):
    fit(net(), TASK, **OPTIONS, folder=tmp_path, time_limit_s=0.0)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:500] if content == "cut" else content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a readable checkpoint"):
        fit(net(), TASK, **OPTIONS, folder=tmp_path)


class Runs:
    """Pickles to something that would be executed on loading."""

    def __reduce__(self):
        return os.system, ("exit 0",)


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"model": Runs()}, tmp_path / FILE)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path)


def test_whole_files_survive_a_failure_in_the_middle(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.txt", b"first")

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "a.txt", b"second")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.txt", b"first")]


def test_leavings_of_a_killed_writer_are_swept(tmp_path):
    (tmp_path / f".{FILE}.x1.part").write_bytes(b"half")
    save_checkpoint(tmp_path, {"step": 1})
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def loss_turning(value: float, at: int):
    seen = []

    def turning(model, data):
        seen.append(1)
        return loss(model, data) * (value if len(seen) > at else 1.0)

    return turning


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "the loss is nan"), (float("inf"), "the loss is inf")])
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path, value, said):
    task = Task(TASK.example, batch, loss_turning(value, 12), quality)
    with pytest.raises(TrainingFailed, match=f"stopped at step 12: {said}") as caught:
        fit(net(), task, **OPTIONS, folder=tmp_path, save_every=4)
    assert caught.value.step == 12 and caught.value.checkpoint == tmp_path / FILE
    saved = load_checkpoint(tmp_path)
    assert saved is not None and saved["step"] == 12 and len(saved["rows"]) == 12
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_weights_that_are_not_finite_never_reach_a_checkpoint(tmp_path):
    def breaks(model, step):
        if step == 7:
            model[0].weight.data[0, 0] = float("nan")

    with pytest.raises(TrainingFailed, match="stopped at step 7: a weight is not finite"):
        fit(net(), TASK, **OPTIONS, folder=tmp_path, save_every=4, after_step=breaks)
    saved = load_checkpoint(tmp_path)
    assert saved is not None and saved["step"] == 4


def test_divergence_stops():
    task = Task(TASK.example, batch, loss_turning(1e6, 100), quality)
    with pytest.raises(TrainingFailed, match=r"rose above 10000 times") as caught:
        fit(net(), task, **OPTIONS | dict(steps=200, schedule=constant))
    assert 100 <= caught.value.step < 102
    assert "no checkpoint" in str(caught.value)


class Masters(torch.optim.Optimizer):
    """Plain descent on copies of the weights in float32."""

    def __init__(self, groups):
        super().__init__(groups, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                master = self.state[p].setdefault("master", p.float().clone())
                p.copy_(master.sub_(p.grad.float(), alpha=group["lr"]))


def test_what_an_optimizer_keeps_in_float32_stays_so_after_a_resume(tmp_path):
    def trained(folder=None, limit=None):
        torch.manual_seed(0)
        net = nn.Linear(4, 2).bfloat16()
        batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
        task = Task(batch, lambda step: batch, lambda net, x: net(x).square().mean(), lambda net: {})
        options = dict(steps=30, lr=1e-3, optimizer=Masters, folder=folder, time_limit_s=limit, progress=False)
        return fit(net, task, **options), net

    while not (went := trained(tmp_path, 0.0))[0].finished:
        pass
    for ours, theirs in zip(went[1].parameters(), trained()[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_penalty_groups_and_notes():
    model = net()
    went = fit(
        model,
        TASK,
        **OPTIONS | dict(steps=4, schedule=constant, lr=0.5),
        penalty=lambda m: m[4].bias.sum() * 0 + 2.0,
        penalty_weight=0.5,
        groups=lambda m: [{"params": m[4].parameters(), "lr": 1e-3}],
        after_step=lambda m, step: {"site": step / 2} if step % 2 else None,
    )
    assert list(went.history.columns) == ["step", "lr", "loss", "penalty", "site"]
    assert went.history["penalty"].tolist() == [2.0] * 4 and went.history["lr"].tolist() == [1e-3] * 4
    assert went.history["site"].tolist()[1::2] == [0.5, 1.5] and went.history["site"].isna().sum() == 2
    assert torch.equal(model[0].weight, net()[0].weight), "what is in no group is not trained"


def test_bf16_computes_in_bf16_and_keeps_the_weights():
    seen = set()
    task = Task(TASK.example, batch, lambda model, data: seen.add(model(data[0]).dtype) or loss(model, data), quality)
    model = net()
    fit(model, task, **OPTIONS | dict(steps=2, schedule=constant, precision="bf16"))
    assert seen == {torch.bfloat16} and {p.dtype for p in model.parameters()} == {torch.float32}


def test_clipping_bounds_the_step():
    model, before = net(), net()
    fit(model, TASK, steps=1, lr=1.0, optimizer=torch.optim.SGD, clip_norm=1e-3, progress=False)
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    moved = sum((a - b).detach().square().sum().item() for a, b in pairs)
    assert 0 < moved**0.5 <= 1.001e-3


def test_a_failing_batch_is_not_swallowed_by_the_thread():
    def batches(step):
        if step == 3:
            raise OSError("no image 3")
        return batch(step)

    with pytest.raises(OSError, match="no image 3"):
        fit(net(), Task(TASK.example, batches, loss, quality), **OPTIONS, prefetch=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "fp16"}, "precision must be one of 'fp32', 'bf16', got 'fp16'"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"prefetch": -1}, "prefetch must be a whole number of at least 0, got -1"),
        ({"groups": lambda model: []}, "no parameter that requires a gradient"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ValueError, match=said):
        fit(net(), TASK, **OPTIONS | options)


def test_a_loss_with_a_shape_is_refused():
    with pytest.raises(ValueError, match=r"task.loss must return a scalar, got shape \(8, 1\)"):
        fit(net(), Task(TASK.example, batch, lambda m, b: m(b[0]), quality), **OPTIONS)


def test_progress_shows_the_mean_of_the_last_losses(capsys, monkeypatch):
    monkeypatch.setattr("archlab.training.progress.LINE_S", 0.0)
    went = fit(net(), TASK, **OPTIONS | dict(progress=True), title="trial", describe=lambda model: "2 near")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 30 and lines[-1] == f"trial 30/30 loss {went.history['loss'].mean():.4g} · 2 near"


def test_cosine_refuses_a_warmup_as_long_as_the_training():
    with pytest.raises(ValueError, match="warmup must be below steps=10, got 10"):
        cosine(10, warmup=10)


def test_each_option_is_described():
    for name in names_of(Optimization) + names_of(Checkpointing) + names_of(Display):
        assert re.search(rf"^ +([a-z_]+, )*{name}(, [a-z_]+)*: ", fit.__doc__, re.MULTILINE), name


def test_an_unknown_option_is_an_error_before_anything_happens():
    with pytest.raises(
        TypeError, match=r"fit has no option 'save_evry'; there are save_every, save_every_s, .* in all"
    ):
        fit(net(), TASK, **OPTIONS, save_evry=3)


def test_what_is_in_a_checkpoint(tmp_path):
    """Those that lie on disks were written so: with other names no training that was begun would go on."""
    fit(net(), TASK, **OPTIONS, folder=tmp_path, time_limit_s=0.0, settings={"crop": 96})
    saved = load_checkpoint(tmp_path)
    assert saved is not None
    assert list(saved) == ["identity", "start", "model", "optimizer", "random", "rows", "step", "seconds"]
    group = saved["identity"].pop("parameter group 0")
    assert "('lr', 0.01)" in group and "('weight_decay', 0.01)" in group
    modules = {name: value for name, value in saved["identity"].items() if name.startswith("module ")}
    assert modules["module 4"] == "Linear(in_features=4, out_features=1, bias=True)" and len(modules) == 6
    assert {name: value for name, value in saved["identity"].items() if name not in modules} == {
        "steps": 30, "precision": "fp32", "clip_norm": None, "penalty_weight": 1.0, "optimizer": "AdamW",
        "schedule": [cosine(30, warmup=5)(step) for step in range(30)], "settings['crop']": "96",
        "names in parameter group 0": [name for name, _ in net().named_parameters()], "loss_unit": "1",
    }  # fmt: skip
    assert list(saved["start"]) == ["weights", "batch", "functions"]
    assert saved["rows"][0].keys() == {"step", "lr", "loss"} and list(saved["random"]) == [
        "python", "numpy", "torch", "cuda"
    ]  # fmt: skip


def test_state_is_copied_by_name_with_buffers_that_are_not_saved_and_shares_nothing():
    class Own(nn.Linear):
        def __init__(self, extra: bool):
            super().__init__(2, 2)
            self.register_buffer("seen", torch.zeros(2), persistent=False)
            if extra:
                self.register_buffer("more", torch.zeros(1), persistent=False)
                self.other = nn.Parameter(torch.ones(1))

    source, model = Own(True), Own(False)
    source.seen += 3
    copy_state_(model, source)
    assert torch.equal(model.weight, source.weight) and torch.equal(model.seen, source.seen)
    source.seen += 1
    assert float(model.seen[0]) == 3 and "more" not in dict(model.named_buffers())
    wider = Own(True)
    copy_state_(wider, Own(False))
    assert float(wider.other.detach()) == 1, "what the source has not stays"
