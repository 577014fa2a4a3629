"""Trials of one generation: asked for, measured here or by workers, and told to the study in their order.

What is drawn depends on the seed, on the number of complete trials, on the generations before, and on what the own one
began with. So a generation may be measured at once, and as its trials are told in their order, the history is that of
a search without workers, also after a kill.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from optuna.study import Study

from ...experiments.live.cluster import Cluster
from ...experiments.live.pieces import Crew, Piece, Work, crew_for
from ...experiments.order import FINISHED
from ...training.kept import Kept
from .candidates import Candidates
from .storage import Asked, Draw, ask, check_names, fail_, found_before, tell_

Found = Mapping[str, float]
Measure = Callable[[Study, Sequence[Asked]], Iterator[Found]]  # of each trial in turn, as far as it comes


def run_trials(
    study: Study, candidates: Candidates, objectives: Mapping[str, str], draw: Draw, count: int, measure: Measure
) -> bool:
    """Run so many trials, or as many as there is time for; what was begun and not measured has failed.

    Returns:
        False where there was nothing left to try.
    """
    asked = ask(study, candidates, draw, count)
    told = 0
    try:
        for one, found in zip(asked, measure(study, asked), strict=False):
            tell_(study, one, found, objectives)
            told += 1
    finally:
        fail_(study, asked[told:])
    return len(asked) == count


@contextlib.contextmanager
def measured_by(
    workers: int,
    cluster: Cluster | None,
    candidates: Candidates,
    objectives: Iterable[str],
    kept: Kept,
    deadline: float | None,
    *,
    tell: Callable[[str, str], Any],
) -> Iterator[Measure]:
    """What measures the trials of a search.

    Args:
        workers: 0 measures here; else so many processes do, each with a copy of what is searched.
        cluster: Whose workers do, in place of processes here.
        candidates: What may be tried.
        objectives: By which they are judged.
        kept: What workers measure is kept there, by architecture, so that a kill loses what was under way alone.
        deadline: On `time.monotonic`, when workers begin no more; None for no limit.
        tell: Is given the architecture, as JSON, and how a trial ended.
    """
    if not workers and cluster is None:
        yield lambda study, asked: _measured_here(study, asked, tell)
        return

    def keep(label: str, found: Found) -> None:
        architecture = json.loads(label)
        names = [*candidates.known(architecture), *candidates.times, *found]
        check_names(names, architecture, objectives, candidates.bounds)  # with the first, not after a generation
        kept.keep_(label, found)

    measure = functools.partial(_measured_by_name, candidates.measure)
    work = Work(measure, lambda label: kept.get(label) is not None, leases=None, keep=keep)
    with crew_for("search", work, workers=workers, parts=candidates.parts, cluster=cluster, deadline=deadline) as crew:
        yield lambda study, asked: _measured_in(crew, kept, study, asked, tell)


def _measured_here(study: Study, asked: Sequence[Asked], tell: Callable[[str, str], Any]) -> Iterator[Found]:
    """What each trial finds, one after another; a network that was measured before is not measured again."""
    for one in asked:
        found = found_before(study, one)
        if found is None:
            known = _known_and_timed(one)
            found = {**known, **one.candidates.measure(one.trial, one.architecture)}
        tell(json.dumps(one.architecture), FINISHED)
        yield found


def _measured_in(crew: Crew, kept: Kept, study: Study, asked: Sequence[Asked], tell: Any) -> Iterator[Found]:
    """What each trial finds in workers. What stands before a trial that failed is told, then that is raised."""
    missing = dict.fromkeys(json.dumps(one.architecture) for one in asked if found_before(study, one) is None)
    failure = None
    try:
        crew.carry_out([Piece(label) for label in missing], lasting=True, tell=tell)
    except Exception as error:
        failure = error
    for one in asked:
        found = found_before(study, one)
        if found is None:
            measured = kept.get(json.dumps(one.architecture))
            if measured is None:
                break
            found = {**_known_and_timed(one), **measured}  # timed now, when no worker runs
        yield found
    if failure is not None:
        raise failure


def _known_and_timed(one: Asked) -> dict[str, float]:
    return {**one.candidates.known(one.architecture), **one.candidates.timed(one.architecture)}


def _measured_by_name(measure: Callable[[Any, Any], Found], label: str) -> Found:
    """What is measured of an architecture, given as JSON, in a worker."""
    return measure(None, json.loads(label))
