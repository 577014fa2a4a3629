"""Which dimension of an activation's tensor are its channels, for a switch a channel.

The record of widths (`width`) says what each dimension is made of: the channels are the one that layers make.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from ...arguments import choice
from ...capture.record import Capture
from ...capture.recorder import capture
from ...discovery.find import find
from ...discovery.kinds import Kind, kinds_of
from ...discovery.site import Site, Sites
from ..width.axes import leaves
from ..width.flow import Flow
from ..width.rules import RULES

SITE, CHANNEL = "site", "channel"
GRANULARITIES = (SITE, CHANNEL)  # what has an omega of its own


def check_granularity(name: str, granularity: str, kinds: str | Iterable[str]) -> None:
    """Check a granularity: "channel" is of activations alone.

    Raises:
        TypeError, ValueError: naming what is wrong with it.
    """
    if granularity == Kind.HEAD:
        raise ValueError(f"{name}='head': heads of an attention are sites of their own; choose kinds='head'")
    choice(name, granularity, GRANULARITIES)
    if granularity == CHANNEL and (kinds == "all" or kinds_of(kinds) != (Kind.ACTIVATION,)):
        raise ValueError(
            f"{name}='channel' gives each channel of an activation a switch, and goes with kinds='activation' alone; "
            f"got kinds={kinds!r}. Heads of an attention are sites of their own, kinds='head'"
        )


def sites_and_widths(model: nn.Module, example: Any) -> tuple[Sites, Flow]:
    """All sites of `model`, and what the dimensions of the same recorded run are made of."""
    widths = Flow(RULES)
    record = capture(model, example, widths)
    return find(record, modules=dict(model.named_modules())), widths


def channel_dims(taken: Iterable[Site], record: Capture, widths: Flow) -> dict[str, int]:
    """For each site the dimension of its channels, counted from the last.

    Raises:
        ValueError: naming the first site of which they are not known, or which cannot work on some of them.
    """
    made = {axis for exprs in widths.makes.values() for expr in exprs for axis in leaves(expr)}
    found = {}
    for site in taken:
        reason, dims = _own_tensor(site, record), []
        for _, value in site.values:
            exprs = widths.values.get(value, [])
            among = [n - len(exprs) for n, expr in enumerate(exprs) if made.intersection(leaves(expr))]
            dims.append(among)
            if len(among) != 1:
                made_by = " and ".join(map(str, among)) or "none"
                unclear = f"of the dimensions of its {told(site.shape)} layers make {made_by}"
                reason = reason or f"{unclear}, so that it is not known which are channels"
        sizes = {record.producer[value].out_shapes[0][dims[0][0]] for _, value in site.values} if not reason else ()
        if not reason and (any(among != dims[0] for among in dims) or len(sizes) > 1):
            reason = "its channels differ from call to call"
        if reason:
            raise ValueError(
                f"{site.id} cannot have a switch a channel: {reason}. Leave it out with `where`, or choose "
                "granularity='site'"
            )
        found[site.id] = dims[0][0]
    return found


def told(shape: Sequence[int]) -> str:
    """A shape in words."""
    return "x".join(map(str, shape))


def _own_tensor(site: Site, record: Capture) -> str:
    """Why the function of a site cannot be given some channels of its input alone: it holds a tensor; else ""."""
    for stands, made in site.values:
        open_, seen = [made], set()
        while open_:
            op = record.producer.get(open_.pop())
            for value, shape, name in zip(op.inputs, op.in_shapes, op.names, strict=True) if op is not None else ():
                if value == stands or value in seen:
                    continue
                seen.add(value)
                if value in record.producer:
                    open_.append(value)
                elif any(size > 1 for size in shape):
                    return f"it works with {name or 'a tensor'} of shape {told(shape)}, which has a number a channel"
    return ""
