"""Which layers to merge: for each cost the plan that removes what matters least, by dynamic programming over runs.

The cost of a plan is the sum over its merges, and so, to first order, is what their activations matter. A plan is of
use where no other costs as little and matters less (the front). Over a run, the front up to a layer is made of the
fronts up to the layers before and the merges that end here: Kim et al. 2023 (arXiv:2301.12187) and LayerMerge (Kim et
al. 2024, arXiv:2406.12837) do so with a table of latencies.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from .runs import Merge, Run

Importance = Callable[[tuple[str, ...]], float]  # of removing these sites together
MOST = 512  # plans that are kept on a front: the best one for each of so many steps of cost


@dataclass(frozen=True, eq=False)
class Plan:
    """Merges of several layers, what the runs then cost, and what the removed activations matter together."""

    cost: float
    importance: float
    merges: tuple[tuple[Run, Merge], ...] = ()

    @property
    def gone(self) -> list[str]:
        """The sites that go, in their order."""
        return [site for _, merge in self.merges for site in merge.gone]

    def after(self, other: "Plan") -> "Plan":
        """Both together."""
        return Plan(other.cost + self.cost, other.importance + self.importance, (*other.merges, *self.merges))


def plans(runs: Iterable[Run], importance: Importance) -> list[Plan]:
    """The front of all runs together: from the dearest plan, which removes least that matters, to the cheapest."""
    front = [Plan(0.0, 0.0)]
    for run in runs:
        own = _of_run(run, importance)
        front = _front([plan.after(before) for before in front for plan in own])
    return front


def without_removal(runs: Iterable[Run]) -> Plan:
    """The cheapest plan in which no activation goes: layers that follow each other as they are may be merged."""
    kept = [replace(run, merges=tuple(merge for merge in run.merges if not merge.gone)) for run in runs]
    return plans(kept, lambda gone: 0.0)[-1]


def _of_run(run: Run, importance: Importance) -> list[Plan]:
    ending: list[list[Merge]] = [[] for _ in run.layers]
    for merge in run.merges:
        ending[merge.last].append(merge)
    fronts = [[Plan(0.0, 0.0)]]  # up to before each layer
    for merges in ending:
        reached = []
        for merge in merges:
            parts = ((run, merge),) if merge.last > merge.first else ()
            step = Plan(merge.cost, importance(merge.gone) if merge.gone else 0.0, parts)
            reached += [step.after(before) for before in fronts[merge.first]]
        fronts.append(_front(reached))
    return fronts[-1]


def _front(found: Sequence[Plan]) -> list[Plan]:
    """Those that no other beats in both, the dearest first; of many, the best for each of `MOST` steps of cost."""
    front: list[Plan] = []
    for plan in sorted(found, key=lambda plan: (plan.importance, plan.cost, len(plan.gone))):
        if not front or plan.cost < front[-1].cost:
            front.append(plan)
    if len(front) <= MOST:
        return front
    low, high = front[-1].cost, front[0].cost
    rising = [-plan.cost for plan in front]
    places = (bisect_left(rising, -(high - (high - low) * n / (MOST - 1))) for n in range(MOST))
    return [front[n] for n in dict.fromkeys(min(place, len(front) - 1) for place in places)]
