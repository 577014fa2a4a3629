"""What each site is worth, by all scores at once: the ground that a removal is decided on."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ..arguments import flag, whole
from ..arguments import folder as check_folder
from ..capture.copies import copied
from ..discovery.kinds import Kind
from ..discovery.select import Where
from ..discovery.site import Site
from ..experiments.live.pieces import Piece, Work, carry_out, check_workers, parts_of, place_for
from ..training.identity import brief
from ..training.kept import Kept, kept_of
from ..training.progress import bar
from ..training.task import Task, better_of, check_task
from .budget import Savings
from .candidates import ALL, Candidates, candidates
from .probe.alone import only_, qualities_without, switched_by_kind, untouched_qualities
from .probe.loss import Probe

KEPT, UNTOUCHED = "scores", "untouched"  # the folder of what was measured, in the user's; a key in it
TOGETHER = 8  # sites that a worker is given at once
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
    workers: int = 0,
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
            (two seconds a site), with no workers beside it.
        folder: What was measured is kept there, site by site: the same call goes on after a kill, and several
            processes that make it share the work.
        workers: 0 measures here; else so many processes do, with the same numbers, as for `trade_off`.
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
        RuntimeError: where a worker failed or was killed, naming its sites.

    >>> import torch
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
    check_workers("scores", workers)
    example = task.example if example is None else example
    facts = {"batches": batches, "example": brief(example)}
    found = candidates(model, example, kinds=kinds, where=where)
    with place_for(folder, needed=workers > 0) as place:
        kept = kept_of(None if place is None else place / KEPT, model, task, facts)
        scoring = _Scoring(model, task, example, found.sites, kept, batches)
        scoring.untouched()
        pieces = [Piece(label) for label in scoring.groups]
        work = Work(scoring.measure, scoring.is_measured, None if place is None else kept.lease)
        with bar("scores", len(pieces), wanted=progress) as show:
            ended = itertools.count(1)
            carry_out(
                "scores", pieces, work, workers=workers, lasting=folder is not None,
                parts={"model": model, **parts_of(task), "example": example},
                tell=lambda label, outcome: show(next(ended), lambda: label),
            )  # fmt: skip
        if latency:
            _add_milliseconds(model, example, found.sites, kept, progress)
        return _table(found, kept, scoring.untouched(), task, latency)


class _Scoring:
    """The sites of a model, in groups of one kind and at most `TOGETHER`, each site measured once and kept.

    Workers get copies of it. Of the switched models, one a kind, and of what is seen at all sites of it together, only
    the last is held.
    """

    def __init__(self, model: nn.Module, task: Task, example: Any, found: Sequence[Site], kept: Kept, batches: int):
        self.model, self.task, self.example, self.kept, self.batches = model, task, example, kept, batches
        self.sites = list(found)
        self.groups: dict[str, list[Site]] = {}
        for kind in dict.fromkeys(site.kind for site in found):
            of_kind = [site for site in found if site.kind == kind]
            for group in (of_kind[first : first + TOGETHER] for first in range(0, len(of_kind), TOGETHER)):
                self.groups[", ".join(site.id for site in group)] = group
        self._probe: Probe | None = None
        self._seen: _Seen | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_probe": None, "_seen": None}  # a worker makes its own

    @property
    def probe(self) -> Probe:
        """The batches that all is measured on."""
        if self._probe is None:
            self._probe = Probe(self.task, self.batches)
        return self._probe

    def untouched(self) -> dict[str, float]:
        """The loss and the qualities of the model as it is."""
        if (found := self.kept.get(UNTOUCHED)) is None:
            net = copied(self.model)
            task_loss = self.probe.loss(net)
            qualities = untouched_qualities(self.task, net, COLUMNS)
            found = self.kept.keep_(UNTOUCHED, {"task_loss": task_loss, **qualities})
        return found

    def is_measured(self, group: str) -> bool:
        """Whether all sites of a group are."""
        return all(self.kept.get(site.id) is not None for site in self.groups[group])

    def measure(self, group: str) -> None:
        """Measure those of a group that are not."""
        for site in self.groups[group]:
            if self.kept.get(site.id) is None:
                seen = self._all_of(site.kind)
                only_(seen.soft, [site.id])
                changes = _changes(self.task, self.probe, seen.soft, site, self.untouched())
                self.kept.keep_(
                    site.id, {"taylor": seen.slopes[site.id], "influence": seen.influence[site.id], **changes}
                )

    def _all_of(self, kind: Kind) -> "_Seen":
        if self._seen is None or self._seen.kind != kind:
            of_kind = [site for site in self.sites if site.kind == kind]
            soft, present = next(switched_by_kind(self.model, self.example, of_kind))
            self._seen = _Seen(kind, soft, self.probe.slopes(soft), self.probe.influence(soft, present))
        return self._seen


@dataclass(frozen=True, eq=False)
class _Seen:
    """A model with a switch at each site of a kind, and what a pass over the batches shows of all of them."""

    kind: Kind
    soft: nn.Module
    slopes: dict[str, float]
    influence: dict[str, float]


def _add_milliseconds(model: nn.Module, example: Any, found: Sequence[Site], kept: Kept, progress: bool) -> None:
    """Measure by how much faster the model runs without each site; one after another, as nothing may run beside it."""
    savings = Savings(model, example, found, ())
    with bar("latency", len(found), wanted=progress) as show:
        for done, site in enumerate(found, 1):
            if kept.get(f"{SAVED_MS} {site.id}") is None:
                before, after = savings.milliseconds([site.id])
                kept.keep_(f"{SAVED_MS} {site.id}", before - after)
            show(done, lambda site=site: site.id)


def _changes(task: Task, probe: Probe, soft: nn.Module, site: Site, untouched: Mapping[str, float]) -> dict[str, float]:
    """The loss and the qualities of `soft`, in which `site` is off, and what they change by."""
    loss = probe.loss(soft)
    qualities = {name: value for name, value in untouched.items() if name != "task_loss"}
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
        values = kept.get(site.id) | ({SAVED_MS: kept.get(f"{SAVED_MS} {site.id}")} if latency else {})
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
