"""Models side by side, as they are or trained on; quality against cost over budgets, methods and seeds."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
from archlab.removal.curves.compare import compare
from archlab.removal.curves.lambda_path import lambda_path
from archlab.removal.curves.trade_off import trade_off
from archlab.training.checkpoint import CheckpointMismatch
from archlab.training.optimization import cosine
from archlab.training.task import Task

from ..report.pages import read


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


def test_what_is_drawn_in_training_is_the_same_for_all_and_names_are_told_apart(tmp_path):
    model = nn.Sequential(nn.Dropout(0.5), net())
    tuned = compare({"a": model, "b": model}, TASK, steps=3, lr=1e-2, seconds=0, progress=False)
    assert tuned["mse"][0] == tuned["mse"][1]
    with pytest.raises(ValueError, match="two models are called '1'"):
        compare({1: model, "1": model}, TASK, seconds=0)
    with pytest.raises(ValueError, match=r"a name of models must be that of a folder.*got '../b'"):
        compare({"../b": model}, TASK, steps=1, seconds=0, folder=tmp_path)


@pytest.mark.parametrize(
    ("models", "said"), [([net()], "must be a dict of models"), ({}, "one model or more"), ({"a": 3}, "must be a dict")]
)
def test_what_is_no_dict_of_models(models, said):
    with pytest.raises((TypeError, ValueError), match=said):
        compare(models, TASK)


FAST = dict(
    kinds="activation",
    measure="sites",
    soft_steps=40,
    push_steps=4,
    tune_steps=6,
    lr=1e-3,
    lr_omega=0.1,
    progress=False,
)


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)
    )


LOWER = Task(torch.zeros(1, 4), batch, loss, TASK.quality, measures={"mse": "lower"})


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trade_off")
    methods = ["learned", "greedy", "one shot", "random"]
    return folder, trade_off(
        deep(), LOWER, **FAST, tune_schedule=cosine(10), budgets=[0.7, 0.4], methods=methods, seeds=2, folder=folder
    )


def test_a_row_for_each_run_and_a_control_trained_as_long(found):
    frame = found[1].frame
    assert list(frame.columns) == ["method", "budget", "seed", "steps", "sites", "params", "macs", "mse"]
    counts = frame.groupby("method", sort=False).size().to_dict()
    assert counts == {"original": 1, "control": 2, "learned": 4, "greedy": 4, "one shot": 4, "random": 4}
    of_methods = frame[~frame["method"].isin(["original", "control"])]
    assert set(of_methods.groupby("budget")["sites"].unique().map(tuple)) == {(1,), (2,)}
    controls = frame[frame["method"] == "control"]["mse"]
    assert controls.nunique() == 2, "seeds see other batches"
    assert controls.max() < frame[frame["method"] == "original"]["mse"].iloc[0]


def test_the_summary_pairs_each_run_with_the_control_of_its_seed(found):
    frame, summary = found[1].frame, found[1].summary()
    runs = frame[(frame["method"] == "greedy") & (frame["budget"] == 0.4)].set_index("seed")["mse"]
    apart = runs - frame[frame["method"] == "control"].set_index("seed")["mse"]
    row = summary[(summary["method"] == "greedy") & (summary["budget"] == 0.4)].iloc[0]
    assert row["change"] == pytest.approx(apart.mean()) and row["sd"] == pytest.approx(runs.std())
    half = 12.706204736 * apart.std() / 2**0.5  # Student's t of one degree of freedom
    assert row["low"] == pytest.approx(apart.mean() - half) and row["high"] == pytest.approx(apart.mean() + half)


def test_of_a_quality_that_the_task_says_nothing_of_no_way_is_claimed(found):
    ax = replace(found[1], better={}).plot()
    assert ax.get_ylabel() == "mse" and ax.get_xlabel().endswith("(lower is better)")
    assert not next(line for line in ax.lines if line.get_label() == "_front").get_xydata().size
    with pytest.raises(ValueError, match=r"better\['mse'\] must be"):
        al.plot.tradeoff(found[1].frame, x="macs", y="mse", label="method", better={"mse": None}, zone={"macs": 1.0})


def test_table_and_plot(found):
    text = found[1].table().markdown()
    assert "against the control" in text and "one shot" in text
    ax = found[1].plot(x="macs")
    assert ax.get_xlabel().startswith("MACs [M]") and "lower" in ax.get_ylabel()
    assert found[1].plot().get_xlabel().startswith("budget (sites)"), "activations save no multiply-adds"
    with pytest.raises(ValueError, match="quality must be one of 'mse', got 'psnr'"):
        found[1].plot("psnr")


def test_the_page_shows_each_run_by_name(found, tmp_path):
    page = read(found[1].report(tmp_path))
    assert "Sequential: quality against sites" in page.text and "lr_omega" in page.text and al.__version__ in page.text
    for row in found[1].frame.to_dict("records"):
        which = f"{row['method']}, budget {row['budget']:g}, seed {row['seed']}: {row['sites']} site"
        assert sum(title.startswith(which) for title in page.titles) == 1
    assert page.links[:3] == ["table.md", "table.tex", "table.csv"] and "runs.csv" in page.links
    assert repr(found[1]) == found[1].table().markdown() and "<table" in found[1]._repr_html_()


def test_what_ran_is_not_run_again(found, monkeypatch):
    """Also where a schedule is made anew, as in another process."""
    folder, before = found
    monkeypatch.setattr("archlab.removal.curves.runs.METHODS", dict.fromkeys(["control", "greedy"]))
    options = FAST | dict(tune_schedule=cosine(10))
    again = trade_off(deep(), LOWER, **options, budgets=[0.7, 0.4], methods=["greedy"], seeds=2, folder=folder)
    kept = before.frame[before.frame["method"].isin(["original", "control", "greedy"])]
    assert again.frame.equals(kept.reset_index(drop=True))
    with pytest.raises(CheckpointMismatch):
        trade_off(deep(), LOWER, **FAST | dict(lr=1e-2), methods=["greedy"], folder=folder)


def test_layers_are_merged_to_a_budget_beside_a_control(tmp_path):
    """Each run has as many steps of training; what is merged has fewer layers, and is kept as the others are."""
    options = FAST | dict(measure="macs", budgets=[0.6], methods=["merge"], seeds=1, folder=tmp_path)
    found = trade_off(deep(), LOWER, **options)
    merged, whole = (found.frame.set_index("method")["macs"][method] for method in ("merge", "original"))
    assert 0 < merged <= 0.6 * whole and found.frame["steps"].tolist() == [0, 50, 50]
    assert trade_off(deep(), LOWER, **options).frame.equals(found.frame)


def test_channels_are_learned_along_budgets_and_along_lambda(tmp_path):
    options = FAST | dict(granularity="channel", seeds=1)
    found = trade_off(deep(), LOWER, **options, methods=["learned"], budgets=[0.75, 0.5])
    assert found.frame.set_index("budget").loc[[0.75, 0.5], "sites"].tolist() == [6, 12], "of 24 channels"
    assert found.settings["granularity"] == "channel"
    assert "budget (sites)" in read(found.report(tmp_path)).text
    del options["measure"]
    path = lambda_path(deep(), LOWER, **options, lams=[0.05])
    assert path.frame["method"].tolist() == ["original", "control", "learned"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(granularity="channel"), "'greedy' removes whole sites; granularity='channel' goes with methods="),
        (dict(granularity="channel", methods=["learned"], warm_start=True), "warm_start goes on with whole sites"),
        (dict(granularity="channel", methods=["learned"], kinds="block"), "goes with kinds='activation' alone"),
        (dict(granularity="head", methods=["learned"]), "heads of an attention are sites of their own; choose kinds"),
        (dict(granularity="row"), "granularity must be one of 'site', 'channel'"),
        (dict(methods=["merge"], kinds=["activation", "block"]), "'merge' removes activations"),
        (dict(methods=["merge"], kinds="all"), "'merge' removes activations"),
        (dict(methods=["merge"]), "the measure of 'merge' must be one of .*got 'sites'"),
        (
            dict(methods=["merge", "greedy"], measure="macs"),
            "'greedy' merges nothing, and activations alone save no macs",
        ),
        (dict(methods=["merge"], measure="macs", warm_start=True), "'merge' ends with merged layers"),
        (dict(budgets=[1.2]), r"budget\['sites'\] must be the share"),
        (dict(measure="time"), "a measure in budget must be one of"),
        (dict(methods=[]), "methods must be a list of one method or more"),
        (dict(budgets=[]), "budgets must be a list of one number or more"),
        (dict(budgets=0.5), "budgets must be a list of one number or more, got 0.5"),
        (dict(methods=["best"]), "methods must be one of .*'learned'"),
        (dict(seeds=0), "seeds must be a whole number of at least 1, got 0"),
        (dict(lam=0.1), "lam"),
    ],
)
def test_a_trade_off_that_makes_no_sense(options, said):
    with pytest.raises((ValueError, TypeError), match=said):
        trade_off(deep(), LOWER, **FAST | options)


def test_a_budget_that_cannot_be_met_is_told_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match=r"budget\['macs'\] of 0.01 cannot be met"):
        trade_off(
            deep(), LOWER, **FAST | dict(measure="macs", budgets=[0.9, 0.01]), methods=["random"], folder=tmp_path
        )
    assert not list(tmp_path.iterdir())
