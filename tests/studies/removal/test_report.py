"""What the report says follows from the rows: signs, winners, and rank correlations."""

import math

import pandas as pd
import pytest

from studies.removal.report import (
    against,
    by_network,
    correlations,
    gate_table,
    reading,
    trade_off_of,
    winners,
    with_methods,
)

MEANS = {  # by network and method at .34, the quality of the seeds 0, 1, 2
    ("ResNet-20", "learned"): (80.0, 81.0, 82.0),  # higher is better: worse than greedy, each time by 2
    ("ResNet-20", "greedy"): (82.0, 83.0, 84.1),
    ("language model", "learned"): (3.0, 3.1, 3.2),  # lower is better: better than greedy, each time by .1
    ("language model", "greedy"): (3.1, 3.2, 3.31),
}


@pytest.fixture
def rows():
    made = []
    for (network, method), values in MEANS.items():
        for seed, value in enumerate(values):
            about = {
                "network": network,
                "seed": seed,
                "steps": 9,
                "sites": 3,
                "params": 10,
                "macs": 10,
                "quality": value,
            }
            made.append({**about, "what": "removal", "method": method, "budget": 0.34})
            if method == "greedy":
                made.append({**about, "what": "control", "method": "control", "budget": 1.0, "sites": 0})
    return pd.DataFrame(made)


def test_a_difference_is_positive_where_it_is_better(rows):
    worse = against(trade_off_of(rows, "ResNet-20"), "learned", "greedy", 0.34)
    better = against(trade_off_of(rows, "language model"), "learned", "greedy", 0.34)
    assert worse["change"] == pytest.approx(-2.0333, abs=1e-3) and worse["low"] < worse["high"] < 0
    assert better["change"] == pytest.approx(0.1033, abs=1e-3) and 0 < better["low"] < better["high"]


def test_winners_and_their_reading(rows):
    found = winners({name: trade_off_of(rows, name) for name in ("ResNet-20", "language model")})
    assert found.set_index("network")["best"].to_dict() == {"ResNet-20": "greedy", "language model": "learned"}
    told = reading(found)
    assert "worse than greedy in 1 of them" in told and "better in 1" in told
    assert "does not hold by the interval (1 of 2)" in told and "does not hold by the mean (1 of 2)" in told


@pytest.fixture
def gated():
    """A removal of every way on the word network, by two seeds, in no order; parameters and quality tell them apart."""
    ways = {
        ("original", 1.0, "", None): 90, ("control", 1.0, "", None): 91,
        ("learned", 0.34, "", None): 50, ("learned, rewind", 0.34, "", None): 51,
        ("greedy", 0.34, "", None): 60, ("greedy", 0.67, "", None): 80, ("learned", 0.67, "", None): 70,
        (None, 0.34, "polarized", False): 52, (None, 0.34, "polarized", True): 53,
        (None, 0.34, "annealed", False): 54, (None, 0.34, "annealed", True): 55,
    }  # fmt: skip
    kinds = {"original": "original", "control": "control", None: "gate"}
    rows = [
        {"network": "word network", "what": kinds.get(method, "removal"), "method": method, "budget": budget,
         "gate": gate or None, "rewind": rewind, "seed": seed, "steps": 0 if method == "original" else 9, "sites": 3,
         "params": 1000 * quality, "macs": 10, "quality": float(quality + seed), "preset": "cpu"}
        for (method, budget, gate, rewind), quality in ways.items()
        for seed in (0, 1)
    ]  # fmt: skip
    return with_methods(pd.DataFrame(rows).sample(frac=1, random_state=0))


def test_each_row_of_a_network_has_its_own_parameters(gated):
    found = by_network(trade_off_of(gated, "word network"), gated, "word network").frame
    assert found["method"].tolist() == [
        "original", "control", "learned", "greedy", "learned", "learned, rewind", "polarized", "polarized, rewind",
        "greedy",
    ]  # fmt: skip
    assert found["params [k]"].tolist() == [90, 91, 70, 80, 50, 51, 52, 53, 60]


def test_gates_are_ranked_beside_the_plain_blend(gated):
    found = gate_table(gated).frame
    assert found["gate"].tolist() == [
        "annealed, rewind", "annealed, going on", "polarized, rewind", "polarized, going on", "blend, rewind",
        "blend, going on",
    ]  # fmt: skip
    assert found["mean rank"].tolist() == [1, 2, 3, 4, 5, 6]


def test_rows_of_other_steps_are_not_compared(gated):
    gated.loc[gated["method"] == "greedy", "steps"] = 5
    with pytest.raises(ValueError, match=r"word network: what is compared must have as many steps each, got .*greedy"):
        trade_off_of(gated, "word network")


def test_correlations_are_of_the_ranks_of_sums():
    after, gone = (1.0, 2.0, 4.0), (["a", "b"], ["a", "c"], ["b", "c"])
    subsets = [{"sites": s, "before": -a, "after": a} for s, a in zip(gone, after, strict=True)]
    scores = {
        "true": {"a": 0.0, "b": 1.0, "c": 9.0},
        "false": {"a": 9.0, "b": 1.0, "c": 0.0},
        "same": {"a": 1.0, "b": 1.0, "c": 1.0},
        "unknown": {"a": 1.0, "b": None, "c": 3.0},
    }
    found = correlations(scores, subsets)
    assert found["true"] == pytest.approx(1) and found["false"] == found["loss before tuning"] == pytest.approx(-1)
    assert math.isnan(found["same"]) and math.isnan(found["unknown"])
