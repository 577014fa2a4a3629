"""Switches: every chosen site blended with its absence by a learnable omega (paper, eq. 3 and 5, Fig. 9)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..capture.example import place
from ..capture.record import Capture
from ..discovery.find import sites_of
from ..discovery.site import Site, Sites, Where, check_kinds, select
from ..rewrite.graph_edits import Edit
from ..rewrite.inject import is_omega, omega_name
from ..rewrite.rewrite import Omega, rewrite
from .checks import compare, costs
from .recipe import Step, recipe, with_step

_ATTRIBUTE = "_archlab_switches"


@dataclass(frozen=True, eq=False)
class Switches:
    """What a switched model knows of itself: its switches, and the run of the original they were found in."""

    omegas: tuple[Omega, ...]
    classes: dict[str, type]  # path -> class before, of the modules that were rewritten
    example: Any
    record: Capture
    found: tuple[str, ...]
    left: dict[str, str]
    dtype: torch.dtype | None  # of the weights then

    def __deepcopy__(self, memo: dict) -> "Switches":
        return self


def switch(model: nn.Module, example: Any, *, kinds: str | Iterable[str], where: Where = None) -> nn.Module:
    """A copy of `model` with a switch at every site of `kinds` that matches `where`; every omega is 0.

    At omega = 0 output and gradients equal the original's (the output is checked on `example` before returning; a
    model that differs from itself from run to run is held to ten times that). A site's omega is a float32 scalar
    parameter of its container, named ``omega_<kind>_<number>``. Paper, eq. 3.

    Raises ValueError where nothing matches, for no or an unknown kind, for two kinds at one add, or for a model that
    has switches already.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> switch(net, torch.zeros(1, 4), kinds="activation").state_dict().keys() - net.state_dict().keys()
    {'omega_activation_0'}
    """
    if getattr(model, _ATTRIBUTE, None) is not None:
        raise ValueError("this model has switches already: choose all kinds in one call, or discard() first")
    sites = sites_of(model, example)
    taken = select(sites, kinds=kinds, where=where)
    refuse_conflicts(taken)
    rewritten = rewrite(model, example, [Edit(s, omega_name(s)) for s in taken], record=sites.record)
    soft = rewritten.model
    equality = _checked(model, soft, example)
    found = tuple(s.id for s in sites if s.kind in check_kinds(kinds))
    chosen = {s.id for s in taken}
    left = {site: "not chosen by where" for site in found if site not in chosen}
    state = Switches(rewritten.omegas, rewritten.classes, example, sites.record, found, left, _weight(model).dtype)
    setattr(soft, _ATTRIBUTE, state)
    step = Step(
        "switch", {"sites": [s.id for s in taken]}, found, tuple(s.id for s in taken), left,
        rewritten.how, costs(sites.record), costs(sites.record), equality,
    )  # fmt: skip
    return with_step(soft, recipe(model), step)


def _checked(model: nn.Module, soft: nn.Module, example: Any) -> str:
    difference = compare(model, soft, example)
    if difference == 0:
        return "exact at omega = 0"
    own = compare(model, model, example)  # kernels that add in any order, noise from a generator of its own
    if difference <= 10 * own:
        return f"equal at omega = 0 within {difference:.2g}; the original differs from itself by {own:.2g}"
    raise AssertionError(f"switched at omega = 0, the output differs by {difference:.3g} from the original's")


def refuse_conflicts(taken: Sites) -> None:
    """Raise ValueError where both operands of one add are to go."""
    seen: dict[tuple, Site] = {}
    for site in taken:
        if site.kind in ("skip", "branch", "join"):
            other = seen.setdefault((site.path, site.entry, site.place), site)
            if other is not site:
                raise ValueError(f"{other.id} and {site.id} are the two operands of one add: choose one of the kinds")


def example_for(net: nn.Module, state: Switches) -> Any:
    """The example of a switched model, where that is now and, if it was moved to another dtype, in that."""
    like = _weight(net)
    return place(state.example, device=like.device, dtype=None if like.dtype is state.dtype else like.dtype)


def _weight(model: nn.Module) -> Tensor:
    """The first weight of `model` that is of floating point and no switch; a tensor where it has none."""
    weights = (p for n, p in model.named_parameters() if p.is_floating_point() and not is_omega(n.rpartition(".")[2]))
    return next(weights, torch.zeros(()))


def switches_of(soft: nn.Module) -> tuple[nn.Module, Switches]:
    """The switched model inside `soft` (which may be compiled or wrapped) and its switches. Raises ValueError."""
    for net in (soft, getattr(soft, "_orig_mod", None), getattr(soft, "module", None)):
        state = vars(net).get(_ATTRIBUTE) if isinstance(net, nn.Module) else None
        if state is not None:
            assert isinstance(net, nn.Module)
            return net, state
    raise ValueError(f"this {type(soft).__name__} has no switches: make them with switch(model, example, kinds=...)")


def forget_switches_(net: nn.Module) -> None:
    """Take off `net`, in place, what it knows of its switches; the parameters themselves stay."""
    vars(net).pop(_ATTRIBUTE, None)


def refuse_switched(model: nn.Module) -> None:
    """Raise ValueError for a model that has switches: other passes take it without."""
    if isinstance(model, nn.Module) and vars(model).get(_ATTRIBUTE) is not None:
        raise ValueError("this model has switches: discard() them first, then reshape it")


def named_omegas(soft: nn.Module) -> dict[str, nn.Parameter]:
    """Site id -> its omega, in the order of the sites."""
    net, state = switches_of(soft)
    return {o.site.id: net.get_submodule(o.owner)._parameters[o.name] for o in state.omegas}  # type: ignore[misc]


def omega_parameters(soft: nn.Module) -> list[nn.Parameter]:
    """The omegas, for an optimizer group of their own (without weight decay).

    >>> soft = switch(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(1, 4), kinds="activation")
    >>> optimizer = torch.optim.AdamW([{"params": omega_parameters(soft), "lr": 5e-3, "weight_decay": 0.0}])
    >>> [omega.item() for omega in omega_parameters(soft)]
    [0.0]
    """
    return list(named_omegas(soft).values())


def penalty(soft: nn.Module, *, p: float = 1.0) -> Tensor:
    """Mean over the sites of ``1 - omega ** p`` (paper, eq. 5): 1 with everything in, 0 with everything removed.

    Its gradient at omega = 0 is -1/K for p = 1, zero for p > 1 and infinite for p < 1: with p other than 1 start
    the omegas a little above 0.

    >>> soft = switch(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation")
    >>> set_omegas_(soft, {"activation.1": 0.5})
    >>> penalty(soft)
    tensor(0.7500, grad_fn=<MeanBackward0>)
    """
    if not p > 0:
        raise ValueError(f"p must be positive, got {p}")
    omega = torch.stack(omega_parameters(soft))  # type: ignore[arg-type]
    return (1 - (omega if p == 1 else omega.clamp(min=0) ** p)).mean()


@torch.no_grad()
def project_(soft: nn.Module) -> None:
    """Put every omega back into [0, 1], in place: call it after each optimizer step.

    >>> soft = switch(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation")
    >>> omega_parameters(soft)[0].data += 1.3  # as a step of the optimizer may
    >>> project_(soft)
    >>> omegas(soft)["omega"].tolist()
    [1.0, 0.0]
    """
    for omega in omega_parameters(soft):
        omega.clamp_(0, 1)


def omegas(soft: nn.Module) -> pd.DataFrame:
    """One row a switch: site, kind, omega.

    >>> omegas(switch(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation"))
               site        kind  omega
    0  activation.0  activation    0.0
    1  activation.1  activation    0.0
    """
    _, state = switches_of(soft)
    values = named_omegas(soft)
    rows = [{"site": o.site.id, "kind": o.site.kind, "omega": values[o.site.id].item()} for o in state.omegas]
    return pd.DataFrame(rows, columns=["site", "kind", "omega"])


@torch.no_grad()
def set_omegas_(soft: nn.Module, value: float | Mapping[str, float]) -> None:
    """Set every omega to a number, or those of the given site ids, in place.

    Raises ValueError for a value outside [0, 1], KeyError for an unknown site; nothing is set then.

    >>> soft = switch(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation")
    >>> set_omegas_(soft, 1.0)
    >>> set_omegas_(soft, {"activation.0": 0.25})
    >>> omegas(soft)["omega"].tolist()
    [0.25, 1.0]
    """
    known = named_omegas(soft)
    wanted = dict(value) if isinstance(value, Mapping) else dict.fromkeys(known, float(value))
    for site, omega in wanted.items():
        if site not in known:
            raise KeyError(f"{site!r} has no switch; the switches are {', '.join(list(known)[:12])}")
        if not 0 <= omega <= 1:
            raise ValueError(f"omega of {site} must lie in [0, 1], got {omega}")
    for site, omega in wanted.items():
        known[site].fill_(omega)
