"""Which parts matter, seen without training: the λ-free companion of learned removal."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..arguments import flag
from ..discovery.kinds import BY_DEFAULT
from ..discovery.select import Where
from ..discovery.survey import sites
from ..passes.switch import switch
from ..passes.switch_state import omegas, set_omegas_
from ..rewrite.target import How
from ..training.progress import bar
from ..training.task import Task, better_of, check_task, qualities_of

COLUMNS = ("site", "kind")  # of the table, before the qualities


@torch.no_grad()
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
        kinds: The kinds of site that are tried; those that the model has none of are no error.
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
    found = sites(model, example, kinds=kinds, where=where)
    refused = {site.id: site.told for site in found if site.how is How.REFUSED}
    present = [site for site in found if site.id not in refused]
    if not present:
        site, how = next(iter(refused.items()))
        raise ValueError(f"none of the {len(refused)} chosen sites can be rewritten; {site} is {how}")
    untouched = qualities_of(task, model, columns=COLUMNS, untouched=True)
    if twice := [name for name in untouched if f"delta_{name}" in untouched]:
        raise ValueError(f"task.quality: 'delta_{twice[0]}' is the column of what {twice[0]!r} changes by; rename it")
    rows = []
    # Kinds apart, as a skip and a branch share an add and cannot both have a switch. One switched model serves all
    # sites of a kind: all ω at 0, then one alone at 1.
    with bar("sensitivity", len(present), wanted=progress) as show:
        for kind in dict.fromkeys(site.kind for site in present):
            chosen = {site.id for site in present if site.kind == kind}
            soft = switch(model, example, kinds=kind, where=lambda site, chosen=chosen: site.id in chosen)
            for site in omegas(soft)["site"]:
                set_omegas_(soft, 0.0)
                set_omegas_(soft, {site: 1.0})
                values = qualities_of(task, soft, columns=COLUMNS, untouched=False)
                if values.keys() != untouched.keys():
                    raise ValueError(
                        f"task.quality must name the same qualities each time: {', '.join(untouched)} of the untouched "
                        f"model, got {', '.join(values)} without {site}"
                    )
                deltas = {f"delta_{name}": value - untouched[name] for name, value in values.items()}
                rows.append({"site": site, "kind": kind.value, **values, **deltas})
                show(len(rows), lambda site=site: site)
    first = f"delta_{next(iter(untouched))}"
    frame = pd.DataFrame(rows)
    frame = frame.iloc[frame[first].abs().argsort(kind="stable")].reset_index(drop=True)
    frame.attrs |= {"untouched": untouched, "refused": refused, "better": better_of(task, map(str, frame))}
    return frame
