"""Single-path evolution (Guo et al. 2020, appendix): from what is known so far, the architecture to try next.

A function of the seed and of the complete trials alone, so that a search that was killed goes on as if it had not been.
Not Optuna's NSGA-II: that proposes architectures twice, and over the bound.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...arguments import number, whole
from ..space import Architecture

SAMPLERS = ("evolution", "nsga2", "tpe", "random")  # what may propose: this, or one of Optuna's
TRIES = 100  # of a mutation or a crossover, before an architecture is drawn at random
RANDOM_TRIES = 10_000
LISTED = 20_000  # a space of no more is looked through for what is left of it


@dataclass(frozen=True)
class Trial:
    """One complete trial: the architecture, its quality (higher is better), and whether it is within all bounds."""

    architecture: Architecture
    quality: float
    feasible: bool = True


@dataclass(frozen=True)
class Evolution:
    """How architectures are bred; the defaults are those of Guo et al.

    Attributes:
        population: Trials of a generation; the first one is drawn at random.
        parents: So many of the best of all generations before are bred from.
        mutated: The share of a generation that is a parent with some options redrawn.
        crossed: The share that takes each option from one of two parents; the rest is drawn at random.
        mutation: The probability that an option is redrawn.
    """

    population: int = 50
    parents: int = 10
    mutated: float = 0.5
    crossed: float = 0.5
    mutation: float = 0.1

    def __post_init__(self):
        whole("search: population", self.population, least=2)
        whole("search: parents", self.parents, least=1)
        for name in ("mutated", "crossed", "mutation"):
            number(f"search: {name}", getattr(self, name), low=0, high=1)
        number("search: mutated and crossed together", self.mutated + self.crossed, low=0, high=1)

    def left(self, complete: int) -> int:
        """How many trials a generation still has after so many complete ones of all."""
        return self.population - complete % self.population

    def propose(
        self,
        options: Mapping[str, Sequence[Any]],
        done: Sequence[Trial],
        seed: int,
        *,
        allowed: Callable[[Architecture], bool] = lambda architecture: True,
        canonical: Callable[[Architecture], Architecture] = lambda architecture: architecture,
    ) -> Architecture | None:
        """The architecture to try after the trials `done`, which none of them had and which is `allowed`.

        Args:
            options: of each position.
            done: complete trials, in their order.
            seed: of the search.
            allowed: whether an architecture is within the bounds that are known without a trial.
            canonical: the one name of a network that has several.

        Returns:
            The architecture, or None where there is none left.
        """
        generator = random.Random(f"{seed} {len(done)}")
        generation, child = divmod(len(done), self.population)
        seen = {key_of(trial.architecture) for trial in done}
        ranked = sorted(done[: generation * self.population], key=lambda t: (not t.feasible, -t.quality))
        best = [trial.architecture for trial in ranked[: self.parents]]

        def anew() -> Architecture:
            return {name: generator.choice(values) for name, values in options.items()}

        def mutant() -> Architecture:
            parent, other = generator.choice(best), anew()
            return {name: other[name] if generator.random() < self.mutation else parent[name] for name in options}

        def crossing() -> Architecture:
            mother, father = generator.choice(best), generator.choice(best)
            return {name: generator.choice((mother, father))[name] for name in options}

        mutants, crossings = round(self.mutated * self.population), round(self.crossed * self.population)
        bred = [] if not best else [mutant] * TRIES if child < mutants else [crossing] * TRIES
        bred = bred if child < mutants + crossings else []
        for make in itertools.chain(bred, itertools.repeat(anew, RANDOM_TRIES)):
            found = canonical(make())
            if key_of(found) not in seen and allowed(found):
                return found
        return _any_left(options, seen, generator, allowed, canonical)


def key_of(architecture: Architecture) -> tuple:
    """An architecture to compare and to look up."""
    return tuple(sorted((name, repr(option)) for name, option in architecture.items()))


def _any_left(options: Mapping[str, Sequence[Any]], seen: set, generator: random.Random,
              allowed: Callable[[Architecture], bool],
              canonical: Callable[[Architecture], Architecture]) -> Architecture | None:  # fmt: skip
    combinations = itertools.islice(itertools.product(*options.values()), LISTED)
    every = {key_of(a): a for a in (canonical(dict(zip(options, c, strict=True))) for c in combinations)}
    left = [a for key, a in every.items() if key not in seen and allowed(a)]
    return generator.choice(left) if left else None
