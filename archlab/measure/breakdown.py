"""Where in a model its parameters, multiply-adds and time are, in parts that add up."""

import pandas as pd
from torch import nn

from .costs import Cost
from .speed import Speed


def breakdown(model: nn.Module, counted: Cost, timed: Speed, depth: int) -> pd.DataFrame:
    """Return what of a model's cost and time each module has.

    Args:
        model: The one that was counted and timed.
        counted: `cost` of it.
        timed: `speed` of it, with ``by_module=depth``.
        depth: So many levels of modules have rows.

    Returns:
        One row a module: module, type, params, macs, macs_share, calls, self_ms, self_share, total_ms. All but
        `total_ms` is the module's without the modules that have rows of their own, so that it adds up to the whole. A
        parameter that several modules share is the first one's.
    """
    frame = timed.by_module()
    params = dict.fromkeys(frame["module"], 0)
    for name, p in model.named_parameters():
        params[".".join(name.split(".")[:-1][:depth])] += p.numel()
    # Of the multiply-adds, which include the children's, those of the children are taken off again.
    inside = counted.by_module(depth)
    macs = dict(zip(inside["module"], inside["macs"], strict=True))
    for path, below in list(macs.items()):
        if path:
            macs[path.rpartition(".")[0]] -= below
    frame["params"] = frame["module"].map(params)
    frame["macs"] = frame["module"].map(macs)
    frame["macs_share"] = frame["macs"] / max(1, counted.macs)
    order = ["module", "type", "params", "macs", "macs_share", "calls", "self_ms", "self_share", "total_ms"]
    return frame[order]
