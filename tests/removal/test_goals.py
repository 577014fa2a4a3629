"""λ without units, budgets and limits that steer it, gates, and what a removal warns of."""

import warnings
from dataclasses import replace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
import archlab.removal.budget
from archlab.removal.budget import Savings
from archlab.removal.gates import GATES, Gates
from archlab.removal.learn import learn_to_remove
from archlab.removal.probe.calibration import has_collapsed
from archlab.training.task import Task

from ..contracts.zoo import ZOO


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Linear(8, width)
        self.outer = nn.Linear(width, 8)

    def forward(self, x):
        return x + self.outer(F.relu(self.inner(x)))


def net() -> nn.Sequential:
    """Blocks of 4, 8 and 16 hidden channels, of which the last is what the task needs."""
    torch.manual_seed(0)
    model = nn.Sequential(Block(4), Block(8), Block(16), nn.Linear(8, 1))
    for block in list(model)[:2]:
        block.outer.weight.data.mul_(0.02)
        block.outer.bias.data.zero_()
    return model


TEACHER = net()


def batch(step: int):
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(step))
    with torch.no_grad():
        return x, TEACHER(x) + 0.05 * torch.randn(32, 1, generator=torch.Generator().manual_seed(step + 10**6))


def loss(model, data):
    return F.mse_loss(model(data[0]), data[1])


TASK = Task(
    torch.zeros(2, 8), batch, loss, lambda model: {"mse": loss(model, batch(10**7)).item()}, measures={"mse": "lower"}
)
FAST = dict(kinds="branch", soft_steps=100, push_steps=5, tune_steps=5, lr=1e-3, lr_omega=0.04, progress=False)


def gone(removal) -> list[str]:
    return list(removal.decisions.loc[removal.decisions["removed"], "site"])


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_what_the_loss_is_multiplied_by_decides_nothing(optimizer):
    options = FAST | (dict(lr=1e-3, lr_omega=0.1) if optimizer is torch.optim.SGD else {})
    found = []
    for scale in (1e-3, 1.0, 1e3):
        scaled = replace(TASK, loss=lambda model, data, scale=scale: scale * loss(model, data))
        found.append(learn_to_remove(net(), scaled, **options, lam=0.5, optimizer=optimizer))
    first = found[1]
    assert 0 < len(gone(first)) < 3 if optimizer is torch.optim.Adam else True
    for scale, other in zip((1e-3, 1e3), found[::2], strict=True):
        assert gone(other) == gone(first)
        torch.testing.assert_close(
            torch.tensor(other.decisions["omega"].to_list()), torch.tensor(first.decisions["omega"].to_list()),
            atol=2e-3, rtol=0,
        )  # fmt: skip
        assert other.settings["loss_unit"] == pytest.approx(scale * first.settings["loss_unit"], rel=1e-4)
        assert other.history["loss"].iloc[0] == pytest.approx(scale * first.history["loss"].iloc[0], rel=1e-4)


def test_an_absolute_lambda_hangs_on_the_scale_of_the_loss():
    def removal(scale):
        scaled = replace(TASK, loss=lambda model, data: scale * loss(model, data))
        return learn_to_remove(net(), scaled, **FAST, lam=0.05, lam_unit="absolute")

    large = removal(10.0)
    with pytest.warns(UserWarning, match="all of 3 sites went: λ decided alone"):
        small = removal(1e-3)
    assert len(gone(large)) < len(gone(small)) and small.settings["loss_unit"] == 1


@pytest.mark.parametrize("measure", ["macs", "params", "activations", "sites"])
def test_a_budget_is_met_by_no_more_than_the_last_site(measure):
    removal = learn_to_remove(net(), TASK, **FAST, budget={measure: 0.65})
    assert removal.left[measure] <= 0.65
    order = removal.decisions.sort_values("omega", ascending=False)["site"]
    savings = Savings(net(), TASK.example, [s for s in al.sites(net(), TASK.example, kinds="branch")], [measure])
    assert savings.left(measure, list(order[: len(gone(removal)) - 1])) > 0.65
    if measure == "macs":
        whole, thin = (al.cost(m, TASK.example).macs for m in (net(), removal.model))
        assert removal.left[measure] == thin / whole


def test_a_budget_keeps_what_the_task_needs():
    removal = learn_to_remove(net(), TASK, **FAST, budget={"sites": 0.4}, evaluate=True)
    assert gone(removal) == ["0/branch.0", "1/branch.0"]
    assert removal.qualities.set_index("phase")["mse"]["tuned"] < 0.02


def test_a_budget_in_milliseconds_is_measured(monkeypatch):
    monkeypatch.setattr(archlab.removal.budget, "LATENCY_S", 0.05)
    removal = learn_to_remove(net(), TASK, **FAST | dict(soft_steps=30, lr_omega=0.1), budget={"latency_ms": 0.9})
    assert gone(removal) and removal.left["latency_ms"] <= 0.9


def test_a_budget_of_what_the_model_has_none_of_is_refused():
    x = torch.ones(1, 2)
    task = Task(x, lambda step: x, lambda net, x: net(x).mean(), lambda net: {"mean": 1.0})
    with pytest.raises(ValueError, match=r"budget\['macs'\] of 0.5: the model has no macs"):
        learn_to_remove(nn.Tanh(), task, **FAST | dict(kinds="activation"), budget={"macs": 0.5})


def test_budgets_together_must_all_be_met():
    removal = learn_to_remove(net(), TASK, **FAST, budget={"macs": 0.9, "sites": 0.4})
    assert removal.left["macs"] <= 0.9 and removal.left["sites"] <= 0.4


def test_a_budget_out_of_reach_is_refused_before_training():
    with pytest.raises(ValueError, match=r"budget\['macs'\] of 0.01 cannot be met: with all 3 .* 0.0175 of it stay"):
        learn_to_remove(net(), TASK, **FAST, budget={"macs": 0.01})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(budget={"macs": 1.5}), r"budget\['macs'\] must be the share that may stay, above 0 and below 1, got 1.5"),
        (dict(budget={"mac": 0.5}), "a measure in budget must be one of 'macs', 'params'"),
        (dict(budget={}), "budget must be a dict"),
        (dict(budget={"macs": 0.5}, lam=0.1), "lam and budget were given"),
        (dict(budget={"macs": 0.5}, keep="freeze"), "keep='restore' and p=1 alone"),
        (
            dict(at_most_loss={"accuracy": 0.1}),
            r"at_most_loss\['accuracy'\]: task.quality gives no such value, but mse",
        ),
        (dict(at_most_loss={"mse": 0.0}), "above 0, got 0.0"),
        (dict(gate="soft"), "gate must be one of 'blend'"),
        (dict(gate="straight-through", tau=0.3), "tau must be 0.5 with gate='straight-through'"),
        (dict(weigh="flops"), "weigh must be one of 'equal'"),
        (dict(rewind=True, keep="freeze"), "rewind starts from the original"),
        (dict(weigh="activations", kinds="skip"), "none of the 3 chosen sites saves any of it"),
    ],
)
def test_goals_that_make_no_sense(options, said):
    with pytest.raises(ValueError, match=said):
        learn_to_remove(net(), TASK, **FAST | options)


def test_as_much_goes_as_a_limit_of_quality_allows():
    removal = learn_to_remove(net(), TASK, **FAST | dict(push_steps=0), at_most_loss={"mse": 0.005}, evaluate=True)
    found = removal.qualities.set_index("phase")["mse"]
    assert gone(removal) and found["discarded"] - found["original"] <= 0.005
    with pytest.warns(UserWarning, match=r"none of 3 sites can go within \{'mse': 1e-06\}: allow more"):
        assert not gone(learn_to_remove(net(), TASK, **FAST, at_most_loss={"mse": 1e-6}))
    lenient = learn_to_remove(net(), TASK, **FAST, at_most_loss={"mse": 10.0})
    assert len(gone(lenient)) == 3


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_meets_a_budget_and_resumes_to_the_same_end(gate, tmp_path):
    options = FAST | dict(gate=gate, budget={"sites": 0.4}, soft_steps=20, lr_omega=0.2)
    whole = learn_to_remove(net(), TASK, **options, seed=3)
    for _ in range(100):
        torch.manual_seed(7)  # the state it goes on from is the checkpoint's
        removal = learn_to_remove(net(), TASK, **options, seed=3, folder=tmp_path, time_limit_s=0.1)
        if removal.finished:
            break
    assert removal.finished and removal.left["sites"] == pytest.approx(1 / 3)
    assert removal.decisions.equals(whole.decisions)
    for a, b in zip(removal.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_gate_is_judged_as_the_network_learned_with_it():
    omega = {"blend": 0.4, "straight-through": 0.0, "hard-concrete": 1.0}
    for name, theta in {"blend": 0.4, "straight-through": 0.4, "hard-concrete": 3.0}.items():
        soft = al.switch(net(), TASK.example, kinds="branch")
        gates = Gates(soft, name, floor=0.0, seed=0)
        gates.theta.data.fill_(theta)
        gates.write_()
        assert {round(o.item(), 6) for o in gates.omegas} == {omega[name]}
        gates.settle_()
        assert torch.allclose(torch.stack(list(gates.omegas)), gates.removed()), "what counts as removed"


def test_qualities_after_the_soft_phase_are_of_open_or_closed_gates():
    seen, limits = [], dict(gate="straight-through", at_most_loss={"mse": 0.5}, push_steps=0)
    task = replace(TASK, quality=lambda model: seen.append(omegas_of(model)) or TASK.quality(model))
    learn_to_remove(net(), task, **FAST | limits, evaluate=True)
    switched = [values for values in seen if values]
    assert len(switched) > 20 and all(value in (0.0, 1.0) for values in switched for value in values)


def omegas_of(model) -> list[float]:
    return [float(p) for name, p in model.named_parameters() if "omega_" in name]


def test_clipping_does_not_part_the_task_from_the_penalty():
    """Adam ignores a factor that both have."""
    ends = [learn_to_remove(net(), TASK, **FAST, lam=0.5, clip_norm=norm).decisions["omega"] for norm in (None, 1e-3)]
    assert max(ends[0]) > 0.2
    pd.testing.assert_series_equal(*ends, atol=0.02, rtol=0)


def test_rewind_starts_from_the_original_weights():
    model = net()
    removal = learn_to_remove(
        model, TASK, **FAST | dict(tune_steps=0, push_steps=0), budget={"sites": 0.4}, rewind=True
    )
    kept = removal.model.state_dict()
    assert kept and all(torch.equal(value, model.state_dict()[name]) for name, value in kept.items())
    longer = learn_to_remove(net(), TASK, **FAST, budget={"sites": 0.4}, rewind=True)
    assert longer.history.groupby("phase").size().to_dict() == {"soft": 100, "tune": 10}


class Counting(nn.Module):
    """Counts its calls in training mode, in a buffer that no state dict has."""

    def __init__(self):
        super().__init__()
        self.net = net()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls = self.calls + self.training
        return self.net(x)


def test_rewind_puts_back_buffers_that_are_not_saved():
    task = replace(TASK, loss=lambda model, data: TASK.loss(model, data))
    options = FAST | dict(tune_steps=0, push_steps=0)
    counts = [
        float(learn_to_remove(Counting(), task, **options, budget={"sites": 0.4}, rewind=rewind).model.calls)
        for rewind in (True, False)
    ]
    assert counts[0] == 0 < counts[1]


def test_pressure_in_proportion_to_what_is_saved():
    removal = learn_to_remove(net(), TASK, **FAST, lam=0.5, weigh="macs")
    assert removal.settings["weigh"] == "macs" and "0/branch.0" not in gone(removal)[2:]


def test_a_block_that_went_with_its_parts_is_told():
    def is_inner(site):
        return site.id in ("0/activation.0", "1/activation.0") or site.kind == "block"

    with pytest.warns(UserWarning, match="and the block around it both went"):
        learn_to_remove(
            net(), TASK, **FAST | dict(kinds=["activation", "block"], where=is_inner, soft_steps=60, lr_omega=0.1),
            budget={"sites": 0.3},
        )  # fmt: skip


def zoo_task(entry) -> Task:
    example = entry.example()

    def run(model, data=None):
        from archlab.capture.example import run_example, tensors_in

        return sum(t.float().square().mean() for t in tensors_in(run_example(model, example)) if t.is_floating_point())

    return Task(example, lambda step: None, run, lambda model: {"size": float(run(model))})


@pytest.mark.parametrize(
    "name",
    ["stack", "edsr", "unet", "gpt", "siamese", "motion", "functional", "inplace", "preactivation", "encoder_layer"],
)
def test_budgets_are_met_on_the_zoo(name):
    entry = ZOO[name]
    model, kinds = entry.build(), ["activation"]
    found = [s for s in al.sites(model, entry.example()) if s.kind == "activation" and s.how == "local" and s.grad]
    assert found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        removal = learn_to_remove(
            model, zoo_task(entry), kinds=kinds, where=[s.id for s in found], budget={"sites": 0.6},
            soft_steps=8, push_steps=0, tune_steps=0, lr_omega=0.5, progress=False,
        )  # fmt: skip
    assert removal.left["sites"] <= 0.6
    assert removal.left["sites"] + 1 / len(found) > 0.6, "no more went than the last site"


def test_what_a_limit_measures_does_not_disturb_the_training():
    """Its quality leaves the model in evaluation mode, and draws; the loss still sees a model in training."""
    modes = []

    def seen(model, data):
        modes.append(model.training)
        return loss(model, data)

    def noisy(model, data):
        return loss(model, data) + 1e-3 * torch.rand(()) * model[3].weight.sum()

    def careless(model):
        torch.rand(5)
        model.eval()
        return TASK.quality(model)

    task = replace(TASK, loss=seen, quality=careless)
    learn_to_remove(net(), task, **FAST | dict(soft_steps=40, lr_omega=0.1), at_most_loss={"mse": 0.005})
    assert all(modes)
    ends = []
    for quality in (TASK.quality, careless):
        torch.manual_seed(5)
        task = replace(TASK, loss=noisy, quality=quality)
        found = learn_to_remove(net(), task, **FAST | dict(soft_steps=40, lr_omega=0.1), at_most_loss={"mse": 0.005})
        ends.append(found.decisions["omega"].to_list())
    assert ends[0] == ends[1]


def test_a_steered_lambda_stands_in_the_history():
    history = learn_to_remove(net(), TASK, **FAST, budget={"sites": 0.4}).history
    lam = history.loc[history["phase"] == "soft", "lam"]
    assert lam.notna().all() and (lam > 0).all() and lam.nunique() > 10
    assert "lam" not in learn_to_remove(net(), TASK, **FAST, lam=0.5).history


def test_non_linearities_inside_a_branch_count_for_it():
    """The sites are branches alone: what each takes with it is measured, and steers and weighs."""
    found = list(al.sites(net(), TASK.example, kinds="branch"))
    savings = Savings(net(), TASK.example, found, ["activations"])
    assert savings.alone["activations"] == pytest.approx([4 / 28, 8 / 28, 16 / 28])


def test_a_concatenated_operand_saves_what_the_layer_behind_reads_of_it():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(10, 2)

        def forward(self, x):
            return self.last(torch.cat([x, self.first(x)], -1))

    found = list(al.sites(Joined(), torch.zeros(3, 4), kinds="concat"))
    savings = Savings(Joined(), torch.zeros(3, 4), found, ["macs", "params"])
    assert savings.alone == {"macs": [8 / 44], "params": [8 / 52]}
    assert savings.left("macs", [found[0].id]) == pytest.approx(1 - 8 / 44)
    task = Task(torch.zeros(3, 4), lambda step: torch.ones(3, 4), lambda model, x: model(x).square().mean(),
                lambda model: {})  # fmt: skip
    learned = learn_to_remove(Joined(), task, **FAST | dict(kinds="concat", budget={"macs": 0.9}))
    assert learned.decisions[["params", "macs"]].to_numpy().tolist() == [[8, 24]]


class Even(nn.Module):
    """|x| as relu(x) + relu(-x), scaled to a mean of its own: switched evenly, x - x makes up for what is missing until
    nothing is left."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.ReLU(), nn.ReLU(), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.last.weight, 0.8)

    def forward(self, x):
        even = self.left(x) + self.right(-x)
        return self.last(even / (even.mean().abs() + 1e-6))


def even_batch(step: int):
    x = torch.randn(64, 1, generator=torch.Generator().manual_seed(step))
    return x, x.abs() + 0.1 * torch.randn(64, 1, generator=torch.Generator().manual_seed(step + 10**6))


EVEN = Task(torch.ones(2, 1), even_batch, loss, lambda model: {"mse": loss(model, even_batch(10**7)).item()})


@pytest.mark.parametrize("after", [dict(push_steps=10, tune_steps=0), dict(rewind=True), dict(push_steps=0)])
def test_half_open_switches_that_made_up_for_one_another_are_warned_of(after):
    options = FAST | dict(kinds="activation", lam=4.0, soft_steps=60, lr_omega=0.05) | after
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        removal = learn_to_remove(Even(), EVEN, **options, evaluate=True)
    phase = "pushed" if "tune_steps" in after else "tuned"
    assert any(f"once {phase} (0.0" in str(one.message) and "half-open" in str(one.message) for one in told)
    assert removal.qualities.set_index("phase")["mse"]["soft"] < 0.05 < 0.5 < removal.qualities["mse"].iloc[-1]


def test_a_collapse_is_one_in_units_of_the_loss():
    for scale in (1e-6, 1.0, 1e6):
        assert has_collapsed(0.1 * scale, 0.12 * scale, 0.25 * scale)
        assert not has_collapsed(0.1 * scale, 0.12 * scale, 0.23 * scale)
        assert not has_collapsed(0.1 * scale, 0.3 * scale, 0.5 * scale)
    assert has_collapsed(-5.0, -4.9, 1.0) and not has_collapsed(-5.0, -4.9, -3.0)  # a log likelihood
    assert has_collapsed(0.1, 0.1, float("nan"))
