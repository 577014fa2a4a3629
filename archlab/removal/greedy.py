"""Removal without learning what goes: sites go by a score, greedily or at one shot, or at random; then tuning.

What `learn_to_remove` is to be compared with: same sites, budgets, tuning and result.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..arguments import choice, flag, whole
from ..discovery.select import Where
from ..training.kept import kept_of
from ..training.optimization import MOST_STEPS
from ..training.progress import bar
from ..training.task import Task, qualities_of
from .ground import Ground, Terms
from .learn import Removal
from .probe.alone import only_
from .probe.loss import Probe

SCORES = ("loss", "taylor", "influence")  # or the name of a quality
KEPT = "greedy"  # the folder of the scores, in the user's


def remove_greedily(
    model: nn.Module,
    task: Task,
    *,
    kinds: str | Iterable[str],
    where: Where = None,
    budget: Mapping[str, float] | None = None,
    at_most_loss: Mapping[str, float] | None = None,
    score: str = "loss",
    rescore: bool = True,
    calibration: int = 8,
    tune_steps: int = 200,
    lr: float = 5e-5,
    folder: str | Path | None = None,
    time_limit_s: float | None = None,
    evaluate: bool = False,
    progress: bool = True,
    **options: Any,
) -> Removal:
    """Remove the sites that cost least by a score for what they save, then fine-tune; `model` is left untouched.

    Args:
        model: Any module; it is copied.
        task: As for `learn_to_remove`.
        kinds: The kinds of site; "all" as for `scores`.
        where: Which of these: a glob, a list of globs, or a function of the Site.
        budget: By measure, the share of the original that may stay, as for `learn_to_remove`. Sites go until it is met,
            first those of the lowest score by what they save of it alone; those that save none of it go last.
        at_most_loss: By quality, by how much it may get worse before tuning: sites go, those of the lowest score
            first, as long as that allows it. Either this or `budget`.
        score: What a site costs: "loss", the change of the task's loss without it; the name of a quality, by how much
            it gets worse; "taylor", the slope dL/dω; "influence", 1 - the cosine of its input and output, of sites
            that are module calls.
        rescore: Score the sites that are left anew after each removal; False: once, all go in that order.
        calibration: On so many of the task's batches scores are measured, in evaluation mode.
        tune_steps: Updates of the thin model, from the weights of the original.
        lr: Rate of the weights.
        folder: Where the scores, the checkpoint of the tuning and the qualities lie; the same call goes on after a
            kill.
        time_limit_s: Seconds after which to stop tuning cleanly, with `.finished` False.
        evaluate: Also measure `task.quality` of the original, and of the thin model before and after tuning.
        progress: Show bars.
        **options: Those of `archlab.training.fit`, but for what makes a phase, as for `learn_to_remove`.

    Returns:
        As `learn_to_remove`: the thin model and how it went. `.decisions` has a row a site: site, kind, module, params
        and macs (that go with it alone), score (signed, when it went; of those that stay, the last one), removed, and
        order (the first that went is 1, what stays 0; what lies in a block that went counts as staying).
        `.omegas` is empty.

    Raises:
        ValueError: for an option out of range, a budget that cannot be met, an unknown score or one that is NaN of the
            model as it is when the next site is chosen (a site that alone is NaN goes last), and as `scores`.
        TypeError: for an unknown option.
        CheckpointMismatch: for a folder of another removal, naming what differs.
        TrainingFailed: as `fit`.

    >>> net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2), nn.ReLU())
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # positive: the first ReLU does nothing
    >>> task = Task(x, lambda step: x, lambda net, x: (net(x) - 1).square().mean(), lambda net: {})
    >>> removal = remove_greedily(net, task, kinds="activation", budget={"sites": 0.5}, progress=False)
    >>> removal.decisions[["site", "removed", "order"]]
               site  removed  order
    0  activation.0     True      1
    1  activation.1    False      0
    """
    call = "remove_greedily"
    flag(f"{call}: rescore", rescore)
    whole(f"{call}: calibration", calibration, least=1, most=MOST_STEPS)
    terms = Terms(
        call=call, budget=budget, at_most_loss=at_most_loss, tune_steps=tune_steps, lr=lr, folder=folder,
        time_limit_s=time_limit_s, evaluate=evaluate, progress=progress, options=options,
    )  # fmt: skip
    ground = Ground(model, task, terms, kinds=kinds, where=where)
    how = {"score": score, "rescore": rescore, "calibration": calibration}
    ground.tell(f"greedily by {score}, {'scored anew after each' if rescore else 'at one shot'}")
    costs = Costs(ground, score, calibration)
    with bar("greedy", len(ground.sites), wanted=progress) as show:
        if rescore:
            gone, found = _one_at_a_time(ground, costs, show)
        else:
            found = costs.given([])
            gone = ground.first_of(ground.ordered(found, ground.sites))
        show(len(ground.sites), lambda: f"{len(gone)} go")
    return ground.carried_out(gone, found, how)


def remove_at_random(
    model: nn.Module,
    task: Task,
    *,
    kinds: str | Iterable[str],
    where: Where = None,
    budget: Mapping[str, float] | None = None,
    at_most_loss: Mapping[str, float] | None = None,
    seed: int = 0,
    tune_steps: int = 200,
    lr: float = 5e-5,
    folder: str | Path | None = None,
    time_limit_s: float | None = None,
    evaluate: bool = False,
    progress: bool = True,
    **options: Any,
) -> Removal:
    """Remove sites in an order that `seed` draws, then fine-tune: what a score must beat; `model` is left untouched.

    Args:
        model: Any module; it is copied.
        task: As for `learn_to_remove`.
        kinds: The kinds of site; "all" as for `scores`.
        where: Which of these: a glob, a list of globs, or a function of the Site.
        budget: By measure, the share of the original that may stay: sites go until it is met, those that save none of
            it last.
        at_most_loss: By quality, by how much it may get worse before tuning. Either this or `budget`.
        seed: Of the order.
        tune_steps: Updates of the thin model, from the weights of the original.
        lr: Rate of the weights.
        folder: As for `remove_greedily`.
        time_limit_s: As for `remove_greedily`.
        evaluate: As for `remove_greedily`.
        progress: Show bars.
        **options: As for `remove_greedily`.

    Returns:
        As `remove_greedily`; the score is the place in the drawn order, from 0.

    Raises:
        ValueError: for an option out of range, and for a budget that cannot be met.
        TypeError: for an unknown option.
        CheckpointMismatch: for a folder of another removal, naming what differs.
        TrainingFailed: as `fit`.

    >>> net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2), nn.ReLU())
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> task = Task(x, lambda step: x, lambda net, x: (net(x) - 1).square().mean(), lambda net: {})
    >>> removal = remove_at_random(net, task, kinds="activation", budget={"sites": 0.5}, seed=1, progress=False)
    >>> removal.left
    {'sites': 0.5}
    """
    call = "remove_at_random"
    whole(f"{call}: seed", seed, least=0, most=2**63 - 1)
    terms = Terms(
        call=call, budget=budget, at_most_loss=at_most_loss, tune_steps=tune_steps, lr=lr, folder=folder,
        time_limit_s=time_limit_s, evaluate=evaluate, progress=progress, options=options,
    )  # fmt: skip
    ground = Ground(model, task, terms, kinds=kinds, where=where)
    ground.tell(f"at random, seed {seed}")
    drawn = torch.randperm(len(ground.sites), generator=torch.Generator().manual_seed(seed)).tolist()
    places = {site: float(place) for site, place in zip(ground.sites, drawn, strict=True)}
    order = sorted(ground.sites, key=lambda site: (ground.saved[site] <= 0, places[site]))
    return ground.carried_out(ground.first_of(order), places, {"seed": seed})


class Costs:
    """What the removal of each further site costs, or of several together, by one score, kept in the folder."""

    def __init__(self, ground: Ground, score: str, calibration: int, *, known: Sequence[str] = SCORES):
        self.ground, self.score = ground, score
        self.probe = Probe(ground.task, calibration)
        choice("score", score, known if score in known else (*known, *self._qualities()))
        folder = ground.terms.folder
        path = None if folder is None else Path(folder) / KEPT
        facts = {"score": score, "calibration": calibration, "sites": ground.sites}
        facts |= {} if score in known else {"better": ground.task.measures.get(score)}
        self.kept = kept_of(path, ground.model, ground.task, facts)

    def _qualities(self) -> dict[str, float]:
        return qualities_of(self.ground.task, self.ground.soft, columns=(), untouched=False)

    def given(self, gone: Sequence[str]) -> dict[str, float]:
        """The cost of each site that can still go once these have."""
        key = " + ".join(gone) or "nothing removed"
        return self.kept.get(key) or self.kept.keep_(key, self._measured(gone))

    def together(self, gone: Sequence[str]) -> float:
        """What the removal of these sites costs, all at once; by slopes, their sum."""
        key = f"together: {' + '.join(gone)}"
        found = self.kept.get(key)
        return self.kept.keep_(key, self._together(gone)) if found is None else found

    def _together(self, gone: Sequence[str]) -> float:
        if self.score == "taylor":
            slopes = self.given([])
            return _known(sum(slopes[site] for site in gone))
        before = self.kept.get("level")
        if before is None:
            only_(self.ground.soft, [])
            before = self.kept.keep_("level", self._level())
        self._refuse_unknown(before, [])
        only_(self.ground.soft, gone)
        return _known(self._level() - before)

    def _refuse_unknown(self, before: float, gone: Sequence[str]) -> None:
        if math.isnan(before):
            removed = f" once {', '.join(gone)} went" if gone else " of the untouched model"
            raise ValueError(
                f"score={self.score!r} is NaN{removed}: no removal can be compared with it; choose another"
            )

    def _measured(self, gone: Sequence[str]) -> dict[str, float]:
        soft, among = self.ground.soft, self.ground.open(gone)
        only_(soft, gone)
        if self.score == "taylor":
            slopes = self.probe.slopes(soft)
            return {site: slopes[site] for site in among}
        if self.score == "influence":
            return self._influence(among)
        before, found = self._level(), {}
        self._refuse_unknown(before, gone)
        for site in among:
            only_(soft, [*gone, site])
            found[site] = self._level() - before
        return found

    def _level(self) -> float:
        """How bad the switched model is: its loss, or a quality, less being better."""
        if self.score == "loss":
            return self.probe.loss(self.ground.soft)
        sign = 1 if self.ground.task.measures.get(self.score) == "lower" else -1
        return sign * self._qualities()[self.score]

    def _influence(self, among: Sequence[str]) -> dict[str, float]:
        found = self.probe.influence(self.ground.soft, [self.ground.by_id[site] for site in among])
        if unseen := [site for site, value in found.items() if math.isnan(value)]:
            raise ValueError(
                f"score='influence': of {unseen[0]} input and output of one shape are not seen, as it is no module "
                "call; choose kinds='block', or another score"
            )
        return found


def _known(cost: float) -> float:
    """A cost that can be compared: what nobody knows costs more than all else."""
    return math.inf if math.isnan(cost) else cost


def _one_at_a_time(ground: Ground, costs: Costs, show: Any) -> tuple[list[str], dict[str, float]]:
    """Which sites go, in this order, and each one's cost when it went, or the last one of those that stay."""
    gone: list[str] = []
    found: dict[str, float] = {}
    while not ground.is_met(gone) and ground.open(gone):
        among = costs.given(gone)
        found |= among
        next_one = ground.ordered(among, among)[0]
        if not ground.allows([*gone, next_one]):
            break
        gone.append(next_one)
        show(len(gone), lambda: gone[-1])
    return gone, found
