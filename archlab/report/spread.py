"""Several runs of a line, seeds or samples: their means and deviations, their changes from a base run by run, as words.

Every table and figure that shows several runs takes them from here.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from ..measure.intervals import Interval, interval

MOST_WHOLE = 2**63 - 1  # of int64


@dataclass(frozen=True, eq=False)
class Spread:
    """Runs merged to lines.

    Attributes:
        means: A row a line, in the order in which they were met; a text that runs do not share is all of theirs.
        sds: The standard deviation over the runs of each number, NaN of one run and of text.
        changes: By position of a column, the change of each line from the base's, run by run; None of the base itself.
    """

    means: pd.DataFrame
    sds: pd.DataFrame
    changes: dict[int, list[Interval | None]]


def over_runs(
    frame: pd.DataFrame,
    runs: pd.Series,
    *,
    base: int | None = None,
    changes: Collection[int] = (),
    method: str = "t",
) -> Spread:
    """Merge the rows of `frame` that have the same first cell, which are runs of one line.

    Args:
        frame: A row a run. Its first column says of which line.
        runs: Which run each row is, with the index of `frame`: its seed, or its sample. Of several rows of one line and
            run (the seeds of a sample) the mean counts. Rows without one (NaN) are one run.
        base: The line that others are compared with.
        changes: Positions of the columns whose change from the base is wanted.
        method: Of their intervals, as for `al.interval`.

    Returns:
        The lines.

    Raises:
        ValueError: where changes are wanted, a line that shares no run with the base.

    >>> frame = pd.DataFrame({"row": ["a", "a", "b", "b"], "loss": [1.0, 3.0, 2.0, 4.0]})
    >>> found = over_runs(frame, pd.Series([0, 1, 0, 1]), base=0, changes=[1])
    >>> found.means["loss"].tolist(), found.changes[1]
    ([2.0, 3.0], [None, Interval(mean=1.0, low=1.0, high=1.0)])
    """
    names = frame.iloc[:, 0].map(str).to_numpy()
    order = list(dict.fromkeys(names))
    means, sds, found = [], [], {}
    for position in range(frame.shape[1]):
        column = frame.iloc[:, position]
        if position == 0 or not is_number(column):
            parts = [part for _, part in column.groupby(names, sort=False)]
            means.append(pd.Series([_shared(part) for part in parts], dtype=object))
            sds.append(pd.Series(math.nan, index=range(len(order))))
            continue
        parts = column.groupby(names, sort=False)
        each = [part.groupby(runs[part.index], sort=False, dropna=False).mean() for _, part in parts]
        mean = pd.Series([one.mean() for one in each])
        constant = pd.api.types.is_integer_dtype(column) and (mean == mean.round()).all()
        means.append(mean.astype(column.dtype) if constant else mean)
        sds.append(pd.Series([one.std() for one in each]))
        if position in changes and base is not None:
            found[position] = [
                None if line == base else _change(one, each[base], order[line], order[base], method)
                for line, one in enumerate(each)
            ]
    framed = [pd.DataFrame(dict(enumerate(made))).set_axis(frame.columns, axis="columns") for made in (means, sds)]
    return Spread(framed[0], framed[1], found)


def with_sd(mean: float, sd: float, digits: int | None = None) -> str:
    """A mean with its standard deviation, where there is one; `digits` None: so many that count.

    >>> with_sd(71.666, 8.31), with_sd(0.5, math.nan), with_sd(0.93, 0.004, 3)
    ('71.67 ± 8.3', '0.5', '0.930 ± 0.004')
    """
    if digits is None:
        return f"{mean:.4g}" + ("" if math.isnan(sd) else f" ± {sd:.2g}")
    return f"{mean:,.{digits}f}" + ("" if math.isnan(sd) or sd == 0 else f" ± {sd:,.{digits}f}")


def with_ends(change: Interval, digits: int | None = None) -> str:
    """A change and its interval in brackets, where it has one; nothing of no change known.

    >>> with_ends(Interval(-0.6, -5.41, 4.2)), with_ends(Interval(0.1, math.nan, math.nan), 2)
    ('-0.6 [-5.4, +4.2]', '+0.10')
    """
    if math.isnan(change.mean):
        return ""
    mean, end = ("+.3g", "+.2g") if digits is None else (f"+,.{digits}f",) * 2
    ends = "" if math.isnan(change.low) else f" [{change.low:{end}}, {change.high:{end}}]"
    return f"{change.mean:{mean}}{ends}"


def plain_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with numbers that can be subtracted, turned round and missing: unsigned and nullable ones as int64 or
    float64, columns without any value as NaN.

    >>> plain_numbers(pd.DataFrame({"n": pd.array([5, None], dtype="Int64")}))["n"].tolist()
    [5.0, nan]
    """

    def plain(column: pd.Series) -> pd.Series:
        if column.isna().all() or (is_number(column) and column.isna().any()):
            return pd.Series(column.to_numpy(float, na_value=math.nan), index=column.index)
        if pd.api.types.is_integer_dtype(column):
            return column.astype(float if column.max() > MOST_WHOLE else "int64")
        return column

    columns = {position: plain(frame.iloc[:, position]) for position in range(frame.shape[1])}
    made = pd.DataFrame(columns, index=frame.index).set_axis(frame.columns, axis="columns")
    made.attrs = dict(frame.attrs)
    return made


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers, of which truth values are none."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _shared(cells: pd.Series) -> object:
    """What all runs say, or each thing that one of them says."""
    said = list(dict.fromkeys(cells.map(str)))
    return cells.iloc[0] if len(said) == 1 else ", ".join(said)


def _change(ours: pd.Series, bases: pd.Series, line: str, base: str, method: str) -> Interval:
    both = ours.index.intersection(bases.index)
    if both.empty:
        said = [f"{name!r} has {', '.join(map(str, runs.index))}" for name, runs in ((line, ours), (base, bases))]
        raise ValueError(
            f"{line!r} has no run in common with {base!r}, which it is compared with run by run: {', '.join(said)}"
        )
    return interval(ours[both], bases[both], method=method)
