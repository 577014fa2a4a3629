"""A second opinion on multiply-adds: fvcore's. Nothing else in archlab needs fvcore, so it is an extra."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..capture.copies import copied, refuse_wrappers
from ..capture.example import run_example
from ..capture.misfit import misfits_told


@dataclass(frozen=True)
class Opinion:
    """fvcore's count of one run.

    Attributes:
        macs: Multiply-adds.
        uncounted: The ops that it did not count, with how often they ran.
    """

    macs: int
    uncounted: dict[str, int]


def fvcore_cost(model: nn.Module, example: Any) -> Opinion:
    """Return a second opinion: multiply-adds by fvcore, which traces and really runs a copy of the model once.

    It counts nothing for attention kernels and element-wise ops, adds something for normalisation and up-sampling
    (one for each element of a nearest one), and drops dead code.

    Args:
        model: Left untouched.
        example: What it is run on: a tensor, a tuple, a dict of keywords, or a `Call`.

    Returns:
        Multiply-adds, and which ops were not counted.

    Raises:
        ModuleNotFoundError: where fvcore is not installed.

    >>> import torch
    >>> fvcore_cost(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh()), torch.zeros(1, 3, 10, 10))
    Opinion(macs=21600, uncounted={'aten::tanh': 1})
    """
    refuse_wrappers(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it scripts on import, which torch deprecates
        try:
            from fvcore.nn import FlopCountAnalysis
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"fvcore_cost needs fvcore, which is not installed ({error}): pip install 'archlab[fvcore]'",
                name=error.name,
            ) from error

    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = copied(model)

        def forward(self):
            return run_example(self.model, example)

    analysis = FlopCountAnalysis(Once(), ())
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with (
        misfits_told(model, example, "archlab had fvcore run the model once"),
        torch.no_grad(),
    ):  # else it keeps every activation for a backward
        return Opinion(int(analysis.total()), dict(analysis.unsupported_ops()))
