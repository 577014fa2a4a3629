"""Fronts of several objectives: who is beaten by nobody, and how much a set of candidates covers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..arguments import choice, number, wrong
from .spread import plain_numbers
from .tables import WAYS, check_columns


def pareto(frame: pd.DataFrame, better: Mapping[str, str]) -> pd.Series:
    """Which rows no other row beats by being as good in every column of `better` and better in one.

    Args:
        frame: A row a candidate.
        better: By column, whether "higher" or "lower" is better.

    Returns:
        A boolean Series with the index of `frame`. A row that lacks a number (NaN) is not among them.

    Raises:
        ValueError: for a column that is not there or holds no numbers, or another word than these.

    >>> frame = pd.DataFrame({"macs": [1, 2, 3], "quality": [5, 7, 6]})
    >>> pareto(frame, {"macs": "lower", "quality": "higher"}).tolist()
    [True, True, False]
    """
    values = _higher_is_better(frame, better)
    unknown = values.isna().any(axis=1)
    beaten = [((values >= row).all(axis=1) & (values > row).any(axis=1)).any() for _, row in values.iterrows()]
    return ~(pd.Series(beaten, index=frame.index, dtype=bool) | unknown)


def hypervolume(frame: pd.DataFrame, better: Mapping[str, str], reference: Mapping[str, float]) -> float:
    """How much the rows cover: the volume of what one of them beats and that beats the `reference` (Zitzler 1999).

    One number for a front, larger for a better one: of two fronts that cross it still says which covers more. It hangs
    on the units of the columns and on the reference, so that only values of the same can be compared.

    Args:
        frame: A row a candidate. One that is no better than the reference in some column covers nothing.
        better: By column, whether "higher" or "lower" is better.
        reference: By column of `better` the value that is to be beaten: what is just not acceptable.

    Returns:
        The volume, in the product of the columns' units.

    Raises:
        ValueError: for a column that is not there or holds no numbers, a reference that is not finite, or one that is
            of other columns than `better`.

    >>> frame = pd.DataFrame({"macs": [1, 2, 3], "quality": [5, 7, 6]})
    >>> hypervolume(frame, {"macs": "lower", "quality": "higher"}, {"macs": 4, "quality": 4})  # 1 x 1 + 2 x 3
    7.0
    """
    if not isinstance(reference, Mapping) or set(reference) != set(better):
        raise ValueError(wrong("hypervolume: reference", f"a dict with a number for each of {list(better)}", reference))
    for name, value in reference.items():
        number(f"hypervolume: reference[{name!r}]", value)
    values = _higher_is_better(frame, better)
    least = _higher_is_better(pd.DataFrame([reference]), better).to_numpy()[0]
    return _covered(values.to_numpy(float) - least)


def _covered(points: np.ndarray) -> float:
    """The volume between the origin and the points, n x d: slice by slice of the last axis."""
    points = points[(points > 0).all(axis=1)]
    if points.shape[1] == 1:
        return float(points.max(initial=0.0))
    heights = np.unique(points[:, -1])
    thickness = np.diff(heights, prepend=0.0)
    return float(sum(d * _covered(points[points[:, -1] >= h, :-1]) for h, d in zip(heights, thickness, strict=True)))


def _higher_is_better(frame: pd.DataFrame, better: Mapping[str, str]) -> pd.DataFrame:
    """The columns of `better`, those turned round of which less is better."""
    check_columns(frame, (), numeric=better)
    frame = plain_numbers(frame[[*better]])
    for name, way in better.items():
        choice(f"better[{name!r}]", way, WAYS)
    return pd.DataFrame({name: frame[name] * (1 if way == "higher" else -1) for name, way in better.items()})
