"""`sites`: every removable part of a model, with how it would be rewritten."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from ..rewrite.graph_edits import Edit
from ..rewrite.rewrite import attempt
from .find import sites_of
from .site import KINDS, Left, Site, Sites, Where, check_kinds, select


def sites(model: nn.Module, example: Any, kinds: str | Iterable[str] | None = None, where: Where = None) -> Sites:
    """Every removable part of `model`, found in one recorded run of `example`; prints as a table.

    `kinds` (default: all) and `where` (a glob on site id or module path, a list of them, or a function of the
    Site) narrow the list. ``.frame()`` is the table as a DataFrame; ``.left_frame()`` lists what looked like a
    site and is not one, with the reason. `model` is left untouched. Kinds "join" and "gate" are listed, but no
    pass takes them unless its `kinds` names them.

    Each site's ``how`` was tried: ``local`` (its container's code can be rewritten), ``module`` (the child that
    is called is rewritten), ``intercepted: <reason>`` (bypassed at run time), ``refused: <reason>``.

    Raises ValueError for an unknown kind and where nothing matches; what the model itself raises on `example`
    gets a note that says where it happened.

    >>> import torch
    >>> found = sites(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), torch.zeros(1, 4))
    >>> found
    site          kind        op    shape  calls  params  MACs  how
    activation.0  activation  relu  1x8        1       –     –  local
    1 sites: 1 activation
    params, MACs: what goes with a site, as a share of 76 parameters and 64 MACs
    """
    wanted = KINDS if kinds is None else check_kinds(kinds)
    found = sites_of(model, example)
    if len(found):
        found = _with_how(model, example, found)
    if kinds is None and where is None:
        return found
    return select(found, kinds=wanted, where=where)


def _with_how(model: nn.Module, example: Any, found: Sites) -> Sites:
    at_place: dict[tuple, list[Site]] = {}
    for site in found:
        at_place.setdefault((site.path, site.entry, site.place), []).append(site)
    tried = [group[0] for group in at_place.values()]
    tried_out = attempt(model, example, [Edit(site, 0.0) for site in tried], record=found.record)
    listed, left = [], list(found.left)
    for site in found:
        first = at_place[site.path, site.entry, site.place][0]
        how = tried_out.how[first.id]
        reason = tried_out.reasons.get(first.id)
        listed.append(replace(site, how=f"{how}: {reason}" if how in ("intercepted", "refused") else how))
        if not site.grad:
            left.append(Left(site.path, site.op, site.kind, f"{site.id}: no gradient reaches it", site.module))
    return Sites(listed, left, found.record)
