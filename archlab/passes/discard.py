"""Removal: sites physically gone, with the modules and parameters that nothing reaches any more."""

from collections.abc import Iterable
from numbers import Real
from typing import Any, Literal

import torch
from torch import nn

from ..capture.copies import copied
from ..capture.dataflow import Flow
from ..discovery.site import KINDS, Site, Where
from ..rewrite.graph_edits import Edit
from ..rewrite.module_tree import drop_unreached, restore
from ..rewrite.rewrite import rewrite
from .checks import compare, costs
from .recipe import Recipe, Step, forget_recipe_, recipe, with_step
from .switch import example_for, forget_switches_, named_omegas, set_omegas_, switch, switches_of


def discard(soft: nn.Module, tau: float = 0.5, *, keep: Literal["restore", "freeze"] = "restore") -> nn.Module:
    """A copy of a switched model without the sites whose omega is above `tau`, and without any switch.

    The other sites are restored to the original (``keep="restore"``) or blended for good at their omega
    (``"freeze"``). Modules and parameters that nothing reaches any more are gone; the weights are those of `soft`.
    Checked before returning: the result equals `soft` with the removed omegas at 1 and the others at 0 (or theirs).

    Raises ValueError for a `tau` outside [0, 1] or where no omega is above it.

    >>> soft = switch(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation")
    >>> set_omegas_(soft, {"activation.1": 0.8})
    >>> discard(soft)
    Sequential(
      (0): ReLU()
      (1): Identity()
    )
    """
    if not (isinstance(tau, Real) and 0 <= tau <= 1):
        raise ValueError(f"tau must be a number in [0, 1], as omega is; got {tau!r}")
    if keep not in ("restore", "freeze"):
        raise ValueError(f"keep must be 'restore' or 'freeze', got {keep!r}")
    net, _ = switches_of(soft)
    values = {site: omega.item() for site, omega in named_omegas(net).items()}
    gone = [site for site, omega in values.items() if omega > tau]
    frozen = {s: w for s, w in values.items() if keep == "freeze" and s not in gone and w > 0}
    if not gone and not frozen:
        raise ValueError(
            f"no omega is above tau={tau}: the largest is {max(values.values()):.3g}, nothing would be removed. "
            "Train longer, or choose a smaller tau"
        )
    return _discard(net, gone, frozen, {s: f"omega {w:.3g} is not above tau {tau}" for s, w in values.items()})


def remove(model: nn.Module, example: Any, *, kinds: str | Iterable[str], where: Where = None) -> nn.Module:
    """A copy of `model` without the sites of `kinds` that match `where`: `switch`, every omega 1, `discard`.

    Raises ValueError where nothing matches, and says which sites there are.

    >>> remove(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation", where="*.0")
    Sequential(
      (0): Identity()
      (1): Tanh()
    )
    """
    soft = switch(model, example, kinds=kinds, where=where)
    set_omegas_(soft, 1.0)
    return discard(soft)


def _discard(net: nn.Module, gone: list[str], frozen: dict[str, float], why_left: dict[str, str]) -> nn.Module:
    _, state = switches_of(net)
    sites = {o.site.id: o.site for o in state.omegas}
    plain = restore(net, state.omegas, state.classes)
    forget_switches_(plain)
    forget_recipe_(plain)
    edits = [Edit(sites[s]) for s in gone] + [Edit(sites[s], w) for s, w in frozen.items()]
    example = example_for(net, state)
    rewritten = rewrite(plain, example, edits, record=state.record)
    thin = rewritten.model
    identities = {sites[s].module or "" for s in gone if sites[s].kind in ("activation", "gate", "block")}
    after = drop_unreached(thin, example, state.record, identities)
    how = {s: _physical(h, sites[s].module) for s, h in rewritten.how.items()}
    made = recipe(net)
    before = Recipe(made.model, made.steps[:-1])  # without the step that put the switches in
    step = Step(
        "discard",
        {"removed": gone, "frozen": frozen},
        state.found,
        (*gone, *frozen),
        state.left | {s: why for s, why in why_left.items() if s not in gone and s not in frozen},
        how,
        costs(state.record),
        costs(after) | {"params": sum(p.numel() for p in thin.parameters())},
        _checked(net, thin, example, gone, frozen),
        tuple(sorted(Flow(after).idle_params() - Flow(state.record).idle_params())),
    )
    return with_step(thin, before, step)


def _physical(how: str, module: str | None) -> str:
    """An op that is intercepted is only bypassed: what it would have computed may still be computed."""
    return "bypassed" if how == "intercepted" and module is None else how


def _checked(soft: nn.Module, thin: nn.Module, example: Any, gone: list[str], frozen: dict[str, float]) -> str:
    decided = copied(soft)
    set_omegas_(decided, 0.0)
    set_omegas_(decided, dict.fromkeys(gone, 1.0) | frozen)
    difference = compare(decided, thin, example)
    dtypes = {p.dtype for p in soft.parameters() if p.is_floating_point() and p.numel() > 1} or {torch.float32}
    dtypes |= {torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)}
    tolerance = max(1e-10 if dt is torch.float64 else max(1e-5, 2 * torch.finfo(dt).eps) for dt in dtypes)
    if difference > tolerance:
        raise AssertionError(
            f"removed, the output differs by {difference:.3g} from the switched model's, over {tolerance}"
        )
    if difference != difference:
        return "not compared: the outputs are not finite in the same places"
    return f"equal to omega = 1 within {difference:.2g} (relative; allowed {tolerance:.2g})"


def replay_switch(model: nn.Module, example: Any, *, sites: list[str]) -> nn.Module:
    """The step ``switch`` of a recipe: switches at the named sites. Raises ValueError where the model lacks one."""
    wanted = set(sites)

    def in_recipe(site: Site) -> bool:
        return site.id in wanted

    soft = switch(model, example, kinds=KINDS, where=in_recipe)
    missing = [site for site in sites if site not in named_omegas(soft)]
    if missing:
        raise ValueError(
            f"the recipe takes {len(sites)} sites, of which this model lacks {len(missing)}: "
            f"{', '.join(missing[:4])}. Build it with the options, and run it on the example, of the first time"
        )
    return soft


def replay_discard(model: nn.Module, example: Any, *, removed: list[str], frozen: dict[str, float]) -> nn.Module:
    """The step ``discard`` of a recipe: the named sites removed or frozen. Raises ValueError as `replay_switch`."""
    return _discard(replay_switch(model, example, sites=[*removed, *frozen]), removed, frozen, {})
