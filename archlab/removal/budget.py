"""How much of a model may stay, and what each site saves of it.

What one site saves is read off the sites where they say it, and serves to weigh and to steer. What a set of sites
leaves is measured: the sites are removed from a copy, so that nested sites, shared operands and what can only be
bypassed count as they are.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ..arguments import choice, number, text, wrong
from ..capture.copies import copied
from ..discovery.find import sites_of
from ..discovery.kinds import Kind
from ..discovery.site import Site
from ..measure.costs import cost
from ..measure.speed import speed
from ..passes.discard import remove
from ..passes.switch_state import switch_name

LATENCY_S = 1.0  # of measuring each model


def _nonlinear(model: nn.Module, example: Any) -> float:
    """Elements that go through non-linearities: what counts in private inference (ReLU counts)."""
    return float(sum(_elements(site) for site in sites_of(model, example) if site.kind is Kind.ACTIVATION))


def _elements(site: Site) -> int:
    return math.prod(site.shape) * site.calls


# What a budget can be of: how much of it a model has. Milliseconds are measured beside the original (`Savings`).
AMOUNTS: dict[str, Callable[[nn.Module, Any], float]] = {
    "macs": lambda model, example: float(cost(model, example).macs),
    "params": lambda model, example: float(sum(p.numel() for p in model.parameters())),
    "activations": _nonlinear,
}
LATENCY, SITES = "latency_ms", "sites"
MEASURES = (*AMOUNTS, LATENCY, SITES)


def check_budget(budget: Mapping[str, float]) -> None:
    """Check a budget: by measure (`MEASURES`), the share of the original that may stay, above 0 and below 1.

    Raises:
        TypeError, ValueError: naming what is wrong with it.
    """
    check_shares("budget", budget, "{'macs': 0.6}")
    for measure, share in budget.items():
        choice("a measure in budget", measure, MEASURES)
        if share >= 1:
            raise ValueError(wrong(f"budget[{measure!r}]", "the share that may stay, above 0 and below 1", share))


def check_shares(name: str, shares: Mapping[str, float], example: str) -> None:
    """Check that it is a dict of positive numbers by name, which is not empty. Raises TypeError, ValueError."""
    if not isinstance(shares, Mapping):
        raise TypeError(wrong(name, f"a dict as {example}", shares))
    if not shares:
        raise ValueError(wrong(name, f"a dict as {example}", shares))
    for key, share in shares.items():
        text(f"a name in {name}", key)
        number(f"{name}[{key!r}]", share, above=0)


def share_left(measure: str, model: nn.Module, thin: nn.Module, example: Any) -> float:
    """What a thin model has of `measure`, but for "sites", as a share of what the original has."""
    if measure == LATENCY:
        whole, here = _milliseconds(model, thin, example)
        return here / whole
    return AMOUNTS[measure](thin, example) / max(AMOUNTS[measure](model, example), 1)


def _milliseconds(model: nn.Module, thin: nn.Module, example: Any) -> tuple[float, float]:
    """The medians of two models' interleaved runs."""
    times = speed({"whole": model, "thin": thin}, example, seconds=LATENCY_S).frame()
    whole, here = times.set_index("model")["median_ms"].loc[["whole", "thin"]]
    return float(whole), float(here)


class Savings:
    """What the switches of one model save of each measure of a budget, as shares of the whole.

    `channels` says how many switches those of the sites have that have one a channel. What goes is named as in
    `passes.switch_state`: by the id of a site, or as one of its channels.

    Attributes:
        switches: Their names, in the order of the sites.
        unit: What they are switches of: "sites" or "channels".
        alone: By measure, what each switch saves if it alone goes, a channel its share of the site.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        found: Sequence[Site],
        measures: Iterable[str],
        channels: Mapping[str, int] | None = None,
    ):
        self.model, self.example, self.sites = model, example, list(found)
        many = channels or {}
        self.of_site = {
            s.id: [switch_name(s.id, n) for n in range(many[s.id])] if s.id in many else [s.id] for s in found
        }
        self.switches = [name for names in self.of_site.values() for name in names]
        self.unit = "channels" if many else "sites"
        self.wholes = {name: AMOUNTS[name](model, example) for name in measures if name in AMOUNTS}
        self._left: dict[tuple[str, frozenset[str]], float] = {}
        self.alone = {measure: self._alone(measure) for measure in measures}

    def _alone(self, measure: str) -> list[float]:
        found = []
        for site in self.sites:
            names = self.of_site[site.id]
            found += [self._of_site(measure, site) / len(names)] * len(names)
        return found

    def _of_site(self, measure: str, site: Site) -> float:
        if measure == SITES:
            return len(self.of_site[site.id]) / len(self.switches)
        # What a site does not say of itself is measured: milliseconds, and the non-linearities in what goes with it.
        if measure == LATENCY or (measure == "activations" and site.kind is not Kind.ACTIVATION):
            return 1 - self.left(measure, self.of_site[site.id])
        amounts = {"macs": site.macs, "params": site.params, "activations": _elements(site)}
        return amounts[measure] / max(self.wholes[measure], 1)

    def left(self, measure: str, gone: Collection[str]) -> float:
        """The share of `measure` that stays once the switches `gone` are removed, measured.

        Milliseconds are medians of runs interleaved with the original's. Elements through non-linearities are counted
        where channels go: what is left of a site works on the others alone.
        """
        if not gone:
            return 1.0
        if measure == SITES:
            return 1 - len(set(gone)) / len(self.switches)
        if measure == "activations" and self.unit == "channels":
            saved = dict(zip(self.switches, self.alone[measure], strict=True))
            return 1 - math.fsum(saved[name] for name in set(gone))
        key = measure, frozenset(gone)
        if key not in self._left:
            if measure == LATENCY:
                whole, here = self.milliseconds(gone)
                self._left[key] = here / whole
            else:
                self._left[key] = AMOUNTS[measure](self.without(gone), self.example) / max(self.wholes[measure], 1)
        return self._left[key]

    def milliseconds(self, gone: Collection[str]) -> tuple[float, float]:
        """The medians of the original and of it without the sites `gone`, of interleaved runs."""
        return _milliseconds(self.model, self.without(gone), self.example)

    def without(self, gone: Collection[str]) -> nn.Module:
        """The original with these removed; of channels, the sites all of whose channels go."""
        gone = set(gone)
        whole = {site.id for site in self.sites if gone.issuperset(self.of_site[site.id])}
        kinds = sorted({site.kind for site in self.sites if site.id in whole})
        if not whole:
            return self.model
        return remove(self.model, self.example, kinds=kinds, where=lambda site: site.id in whole)

    def to_tune(self, gone: Collection[str]) -> nn.Module:
        """A copy of the original without these, to be tuned."""
        return self.without(gone) if gone else copied(self.model)

    def tuned(self, thin: nn.Module) -> nn.Module:
        """What becomes of it once it is tuned."""
        return thin

    def over(self, budget: Mapping[str, float], gone: Collection[str]) -> float:
        """By how much, as a share of the whole, the budget is exceeded; at most 0 where it is met."""
        return max(self.left(measure, gone) - share for measure, share in budget.items())
