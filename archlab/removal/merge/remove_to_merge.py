"""Merge-aware removal: activations go where the layers around them can then be merged, down to a budget."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ...arguments import choice, whole, wrong
from ...discovery.kinds import Kind
from ...discovery.select import Where
from ...training.optimization import MOST_STEPS
from ...training.progress import bar
from ...training.task import Task
from ..greedy import Costs
from ..ground import Ground, Terms
from ..learn import Removal
from .plan import Plan, plans, without_removal
from .runs import Run, find_runs
from .savings import PRICES, MergeSavings

SCORES = ("loss", "taylor")  # or the name of a quality


def remove_to_merge(
    model: nn.Module,
    task: Task,
    *,
    where: Where = None,
    budget: Mapping[str, float] | None = None,
    at_most_loss: Mapping[str, float] | None = None,
    measure: str = "macs",
    score: str = "loss",
    calibration: int = 8,
    tune_steps: int = 200,
    lr: float = 5e-5,
    folder: str | Path | None = None,
    time_limit_s: float | None = None,
    evaluate: bool = False,
    progress: bool = True,
    **options: Any,
) -> Removal:
    """Remove the activations that matter least for what `fold` can then merge, tune, merge; `model` is left untouched.

    An activation alone saves nothing; without it the layers before and behind it are linear and can become one, which
    is cheaper or dearer by their shapes. Which activations go is decided by dynamic programming over runs of layers:
    of all ways to meet the budget, the one whose removed activations matter least, each merge's together (LayerMerge,
    Kim et al. 2024). Where padding stands between convolutions, the first one does it all (`hoist_padding`), which
    changes the border. What is tuned is not merged yet, so that it learns as the original did; then `fold` merges it
    exactly, norms included. All is seen in evaluation mode.

    Args:
        model: Any module; it is copied.
        task: As for `learn_to_remove`.
        where: Which activations may go: a glob, a list of globs, or a function of the Site.
        budget: The share of the original that may stay of one measure: "macs", "params" or "latency_ms" (measured,
            interleaved with the original; layers are timed one by one to plan).
        at_most_loss: By quality, by how much it may get worse before tuning: as much is saved as that allows. Either
            this or `budget`.
        measure: What is to be saved, with `at_most_loss`.
        score: What the activations of a merge matter: "loss", the change of the task's loss without them; the name of
            a quality, by how much it gets worse; "taylor", the sum of their slopes dL/dω.
        calibration: On so many of the task's batches that is measured, in evaluation mode.
        tune_steps: Updates before the merge, from the weights of the original.
        lr: Rate of the weights.
        folder: As for `remove_greedily`.
        time_limit_s: As for `remove_greedily`. What is not finished is not merged.
        evaluate: Also measure `task.quality` of the original, and without the activations before and after tuning.
        progress: Show bars.
        **options: As for `remove_greedily`.

    Returns:
        As `remove_greedily`: the merged model, in evaluation mode. In `.decisions` the score of a site that went is
        that of its merge, all sites of it together; ``.settings["merged"]`` names the layers that became one.

    Raises:
        ValueError: for an option out of range, a budget that cannot be met or of another measure, an unknown score, and
            where no activation has layers around it that would be cheaper as one.
        TypeError: for an unknown option.
        CheckpointMismatch: for a folder of another removal, naming what differs.
        TrainingFailed: as `fit`.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    >>> x = torch.tensor([[1.0, 2.0], [-3.0, 4.0]])
    >>> task = Task(x, lambda step: x, lambda net, x: (net(x) - x[:, :1]).square().mean(), lambda net: {})
    >>> removal = remove_to_merge(net, task, budget={"macs": 0.5}, where="activation.1", progress=False)
    >>> removal.settings["merged"], round(removal.left["macs"], 3)  # 2 x 16 + 16 x 1 of 2 x 16 + 16 x 16 + 16 x 1
    (['2 + 4'], 0.158)
    >>> removal.model
    Sequential(
      (0): Linear(in_features=2, out_features=16, bias=True)
      (1): ReLU()
      (2): Identity()
      (3): Identity()
      (4): Linear(in_features=16, out_features=1, bias=True)
    )
    """
    call = "remove_to_merge"
    whole(f"{call}: calibration", calibration, least=1, most=MOST_STEPS)
    choice(f"{call}: measure", measure, tuple(PRICES))
    terms = Terms(
        call=call, budget=budget, at_most_loss=at_most_loss, tune_steps=tune_steps, lr=lr, folder=folder,
        time_limit_s=time_limit_s, evaluate=evaluate, progress=progress, options=options,
    )  # fmt: skip
    if budget is not None:
        measure = _measure_of(budget)
    ground = Ground(model, task, terms, kinds=Kind.ACTIVATION.value, where=where, savings=_of(measure))
    savings = ground.savings
    assert isinstance(savings, MergeSavings)
    runs = find_runs(savings.model, task.example, set(ground.sites), PRICES[measure](savings.model))
    if not runs:
        raise ValueError(
            f"{call}: no activation of the {len(ground.sites)} has layers around it that would be cheaper as one, in "
            f"{measure}. Choose another measure, or remove whole blocks"
        )
    asked = dict.fromkeys(merge.gone for run in runs for merge in run.merges if merge.gone)
    ground.tell(f"for the merges of {len(runs)} runs of layers, {len(asked)} of which are scored by {score}")
    costs = Costs(ground, score, calibration, known=SCORES)
    found: dict[tuple[str, ...], float] = {}
    with bar("merge", len(asked), wanted=progress) as show:
        for gone in asked:
            found[gone] = costs.together(gone)
            show(len(found), lambda gone=gone: " + ".join(gone))
    plan = _chosen(plans(runs, found.__getitem__), ground, savings, runs)
    merged = [merge.gone for _, merge in plan.merges if merge.gone]
    scores = {gone[0]: value for gone, value in found.items() if len(gone) == 1}
    scores |= {site: found[gone] for gone in merged for site in gone}
    told = {"score": score, "calibration": calibration, "measure": measure, "merged": _told(plan)}
    return ground.carried_out(plan.gone, scores, told)


def _measure_of(budget: Mapping[str, float]) -> str:
    """The one measure of a budget. Raises ValueError for several, and for one that merging does not save."""
    if len(budget) > 1:
        raise ValueError(wrong("remove_to_merge: budget", "of one measure", dict(budget)))
    (measure,) = budget
    choice("remove_to_merge: the measure in budget", measure, tuple(PRICES))
    return measure


def _of(measure: str) -> Any:
    """The savings of a ground, of this measure."""
    return lambda model, example, found, measures: MergeSavings(model, example, found, [measure])


def _chosen(front: Sequence[Plan], ground: Ground, savings: MergeSavings, runs: Sequence[Run]) -> Plan:
    """The plan that matters least of those that meet the budget, measured; or the cheapest that the qualities allow."""
    budget, nothing = ground.terms.budget, without_removal(runs)
    if budget is None:
        among = [nothing, *front]
        low, high = 0, len(front)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if ground.allows(among[middle].gone) else (low, middle - 1)
        return among[low]
    start, whole = savings.left(savings.measure, []), savings.whole
    predicted = [start - (nothing.cost - plan.cost) / whole for plan in front]
    first = next((n for n, share in enumerate(predicted) if share <= budget[savings.measure]), len(front) - 1)
    # What is measured may differ from the sum over layers: then further along the front.
    return next((plan for plan in front[first:] if ground.is_met(plan.gone)), front[-1])


def _told(plan: Plan) -> list[str]:
    return [" + ".join(run.layers[merge.first : merge.last + 1]) for run, merge in plan.merges if merge.gone]
