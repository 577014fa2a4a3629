"""Fronts: ties, directions, and volumes against counting points of a grid."""

import itertools

import numpy as np
import pandas as pd
import pytest

import archlab as al


def test_pareto_minds_which_way_is_better_and_keeps_ties():
    frame = pd.DataFrame({"ms": [1, 2, 2, 3], "error": [4, 3, 3, 3.5]})
    assert al.pareto(frame, {"ms": "lower", "error": "lower"}).tolist() == [True, True, True, False]
    assert al.pareto(frame, {"ms": "higher", "error": "lower"}).tolist() == [False, True, True, True]


def test_what_lacks_a_number_is_on_no_front():
    frame = pd.DataFrame({"ms": [1, 2, None], "error": [4, None, 3]})
    assert al.pareto(frame, {"ms": "lower", "error": "lower"}).tolist() == [True, False, False]


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_volume_is_the_share_of_a_grid_that_is_beaten(objectives):
    draw, side = np.random.default_rng(objectives), 12
    points = draw.integers(-2, side + 1, (6, objectives))  # some are no better than the reference
    columns = [f"o{n}" for n in range(objectives)]
    cells = np.array(list(itertools.product(range(side), repeat=objectives)))  # each by its lower corner
    counted = (points[:, None] > cells[None]).all(axis=2).any(axis=0).sum()
    frame, higher = pd.DataFrame(points, columns=columns), dict.fromkeys(columns, "higher")
    assert al.hypervolume(frame, higher, dict.fromkeys(columns, 0)) == counted
    lower = dict.fromkeys(columns, "lower")
    assert al.hypervolume(7 - frame, lower, dict.fromkeys(columns, 7)) == counted


def test_what_is_beaten_or_no_better_than_the_reference_adds_nothing():
    better, reference = {"macs": "lower", "quality": "higher"}, {"macs": 4, "quality": 4}
    front = pd.DataFrame({"macs": [1, 2], "quality": [5, 7]})
    more = pd.concat([front, pd.DataFrame({"macs": [3, 2, 9], "quality": [6, 7, 99]})])
    assert al.hypervolume(more, better, reference) == al.hypervolume(front, better, reference) == 7
    assert al.hypervolume(front.iloc[:0], better, reference) == 0
