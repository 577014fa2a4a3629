"""What each site is worth, by all scores at once: the ground that a removal is decided on."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..arguments import flag, whole
from ..arguments import folder as check_folder
from ..capture.copies import copied
from ..discovery.select import Where
from ..discovery.site import Site
from ..training.kept import Kept
from ..training.progress import bar
from ..training.task import Task, better_of, check_task
from .budget import Savings
from .candidates import ALL, Candidates, candidates
from .probe.alone import only_, qualities_without, switched_by_kind, untouched_qualities
from .probe.loss import Probe

FILE, UNTOUCHED = "scores.json", "untouched"
SAVED_MS = "latency_saved_ms"
COLUMNS = (  # of the table, beside the qualities
    "site", "kind", "module", "params", "macs", SAVED_MS, "task_loss", "delta_task_loss", "taylor", "influence",
    "loss_per_saving",
)  # fmt: skip


def scores(
    model: nn.Module,
    task: Task,
    example: Any = None,
    *,
    kinds: str | Iterable[str] = ALL,
    where: Where = None,
    batches: int = 8,
    latency: bool = False,
    folder: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Score each site by what its removal alone changes and saves, without training; `model` is left untouched.

    All is measured in evaluation mode, with the same random numbers for every site. A change is signed: with the site
    removed, less the untouched model's.

    Args:
        model: Any module; it is copied.
        task: Its loss and its qualities are measured. ``task.measures`` says which way a quality is better.
        example: What the sites are found with; default: `task.example`.
        kinds: The kinds of site. "all" are those that a pass takes by default, without those that `learn_to_remove`
            could not take together with others: of a skip and a branch at one add the branch stays, as it saves more;
            of a branch and a block that are one removal, the block. Kinds that are named are scored each by itself.
        where: Which of these: a glob, a list of globs, or a function of the Site.
        batches: On so many of the task's batches the loss, its slope and the influence are measured.
        latency: Also measure by how many milliseconds the model runs faster without the site, beside the original
            (two seconds a site).
        folder: What was measured is kept there, site by site: the same call goes on after a kill.
        progress: Show a bar.

    Returns:
        One row a site, sorted by `loss_per_saving`: site, kind, module (path of the child that is called), params and
        macs that go with it, `latency_saved_ms` where asked for; `task_loss` without it and `delta_task_loss`; each
        quality and ``delta_<quality>``; `taylor`, the loss's slope dL/dω at ω = 0, which estimates `delta_task_loss`
        (NaN where no gradient reaches the site); `influence`, 1 - the mean cosine of its input and output (NaN for
        a site that is no module call, where neither is seen; Men et al. 2024, ShortGPT); `loss_per_saving`, the change
        of the loss by the share of the model's MACs saved, or of its parameters where it saves no MACs (NaN, and last,
        where it saves neither). ``.attrs`` has the values "untouched"; which way
        columns are "better", as far as that is known; and the sites that are "refused" (they cannot be rewritten) or
        left out ("resolved"), with the reason.

    Raises:
        ValueError: where no site is chosen, or none of those chosen can be rewritten; where the untouched model has no
            quality, or a quality that is NaN.
        TypeError: where `task.quality` returns something else than named numbers.
        CheckpointMismatch: for a folder with the scores of another model or task, naming what differs.

    >>> net = nn.Sequential(nn.ReLU(), nn.Sigmoid())
    >>> x = torch.tensor([[-1.0, 2.0]])
    >>> task = Task(x, lambda step: x, lambda net, x: net(x).mean(), lambda net: {"mean": net(x).mean().item()})
    >>> scores(net, task, progress=False)[["site", "module", "delta_task_loss", "taylor"]].round(3)
               site module  delta_task_loss  taylor
    0  activation.0      0           -0.116  -0.125
    1  activation.1      1            0.310   0.310
    """
    check_task(task)
    whole("scores: batches", batches)
    flag("scores: latency", latency)
    check_folder("scores: folder", folder, optional=True)
    flag("progress", progress)
    example = task.example if example is None else example
    found = candidates(model, example, kinds=kinds, where=where)
    kept = Kept(None if folder is None else Path(folder) / FILE, model, task, {"batches": batches})
    probe, savings = Probe(task, batches), Savings(model, example, found.sites, ())
    if (untouched := kept.get(UNTOUCHED)) is None:
        net = copied(model)
        task_loss = probe.loss(net)
        with probe.quiet(net), torch.no_grad():
            untouched = untouched_qualities(task, net, COLUMNS)
        kept.keep_(UNTOUCHED, {"task_loss": task_loss, **untouched})
        untouched = kept.get(UNTOUCHED)
    missing = [site for site in found.sites if not _complete(kept.get(site.id), latency)]
    with bar("scores", len(found.sites), wanted=progress) as show:
        for soft, present in switched_by_kind(model, example, missing):
            slopes, influence = probe.slopes(soft), probe.influence(soft, present)
            for site in present:
                only_(soft, [site.id])
                values = {"taylor": slopes[site.id], "influence": influence[site.id]}
                values |= _changes(task, probe, soft, site, untouched)
                if latency:
                    before, after = savings.milliseconds([site.id])
                    values[SAVED_MS] = before - after
                kept.keep_(site.id, values)
                show(sum(s.id in kept.values for s in found.sites), lambda site=site: site.id)
    return _table(found, kept, untouched, task, latency)


def _complete(values: Mapping[str, float] | None, latency: bool) -> bool:
    return values is not None and (SAVED_MS in values or not latency)


def _changes(task: Task, probe: Probe, soft: nn.Module, site: Site, untouched: Mapping[str, float]) -> dict[str, float]:
    """The loss and the qualities of `soft`, in which `site` is off, and what they change by."""
    loss = probe.loss(soft)
    qualities = {name: value for name, value in untouched.items() if name != "task_loss"}
    with probe.quiet(soft), torch.no_grad():
        found = qualities_without(task, soft, site.id, qualities, COLUMNS)
    return {"task_loss": loss, "delta_task_loss": loss - untouched["task_loss"], **found}


def saved_share(site: Site, found: Candidates) -> float:
    """The share of the model's MACs that go with a site, or of its parameters where no MACs do; NaN where neither."""
    if site.macs:
        return site.macs / found.macs
    return site.params / found.params if site.params else math.nan


def _table(found: Candidates, kept: Kept, untouched: Mapping[str, float], task: Task, latency: bool) -> pd.DataFrame:
    qualities = [name for name in untouched if name != "task_loss"]
    columns = ["task_loss", "delta_task_loss", *(c for name in qualities for c in (name, f"delta_{name}"))]
    columns = [*([SAVED_MS] if latency else []), *columns, "taylor", "influence"]
    rows = []
    for site in found.sites:
        values = kept.get(site.id)
        row = {"site": site.id, "kind": site.kind.value, "module": site.module or "", "params": site.params,
               "macs": site.macs, **{name: values[name] for name in columns}}  # fmt: skip
        rows.append(row | {"loss_per_saving": values["delta_task_loss"] / saved_share(site, found)})
    frame = pd.DataFrame(rows).sort_values(
        ["loss_per_saving", "delta_task_loss"], na_position="last", kind="stable", ignore_index=True
    )
    better = better_of(task, map(str, frame)) | dict.fromkeys(("task_loss", "delta_task_loss"), "lower")
    frame.attrs |= {
        "untouched": dict(untouched), "better": better, "refused": found.refused, "resolved": found.resolved
    }  # fmt: skip
    return frame
