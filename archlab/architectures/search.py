"""`search`: the best networks of a space, by Optuna; what kills it costs the trials that were under way."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from torch import nn

from ..arguments import choice, number, shown, text, whole, wrong
from ..arguments import folder as check_folder
from ..experiments.executors.scheduler import check_address, check_installed, checked_resources
from ..experiments.live.cluster import Cluster
from ..experiments.live.pieces import check_workers
from ..names import closest
from ..report.fronts import pareto
from ..training.kept import Kept
from ..training.progress import bar
from ..training.task import Task
from .space import Architecture
from .trials.candidates import Candidates, of_function, of_options, of_supernet
from .trials.evolution import SAMPLERS, Evolution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna.study import Study

KEPT = "measured"  # the folder of what workers measure, in the user's


@dataclass(frozen=True, eq=False)
class Search:
    """What a search found.

    Attributes:
        history: One row a complete trial, in their order: trial, the option at each position, what was measured and
            what was known before, feasible (within all bounds).
        front: The feasible rows that no other beats in all objectives; where there is one objective and MACs are
            known, in it and them.
        best: The architecture of the feasible row that is best in the first objective; None where no row is feasible.
        objectives: By name, whether "higher" or "lower" is better.
        finished: False where the time limit came first, and where there was nothing left to try.
        study: Optuna's study.
    """

    history: pd.DataFrame
    front: pd.DataFrame
    best: Architecture | None
    objectives: dict[str, str]
    finished: bool
    study: "Study"

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The front, each trial by its number, over the other feasible ones.

        Raises:
            ValueError: where there is one objective, and nothing to draw it against.
        """
        from ..report.plots import tradeoff

        ways = _front_ways(self.history, self.objectives)
        if len(ways) < 2:
            raise ValueError(
                wrong("search: objectives", "two, or MACs must be known, to draw a front", self.objectives)
            )
        y, x = list(ways)[:2]
        ax = tradeoff(self.front, x=x, y=y, label="trial", better={x: ways[x], y: ways[y]}, ax=ax)
        others = self.history[self.history["feasible"]]
        ax.scatter(others[x], others[y], color="0.8", s=8, zorder=0, label="_others")
        ax.locator_params(axis="x", nbins=4)  # MACs are long numbers
        return ax


def search(
    what: nn.Module | Mapping[str, Sequence[Any]] | Callable[[Any], Mapping[str, float]],
    task: Task | Callable[[Architecture], Mapping[str, float]] | None = None,
    *,
    trials: int,
    objectives: Mapping[str, Literal["higher", "lower"]] | None = None,
    within: Mapping[str, float] | None = None,
    amounts: Callable[[Architecture], Mapping[str, float]] | None = None,
    sampler: Literal["evolution", "nsga2", "tpe", "random"] = "evolution",
    seed: int = 0,
    folder: str | Path | None = None,
    storage: str | None = None,
    name: str = "search",
    norm_batches: int = 20,
    workers: int = 0,
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
    time_limit_s: float | None = None,
    progress: bool = True,
    **evolution: Any,
) -> Search:
    """Search for the best networks of a space within bounds, by Optuna.

    With a `folder` (or a `storage`), the same call goes on where it was stopped or killed, and ends with the history of
    a search that was not: each draw is a function of the seed and of the complete trials alone. More `trials` go on
    with it as well.

    Args:
        what: One of three. A supernet: its architectures, with the weights they have in it. A dict of options by name.
            A function of an Optuna trial, which asks for what it needs (``trial.suggest_float``), trains, and returns
            what it measured by name: for recipes and hyper-parameters.
        task: For a supernet, the `al.Task` whose `quality` judges, on data that is not reported later. For a dict,
            ``task(architecture)``, which returns numbers by name.
        trials: Complete trials in all, whatever number of calls they take.
        objectives: By name of a number, whether "higher" or "lower" is better; default: ``task.measures``. Beside what
            is measured, "macs", "params" and "latency_ms" of a supernet can be named.
        within: By name, the most that a network may have. Bounds on MACs, parameters and `amounts` are known before a
            trial: the evolution tries nothing over them. A latency is measured in its trial by `al.speed`.
        amounts: For a dict, ``amounts(architecture)``: what is known without a trial.
        sampler: "evolution" (single-path evolution, Guo et al. 2020: one objective, no network twice), or Optuna's
            "nsga2" (several objectives), "tpe", "random".
        seed: Of all that is drawn.
        folder: Where Optuna's journal is; one process at a time.
        storage: In place of it, any URL that Optuna takes, such as ``sqlite:///search.db``.
        name: Of the study in it.
        norm_batches: Batches of the task on which norms are estimated anew before each trial of a supernet; 0: none.
        workers: 0 runs the trials here, one after another; else so many processes do, each with a copy of what is
            searched and of the task, with the same history: a trial depends on the generations before its own, which is
            measured at once. A generation is the `population`, which should be several times the workers. "tpe", which
            draws each trial from all before it, and functions of a trial take none. Each process has as many threads
            as this one, so on a CPU call ``torch.set_num_threads(cores // workers)`` before. A latency is measured
            here, after the others of its generation, while no worker runs.
        scheduler: The address of a Dask cluster (as tcp://host:8786), whose workers run the trials as processes here
            would: with the same history, on machines of one kind; as many at once as they have threads, or as `workers`
            says. The trial of a worker that dies is run by another one. Journal and results are written here alone:
            they need not see the folder, but must be able to import what the task needs.
        resources: What a trial takes of a worker of the cluster, as {"GPU": 1}.
        time_limit_s: Seconds after which no trial begins.
        progress: Show a bar, or without a terminal a line a minute.
        **evolution: As keywords, too: population (50; also of "nsga2"), parents (10), mutated (.5), crossed (.5),
            mutation (.1), as `Evolution` says.

    Returns:
        History, Pareto front and best architecture.

    Raises:
        ValueError: for options that do not go together, a name that is not measured, a folder of another search: of
            other options, weights, batches or functions, as far as their code and what they close over tell.
        RuntimeError: where another process searches in the folder, and for what a trial raised in a worker.
        TypeError: where what workers need cannot be pickled, naming what of it.
        ConnectionError: no scheduler answers.
        ModuleNotFoundError: for a scheduler, where distributed is not installed.

    >>> def judge(options):
    ...     return {"error": (options["a"] - 3) ** 2 + options["b"]}
    >>> space = {"a": [1, 2, 3, 4], "b": [0, 1]}
    >>> found = search(space, judge, trials=8, objectives={"error": "lower"}, population=4, progress=False)
    >>> found.best, len(found.history)
    ({'a': 3, 'b': 0}, 8)
    """
    bounds, ways = _checked(what, task, objectives, within, amounts, sampler, folder, storage)
    whole("search: trials", trials, least=1)
    whole("search: seed", seed, least=0)
    text("search: name", name)
    number("search: time_limit_s", time_limit_s, low=0, optional=True, finite=False)
    if unknown := evolution.keys() - Evolution.__dataclass_fields__.keys():
        raise TypeError(
            f"search has no option {min(unknown)!r}; {closest(min(unknown), Evolution.__dataclass_fields__)}"
        )
    bred = Evolution(**evolution)
    if isinstance(what, nn.Module):
        candidates = of_supernet(what, task, bounds, {*ways, *bounds}, batches=norm_batches, seed=seed)
    elif isinstance(what, Mapping):
        candidates = of_options(what, task, amounts, bounds, seed=seed)
    else:
        candidates = of_function(what, bounds, seed=seed)
    cluster = _checked_cluster(scheduler, resources)
    _check_workers(workers, cluster, candidates, sampler)
    facts = {
        **candidates.facts,
        "objectives": repr(ways),
        "within": repr(bounds),
        "sampler": sampler,
        "seed": str(seed),
    }
    facts |= {"evolution": repr(bred)}
    from .trials import generation  # at first use: Optuna takes longer to import than all of archlab
    from .trials import storage as stored

    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    with contextlib.ExitStack() as stack:
        stack.enter_context(stored.quiet())
        opened = stack.enter_context(stored.storage_of(folder, storage))
        study = stored.study_of(opened, name, ways, facts, candidates.start)
        show = stack.enter_context(bar(name, trials, wanted=progress))
        ended = itertools.count(len(stored.complete(study)) + 1)
        kept = Kept(None if folder is None else Path(folder) / KEPT, stored.known_as(study))
        measure = stack.enter_context(
            generation.measured_by(
                workers, cluster, candidates, ways, kept, deadline,
                tell=lambda label, outcome: show(next(ended), lambda: ""),
            )
        )  # fmt: skip
        draw = functools.partial(stored.sampler_for, sampler, candidates, bred, seed)
        left = True
        while (done := len(stored.complete(study))) < trials and left:
            if deadline is not None and time.monotonic() >= deadline:
                break
            count = min(trials - done, bred.left(done)) if workers or cluster else 1
            left = generation.run_trials(study, candidates, ways, draw, count, measure)
        rows = stored.rows_of(study)
    return _told(rows, ways, len(rows) >= trials, study)


def _checked(
    what: Any, task: Any, objectives: Any, within: Any, amounts: Any, sampler: Any, folder: Any, storage: Any
) -> tuple[dict[str, float], dict[str, str]]:
    """The bounds and the objectives. Raises TypeError or ValueError for what does not go together."""
    if not isinstance(what, nn.Module | Mapping) and not callable(what):
        raise TypeError(wrong("search: what", "a supernet, a dict of options, or a function of a trial", what))
    if not isinstance(what, nn.Module | Mapping) and task is not None:
        raise TypeError(wrong("search: task", "None, as the function of the trial measures", task))
    if amounts is not None and (isinstance(what, nn.Module) or not isinstance(what, Mapping)):
        raise TypeError(wrong("search: amounts", "None, but for a dict of options", amounts))
    ways = task.measures if objectives is None and isinstance(task, Task) else objectives
    if not isinstance(ways, Mapping) or not ways:
        raise ValueError(wrong("search: objectives", "a dict as {'error': 'lower', 'macs': 'lower'}", ways))
    for name, way in ways.items():
        choice(f"search: objectives[{name!r}]", way, ("higher", "lower"))
    if not isinstance(within or {}, Mapping):
        raise TypeError(wrong("search: within", "a dict of the most there may be, by name", within))
    for name, most in (within or {}).items():
        number(f"search: within[{name!r}]", most, finite=False)
    choice("search: sampler", sampler, SAMPLERS)
    if sampler == "evolution" and len(ways) > 1:
        raise ValueError(wrong("search: sampler", "'nsga2' or 'tpe' for several objectives", sampler))
    if sampler == "evolution" and callable(what) and not isinstance(what, nn.Module | Mapping):
        rule = "'tpe', 'nsga2' or 'random' where a function asks for options"
        raise ValueError(
            wrong("search: sampler", rule, sampler, "the evolution needs the options: give a dict of them")
        )
    check_folder("search: folder", folder, optional=True)
    if folder is not None and storage is not None:
        raise ValueError(
            f"search: give a folder or a storage, one of the two, got {shown(folder)} and {shown(storage)}"
        )
    return dict(within or {}), dict(ways)


def _checked_cluster(scheduler: Any, resources: Any) -> Cluster | None:
    """The cluster that is asked for. Raises TypeError, ValueError or ModuleNotFoundError."""
    check_address("search: scheduler", scheduler)
    taken = checked_resources("search: resources", {} if resources is None else resources)
    if scheduler is None:
        if taken:
            raise ValueError(wrong("search: resources", "None where there is no scheduler", taken, "give its address"))
        return None
    check_installed()
    return Cluster(scheduler, taken)


def _check_workers(workers: int, cluster: Cluster | None, candidates: Candidates, sampler: str) -> None:
    """Raise ValueError for workers where each trial depends on the one before it."""
    check_workers("search", workers)
    if not workers and cluster is None:
        return
    asked, none, given = ("workers", 0, workers) if cluster is None else ("scheduler", None, cluster.scheduler)
    if not candidates.options:
        rule = f"{none} where a function asks for its options within a trial"
        raise ValueError(wrong(f"search: {asked}", rule, given, "give a dict of options and a task that judges them"))
    if sampler == "tpe":
        rule = f"{none} for 'tpe', which draws each trial from all before it"
        raise ValueError(wrong(f"search: {asked}", rule, given, "take 'evolution', 'nsga2' or 'random'"))


def _told(rows: list[dict[str, Any]], ways: dict[str, str], finished: bool, study: "Study") -> Search:
    history = pd.DataFrame([row["row"] for row in rows])
    history.attrs["better"] = ways
    if history.empty or not history["feasible"].any():
        return Search(history, history.iloc[:0], None, ways, finished, study)
    feasible = history[history["feasible"]]
    chosen = pd.Series([repr(sorted(row["architecture"].items())) for row in rows], index=history.index)
    once = feasible.loc[~chosen[feasible.index].duplicated()]
    front = once[pareto(once, _front_ways(history, ways))]
    first, way = next(iter(ways.items()))
    judged = feasible[first].dropna()
    if judged.empty:
        return Search(history, front, None, ways, finished, study)
    at = judged.idxmax() if way == "higher" else judged.idxmin()
    return Search(history, front, dict(rows[int(at)]["architecture"]), ways, finished, study)


def _front_ways(history: pd.DataFrame, ways: Mapping[str, str]) -> dict[str, str]:
    """The columns that a front is of."""
    return dict(ways) if len(ways) > 1 or "macs" not in history else {**ways, "macs": "lower"}
