"""Runs of linear layers with activations between them, and what each merge of some of them would cost.

A run is found where its activations are removed: there its layers are links of `passes.fold`, each read by the next
alone. What then lies between two of them in the original are the activations that must go for these to be merged.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

from ...capture.record import Capture
from ...capture.recorder import capture
from ...discovery.find import find
from ...discovery.kinds import Kind
from ...discovery.site import Site
from ...passes.discard import remove
from ...passes.fold.chains import Chains, Link, find_chains
from ...passes.fold.linear import Layer, NotExact, then
from ...passes.fold.plan import LONGEST, LayerCost

Between = tuple[str, ...] | None  # ids of the activations between two layers; None where something else is


@dataclass(frozen=True)
class Merge:
    """Some layers of a run as one: from number `first` to number `last`, without the sites `gone` between them."""

    first: int
    last: int
    cost: float
    gone: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """Layers that follow each other, by address, and every way to compute some of them as one, each alone included."""

    layers: tuple[str, ...]
    merges: tuple[Merge, ...]


def find_runs(model: nn.Module, example: Any, sites: Collection[str], price: LayerCost) -> list[Run]:
    """The runs of `model`, in evaluation mode, in which some layers would be cheaper as one without some of `sites`.

    Padding counts as if the first convolution of a merge did it all, as `hoist_padding` makes it.
    """
    record = capture(model, example)
    found = find(record, modules=dict(model.named_modules()))
    taken = [site for site in found if site.kind is Kind.ACTIVATION and site.id in sites]
    bare = remove(model, example, kinds=Kind.ACTIVATION, where=lambda site: site.id in sites)
    merged = find_chains(bare, capture(bare, example), example=example)
    between = _Between(find_chains(model, record, example=example), taken, record)
    runs = []
    for links in _sequences(merged):
        gaps = [between(a.address, b.address) for a, b in pairwise(links)]
        merges = tuple(_merges(links, gaps, price))
        if any(merge.gone for merge in merges):
            runs.append(Run(tuple(link.address for link in links), merges))
    return runs


def _sequences(chains: Chains) -> Iterator[list[Link]]:
    """The links, each as part of one longest sequence in which the next one alone reads the one before."""
    followers = {link.readers[0] for link in chains.links.values() if link.readers and len(link.readers) == 1}
    for link in chains.links.values():
        if link not in followers:
            sequence = [link]
            while sequence[-1].readers and len(sequence[-1].readers) == 1:
                sequence.append(sequence[-1].readers[0])
            yield sequence


class _Between:
    """Which activations lie between two layers of the original."""

    def __init__(self, chains: Chains, sites: Collection[Site], record: Capture):
        self.links = chains.links
        self.behind = {stands: (site.id, made) for site in sites for stands, made in site.values}
        self.read = {value: len(ops) for value, ops in record.consumers().items()}

    def __call__(self, first: str, second: str) -> Between:
        if first not in self.links or second not in self.links:
            return None
        before, after = self.links[first], self.links[second]
        ways = {self._way(value, set(after.inputs)) for value in before.outputs}
        return ways.pop() if len(ways) == 1 else None

    def _way(self, value: int, ends: set[int]) -> Between:
        found = []
        while value not in ends:
            if value not in self.behind:
                return None
            site, value = self.behind[value]
            found.append(site)
        return tuple(found)


def _merges(links: list[Link], gaps: list[Between], price: LayerCost) -> Iterator[Merge]:
    """Each link by itself, and the merges of several that cost less than their layers do by themselves."""

    def cost(layer: Layer, first: Link, last: Link) -> float:
        return price(layer, first.in_shape, last.out_shape)

    alone = [cost(link.layer, link, link) for link in links]
    for first, link in enumerate(links):
        yield Merge(first, first, alone[first], ())
        layer, gone = link.layer, ()
        for last in range(first + 1, min(len(links), first + LONGEST)):
            gap = gaps[last - 1]
            try:
                layer = then(layer, links[last].layer, hoist=True)
            except NotExact:
                break
            if gap is None:
                break
            gone = (*gone, *gap)
            held = any(other.is_module and other.layer.form != "affine" for other in links[first : last + 1])
            whole = cost(layer, link, links[last])
            if held and whole <= sum(alone[first : last + 1]):
                yield Merge(first, last, whole, gone)
