"""Optuna's side of a search: where its trials are kept, what makes the next one, and what a killed process left."""

import contextlib
import hashlib
import json
import math
import os
import random
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna.trial import Trial as Begun

from ...files import write_whole
from ...names import closest
from ...training.identity import difference_in_start
from ..space import Architecture
from .candidates import Candidates
from .evolution import Evolution, Trial

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

JOURNAL, LOCK = "journal.log", "search.lock"
FACTS, START = "archlab", "archlab start"  # attributes of a study: what it is known by
PROCESS, MEASURED = "archlab process", "archlab measured"  # attributes of a trial

Draw = Callable[[int, Sequence[Architecture]], BaseSampler]


class Exhausted(Exception):
    """There is no architecture left to try."""


class EvolutionSampler(BaseSampler):
    """Single-path evolution as a sampler of Optuna: no architecture twice, none over a bound that is known before.

    Each draw is a function of the seed, of the complete trials, and of what was `begun` of the generation besides.
    Raises Exhausted where none is left.
    """

    def __init__(self, candidates: Candidates, evolution: Evolution, seed: int, begun: Sequence[Architecture]):
        self.candidates, self.evolution, self.seed, self.begun = candidates, evolution, seed, begun

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self.candidates.options)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        sign = 1 if study.direction is StudyDirection.MAXIMIZE else -1
        done = [Trial(t.params, sign * t.values[0], is_feasible(t)) for t in complete(study)]
        done += [Trial(architecture, math.nan) for architecture in self.begun]
        found = self.evolution.propose(
            self.candidates.options, done, self.seed,
            allowed=self.candidates.allowed, canonical=self.candidates.canonical,
        )  # fmt: skip
        if found is None:
            raise Exhausted
        return found

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"the evolution has no position {param_name!r}: it asks for those it was given alone")


class OrderedNSGAII(NSGAIISampler):
    """NSGA-II whose parents stand in the order of their trials. Optuna's own stand in another when a generation's first
    child is drawn than later, so that a search which was killed then would draw it otherwise."""

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().get_parent_population(study, generation), key=lambda trial: trial.number)


def distributions(options: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """The options of each position, as Optuna knows them."""
    return {name: CategoricalDistribution(tuple(values)) for name, values in options.items()}


def sampler_for(
    name: str, candidates: Candidates, evolution: Evolution, seed: int, complete: int, begun: Sequence[Architecture]
) -> BaseSampler:
    """The sampler that makes the trial after so many complete ones and those `begun`: for each another, seeded by
    their number."""
    if name == "evolution":
        return EvolutionSampler(candidates, evolution, seed, begun)
    own = random.Random(f"{seed} {complete + len(begun)}").randrange(2**31)
    if name == "nsga2":
        return OrderedNSGAII(population_size=evolution.population, seed=own)
    return {"tpe": TPESampler, "random": RandomSampler}[name](seed=own)


def complete(study: Study) -> list[FrozenTrial]:
    """The complete trials of a study, in their order."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial is within all bounds."""
    return all(value <= 0 for value in trial.user_attrs[MEASURED]["over"].values())


@contextlib.contextmanager
def storage_of(folder: str | Path | None, url: str | None) -> Iterator[BaseStorage | str | None]:
    """Where trials are kept: a journal in `folder`, which no other process may use meanwhile; else `url`, or memory."""
    if folder is None:
        yield url
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    journal = Path(folder) / JOURNAL
    with open(Path(folder) / LOCK, "w", encoding="utf-8") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(
                    f"search: another process searches in {folder}; wait for it, or use another folder"
                ) from None
        _mend(journal)
        try:
            opened = JournalStorage(JournalFileBackend(str(journal)))
        except Exception as error:  # whatever Optuna raises on lines that it did not write
            told = f"{type(error).__name__}: {error}"
            raise ValueError(f"{journal}: this is no journal of a search ({told}); use another folder") from error
        yield opened


def _mend(journal: Path) -> None:
    """Take off what a killed process left of its last line, and its lock: no other process runs."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if not journal.exists():
        return
    content = journal.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        write_whole(journal, whole)


def study_of(
    storage: BaseStorage | str | None,
    name: str,
    objectives: Mapping[str, str],
    facts: Mapping[str, str],
    start: Callable[[], Mapping[str, Any]],
) -> Study:
    """The study of a search, begun or gone on with; what dead processes left running has failed.

    One in which nothing was measured is begun anew: it may have been asked for by a name that was misspelt.

    Raises:
        ValueError: where it was begun with other `facts` or another `start`.
    """
    ways = [StudyDirection.MAXIMIZE if way == "higher" else StudyDirection.MINIMIZE for way in objectives.values()]
    if storage is None:
        return optuna.create_study(study_name=name, directions=ways)
    if name not in optuna.get_all_study_names(storage):
        study = optuna.create_study(storage=storage, study_name=name, directions=ways)
    elif _is_empty(study := optuna.load_study(study_name=name, storage=storage)):
        optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(storage=storage, study_name=name, directions=ways)
    begins = start()
    if FACTS not in study.user_attrs and not study.trials and study.directions == ways:
        study.set_user_attr(START, begins)  # it is new, or its process was killed here
        study.set_user_attr(FACTS, dict(facts))
    _check_same(study, facts, begins)
    for trial in complete(study):
        measured = trial.user_attrs.get(MEASURED)
        parts = (
            [measured.get(part) for part in ("architecture", "found", "over")] if isinstance(measured, dict) else [None]
        )
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError(f"search: trial {trial.number} of {name!r} there is none of a search; use another folder")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial.user_attrs.get(PROCESS)):
            study.tell(trial.number, state=TrialState.FAIL)
    return study


def _is_empty(study: Study) -> bool:
    """Whether a study is one of a search in which no trial is complete, and none is run by a process that lives."""
    begun = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE))
    return FACTS in study.user_attrs and all(
        trial.state is TrialState.RUNNING and _is_dead(trial.user_attrs.get(PROCESS)) for trial in begun
    )


def _check_same(study: Study, facts: Mapping[str, str], start: Mapping[str, Any]) -> None:
    """Raise ValueError where a study was begun as another search."""
    begun = study.user_attrs.get(FACTS)
    begun = begun if isinstance(begun, dict) else {}
    for key in {**begun, **facts}:
        if begun.get(key) != facts.get(key):
            raise ValueError(
                f"search: the search {study.study_name!r} there was begun with {key} {begun.get(key, 'unknown')}, and "
                f"not {facts.get(key)}; use another folder or name"
            )
    try:
        difference = difference_in_start(study.user_attrs[START], start)
    except (LookupError, TypeError, ValueError, AttributeError):
        difference = "what it began with is not told whole"
    if difference:
        raise ValueError(
            f"search: the search {study.study_name!r} there is another: {difference}; use another folder or name"
        )


def known_as(study: Study) -> str:
    """A hash of what a search is known by, as its study has it."""
    known_by = [study.study_name, *(study.user_attrs.get(name) for name in (FACTS, START))]
    return hashlib.sha256(json.dumps(known_by).encode()).hexdigest()[:16]


def this_process() -> str:
    """What a trial says of the process that runs it."""
    return f"{socket.gethostname()} {os.getpid()}"


def _is_dead(process: Any) -> bool:
    """Whether the process of a running trial is this one, which begins, or is no more; not those of other machines."""
    host, _, number = str(process).rpartition(" ")
    if process is None or process == this_process():
        return True
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, ValueError):
        return True
    except OSError:
        pass
    return False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna without its lines about each trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@dataclass(frozen=True, eq=False)
class Asked:
    """A trial that was begun, and its architecture by the one name that it has; of a function, what it asked for."""

    trial: Begun
    candidates: Candidates

    @property
    def architecture(self) -> Architecture:
        return self.candidates.canonical(dict(self.trial.params))


def ask(study: Study, candidates: Candidates, draw: Draw, count: int) -> list[Asked]:
    """Begin trials, so many at most: fewer where there is nothing left to try.

    Args:
        study: Of the search.
        candidates: What may be tried.
        draw: Makes the sampler of a trial, from the number of complete ones and the architectures begun since.
        count: No more than the generation still has.
    """
    asked: list[Asked] = []
    done = len(complete(study))
    while len(asked) < count:
        study.sampler = draw(done, [one.architecture for one in asked])
        try:
            trial = study.ask(distributions(candidates.options))
        except Exhausted:
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            begun = [trial for trial in running if PROCESS not in trial.user_attrs]
            study.tell(begun[-1].number, state=TrialState.FAIL)
            break
        trial.set_user_attr(PROCESS, this_process())
        asked.append(Asked(trial, candidates))
    return asked


def check_names(
    found: Iterable[str], architecture: Architecture, objectives: Iterable[str], bounds: Iterable[str]
) -> None:
    """Check the names of what was measured of an architecture.

    Raises:
        ValueError: an objective or a bound is not among them, or one is also that of a position.
    """
    found = list(found)
    for name in (*objectives, *bounds):
        if name not in found:
            raise ValueError(f"search: {name!r} is not among what was measured; {closest(name, found)}")
    if clash := {*found, "trial", "feasible"} & architecture.keys() | {"trial", "feasible"} & {*found}:
        raise ValueError(f"search: {min(clash)!r} would be two columns of the history; rename it")


def tell_(study: Study, one: Asked, found: Mapping[str, float], objectives: Mapping[str, str]) -> None:
    """Tell the study what was measured in a trial, which is complete then. Raises ValueError as `check_names` does."""
    trial, bounds, architecture = one.trial, one.candidates.bounds, one.architecture
    check_names(found, architecture, objectives, bounds)
    over = {name: found[name] - most for name, most in bounds.items()}
    over = {name: math.inf if math.isnan(value) else value for name, value in over.items()}
    for name, value in over.items():
        trial.set_constraint(name, value)
    trial.set_user_attr(MEASURED, {"architecture": architecture, "found": dict(found), "over": over})
    worst = {"higher": -math.inf, "lower": math.inf}
    study.tell(trial, [worst[way] if math.isnan(found[name]) else found[name] for name, way in objectives.items()])


def fail_(study: Study, asked: Sequence[Asked]) -> None:
    """Give up trials that were begun."""
    for one in asked:
        study.tell(one.trial, state=TrialState.FAIL)


def found_before(study: Study, one: Asked) -> dict[str, float] | None:
    """What an earlier trial measured of the same network; a function's options say nothing before it has asked."""
    if one.candidates.options:
        for trial in complete(study):
            if trial.user_attrs[MEASURED]["architecture"] == one.architecture:
                return trial.user_attrs[MEASURED]["found"]
    return None


def rows_of(study: Study) -> list[dict[str, Any]]:
    """By complete trial, its architecture, and its row of the history."""
    rows = []
    for number, trial in enumerate(complete(study)):
        measured = trial.user_attrs[MEASURED]
        row = {"trial": number, **measured["architecture"], **measured["found"], "feasible": is_feasible(trial)}
        rows.append({"architecture": measured["architecture"], "row": row})
    return rows
