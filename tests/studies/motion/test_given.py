"""Weights trained elsewhere: taken with their facts, told in the report, refused where something is missing."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from archlab.experiments import Scratch
from studies.motion import table1
from studies.motion.network.models import Config, MagnificationNet
from studies.motion.table1_report import baseline_trained
from studies.motion.train import networks
from studies.motion.train.given import FACTS, given, told

MADE = {"steps": 1500, "batch": 8, "losses": [[500, 0.2], [1000, 0.1]], "source": "some photos", "device": "a CPU"}
MADE |= {"seconds": 600, "optimizer": "Adam, rate 1e-3"}


def put(folder, name, config, facts=MADE):
    folder.mkdir(exist_ok=True)
    net = MagnificationNet(config)
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(facts))
    return net


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    put(folder, "baseline", Config())
    put(folder, "width 4", Config(width=4))
    return folder


def row_of(study, name):
    return next(row for row in study.ROWS if row["name"] == name)


def test_table_1_takes_its_baseline(weights, tmp_path):
    row = row_of(table1, table1.TRAINING)
    assert table1.given(row, weights) and table1.given(row_of(table1, "baseline"), weights) is None
    values = table1.cell_for(row)(row, "cpu", 0, Scratch(tmp_path, weights=weights))
    assert (values["steps"], values["loss"], values["losses"]) == (1500, 0.1, [0.2, 0.1])
    taken, wanted = (load_file(folder / "baseline.safetensors") for folder in (tmp_path, weights))
    assert all(torch.equal(taken[name], wanted[name]) for name in wanted)
    assert baseline_trained({}, values) == f"Baseline: {told(values)}"
    assert told(values) == (
        "Trained elsewhere and given by --weights: 1,500 steps of 8 samples, 10 minutes on a CPU; some photos; "
        "Adam, rate 1e-3."
    )


def test_networks_takes_those_that_are_there_and_no_others(weights, tmp_path):
    assert networks.given(row_of(networks, "width 4"), weights)
    for name in ("width 8", "quality of width 4", "speed"):
        assert networks.given(row_of(networks, name), weights) is None
    row = row_of(networks, "width 4")
    values = networks.cell_for(row)(row, "cpu", 0, Scratch(tmp_path, weights=weights))
    assert values["steps"] == 1500 and values["facts"] == MADE
    assert told({"steps": 3}) == "" and told({"facts": float("nan")}) == "", "what a study trained itself"


def test_other_weights_are_identified_as_others(weights, tmp_path):
    row = row_of(table1, table1.TRAINING)
    before = table1.given(row, weights)
    torch.manual_seed(99)
    put(tmp_path, "baseline", Config())
    assert table1.given(row, tmp_path) != before
    facts = tmp_path / "baseline.json"
    one = table1.given(row, tmp_path)
    facts.write_text(json.dumps(MADE | {"seconds": 1}))
    assert table1.given(row, tmp_path) != one


@pytest.mark.parametrize("missing", FACTS)
def test_a_fact_that_is_missing_is_named(tmp_path, missing):
    put(tmp_path, "baseline", Config(width=4), {name: fact for name, fact in MADE.items() if name != missing})
    with pytest.raises(ValueError, match=rf"baseline\.json must be an object that says .*does not say '{missing}'"):
        given(tmp_path, "baseline")


@pytest.mark.parametrize(
    "facts, message",
    [
        (MADE | {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        (MADE | {"losses": []}, r"losses must be a list of at least one number, got \[\]"),
        ([1, 2], "must be an object"),
    ],
)
def test_facts_that_are_none_are_refused(tmp_path, facts, message):
    put(tmp_path, "baseline", Config(width=4), facts)
    with pytest.raises(ValueError, match=message):
        given(tmp_path, "baseline")


def test_weights_without_facts_or_of_another_network_are_refused(tmp_path):
    put(tmp_path, "baseline", Config(width=4))
    assert given(None, "baseline") is None and given(tmp_path, "quarter") is None
    found = given(tmp_path, "baseline")
    assert found is not None
    with pytest.raises(ValueError, match=r"baseline\.safetensors does not hold the weights of this network"):
        found.load_(MagnificationNet(Config(width=8)))
    (tmp_path / "baseline.json").write_text("{")
    with pytest.raises(ValueError, match=r"baseline\.json is not JSON"):
        given(tmp_path, "baseline")
    (tmp_path / "baseline.json").unlink()
    with pytest.raises(ValueError, match=r"baseline\.safetensors has no facts: baseline\.json must say steps"):
        given(tmp_path, "baseline")
