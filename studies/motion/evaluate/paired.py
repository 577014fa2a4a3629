"""Networks compared sample by sample: a cell keeps what each held-out sample was worth, a report the differences."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

import archlab as al
from archlab.report import Interval, Table, table, with_ends

from .quality import COMPARED

TOLD = (
    "Of each held-out sample, a network's value (the mean of its seeds) less that of the other with the same seeds; "
    "the mean over the samples with its 95 % bootstrap interval."
)


def change_against(runs: pd.DataFrame, control: pd.DataFrame, measure: str) -> Interval | None:
    """Of each sample, the mean of the runs less the control's of the same seeds; None where it was not measured."""
    same = control[control["seed"].isin(runs["seed"])]
    of_samples = (np.array(part[f"each_{measure}"].tolist(), float) for part in (runs, same))
    ours, others = (samples.mean(axis=0) for samples in of_samples)
    return None if np.isnan(ours).any() else al.interval(ours, others, method="bootstrap")


def differences(rows: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> Table:
    """How far the networks of each pair are apart, sample by sample, the first less the second; by "row" of `rows`."""
    lines = []
    for name, other in pairs:
        ours, others = (rows[rows["row"] == one] for one in (name, other))
        line: dict[str, Any] = {"network": name, "against": other}
        for measure in COMPARED:
            if (change := change_against(ours, others, measure)) is not None:
                line[measure.upper()] = with_ends(change, digits=4)
        lines.append(line)
    return table(pd.DataFrame(lines))
