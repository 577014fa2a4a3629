"""How far a mean can be trusted: its interval over runs or samples, and that of a difference of two on the same ones.

It sees numbers only. scipy has the statistics; what is here is which of them, and that pairs are pairs.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..arguments import choice, number, wrong

CONFIDENCE = 0.95
RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and the ends of its interval, NaN where one value tells nothing of them."""

    mean: float
    low: float
    high: float


def interval(
    values: Iterable[float] | Mapping[Any, float],
    others: Iterable[float] | Mapping[Any, float] | None = None,
    *,
    method: str = "t",
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of `values` and its interval; with `others`, of the differences on the same seeds or samples.

    What two networks share, easy images or a lucky seed, cancels in a paired difference, so that its interval is much
    narrower than those of the two means. Values that are missing (NaN) on either side are left out.

    Args:
        values: One a run or sample. A Series is paired by its index, a dict by its keys, all else by position.
        others: What they are compared with; None: nothing.
        method: "t": Student's t, for a few runs, whose means are taken for normal; the bootstrap is far too narrow of
            three. "bootstrap": the percentile bootstrap of the mean, 2,000 resamples, always the same ones, for many
            samples (30 or more), of whatever distribution: SSIM ends at 1 and is skewed.
        confidence: How often such an interval holds the true mean.

    Returns:
        mean, low, high; low and high are NaN for fewer than two values, and where the mean is infinite.

    Raises:
        TypeError: for what are no numbers.
        ValueError: for other lengths or runs on the two sides, a run that is there twice, and options out of range.

    Source:
        Student, The probable error of a mean, 1908; Efron and Tibshirani, An introduction to the bootstrap, 1993,
        chapter 13.

    >>> mean, low, high = interval([0.91, 0.92, 0.93], [0.90, 0.90, 0.92])
    >>> round(mean, 4), round(low, 4), round(high, 4)
    (0.0133, -0.001, 0.0277)
    """
    choice("interval: method", method, METHODS)
    number("interval: confidence", confidence, above=0, high=1)
    if confidence == 1:
        raise ValueError(wrong("interval: confidence", "below 1", confidence))
    found = _series("values", values)
    if others is not None:
        found = found - _paired(found, _series("others", others))
    found = found.dropna().to_numpy(float)
    mean = float(found.mean()) if len(found) else math.nan
    if len(found) < 2 or not math.isfinite(mean):
        return Interval(mean, math.nan, math.nan)
    return Interval(mean, *METHODS[method](found, confidence)) if np.ptp(found) else Interval(mean, mean, mean)


def _student(values: np.ndarray, confidence: float) -> tuple[float, float]:
    from scipy import stats  # at first use, as it takes long to import

    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _bootstrap(values: np.ndarray, confidence: float) -> tuple[float, float]:
    from scipy import stats

    found = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", rng=0
    ).confidence_interval
    return float(found.low), float(found.high)


METHODS: dict[str, Callable[[np.ndarray, float], tuple[float, float]]] = {"t": _student, "bootstrap": _bootstrap}


def _series(name: str, values: Any) -> pd.Series:
    try:
        if isinstance(values, str | Set) or np.iscomplexobj(values):
            raise TypeError
        found = pd.Series(values if isinstance(values, pd.Series | Mapping) else list(values))
        found = found.astype(float)
    except (TypeError, ValueError):
        raise TypeError(wrong(f"interval: {name}", "numbers, one a run or sample", values)) from None
    if not found.index.is_unique:
        twice = found.index[found.index.duplicated()].to_list()[0]
        raise ValueError(wrong(f"interval: {name}", "of runs that are there once", twice, "take their mean before"))
    return found


def _paired(values: pd.Series, others: pd.Series) -> pd.Series:
    if len(values) != len(others) or not values.index.isin(others.index).all():
        raise ValueError(
            f"interval: values and others must be of the same runs, got {len(values)} and {len(others)}, "
            f"{len(values.index.intersection(others.index))} of them the same; leave out what has no pair"
        )
    return others
