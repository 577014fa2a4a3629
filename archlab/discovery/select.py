"""Choosing among the sites of a model, by kind and by name."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from ..names import globs_of, picked
from .kinds import Kind, kinds_of
from .site import ANY, Site, Sites, Skipped

Where = str | Iterable[str] | Callable[[Site], bool] | None
# Under which kind something is skipped that could have been one of another kind: adds as skips, gates as activations.
_SKIPPED_AS = {Kind.BRANCH: Kind.SKIP, Kind.JOIN: Kind.SKIP, Kind.GATE: Kind.ACTIVATION}


def select(sites: Sites, *, kinds: str | Iterable[str], where: Where = None) -> Sites:
    """The sites of the given `kinds` that match `where`.

    Args:
        sites: all sites of a model.
        kinds: one kind or several, of `KINDS`.
        where: a glob on id, container or module path, a list of globs, or a function of the Site; None: all.

    Raises:
        ValueError: where nothing is selected; it says which sites there are, and what was skipped there.

    """
    wanted = kinds_of(kinds)
    for glob in () if where is None or callable(where) else globs_of(where):
        if not picked(sites, glob, _names):
            raise ValueError(f"where={glob!r} matches no site. {_instead(sites, wanted, where)}")
    taken = picked([s for s in sites if s.kind in wanted], where, _names)
    if not taken:
        pattern = "" if where is None else f" matches where={getattr(where, '__name__', where)!r}"
        raise ValueError(f"no site of kind {'/'.join(wanted)}{pattern}. {_instead(sites, wanted, where)}")
    return Sites(taken, sites.skipped, sites.record)


def refuse_conflicts(taken: Iterable[Site]) -> None:
    """Raise ValueError where both operands of one sum are to go. A concatenation can do without several, and an
    attention without several heads."""
    seen: dict[tuple, Site] = {}
    for site in taken:
        if site.target.dropped and site.kind not in (Kind.CONCAT, Kind.HEAD):
            other = seen.setdefault(site.target.key, site)
            if other is not site:
                remedy = "choose one of the kinds" if other.kind is not site.kind else "name one of them by where"
                raise ValueError(f"{other.id} and {site.id} are operands of one sum, of which one can go: {remedy}")


def resolve_conflicts(taken: Iterable[Site]) -> tuple[list[Site], dict[str, str]]:
    """The sites that can be switched together, in their order, and by id why each of the others is left out.

    Of two operands of one add the one whose removal saves more stays: the branch, not the skip. Of removals that are
    the same the module call stays, as what goes in and out of it can be seen: the block, not the branch.
    """
    sites, out = list(taken), {}
    at_one_add: dict[tuple, Site] = {}
    for site in sites:
        if site.target.dropped and site.kind is not Kind.HEAD:
            other = at_one_add.setdefault(site.target.key, site)
            less, more = sorted((other, site), key=lambda s: (s.macs, s.params))
            if less is not more:
                at_one_add[site.target.key] = more
                out[less.id] = f"the other operand of the add of {more.id}, which saves more"
    first_that: dict[str, Site] = {}  # removes the same
    for site in sites:
        if site.id not in out:
            other = first_that.setdefault(site.same_as or site.id, site)
            if other is not site:
                stays, goes = (site, other) if other.module is None and site.module is not None else (other, site)
                first_that[site.same_as or site.id] = stays
                out[goes.id] = f"the same removal as {stays.id}"
    return [site for site in sites if site.id not in out], out


def _names(item: Site | Skipped) -> tuple[str | None, ...]:
    return getattr(item, "id", None), item.path, item.module


def _instead(sites: Sites, kinds: tuple[Kind, ...], where: Any) -> str:
    """What the model has where nothing was selected: what was skipped there and why, and the ids there are."""
    wanted = {_SKIPPED_AS.get(kind, kind) for kind in kinds} | {ANY}
    there = sites.skipped if callable(where) else picked(sites.skipped, where, _names)
    told = [f"{x.module or x.path or 'root'} ({x.op}): {x.reason}" for x in there if x.kind in wanted]
    why = f"Skipped there: {_some(list(dict.fromkeys(told)), 3, '; ')}. " if told else ""
    ids = [s.id for s in sites if s.kind in kinds]
    if ids:
        return f"{why}The sites of kind {'/'.join(kinds)} are: {_some(ids, 12, ', ')}"
    if len(sites):
        counts = ", ".join(f"{n} {kind}" for kind, n in Counter(s.kind for s in sites).items())
        return f"{why}The model has no such site; it has {counts}"
    return f"{why}The model has no sites at all"


def _some(items: list[str], most: int, separator: str) -> str:
    more = f"{separator}… ({len(items)} in all)" if len(items) > most else ""
    return separator.join(items[:most]) + more
