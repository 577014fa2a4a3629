"""What is searched, in one form: the options, what is known of a candidate before a trial, how it is measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import nn

from ...arguments import function, plain, whole, wrong
from ...capture.copies import copied, devices_of
from ...capture.modes import random_states_kept
from ...experiments.live.pieces import parts_of
from ...measure.speed import speed
from ...training.identity import modules_of, settings_of, start_of, start_of_functions
from ...training.task import check_task, qualities_of
from ..choose import choose
from ..norms import estimate_norms_
from ..space import Architecture
from ..supernet import example_of, set_architecture_, supernet_of

COSTS = ("macs", "params")  # of an architecture of a supernet, known before a trial
LATENCY = "latency_ms"

Amounts = dict[str, float]


@dataclass(frozen=True, eq=False)
class Candidates:
    """What may be tried.

    Attributes:
        options: By position; empty where a function of the trial asks for them itself.
        known: What is known of a candidate before it is measured, by name.
        timed: What is measured of it with nothing else running, by the names `times`.
        measure: What else a trial finds, by name; it is given the trial of Optuna, which only a function that asks for
            its options needs, and the architecture. The global random generators are seeded for it, each time alike.
        canonical: The one name of a network that has several.
        bounds: The most that a candidate may have, by name.
        facts: What a search of these candidates is known by.
        start: Makes the rest of that, which takes a moment: fingerprints of weights, first batch and functions.
        parts: What `measure` consists of, by the names that it has for the user.
    """

    options: Mapping[str, Sequence[Any]]
    known: Callable[[Architecture], Amounts]
    timed: Callable[[Architecture], Amounts]
    measure: Callable[[Any, Architecture], Amounts]
    canonical: Callable[[Architecture], Architecture]
    bounds: Mapping[str, float]
    facts: Mapping[str, str]
    start: Callable[[], Mapping[str, Any]]
    parts: Mapping[str, Any]
    times: Sequence[str] = ()

    def allowed(self, architecture: Architecture) -> bool:
        """Whether a candidate is within the bounds on what is known before a trial."""
        known = self.known(architecture)
        return all(known[name] <= most for name, most in self.bounds.items() if name in known)


def of_supernet(
    net: nn.Module, task: Any, bounds: Mapping[str, float], wanted: set[str], *, batches: int, seed: int
) -> Candidates:
    """The architectures of a supernet, each measured with the weights that it has there, on a copy of `net`."""
    check_task(task)
    whole("search: norm_batches", batches, least=0)
    inner, state = supernet_of(net)
    space, judged = state.space, copied(inner).eval()
    times = [LATENCY] if LATENCY in wanted else []

    def known(architecture: Architecture) -> Amounts:
        return {"macs": space.macs(architecture), "params": space.params(architecture)}

    def timed(architecture: Architecture) -> Amounts:
        if not times:
            return {}
        ran = speed(choose(judged, architecture), example_of(judged, state), seconds=0.5)
        return {LATENCY: float(ran.frame()["median_ms"].iloc[0])}

    def measure(trial: Any, architecture: Architecture) -> Amounts:
        set_architecture_(judged, architecture)
        with random_states_kept(devices_of(judged), seed=seed):
            if batches:
                estimate_norms_(judged, task, batches=batches)
            return qualities_of(task, judged, columns=(*COSTS, LATENCY, *space.options), untouched=False)

    def start() -> Mapping[str, Any]:
        return start_of(inner, task, {"task.loss": task.loss, "task.quality": task.quality})

    facts = {"options": repr(space.options), "norm_batches": str(batches)}
    facts |= modules_of(inner) | settings_of("task.settings", task.settings)
    parts = {"the supernet": judged, **parts_of(task)}
    return Candidates(space.options, known, timed, measure, space.canonical, bounds, facts, start, parts, times)


def of_options(
    options: Mapping[str, Sequence[Any]], measure: Any, amounts: Any, bounds: Mapping[str, float], *, seed: int
) -> Candidates:
    """Any space of options by name, each candidate measured by ``measure(architecture)``."""
    if not options:
        raise ValueError(wrong("search: what", "a dict of options by name, with one or more", options))
    for name, values in options.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise TypeError(wrong(f"search: the options of {name!r}", "a list of one or more", values))
        for value in map(plain, values):
            if not isinstance(value, str | int | float | None):
                rule = "a number, a string or None, which a file can keep"
                raise TypeError(wrong(f"search: an option of {name!r}", rule, value, "give a name, and look it up"))
    options = {name: tuple(map(plain, values)) for name, values in options.items()}
    function("search: task", measure, "an architecture", remedy="it returns what it measured, by name")
    function("search: amounts", amounts, "an architecture", optional=True)

    def known(architecture: Architecture) -> Amounts:
        return {} if amounts is None else numbers_in(amounts(dict(architecture)), "what amounts returns")

    def measured(trial: Any, architecture: Architecture) -> Amounts:
        with random_states_kept(_gpus(), seed=seed):
            return numbers_in(measure(dict(architecture)), "what the search measured")

    def start() -> Mapping[str, Any]:
        return start_of_functions({"task": measure, "amounts": amounts})

    return Candidates(
        options, known, _nothing, measured, dict, bounds, {"options": repr(options)}, start, {"task": measure}
    )


def of_function(measure: Callable[[Any], Any], bounds: Mapping[str, float], *, seed: int) -> Candidates:
    """What a function asks of its trial, by Optuna's ``trial.suggest_…``."""
    function("search: what", measure, "the trial")

    def measured(trial: Any, architecture: Architecture) -> Amounts:
        with random_states_kept(_gpus(), seed=seed):
            return numbers_in(measure(trial), "what the search measured")

    def start() -> Mapping[str, Any]:
        return start_of_functions({"what": measure})

    facts = {"options": "those of a function"}
    return Candidates({}, _nothing, _nothing, measured, dict, bounds, facts, start, {"what": measure})


def _nothing(architecture: Architecture) -> Amounts:
    return {}


def _gpus() -> Sequence[int]:
    """Those that a function of the user's may draw random numbers on."""
    return range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()


def numbers_in(found: Any, what: str) -> Amounts:
    """Named numbers as plain ones. Raises TypeError for anything else."""
    if not isinstance(found, Mapping) or not found:
        raise TypeError(wrong(what, "a dict of numbers by name", found))
    numbers = {name: plain(value) for name, value in found.items()}
    for name, value in numbers.items():
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(wrong(f"{what} as {name!r}", "a number", value))
    return {name: float(value) for name, value in numbers.items()}
