"""Which chains of linear layers to merge: the cheapest way to cut them, by dynamic programming; and which sums."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ...capture.record import Op
from ...discovery.ops import ADDS
from ...names import Where, chosen
from .chains import Chains, Link
from .linear import Layer, NotExact, identity, plus, then

LONGEST = 64  # layers in one chain that is merged
LayerCost = Callable[[Layer, tuple[int, ...], tuple[int, ...]], float]  # of a layer, its input's and output's shape


@dataclass(frozen=True, eq=False)
class Sum:
    """An add of two linear layers of one input; `second` is None where it is the input itself."""

    address: str
    ops: tuple[Op, ...]
    first: Link
    second: Link | None
    layer: Layer

    @property
    def links(self) -> tuple[Link, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)


@dataclass(frozen=True)
class Segment:
    """Links that follow each other, and the one layer that they are."""

    links: tuple[Link, ...]
    layer: Layer

    @property
    def holder(self) -> Link:
        """The link whose module becomes the merged one: the last that is no scale or shift."""
        return [link for link in self.links if link.is_module and link.layer.form != "affine"][-1]


@dataclass(frozen=True, eq=False)
class _Plan:
    """A way to compute a link and all that follows: what it costs, its first segment and the plans of what reads that.
    Plans share what follows. The segment is None where several begin with the same links."""

    total: float
    segment: Segment | None
    behind: "tuple[_Plan, ...]"

    @property
    def first(self) -> Segment:
        return self.segment or self.behind[0].first

    def segments(self) -> list[Segment]:
        found: list[Segment] = []
        waiting: list[_Plan] = [self]
        while waiting:
            plan = waiting.pop()
            found += [plan.segment] if plan.segment is not None else []
            waiting += plan.behind[::-1]
        return found


def _merger(hoist: bool) -> Callable[[Layer, Layer], Layer]:
    """`then` for layers on the meta device, which are alike where their shapes are: each pair is worked out once."""
    known: dict[tuple, Layer | NotExact] = {}

    def merge(first: Layer, second: Layer) -> Layer:
        key = first.signature, second.signature
        if key not in known:
            try:
                known[key] = then(first, second, hoist=hoist)
            except NotExact as error:
                known[key] = error
        made = known[key]
        if isinstance(made, NotExact):
            raise NotExact(str(made))
        return made

    return merge


def plan_chains(chains: Chains, cost: LayerCost, *, hoist: bool = False) -> tuple[list[Segment], dict[str, str]]:
    """The cheapest way to compute all chains, by dynamic programming: the segments of several links, and why others
    were skipped (address of the later link -> reason). Merging wins where both ways cost the same.

    `hoist`: as if all padding of a segment were done by its first convolution.
    """
    skipped: dict[str, str] = {}
    merge = _merger(hoist)

    def price(segment: Segment) -> float:
        return cost(segment.layer, segment.links[0].in_shape, segment.links[-1].out_shape)

    def joined(segment: Segment, reader: Link) -> Segment:
        if len(segment.links) == LONGEST:
            raise NotExact(f"longer chains than {LONGEST} layers are not tried")
        return Segment((*segment.links, reader), merge(segment.layer, reader.layer))

    memo: dict[Link, _Plan] = {}

    def alone(link: Link) -> _Plan:
        if link not in memo:
            memo[link] = best(Segment((link,), link.layer))
        return memo[link]

    def best(segment: Segment) -> _Plan:
        """The cheapest way to compute what follows, given that nothing of `segment` is computed yet."""
        # 1. Stop here: the segment is one layer, and each reader begins one of its own.
        readers: tuple[Link, ...] = segment.links[-1].readers or ()
        apart = [alone(reader) for reader in readers]
        stopping = _Plan(price(segment) + sum(plan.total for plan in apart), segment, tuple(apart))
        if not readers:
            return stopping
        # 2. Go on: the segment is merged into every reader and not computed by itself, where `then` finds that exact.
        later = readers[-1].address
        try:
            going = [best(joined(segment, reader)) for reader in readers]
        except NotExact as error:
            skipped.setdefault(later, f"not merged with {segment.links[-1].address}: {error}")
            return stopping
        # 3. The cheaper of both. What several readers go on from must be held by layers of theirs, a module each.
        total = sum(plan.total for plan in going)
        if len(readers) > 1 and any(_held_before(plan.first, segment) for plan in going):
            return stopping
        if total <= stopping.total:
            return going[0] if len(going) == 1 else _Plan(total, None, tuple(going))
        skipped.setdefault(
            later,
            f"not merged with {segment.links[-1].address}: {total:.4g} instead of {stopping.total:.4g} with what "
            "follows",
        )
        return stopping

    # What comes last first, so that no call goes deep; then the plan is read off at the links where chains begin.
    for link in reversed(chains.links.values()):
        alone(link)
    followers = {reader for link in chains.links.values() for reader in link.readers or ()}
    segments = [s for link in chains.links.values() if link not in followers for s in alone(link).segments()]
    merged = [s for s in segments if len(s.links) > 1 and any(_can_hold(link) for link in s.links)]
    taken = {link.address for s in merged for link in s.links[1:]}
    return merged, {address: why for address, why in skipped.items() if address not in taken}


def _can_hold(link: Link) -> bool:
    return link.is_module and link.layer.form != "affine"


def _held_before(segment: Segment, start: Segment) -> bool:
    """Whether a segment that goes on from `start` would be held by a layer of `start`, which others go on from too."""
    later = segment.links[len(start.links) :]
    return not any(_can_hold(link) for link in later)


def plan_sums(chains: Chains, cost: LayerCost, *, refused: Collection[str] = ()) -> tuple[list[Sum], dict[str, str]]:
    """The adds of two linear layers of one input that are cheaper as one, no link twice; and why others are not."""
    owner = chains.makers()
    found: list[Sum] = []
    skipped: dict[str, str] = {}
    used: set[Link] = set()
    for address, ops in chains.ops.items():
        if ops[0].func not in ADDS or ops[0].options or any(p is not None for p in ops[0].positional):
            continue
        pair = _summands(ops, owner, chains)
        if pair is None or pair[0].address in refused or used & set(pair):
            continue
        try:
            made = sum_of(address, ops, pair)
        except NotExact as error:
            skipped[address] = f"not merged with {pair[0].address}: {error}"
            continue
        apart = sum(cost(link.layer, link.in_shape, link.out_shape) for link in pair if link is not None)
        whole = cost(made.layer, made.first.in_shape, made.first.out_shape)
        if whole > apart:
            skipped[address] = f"not merged with {pair[0].address}: {whole:.4g} instead of {apart:.4g}"
            continue
        found.append(made)
        used |= set(made.links)
    return found, skipped


def sum_of(address: str, ops: tuple[Op, ...], pair: tuple[Link, Link | None]) -> Sum:
    """The sum of two links, the second None for their input, as one layer. Raises NotExact where it is none."""
    first, second = pair
    other = second.layer if second is not None else identity(first.layer.inputs, first.layer.dims, device="meta")
    if first.layer.outputs != other.outputs:
        raise NotExact("their channels differ")
    return Sum(address, ops, first, second, plus(first.layer, other))


def _summands(ops: Sequence[Op], owner: dict[int, Link], chains: Chains) -> tuple[Link, Link | None] | None:
    """The two links whose outputs every one of `ops` adds and nothing else reads; the second is None for the input."""
    pairs = set()
    for op in ops:
        if len(op.inputs) != 2 or op.in_shapes[0] != op.in_shapes[1] or op.inputs[0] == op.inputs[1]:
            return None
        links = [owner.get(value) for value in op.inputs]
        links = [
            link if link and not _read_elsewhere(value, op, chains) else None
            for link, value in zip(links, op.inputs, strict=True)
        ]
        first = next((link for link in links if link is not None and _can_hold(link)), None)
        if first is None:
            return None
        values = dict(zip(first.outputs, first.inputs, strict=True))
        mine = op.inputs[0] if first is links[0] else op.inputs[1]
        other = op.inputs[1] if first is links[0] else op.inputs[0]
        second = links[1] if first is links[0] else links[0]
        source = values[mine]
        if second is not None:
            if dict(zip(second.outputs, second.inputs, strict=True))[other] != source:
                return None
        elif other != source:
            return None
        if chains.flow.changed_later(source):
            return None
        pairs.add((first, second))
    if len(pairs) != 1:
        return None
    ((first, second),) = pairs
    if any(link is not None and len(link.outputs) != len(ops) for link in (first, second)):
        return None
    return first, second


def _read_elsewhere(value: int, op: Op, chains: Chains) -> bool:
    if value in chains.flow.record.outputs or value in chains.seen:
        return True
    return any(other is not op for other in chains.flow.consumers.get(value, ()))


def by_macs(layer: Layer, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> float:
    """Multiply-adds of the recorded batch."""
    positions = [math.prod(shape) // max(1, shape[1] if layer.dims else shape[-1]) for shape in (in_shape, out_shape)]
    return layer.macs(*positions)


def keep_matching(chains: Chains, where: Where) -> None:
    """Drop the links that do not match `where`: what reads them is then no link either."""
    taken = set(chosen(list(chains.links), where, names=lambda address: [address], what="linear layer"))
    gone = chains.links.keys() - taken
    for address in gone:
        del chains.links[address]
    for link in chains.links.values():
        if link.readers and any(reader.address in gone for reader in link.readers):
            link.readers = None
