"""Networks compared sample by sample: a cell keeps what each held-out sample was worth, a report the differences."""

import numpy as np
import pandas as pd

import archlab as al
from archlab.report import Interval


def change_against(runs: pd.DataFrame, control: pd.DataFrame, measure: str) -> Interval | None:
    """Of each sample, the mean of the runs less the control's of the same seeds; None where it was not measured."""
    same = control[control["seed"].isin(runs["seed"])]
    of_samples = (np.array(part[f"each_{measure}"].tolist(), float) for part in (runs, same))
    ours, others = (samples.mean(axis=0) for samples in of_samples)
    return None if np.isnan(ours).any() else al.interval(ours, others, method="bootstrap")
