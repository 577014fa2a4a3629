"""Which parts matter, seen without training: the λ-free companion of learned removal."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
from torch import nn

from ..arguments import flag
from ..discovery.kinds import BY_DEFAULT
from ..discovery.select import Where
from ..training.progress import bar
from ..training.task import Task, better_of, check_task
from .candidates import candidates
from .probe.alone import only_, qualities_without, switched_by_kind, untouched_qualities

COLUMNS = ("site", "kind")  # of the table, before the qualities


def sensitivity(
    model: nn.Module,
    task: Task,
    example: Any = None,
    *,
    kinds: str | Iterable[str] = BY_DEFAULT,
    where: Where = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure `task.quality` with each site alone removed, without training; `model` is left untouched.

    Each removal is ω = 1 at that switch, which equals the physical one.

    Args:
        model: Any module; it is copied.
        task: Its `quality` is measured, once for the untouched model and once a site.
        example: What the sites are found with; default: `task.example`.
        kinds: The kinds of site that are tried; those that the model has none of are no error. "all" leaves out what
            `learn_to_remove` cannot take together with others, as `scores` does; it is in ``.attrs["resolved"]``.
        where: Which of these: a glob, a list of globs, or a function of the Site.
        progress: Show a bar.

    Returns:
        One row a site: site, kind, and for each quality its value and, as ``delta_<quality>``, the change from the
        untouched model, whose qualities are in ``.attrs["untouched"]``. The site whose removal changes the first
        quality least comes first. Sites that cannot be rewritten are in ``.attrs["refused"]``, with the reason; which
        way qualities are better, where `task.measures` says it, in ``.attrs["better"]``.

    Raises:
        ValueError: where no site is chosen, or none of those chosen can be rewritten; where the untouched model has no
            quality, or a quality that is NaN.
        TypeError: where `task.quality` returns something else than named numbers.

    >>> import torch
    >>> net = nn.Sequential(nn.ReLU(), nn.Sigmoid())
    >>> x = torch.tensor([[-1.0, 2.0]])
    >>> task = Task(x, lambda step: x, lambda net, x: net(x).mean(), lambda net: {"mean": net(x).mean().item()})
    >>> sensitivity(net, task, progress=False).round(3)
               site        kind   mean  delta_mean
    0  activation.0  activation  0.575      -0.116
    1  activation.1  activation  1.000       0.310
    """
    check_task(task)
    flag("progress", progress)
    example = task.example if example is None else example
    found = candidates(model, example, kinds=kinds, where=where)
    untouched = untouched_qualities(task, model, COLUMNS)
    rows = []
    with bar("sensitivity", len(found.sites), wanted=progress) as show:
        for soft, present in switched_by_kind(model, example, found.sites):
            for site in present:
                only_(soft, [site.id])
                values = qualities_without(task, soft, site.id, untouched, COLUMNS)
                rows.append({"site": site.id, "kind": site.kind.value, **values})
                show(len(rows), lambda site=site: site.id)
    first = f"delta_{next(iter(untouched))}"
    frame = pd.DataFrame(rows)
    frame = frame.iloc[frame[first].abs().argsort(kind="stable")].reset_index(drop=True)
    better = better_of(task, map(str, frame))
    frame.attrs |= {"untouched": untouched, "refused": found.refused, "resolved": found.resolved, "better": better}
    return frame
