"""Intervals hold the mean as often as they say, pairs are pairs, and each method is what it is called."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from archlab.measure.intervals import interval


def test_of_few_runs_it_is_students_t():
    values, others = [0.93, 0.91, 0.95], [0.90, 0.90, 0.91]
    for given, against in ((values, None), (values, others)):
        found = interval(given, against)
        apart = np.subtract(given, against) if against else np.array(given)
        wanted = stats.ttest_1samp(apart, 0).confidence_interval(0.95)
        assert found == pytest.approx((apart.mean(), wanted.low, wanted.high))


@pytest.mark.parametrize("method, least", [("t", 0.92), ("bootstrap", 0.5)])
def test_three_normal_values_are_held_by_t_and_not_by_the_bootstrap(method, least):
    draw = np.random.default_rng(0)
    held = [low <= 0 <= high for _, low, high in (interval(draw.normal(size=3), method=method) for _ in range(200))]
    assert least < np.mean(held) < (1 if method == "t" else 0.85)


def test_many_samples_by_bootstrap_hold_the_mean_narrow_and_are_always_the_same():
    draw = np.random.default_rng(0)
    few, many = (draw.normal(0.8, 0.1, count) for count in (20, 2000))
    (_, low, high), (_, lower, higher) = (interval(values, method="bootstrap") for values in (few, many))
    assert low < 0.8 < high and higher - lower < (high - low) / 5
    assert interval(few, method="bootstrap") == interval(few, method="bootstrap")


def test_pairs_are_found_by_index_and_what_is_missing_has_none():
    ours = pd.Series([3.0, 1.0, 2.0], index=[2, 0, 1])
    others = pd.Series([1.0, 1.5, 2.5], index=[0, 1, 2])
    assert interval(ours, others).mean == pytest.approx(1 / 3)
    assert interval([1.0, math.nan, 3.0], [0.5, 9.0, 2.0]).mean == 0.75
    assert interval({2: 3.0, 0: 1.0, 1: 2.0}, {0: 1.0, 1: 1.5, 2: 2.5}).mean == pytest.approx(1 / 3)


@pytest.mark.parametrize("values", ["12", {1.0, 2.0}, [1j, 2.0], [[1.0, 2.0]]], ids=str)
def test_what_are_no_numbers_in_an_order_is_refused(values):
    with pytest.raises(TypeError, match="interval: values must be numbers, one a run or sample"):
        interval(values)


def test_what_one_value_and_equal_ones_tell():
    assert interval([2.0])[0] == 2 and all(map(math.isnan, interval([2.0])[1:]))
    assert all(map(math.isnan, interval([])))
    for method in ("t", "bootstrap"):
        assert interval([1.5, 1.5, 1.5], method=method) == (1.5, 1.5, 1.5)
    assert interval([1.0, math.inf])[0] == math.inf
    wide, narrow = (interval([1.0, 2.0, 4.0], confidence=share) for share in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
