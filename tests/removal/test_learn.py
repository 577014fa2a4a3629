"""Learned removal keeps what the task needs, drops what it does not, and resumes in any phase to the same end."""

import functools
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from archlab import remove
from archlab.removal import phases
from archlab.removal.learn import Removal, learn_to_remove
from archlab.removal.sensitivity import sensitivity
from archlab.removal.settings import EPSILON, NEAR, RemovalSettings
from archlab.training.checkpoint import CheckpointMismatch, load_checkpoint
from archlab.training.history import TrainingFailed
from archlab.training.options import names_of
from archlab.training.task import Task

from ..contracts.zoo import ZOO, Residual, image


class Net(nn.Module):
    """Two activations: the first is needed (the target is |x|), the second meets only positive values."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(1, 4)
        self.needed = nn.ReLU()
        self.second = nn.Linear(4, 4)
        self.idle = nn.ReLU()
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(4, 1)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
            self.first.bias.zero_()
            self.second.weight.copy_(torch.eye(4))
            self.second.bias.fill_(3.0)
            self.last.weight.fill_(0.5)
            self.last.bias.fill_(-6.0)

    def forward(self, x):
        return self.last(self.drop(self.idle(self.second(self.needed(self.first(x))))))


def batch(step: int):
    x = torch.randn(64, 1, generator=torch.Generator().manual_seed(step))
    return x, x.abs()


def loss(model, data):
    return nn.functional.mse_loss(model(data[0]), data[1])


def quality(model):
    torch.rand(3)  # a measure may draw: the training must not notice
    training = model.training
    model.eval()
    with torch.no_grad():
        found = {"mse": loss(model, batch(1_000_000)).item()}
    model.train(training)
    return found


TASK = Task(torch.zeros(2, 1), batch, loss, quality)
FAST = dict(
    kinds="activation",
    lam=0.05,
    lam_unit="absolute",
    soft_steps=60,
    push_steps=10,
    tune_steps=10,
    lr=1e-3,
    lr_omega=0.05,
    progress=False,
)


def same(a: Removal, b: Removal) -> None:
    for (name, left), right in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(left, right), name
    for left, right in ((a.history, b.history), (a.omegas, b.omegas), (a.decisions, b.decisions)):
        pd.testing.assert_frame_equal(left, right)


def test_drops_the_idle_activation_and_keeps_the_needed_one():
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    removal = learn_to_remove(model, TASK, **FAST, evaluate=True)
    assert removal.finished
    assert dict(zip(removal.decisions["site"], removal.decisions["removed"], strict=True)) == {
        "activation.0": False,
        "activation.1": True,
    }
    assert isinstance(removal.model, Net) and removal.qualities["mse"].iloc[-1] < 0.05
    assert not any("omega" in name for name, _ in removal.model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert removal.history.groupby("phase", sort=False).size().to_dict() == {"soft": 60, "push": 10, "tune": 10}


def test_history_is_complete_and_omegas_are_tidy():
    removal = learn_to_remove(Net(), TASK, **FAST)
    history, track = removal.history, removal.omegas
    assert list(history.columns) == ["phase", "step", "lr", "loss", "penalty"]
    assert list(history["step"]) == list(range(80)) and history["loss"].notna().all()
    assert history["penalty"].notna().sum() == 60, "the penalty belongs to the first phase"
    assert list(track.columns) == ["phase", "step", "site", "omega"]
    assert track["omega"].between(0, 1).all() and len(track) == 2 * 70
    first = track[track["step"] == 0].set_index("site")["omega"]
    assert first.max() <= FAST["lr_omega"] + 1e-6, "ω starts at 0 and moves by about its rate"
    pushed = track[track["phase"] == "push"].pivot(index="step", columns="site", values="omega")
    assert pushed.iloc[-1].tolist() == [0.0, 1.0]
    soft = track[track["phase"] == "soft"].groupby("site")["omega"].last()
    torch.testing.assert_close(soft.to_list(), removal.decisions["omega"].to_list())


def test_lambda_k_and_their_ratio_are_printed_and_kept(capsys):
    removal = learn_to_remove(Net(), TASK, **FAST | dict(progress=True))
    said = capsys.readouterr().err
    assert "λ = 0.05, K = 2 sites, λ/K = 0.025, p = 1, τ = 0.5 (near: ±0.1), ω starts at 0" in said
    assert "1 of 2 above τ, 0 near" in said
    assert removal.settings["sites"] == 2 and removal.settings["lam_per_site"] == 0.025


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [25, 60, 64, 70, 73])
def test_a_kill_in_any_phase_changes_nothing(tmp_path, stop_at):
    torch.manual_seed(1)
    whole = learn_to_remove(Net(), TASK, **FAST, evaluate=True)
    torch.manual_seed(1)

    def batches(step):
        if step == stop_at:
            raise Stop
        return batch(step)

    cut = Task(TASK.example, batches, loss, quality)
    with pytest.raises(Stop):
        learn_to_remove(Net(), cut, **FAST, folder=tmp_path, save_every=10, evaluate=True)
    torch.manual_seed(2)
    resumed = learn_to_remove(Net(), TASK, **FAST, folder=tmp_path, evaluate=True)
    same(whole, resumed)
    pd.testing.assert_frame_equal(whole.qualities, resumed.qualities)


def test_time_limit_stops_in_every_phase_and_the_next_calls_go_on(tmp_path):
    torch.manual_seed(1)
    options = FAST | dict(soft_steps=4, push_steps=2, tune_steps=2, lr_omega=1.0, lam_unit="loss")
    whole = learn_to_remove(Net(), TASK, **options)
    torch.manual_seed(1)
    phases = []
    for _ in range(20):
        removal = learn_to_remove(Net(), TASK, **options, folder=tmp_path, time_limit_s=0.0)
        phases.append(removal.history["phase"].iloc[-1])
        if removal.finished:
            break
        assert len(removal.decisions) == 2
        torch.manual_seed(3)
    assert {"soft", "push", "tune"} == set(phases) and removal.finished
    same(whole, removal)


def test_another_lambda_does_not_go_on_from_the_folder(tmp_path):
    learn_to_remove(Net(), TASK, **FAST, folder=tmp_path, time_limit_s=0.0)
    with pytest.raises(CheckpointMismatch, match=r"settings\['lam'\] is '0.05' in the checkpoint and '0.2' here"):
        learn_to_remove(Net(), TASK, **FAST | dict(lam=0.2), folder=tmp_path)
    with pytest.raises(CheckpointMismatch, match="omega"):
        learn_to_remove(Net(), TASK, **FAST, where="idle", folder=tmp_path)


def test_another_threshold_keeps_the_soft_phase_and_goes_on_where_it_decides_the_same(tmp_path):
    whole = learn_to_remove(Net(), TASK, **FAST, folder=tmp_path)
    same(whole, learn_to_remove(Net(), TASK, **FAST | dict(tau=0.45), folder=tmp_path))
    with pytest.raises(
        CheckpointMismatch, match=r"settings\['removed'\] is \['activation.1'\] in the checkpoint and \[\]"
    ):
        learn_to_remove(Net(), TASK, **FAST | dict(tau=1.0), folder=tmp_path)


def test_a_soft_phase_that_is_begun_again_does_not_go_on_in_the_old_later_ones(tmp_path):
    learn_to_remove(Net(), TASK, **FAST, folder=tmp_path, evaluate=True)
    (tmp_path / "soft" / "checkpoint.pt").unlink()
    other = FAST | dict(lam=0.2)
    with pytest.raises(CheckpointMismatch, match=r"settings\['lam'\]"):
        learn_to_remove(Net(), TASK, **other, folder=tmp_path, evaluate=True)


def test_a_tuning_that_is_begun_again_is_evaluated_again(tmp_path):
    """Decided is the same: the qualities are known by the weights, too."""
    options = FAST | dict(gate="straight-through", soft_steps=4, push_steps=0, lr_omega=1.0, evaluate=True)
    learn_to_remove(Net().eval(), TASK, **options, folder=tmp_path)
    (tmp_path / "tune" / "checkpoint.pt").unlink()
    other = options | dict(lr_tune=1e-2)
    again = learn_to_remove(Net().eval(), TASK, **other, folder=tmp_path).qualities.iloc[-1]
    assert again["phase"] == "tuned" and again["mse"] == quality_of_last(other, tmp_path)


def quality_of_last(options, folder) -> float:
    """That of the thin network which stands in the folder, measured anew."""
    (folder / "qualities.json").unlink()
    return learn_to_remove(Net().eval(), TASK, **options, folder=folder).qualities["mse"].iloc[-1]


def test_what_steers_at_most_loss_is_part_of_what_a_folder_is_known_by(tmp_path):
    options = FAST | dict(lam=None, at_most_loss={"mse": 0.5}, soft_steps=4, push_steps=0, tune_steps=0, lr_omega=1.0)
    learn_to_remove(Net(), TASK, **options, folder=tmp_path)
    with pytest.raises(CheckpointMismatch, match=r"settings\['better'\] is {'mse': None} in .* and {'mse': 'lower'}"):
        learn_to_remove(Net(), replace(TASK, measures={"mse": "lower"}), **options, folder=tmp_path)
    with pytest.raises(CheckpointMismatch, match=r"settings\['quality'\]"):
        learn_to_remove(Net(), replace(TASK, quality=lambda net: {"mse": 1.0}), **options, folder=tmp_path)


def test_where_all_weights_are_frozen_omega_learns_alone():
    options = FAST | dict(soft_steps=4, push_steps=2, tune_steps=2, lr_omega=1.0)
    found = learn_to_remove(Net().requires_grad_(False), TASK, **options)
    assert found.finished and set(found.history["phase"]) == {"soft"}
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), Net().parameters(), strict=True))


def test_the_former_word_for_evaluate_works_and_is_warned_about():
    with pytest.warns(DeprecationWarning, match="judge= is evaluate= now") as caught:
        removal = learn_to_remove(Net(), TASK, **FAST, judge=True)
    assert caught[0].filename == __file__
    assert list(removal.qualities["phase"]) == ["original", "soft", "pushed", "discarded", "tuned"]


def with_lies(folder) -> None:
    """Make 7 of every quality in the folder that does not depend on what was decided."""
    saved = json.loads((folder / "qualities.json").read_text())
    decided = "{'removed': ['activation.1'], 'keep': 'restore', 'omegas': {"
    assert saved["phases"]["tuned"]["of"][0].startswith(decided)
    for entry in saved["phases"].values():
        entry["values"] = {"mse": 7.0}
    saved["phases"]["soft"]["of"][0] = "None"
    (folder / "qualities.json").write_text(json.dumps(saved))


def test_qualities_that_lie_in_the_folder_are_not_measured_again(tmp_path):
    """Of the later phases, only where the same was decided."""
    learn_to_remove(Net(), TASK, **FAST, folder=tmp_path, evaluate=True)
    with_lies(tmp_path)
    found = learn_to_remove(Net(), TASK, **FAST, folder=tmp_path, evaluate=True).qualities.set_index("phase")["mse"]
    assert found["original"] == found["tuned"] == 7 and found["soft"] != 7
    saved = json.loads((tmp_path / "qualities.json").read_text())
    assert {phase: entry["values"]["mse"] for phase, entry in saved["phases"].items()} == found.to_dict()


def test_another_function_measures_anew(tmp_path):
    learn_to_remove(Net(), TASK, **FAST, folder=tmp_path, evaluate=True)
    with_lies(tmp_path)
    other = replace(TASK, quality=lambda net: {"mse": 3.0})
    assert set(learn_to_remove(Net(), other, **FAST, folder=tmp_path, evaluate=True).qualities["mse"]) == {3.0}


@pytest.mark.parametrize(
    "content", ["", "[]", "7", '{"start": 1, "phases": {}}', '{"phases": {"original": 3}}', "\x00"]
)
def test_broken_qualities_are_measured_anew(tmp_path, content):
    (tmp_path / "qualities.json").write_text(content)
    found = learn_to_remove(Net(), TASK, **FAST, folder=tmp_path, evaluate=True).qualities
    assert len(found) == 5


@pytest.mark.parametrize("phase", ["soft", "push", "tune"])
def test_each_option_of_fit_is_one_of_every_phase(tmp_path, phase):
    learn_to_remove(Net(), TASK, **FAST, folder=tmp_path, clip_norm=2.0, settings={"crop": 96})
    saved = load_checkpoint(tmp_path / phase)
    assert saved is not None and saved["identity"]["clip_norm"] == 2.0
    wanted = {"settings['crop']", "settings['p']", "settings['sites']", "settings['budget']"}
    wanted |= set() if phase == "soft" else {"settings['removed']", "settings['keep']", "settings['omegas']"}
    assert wanted <= saved["identity"].keys()


def test_an_unknown_option_is_an_error_before_anything_happens():
    with pytest.raises(TypeError, match="learn_to_remove has no option 'soft_step'; there are soft_steps, "):
        learn_to_remove(Net(), TASK, kinds="activation", soft_step=3)


def test_each_option_is_described():
    for name in names_of(RemovalSettings):
        assert re.search(rf"^ +([a-z_]+, )*{name}(, [a-z_]+)*: ", learn_to_remove.__doc__, re.MULTILINE), name


def test_nan_names_step_and_phase(tmp_path):
    task = Task(
        TASK.example, lambda step: batch(step) if step < 63 else (batch(step)[0] * float("nan"),) * 2, loss, quality
    )
    with pytest.raises(TrainingFailed, match="stopped at step 3: the loss is nan") as caught:
        learn_to_remove(Net(), task, **FAST, folder=tmp_path, save_every=2)
    assert caught.value.__notes__ == ["the step is counted within the phase 'push', which begins at batch 60"]
    assert caught.value.checkpoint == tmp_path / "push" / "checkpoint.pt"


@pytest.mark.parametrize("p", [2.0, 0.5])
def test_other_exponents_start_above_zero_and_stay_there(p):
    removal = learn_to_remove(Net(), TASK, **FAST | dict(p=p))
    soft = removal.omegas[removal.omegas["phase"] == "soft"]
    assert soft["omega"].min() >= EPSILON - 1e-7 and soft["omega"].notna().all()
    assert removal.decisions.set_index("site")["removed"].to_dict() == {"activation.0": False, "activation.1": True}
    assert removal.settings["omega_start"] == EPSILON


def test_nothing_above_tau_gives_the_whole_model_back_with_learned_weights():
    model = Net()
    with pytest.warns(UserWarning, match="none of 2 sites went: λ decided alone.* Choose a larger lam, or a budget"):
        removal = learn_to_remove(model, TASK, **FAST | dict(lam=1e-9, tau=1.0, tune_steps=0, push_steps=0))
    assert not removal.decisions["removed"].any()
    assert list(removal.model.state_dict()) == list(model.state_dict())
    assert not torch.equal(removal.model.first.weight, model.first.weight)
    assert list(removal.history["phase"].unique()) == ["soft"]


def test_freeze_keeps_the_omega_of_what_stays():
    removal = learn_to_remove(Net(), TASK, **FAST | dict(tune_steps=0), keep="freeze")
    learned = removal.decisions.set_index("site")["omega"]["activation.0"]
    model = removal.model.eval()
    x = torch.linspace(-1, 1, 5)[:, None]
    hidden = model.first(x)
    by_hand = model.last(model.second((1 - learned) * hidden.relu() + learned * hidden))
    torch.testing.assert_close(model(x), by_hand)


def test_a_slow_omega_is_warned_about():
    with pytest.warns(UserWarning) as told:
        learn_to_remove(Net(), TASK, **FAST | dict(soft_steps=4, lr_omega=0.1, push_steps=0, tune_steps=0))
    assert re.match(r"lr_omega × soft_steps is 0.4, below 3: .* raise lr_omega or soft_steps", str(told[0].message))


def test_omega_has_its_own_rate_and_no_weight_decay():
    groups = []

    def optimizer(given):
        groups.append(given)
        return torch.optim.AdamW(given, weight_decay=0.5)

    learn_to_remove(Net(), TASK, **FAST | dict(tune_steps=0, push_steps=0), optimizer=optimizer)
    weights, switches = groups[0]  # one tensor for all switches
    assert (weights["lr"], switches["lr"], switches["weight_decay"]) == (1e-3, 0.05, 0.0)
    assert (
        len(weights["params"]) == 6 and [len(p) for p in switches["params"]] == [2] and weights["weight_decay"] == 0.5
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tau": 1.5}, "tau must be a number from 0 to 1, got 1.5"),
        ({"tau": float("nan")}, "tau must be a number from 0 to 1, got nan"),
        ({"lam": -1.0}, "lam must be a finite number of at least 0 or None, got -1.0"),
        ({"p": 0.0}, "p must be a finite number above 0, got 0.0"),
        ({"keep": "blend"}, "keep must be one of 'restore', 'freeze', got 'blend'"),
        ({"soft_steps": 0}, "soft_steps must be a whole number of at least 1, got 0"),
        ({"tune_steps": -1}, "tune_steps must be a whole number of at least 0, got -1"),
        ({"where": "nowhere.*"}, "nowhere"),
        ({"kinds": "skip"}, "skip"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ValueError, match=said):
        learn_to_remove(Net(), TASK, **FAST | options)


def test_near_tau_is_the_stated_band():
    frame = pd.DataFrame({"site": list("abc"), "kind": "activation", "omega": [0.5 - NEAR, 0.5 + NEAR + 1e-3, 0.55]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "omegas", lambda soft: frame)
        decided = phases.decide(nn.Identity(), 0.5)
    assert decided["near_tau"].tolist() == [True, False, True] and decided["removed"].tolist() == [False, True, True]


def test_sensitivity_equals_physical_removal_of_each_site_alone():
    model = Net().eval()
    frame = sensitivity(model, TASK, progress=False)  # the default kinds: those that are not here are no error
    assert list(frame.columns) == ["site", "kind", "mse", "delta_mse"]
    assert frame.attrs["untouched"] == quality(model)
    assert frame["site"].tolist() == ["activation.1", "activation.0"], "the idle one comes first"
    for site, value, delta in zip(frame["site"], frame["mse"], frame["delta_mse"], strict=True):
        thin = remove(model, TASK.example, kinds="activation", where=site)
        torch.testing.assert_close(value, quality(thin)["mse"])
        assert delta == value - quality(model)["mse"]


def test_sensitivity_leaves_out_what_cannot_be_rewritten():
    net, x = ZOO["stack"].build(), image()
    block = net.blocks[0]
    block.forward = functools.partial(Residual.forward, block)  # no class can replace it
    task = Task(x, lambda step: x, lambda net, x: net(x).mean(), lambda net: {"mean": net(x).mean().item()})
    frame = sensitivity(net, task, kinds="skip", progress=False)
    assert frame["site"].tolist() == ["blocks.1/skip.0"]
    assert "'forward' of its own" in frame.attrs["refused"]["blocks.0/skip.0"]
    with pytest.raises(
        ValueError, match=r"none of the 1 chosen sites can be rewritten; blocks\.0/skip\.0 is refused: this Residual"
    ):
        sensitivity(net, task, kinds="skip", where="blocks.0/*", progress=False)


def test_sensitivity_refuses_what_matches_nothing():
    with pytest.raises(ValueError, match=r"where='nowhere\.\*'"):
        sensitivity(Net(), TASK, where="nowhere.*", progress=False)
