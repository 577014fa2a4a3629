"""Switches: every chosen site blended with its absence by a learnable omega (paper, eq. 3 and Fig. 9)."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..capture.classes import exact_classes_asked
from ..capture.copies import refuse_wrappers
from ..discovery.find import sites_of
from ..discovery.kinds import kinds_of
from ..discovery.select import Where, refuse_conflicts, select
from ..discovery.site import Site, Sites
from ..names import closest
from ..rewrite.inject import omega_name
from ..rewrite.rewrite import CannotRewrite, Rewritten, classes_told, rewrite
from ..rewrite.target import Blend, Edit
from .channels.dims import CHANNEL, SITE, channel_dims, check_granularity, sites_and_widths
from .channels.left import checked_dims
from .checks import (
    NOT_COMPARED,
    difference,
    finish,
    gradient_difference,
    not_finite,
    observe,
    on_meta,
    own_tolerance,
)
from .recipe import Equality
from .switch_state import Switches, refuse_supernet, remember_switches_, switches_of, weight_of

TREMBLES = 10  # a model that differs from itself from run to run is held to so many times that


def switch(
    model: nn.Module,
    example: Any,
    *,
    kinds: str | Iterable[str],
    where: Where = None,
    granularity: Literal["site", "channel"] = SITE,
) -> nn.Module:
    """A copy of `model` with a switch at every chosen site; every omega is 0, so that it computes what `model` does.

    At omega = 0 output and gradients equal the original's; that is checked on `example` before it returns (a model that
    differs from itself from run to run is held to ten times that). Paper, eq. 3.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once: a tensor, a tuple of arguments, a dict of keyword arguments, or an `al.Call`.
        kinds: which kinds of site, one or several of `al.KINDS`.
        where: a glob on site id or module path, a list of globs, or a function of the Site; None: all of these kinds.
        granularity: "channel" gives each channel of an activation an omega of its own (Selective Network
            Linearization, Cho et al. 2022), with kinds="activation" alone. Its channels are the dimension of its tensor
            that layers make.

    Returns:
        The switched model. A site's omega is a float32 parameter of its container, ``omega_<kind>_<number>``: a scalar,
        or one number a channel. Code that walks over the model's parameters meets it there: a forward that pairs those
        of two networks (a momentum encoder) needs switches in both or in neither.

    Raises:
        ValueError: where nothing matches, for no or an unknown kind, for two kinds at one add, or for a model that has
            switches already; with granularity="channel", naming the site whose channels are not known.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> switch(net, torch.zeros(1, 4), kinds="activation").state_dict().keys() - net.state_dict().keys()
    {'omega_activation_0'}
    """
    _refuse_switched_again(model)
    check_granularity("switch: granularity", granularity, kinds)
    found, widths = sites_and_widths(model, example) if granularity == CHANNEL else (sites_of(model, example), None)
    taken = select(found, kinds=kinds, where=where)
    refuse_conflicts(taken)
    considered = [site.id for site in found if site.kind in kinds_of(kinds)]
    channels = {} if widths is None else channel_dims(taken, found.record, widths)
    ids = [site.id for site in taken]
    return apply_switch(model, example, sites=ids, channels=channels, found=found, considered=considered)


def apply_switch(
    model: nn.Module,
    example: Any,
    *,
    sites: Collection[str],
    channels: Mapping[str, int] | None = None,
    found: Sites | None = None,
    considered: Collection[str] | None = None,
) -> nn.Module:
    """The step ``switch`` of a recipe: switches at the named sites.

    Args:
        model: as for `switch`.
        example: as for `switch`.
        sites: ids of the sites.
        channels: id -> dimension of the channels, of the sites that have a switch a channel.
        found: all sites of `model`, where its run was recorded already.
        considered: ids of the sites that were chosen among; None: all.

    Raises:
        ValueError: where the model lacks one of the sites.

    """
    _refuse_switched_again(model)
    found = found or sites_of(model, example)
    taken = sites_named(found, sites)
    channels = checked_dims("switch: channels", channels or {}, taken)
    reference = observe(model, example)
    options = {"sites": [site.id for site in taken]} | ({"channels": channels} if channels else {})
    made = put_switches(model, example, taken, found, channels=channels, considered=considered)
    checked = _checked(model, example, reference, made)
    return finish(
        made.model, model, name="switch", options=options,
        before=found.record, after=found.record, equality=Equality.EXACT, checked=checked,
        found=considered or [site.id for site in found], taken=[site.id for site in taken],
        skipped=switches_of(made.model)[1].skipped, how=made.how,
    )  # fmt: skip


def put_switches(
    model: nn.Module,
    example: Any,
    taken: Sites,
    found: Sites,
    *,
    omegas: Mapping[str, float | Tensor] | None = None,
    channels: Mapping[str, int] | None = None,
    considered: Collection[str] | None = None,
) -> Rewritten:
    """A copy of `model` with switches at the sites `taken`; `.ran` is what it did with `omegas` (default: all 0).

    `channels`: id -> dimension of the channels, of the sites that have a switch a channel.
    """

    def run(net: nn.Module) -> Any:
        for name, value in values.items():
            omega = net.get_submodule(owners[name])._parameters.get(omega_name(name))
            if omega is not None:  # else it has moved to the child that is called, with its value
                omega.data.copy_(torch.as_tensor(value))
        return observe(net, example)

    values, owners = omegas or {}, {site.id: site.path for site in taken}

    edits = [Edit(site.target, Blend(omega_name(site.id), _positions(site, channels or {}))) for site in taken]
    made = rewrite(model, example, edits, record=found.record, run=run)
    skipped = not_chosen(taken, considered or [site.id for site in found])
    state = Switches(made.omegas, made.classes, example, found, skipped, weight_of(model).dtype, dict(channels or {}))
    remember_switches_(made.model, state)
    return made


def _positions(site: Site, channels: Mapping[str, int]) -> tuple[int, int] | None:
    """The dimension of its channels and how many there are; None where it has one switch."""
    dim = channels.get(site.id)
    return None if dim is None else (dim, site.shape[dim])


def not_chosen(taken: Sites, considered: Collection[str]) -> dict[str, str]:
    """Why the other sites that were considered are as they were."""
    chosen = {site.id for site in taken}
    return {name: "not chosen by where" for name in considered if name not in chosen}


def sites_named(found: Sites, ids: Collection[str]) -> Sites:
    """The sites with these ids, in the order they ran. Raises ValueError naming those that the model lacks."""
    if not isinstance(ids, Collection) or isinstance(ids, str) or not all(isinstance(name, str) for name in ids):
        raise ValueError(f"the recipe must name its sites in a list, got {ids!r:.80}")
    if not ids:
        raise ValueError("the recipe names no site: a step that changes nothing is none")
    wanted = set(ids)
    if len(wanted) < len(ids):
        raise ValueError(
            f"the recipe names a site twice: {', '.join(sorted({n for n in ids if list(ids).count(n) > 1}))}"
        )
    missing = sorted(wanted - {site.id for site in found})
    if missing:
        raise ValueError(
            f"the recipe takes {len(wanted)} sites, of which this model lacks {len(missing)}: "
            f"{', '.join(missing[:4])}; {closest(missing[0], (site.id for site in found))}. Build it with the options, "
            "and run it on the example, of the first time"
        )
    return Sites([site for site in found if site.id in wanted], found.skipped, found.record)


def _refuse_switched_again(model: nn.Module) -> None:
    refuse_wrappers(model)
    refuse_supernet(model)
    try:
        switches_of(model)
    except ValueError:
        return
    raise ValueError("this model has switches already: choose all kinds in one call, or discard() first")


def refuse_another_way(model: nn.Module, example: Any, taken: Sites, found: Sites) -> None:
    """Raise CannotRewrite where code of `model` that asks for exact classes goes another way once it is rewritten: then
    what is switched off is not the model without its sites. Other models are not run."""
    if exact_classes_asked(model):
        _checked(model, example, observe(model, example), put_switches(model, example, taken, found))


def _checked(model: nn.Module, example: Any, reference: Any, made: Rewritten) -> str:
    off = difference(reference.output, made.ran.output), gradient_difference(reference, made.ran)
    if not any(off):
        if on_meta(reference):
            return NOT_COMPARED
        both = reference.gradients is not None and made.ran.gradients is not None
        return "output and gradients at omega = 0" if both else "output at omega = 0; it gives no gradients to compare"
    again = observe(model, example)  # kernels that add in any order, noise from a generator of its own
    own = difference(reference.output, again.output), gradient_difference(reference, again)
    if off[0] <= TREMBLES * own[0] and off[1] <= max(TREMBLES * own[1], own_tolerance(model)):
        return f"equal at omega = 0 within {off[0]:.2g}; the original differs from itself by {own[0]:.2g}"
    what, by = ("output differs", off[0]) if not off[0] <= TREMBLES * own[0] else ("gradients differ", off[1])
    told = f"switched at omega = 0, its {what} by {by:.3g} from the original's"
    if exact_classes_asked(model):
        raise CannotRewrite(f"{told}{classes_told(model)}")
    if math.isnan(off[0]):
        raise CannotRewrite(not_finite("switched at", [omega.target.name for omega in made.omegas]))
    names = [omega.target.name for omega in made.omegas]
    raise AssertionError(
        f"{told}: archlab read code of the model otherwise than it runs, that of {', '.join(names[:4])}"
        f"{' or another' if len(names) > 4 else ''}. Where it asks `x.dtype is ...`, ask with ==; else leave these "
        "sites out with `where`, and report it"
    )
