"""`sites`: every removable part of a model, with how it would be rewritten."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..capture.copies import structural_copy
from ..capture.example import fresh, moved, run_example, without_data
from ..capture.record import Capture
from ..capture.recorder import capture, capture_meta
from ..discovery.find import find
from ..discovery.kinds import LISTED, UNLISTED, Kind, kinds_of
from ..discovery.select import Where, select
from ..discovery.site import Site, Sites, Skipped
from ..rewrite.rewrite import attempt, quietly
from ..rewrite.target import Edit, Freeze, How
from .concat.followed import Followed
from .heads.cut import heads_cut


def sites(model: nn.Module, example: Any, kinds: str | Iterable[str] | None = None, where: Where = None) -> Sites:
    """Every removable part of `model`, found in one recorded run of `example`; prints as a table.

    Each site's ``how`` was tried: ``local`` (its container's code can be rewritten), ``module`` (the child that
    is called is rewritten), ``intercepted`` (bypassed at run time) or ``refused``, the last two with the reason.

    Args:
        model: any module; it is left untouched.
        example: what runs it once: a tensor, a tuple of arguments, a dict of keyword arguments, or an `al.Call`. Its
            tensors may be on the meta device, so that an input of any size takes no memory and no time; a model that
            cannot run there then raises.
        kinds: only these kinds; None: all but "norm" and "head", which are looked for where they are named. "join",
            "gate" and "concat" are listed, but no pass takes them, nor norms and heads, unless its `kinds` names them.
        where: only these: a glob on site id or module path, a list of globs, or a function of the Site.

    Returns:
        A sequence of `Site`. ``.frame()`` is the table as a DataFrame; ``.skipped_frame()`` lists what looked like a
        site and is not one, with the reason.

    Raises:
        ValueError: for an unknown kind, and where nothing matches. What the model itself raises on `example` gets a
            note that says where it happened.

    >>> import torch
    >>> found = sites(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), torch.zeros(1, 4))
    >>> found
    site          kind        op    shape  calls  params  MACs  how
    activation.0  activation  relu  1x8        1       –     –  local
    1 sites: 1 activation
    params, MACs: what goes with a site, as a share of 76 parameters and 64 MACs
    """
    wanted = LISTED if kinds is None else kinds_of(kinds)
    record = (capture_meta if without_data(example) else capture)(model, example)
    found = find(record, modules=dict(model.named_modules())).without({*UNLISTED} - {*wanted})
    if len(found):
        found = _tried(model, example, found)
    if any(site.kind is Kind.CONCAT for site in found):
        found = _with_readers(model, example, found)
    if any(site.kind is Kind.HEAD for site in found):
        found = _with_cuts(model, example, found)
    if kinds is None and where is None:
        return found
    return select(found, kinds=wanted, where=where)


def _tried(model: nn.Module, example: Any, found: Sites) -> Sites:
    """The sites with how each would be rewritten: one of those at a line of code is switched in a copy, at ω = 0."""
    first_at: dict[tuple, Site] = {}
    for site in found:
        first_at.setdefault(site.target.key, site)
    edits = [Edit(site.target, Freeze(0.0)) for site in first_at.values()]
    tried = _attempts(model, example, edits, found)
    listed, skipped = [], list(found.skipped)
    for site in found:
        how, why = tried[first_at[site.target.key].id]
        reason = why if how in (How.INTERCEPTED, How.REFUSED) else ""
        freed = {}
        by_code = site.module is None and site.kind is not Kind.HEAD  # of a head its layers are cut
        if how is How.INTERCEPTED and by_code and (site.params or site.macs):
            freed = {"params": 0, "macs": 0}
            reason += "; what it bypasses is computed all the same, so that nothing is freed"
        listed.append(replace(site, how=how, reason=reason, **freed))
        if not site.grad:
            skipped.append(Skipped(site.path, site.op, site.kind, f"{site.id}: no gradient reaches it", site.module))
    return Sites(listed, skipped, found.record)


def _with_readers(model: nn.Module, example: Any, found: Sites) -> Sites:
    """The sites, where what goes with an operand of a concatenation counts the channels that later layers read it with.

    That takes one more run, and only where something is concatenated.
    """
    followed = Followed(
        model, example, [site for site in found if site.kind is Kind.CONCAT],
        capture_meta if without_data(example) else capture,
    )  # fmt: skip
    listed = []
    for site in found:
        if site.kind is Kind.CONCAT and site.how is not How.REFUSED:
            if followed.is_damped(site):
                site = _damped(site, "how wide it is is not given by layers")
            else:
                params, macs = followed.freed(site)
                site = replace(site, params=site.params + params, macs=site.macs + macs)
        listed.append(site)
    return Sites(listed, found.skipped, found.record)


def _with_cuts(model: nn.Module, example: Any, found: Sites) -> Sites:
    """The sites, where a head whose layers cannot be cut frees nothing, with the reason.

    One head of each attention is cut, in a run or two more.
    """
    first_of: dict[tuple, Site] = {}
    for site in found:
        if site.kind is Kind.HEAD and site.how is not How.REFUSED:
            first_of.setdefault(site.target.key, site)
    if without_data(example):
        model = structural_copy(model, "meta")
    _, reasons = heads_cut(model, example, first_of.values(), found, frozen=())
    listed = []
    for site in found:
        first = first_of.get(site.target.key) if site.kind is Kind.HEAD else None
        why = reasons.get(first.id) if first else None
        if why is not None:
            site = _damped(site, why)
        listed.append(site)
    return Sites(listed, found.skipped, found.record)


def _damped(site: Site, why: str) -> Site:
    """The site, which frees nothing, as it is multiplied with zero."""
    told = f"it is multiplied with zero, so that nothing is freed: {why}"
    return replace(site, params=0, macs=0, reason="; ".join(filter(None, (site.reason, told))))


def _attempts(model: nn.Module, example: Any, edits: Sequence[Edit], found: Sites) -> dict[str, tuple[How, str]]:
    """How each edit goes, by name, and why not otherwise: all at once, or where that fails by halves."""
    refusal: Exception | None = None
    # What is asked is what the code looks like: without data, where that is not dearer than the data.
    for without in (False, True) if _is_quick(found.record) and not without_data(example) else (True, False):
        given = moved(example, device="meta") if without else example
        on_meta = without or without_data(example)
        try:
            copied = structural_copy(model, "meta" if on_meta else None)
            made = attempt(copied, given, edits, record=found.record, run=_runs(given), lend=True)
            return {name: (how, made.reasons.get(name, "")) for name, how in made.how.items()}
        except Exception as error:  # whatever the model raises that cannot run so
            refusal = error
    # One edit is beyond us, or the model's code beyond tracing.
    if len(edits) == 1:
        text = str(refusal).strip().split("\n")[0]
        return {edits[0].target.name: (How.REFUSED, f"{type(refusal).__name__}: {text}")}
    middle = len(edits) // 2
    halves = (edits[:middle], edits[middle:])
    return {name: told for half in halves for name, told in _attempts(model, example, half, found).items()}


# Measured on one core (torch 2.14): an op on the meta device takes 140 to 360 µs, as it is Python code of torch's; a
# million multiply-adds take 13 to 22 µs, and copying a million parameters 370 µs.
MACS_AN_OP = 5_000_000  # take less than an op on the meta device
MACS_A_PARAMETER = 20  # take about as long as copying one


def _is_quick(record: Capture) -> bool:
    """Whether a copy and a run of it with data take no longer than a run on the meta device."""
    work = sum(op.macs for op in record.ops) + MACS_A_PARAMETER * sum(record.params.values())
    return work < MACS_AN_OP * len(record.ops)


def _runs(example: Any) -> Callable[[nn.Module], None]:
    """What runs the example on a copy that nobody keeps."""

    def run(net: nn.Module) -> None:
        with quietly(net):
            run_example(net, fresh(example))

    return run
