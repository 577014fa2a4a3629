"""Removal: sites physically gone, with the modules and parameters that nothing reaches any more."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from torch import nn

from ..arguments import choice, number, wrong
from ..capture.copies import copied
from ..capture.dataflow import Flow
from ..capture.example import tensors_in
from ..capture.recorder import capture
from ..discovery.find import sites_of
from ..discovery.kinds import Kind, kinds_of
from ..discovery.select import Where, refuse_conflicts, select
from ..discovery.site import Site, Sites
from ..rewrite.inject import free_name, omega_name
from ..rewrite.module_tree import drop_unreached, restore
from ..rewrite.rewrite import CannotRewrite, rewrite
from ..rewrite.target import Edit, Freeze, How, Narrow
from .channels.left import Channels, checked_channels, omegas_of
from .checks import (
    Observed,
    compared,
    draws_random_numbers,
    equal_within,
    finish,
    is_finite,
    not_finite,
    observe,
    own_tolerance,
    refuse_other_mode,
)
from .cut import Cuts, cuts_for, cuts_in, uncut
from .depth.outputs import left_of, only, with_output
from .depth.places import close_ranks_
from .heads.attention import use_fewer_heads_
from .recipe import Equality, forget_last_step_
from .switch import not_chosen, put_switches, refuse_another_way, sites_named
from .switch_state import (
    Switches,
    example_for,
    forget_switches_,
    has_channels,
    named_omegas,
    refuse_switched,
    set_omegas_,
    switch_name,
    switch_values,
    switches_of,
)
from .width.flow import uncalled_layers
from .width.resize import resize_

KEEP = ("restore", "freeze")  # what may become of the sites that are not removed


def discard(soft: nn.Module, tau: float = 0.5, *, keep: Literal["restore", "freeze"] = "restore") -> nn.Module:
    """A copy of a switched model without the sites whose omega is above `tau`, and without any switch.

    Modules and parameters that nothing reaches any more are gone; the weights are those of `soft`. Where each channel
    has a switch, the function works on the channels that stay alone; a site all of whose channels go is removed whole.
    Checked before it returns: the result equals `soft` with the removed omegas at 1 and the others at 0 (or theirs).

    Args:
        soft: a model with switches, as `switch` makes it; it is left untouched.
        tau: threshold in [0, 1].
        keep: what becomes of the other sites: "restore", the original; "freeze", blended for good at their omega, where
            each site has one.

    Raises:
        ValueError: for a `tau` or an omega outside [0, 1], where no omega is above `tau`, and for keep="freeze" of a
            model with a switch a channel.

    >>> import torch
    >>> from archlab import set_omegas_, switch
    >>> soft = switch(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation")
    >>> set_omegas_(soft, {"activation.1": 0.8})
    >>> discard(soft)
    Sequential(
      (0): ReLU()
      (1): Identity()
    )
    """
    number("tau", tau, low=0, high=1)
    choice("keep", keep, KEEP)
    net, state = switches_of(soft)
    if keep == "freeze" and has_channels(net):
        raise ValueError("discard: keep='freeze' goes with a switch a site; of channels take keep='restore'")
    values = switch_values(net)
    for site, omega in values.items():
        number(f"omega of {site}", omega, low=0, high=1, remedy="call project_(soft) after each optimizer step")
    gone = [site for site, omega in values.items() if omega > tau]
    whole, channels = _channels_left(net, state, set(gone))
    frozen = {s: w for s, w in values.items() if keep == "freeze" and s not in gone and w > 0}
    if not gone and not frozen:
        raise ValueError(
            f"no omega is above tau={tau}: the largest is {max(values.values()):.3g}, nothing would be removed. "
            "Train longer, or choose a smaller tau"
        )
    example = example_for(net, state)
    decided = copied(net)
    set_omegas_(decided, 0.0)
    set_omegas_(decided, dict.fromkeys(gone, 1.0) | frozen)
    plain = restore(net, state.omegas, state.classes)
    forget_switches_(plain)
    forget_last_step_(plain)  # which put the switches in
    skipped = state.skipped | {
        site: f"omega {float(omega.detach().max()):.3g} is not above tau {tau}"
        for site, omega in named_omegas(net).items()
        if site not in whole and site not in frozen and site not in channels
    }
    reference = observe(decided, example)
    return _discarded(
        plain, example, whole, frozen, channels, found=state.sites, decided=decided, reference=reference,
        skipped=skipped,
    )  # fmt: skip


def _channels_left(net: nn.Module, state: Switches, gone: Collection[str]) -> tuple[list[str], dict[str, Channels]]:
    """The sites that go whole once these switches have, and what is left of those that go in part."""
    whole, left = [], {}
    for site, omega in named_omegas(net).items():
        names = [switch_name(site, n) for n in range(omega.numel())] if omega.dim() else [site]
        kept = [n for n, name in enumerate(names) if name not in gone]
        if not kept:
            whole.append(site)
        elif len(kept) < len(names):
            left[site] = {"dim": state.channels[site], "kept": kept}
    return whole, left


def remove(model: nn.Module, example: Any, *, kinds: str | Iterable[str], where: Where = None) -> nn.Module:
    """A copy of `model` without the chosen sites: as `switch`, every omega 1, and `discard`.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        kinds: which kinds of site, one or several of `al.KINDS`.
        where: a glob on site id or module path, a list of globs, or a function of the Site; None: all of these kinds.

    Raises:
        ValueError: where nothing matches; it says which sites there are.

    >>> import torch
    >>> remove(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation", where="*.0")
    Sequential(
      (0): Identity()
      (1): Tanh()
    )
    """
    refuse_switched(model)
    found = sites_of(model, example)
    taken = select(found, kinds=kinds, where=where)
    refuse_conflicts(taken)
    considered = [site.id for site in found if site.kind in kinds_of(kinds)]
    ids = [site.id for site in taken]
    return apply_discard(model, example, removed=ids, frozen={}, found=found, considered=considered)


def apply_discard(
    model: nn.Module,
    example: Any,
    *,
    removed: Collection[str],
    frozen: Mapping[str, float],
    channels: Mapping[str, Any] | None = None,
    cuts: Mapping[str, Any] | None = None,
    found: Sites | None = None,
    considered: Collection[str] | None = None,
) -> nn.Module:
    """The step ``discard`` of a recipe: the named sites removed, or frozen at their omega.

    Args:
        model: a model without switches; it is left untouched.
        example: what runs it once.
        removed: ids of the sites that go.
        frozen: id -> omega of the sites that are blended for good.
        channels: id -> what is left of the sites that go in part: the dimension ("dim") and positions ("kept") of it.
        cuts: what goes with removed operands of concatenations; None: it is found out.
        found: all sites of `model`, where its run was recorded already.
        considered: ids of the sites that were chosen among; None: all.

    Raises:
        ValueError: where the model lacks one of the sites.

    """
    refuse_switched(model)
    if not isinstance(frozen, Mapping):
        raise TypeError(wrong("discard: frozen", "a dict of omegas by site", frozen))
    for site, omega in frozen.items():
        number(f"discard: omega of {site}", omega, low=0, high=1)
    if isinstance(removed, str):
        raise TypeError(wrong("discard: removed", "a list of sites", removed))
    found = found or sites_of(model, example)
    channels = channels or {}
    if not isinstance(channels, Mapping):
        raise TypeError(wrong("discard: channels", "a dict of what is left by site", channels))
    taken = sites_named(found, [*removed, *frozen, *channels])
    left = {site.id: checked_channels(site, channels[site.id]) for site in taken if site.id in channels}
    refuse_another_way(model, example, taken, found)
    values = dict.fromkeys(removed, 1.0) | dict(frozen) | {s: omegas_of(taken, s, part) for s, part in left.items()}
    dims = {site: part["dim"] for site, part in left.items()}
    switched = put_switches(model, example, taken, found, omegas=values, channels=dims)
    skipped = not_chosen(taken, considered or [site.id for site in found])
    return _discarded(
        model, example, list(removed), dict(frozen), left, found=found, decided=switched.model, reference=switched.ran,
        skipped=skipped, cuts=None if cuts is None else cuts_in(cuts),
    )  # fmt: skip


def _discarded(
    model: nn.Module,
    example: Any,
    gone: list[str],
    frozen: dict[str, float],
    channels: dict[str, Channels],
    *,
    found: Sites,
    decided: nn.Module,
    reference: Observed,
    skipped: Mapping[str, str],
    cuts: Cuts | None = None,
) -> nn.Module:
    """`model` without the sites; `decided` is the model with them switched off, `reference` what that did."""
    sites = {site.id: site for site in found}
    removed = [sites[s] for s in gone]
    given = {"found": found, "decided": decided, "reference": reference, "skipped": skipped}
    if cuts is not None:
        return _without(model, example, gone, frozen, channels, cuts, **given)
    cuts = cuts_for(model, example, removed, found, frozen)
    try:
        return _without(model, example, gone, frozen, channels, cuts, **given)
    except (ValueError, AssertionError, RuntimeError) as error:
        if not cuts.resizing.tensors:
            raise
        what = "the model is another" if isinstance(error, AssertionError) else "the model's code fails"
        reason = f"with fewer channels {what}: {str(error).splitlines()[0]}"
    return _without(model, example, gone, frozen, channels, uncut(model, example, removed, reason), **given)


def _without(
    model: nn.Module,
    example: Any,
    gone: list[str],
    frozen: dict[str, float],
    channels: dict[str, Channels],
    cuts: Cuts,
    *,
    found: Sites,
    decided: nn.Module,
    reference: Observed,
    skipped: Mapping[str, str],
) -> nn.Module:
    """The same, where it is known what goes with removed operands of concatenations."""
    sites = {site.id: site for site in found}
    # 1. The code of the containers, without what goes; recorded as it runs.
    start, fewer = model, {}
    if cuts.resizing.tensors:
        start = resize_(copied(model), cuts.resizing, "prune")
        fewer = use_fewer_heads_(start, cuts.resizing.tensors)
    edits = [Edit(sites[s].target, Freeze(w)) for s, w in frozen.items()]
    edits += [Edit(sites[s].target, _narrow(start, sites[s], part)) for s, part in channels.items()]
    for site in (sites[s] for s in gone):
        edit = cuts.edit(site)
        if edit is not None and site.kind is Kind.HEAD and site.path in fewer:
            fewer[site.path].silent = True
        elif edit is not None:
            edits.append(edit)
    rewritten = rewrite(start, example, edits, record=found.record, run=lambda net: capture(net, example))
    thin, after = rewritten.model, rewritten.ran
    if cuts.resizing.tensors and uncalled_layers(model, found.record):
        refuse_other_mode(model, thin, example, "with fewer channels")
    # 2. The modules and parameters that it does not reach any more; then it runs as it will.
    identities = {sites[s].module or "" for s in gone if not sites[s].target.dropped}
    ran = drop_unreached(thin, found.record, after, lambda net: observe(net, example), identities=identities)
    # 3. The same as switched off?
    allowed, lost = own_tolerance(model), 0
    there, left = tensors_in(reference.output), tensors_in(ran.output)
    if [t.shape for t in left] != [t.shape for t in there]:
        pairs = zip(*left_of(reference.output, ran.output), strict=True)
        alike = [(a, b) for a, b in pairs if there[a].shape == left[b].shape]
        at = [a for a, _ in alike], [b for _, b in alike]
        lost = len(there) - len(at[0])
        reference, ran = (
            observe(net, with_output(example, only(places))) for net, places in zip((decided, thin), at, strict=True)
        )
    try:
        within = compared(cuts.of(reference), ran, allowed=allowed, what="removed")
    except AssertionError:
        if not draws_random_numbers(decided, example):
            raise
        quiet = [observe(copied(net).eval(), example) for net in (decided, thin)]
        within = compared(cuts.of(quiet[0]), quiet[1], allowed=allowed, what="removed")
        within += " in evaluation mode, as what was removed drew random numbers in this one"
    if not is_finite(ran) and is_finite(observe(model, example)):
        raise CannotRewrite(not_finite("without", [*gone, *frozen]))
    its = "only what was removed gave" if len(left) < len(there) else "what was removed had a part of"
    but = f" in all outputs but the {lost} that {its}" if lost else ""
    _close_ranks(thin, model, example)
    told = equal_within(within, f"{but} (allowed {allowed:.2g})", to=" to omega = 1")
    told += "".join(f"; zeros stand for {site}, as {reason}" for site, reason in cuts.reasons.items())
    considered = {*gone, *frozen, *channels, *skipped}
    options = {"removed": gone, "frozen": frozen} | ({"channels": channels} if channels else {})
    return finish(
        thin, model, name="discard", options=options | cuts.options(),
        before=found.record, after=after, equality=Equality.EXACT, checked=told,
        found=[s.id for s in found if s.id in considered], taken=(*gone, *frozen, *channels), skipped=skipped,
        how=dict.fromkeys(gone, How.LOCAL) | {s: _physical(h, sites[s]) for s, h in rewritten.how.items()},
        idle=sorted(Flow(after).idle_params() - Flow(found.record).idle_params()),
    )  # fmt: skip


def _narrow(model: nn.Module, site: Site, left: Channels) -> Narrow:
    """The action that leaves a site some of its channels."""
    name = free_name(model.get_submodule(site.path), "kept_" + omega_name(site.id).removeprefix("omega_"))
    return Narrow(name, tuple(left["kept"]), left["dim"])


def _close_ranks(thin: nn.Module, model: nn.Module, example: Any) -> None:
    """Give the layers left of a stack the first places in its cache, in place; not where they compute with these."""
    moved = close_ranks_(thin, model)
    if not moved:
        return
    first = with_output(example, only([0]))  # the others are a cache, whose entries are in another order now
    closed = observe(thin, first)
    for module, name, old, _ in moved:
        setattr(module, name, old)
    try:
        compared(observe(thin, first), closed, allowed=own_tolerance(model), what="at other places")
    except AssertionError:
        return
    for module, name, _, new in moved:
        setattr(module, name, new)


def _physical(how: How, site: Site) -> How:
    """An op that is intercepted is only bypassed: what it would have computed may still be computed."""
    return How.BYPASSED if how is How.INTERCEPTED and site.module is None else how
