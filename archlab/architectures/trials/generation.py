"""Trials of one generation: asked for, measured here or by workers, and told to the study in their order.

What is drawn hangs on the seed, on the number of complete trials, on the generations before, and on what the own one
began with. So a generation may be measured at once, and as its trials are told in their order, the history is that of
a search without workers, also after a kill.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.study import Study

from ...experiments.live.pieces import Crew, Piece, Work, crew_for
from ...experiments.order import FINISHED
from ...training.kept import Kept
from .candidates import Candidates
from .storage import Asked, Draw, ask, fail_, found_before, tell_

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
    workers: int, candidates: Candidates, kept: Kept, deadline: float | None, *, tell: Callable[[str, str], Any]
) -> Iterator[Measure]:
    """What measures the trials of a search.

    Args:
        workers: 0 measures here; else so many processes do, each with a copy of what is searched.
        candidates: What may be tried.
        kept: What workers measure is kept there, by architecture, so that a kill loses what was under way alone.
        deadline: On `time.monotonic`, when workers begin no more; None for no limit.
        tell: Is given the architecture, as JSON, and how a trial ended.
    """
    if not workers:
        yield lambda study, asked: _measured_here(study, asked, tell)
        return
    judge = _Judge(candidates.measure, kept)
    work = Work(judge.measure, judge.is_measured, leases=None)
    with crew_for("search", work, workers=workers, parts=candidates.parts) as crew:
        yield lambda study, asked: _measured_in(crew, judge, study, asked, deadline, tell)


def _measured_here(study: Study, asked: Sequence[Asked], tell: Callable[[str, str], Any]) -> Iterator[Found]:
    """What each trial finds, one after another; a network that was measured before is not measured again."""
    for one in asked:
        found = found_before(study, one)
        if found is None:
            known = _known_and_timed(one)
            found = {**known, **one.candidates.measure(one.trial, one.architecture)}
        tell(json.dumps(one.architecture), FINISHED)
        yield found


def _measured_in(
    crew: Crew, judge: "_Judge", study: Study, asked: Sequence[Asked], deadline: float | None, tell: Any
) -> Iterator[Found]:
    """What each trial finds in workers. What stands before a trial that failed is told, then that is raised."""
    missing = dict.fromkeys(json.dumps(one.architecture) for one in asked if found_before(study, one) is None)
    failure = None
    try:
        crew.carry_out([Piece(label) for label in missing], lasting=True, tell=tell, deadline=deadline)
    except Exception as error:
        failure = error
    for one in asked:
        found = found_before(study, one)
        if found is None:
            label = json.dumps(one.architecture)
            if not judge.is_measured(label):
                break
            found = {**_known_and_timed(one), **judge.kept.get(label)}  # timed now, when no worker runs
        yield found
    if failure is not None:
        raise failure


def _known_and_timed(one: Asked) -> dict[str, float]:
    return {**one.candidates.known(one.architecture), **one.candidates.timed(one.architecture)}


@dataclass(frozen=True)
class _Judge:
    """Measures architectures by their JSON. Workers get a copy of it."""

    of: Callable[[Any, Any], dict[str, float]]
    kept: Kept

    def measure(self, label: str) -> None:
        self.kept.keep_(label, self.of(None, json.loads(label)))

    def is_measured(self, label: str) -> bool:
        return self.kept.get(label) is not None
