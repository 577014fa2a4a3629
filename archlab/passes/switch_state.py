"""What a switched model knows of its switches, and what is read from and written to them (paper, eq. 3 and 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..arguments import number, plain, wrong
from ..capture.copies import refuse_wrappers
from ..capture.example import moved
from ..discovery.site import Sites
from ..names import closest
from ..rewrite.inject import is_omega
from ..rewrite.rewrite import Omega
from .choice.modules import CHOICES

_ATTRIBUTE = "_archlab_switches"


@dataclass(frozen=True, eq=False)
class Switches:
    """What a switched model knows of itself: its switches, and the sites of the original with their recorded run."""

    omegas: tuple[Omega, ...]
    classes: dict[str, type]  # path -> class before, of the modules that were rewritten
    example: Any
    sites: Sites  # all of the original
    skipped: dict[str, str]  # sites of the chosen kinds that were not chosen
    dtype: torch.dtype | None  # of the weights then
    channels: dict[str, int]  # the dimension of the channels, of the sites that have a switch for each

    def __deepcopy__(self, memo: dict) -> "Switches":
        return self


def remember_switches_(soft: nn.Module, state: Switches) -> None:
    """Note on a switched model, in place, what it is to know of its switches."""
    setattr(soft, _ATTRIBUTE, state)


def forget_switches_(net: nn.Module) -> None:
    """Take off `net`, in place, what it knows of its switches; the parameters themselves stay."""
    vars(net).pop(_ATTRIBUTE, None)


def switches_of(soft: nn.Module) -> tuple[nn.Module, Switches]:
    """The switched model inside `soft` (which may be compiled or wrapped) and its switches. Raises ValueError."""
    for net in (soft, getattr(soft, "_orig_mod", None), getattr(soft, "module", None)):
        state = vars(net).get(_ATTRIBUTE) if isinstance(net, nn.Module) else None
        if state is not None:
            assert isinstance(net, nn.Module)
            return net, state
    if not isinstance(soft, nn.Module):
        raise TypeError(wrong("soft", "a model with switches, as switch(model, example, kinds=...) makes it", soft))
    raise ValueError(f"this {type(soft).__name__} has no switches: make them with switch(model, example, kinds=...)")


def refuse_switched(model: nn.Module) -> None:
    """Raise ValueError for a model that has switches or choices, which other passes take it without; TypeError for no
    model."""
    refuse_wrappers(model)
    if vars(model).get(_ATTRIBUTE) is not None:
        raise ValueError("this model has switches: discard() them first, then reshape it")
    refuse_supernet(model)


def refuse_supernet(model: nn.Module) -> None:
    """Raise ValueError for a model that holds choices."""
    if any(isinstance(module, CHOICES) for module in model.modules()):
        raise ValueError("this model is a supernet: choose() an architecture first, which gives a plain network")


def example_for(net: nn.Module, state: Switches) -> Any:
    """The example of a switched model, where that is now and, if it was moved to another dtype, in that."""
    like = weight_of(net)
    return moved(state.example, device=like.device, dtype=None if like.dtype is state.dtype else like.dtype)


def weight_of(model: nn.Module) -> Tensor:
    """The first weight of `model` that is of floating point and no switch; a tensor where it has none."""
    weights = (p for n, p in model.named_parameters() if p.is_floating_point() and not is_omega(n.rpartition(".")[2]))
    return next(weights, torch.zeros(()))


def named_omegas(soft: nn.Module) -> dict[str, nn.Parameter]:
    """Site id -> its omega, in the order of the sites."""
    net, state = switches_of(soft)
    return {o.target.name: net.get_submodule(o.owner)._parameters[o.name] for o in state.omegas}  # type: ignore[misc]


def omega_parameters(soft: nn.Module) -> list[nn.Parameter]:
    """The omegas, for an optimizer group of their own (without weight decay).

    >>> from archlab import switch
    >>> soft = switch(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(1, 4), kinds="activation")
    >>> optimizer = torch.optim.AdamW([{"params": omega_parameters(soft), "lr": 5e-3, "weight_decay": 0.0}])
    >>> [omega.item() for omega in omega_parameters(soft)]
    [0.0]
    """
    return list(named_omegas(soft).values())


def penalty(soft: nn.Module, *, p: float = 1.0) -> Tensor:
    """Mean over the switches of ``1 - omega ** p`` (paper, eq. 5): 1 with everything in, 0 with everything removed.

    Its gradient at omega = 0 is -1/K for p = 1, zero for p > 1 and infinite for p < 1: with p other than 1 start
    the omegas a little above 0.

    >>> from archlab import switch
    >>> soft = switch(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation")
    >>> set_omegas_(soft, {"activation.1": 0.5})
    >>> penalty(soft)
    tensor(0.7500, grad_fn=<MeanBackward0>)
    """
    number("penalty: p", p, above=0)
    omega = torch.cat([omega.reshape(-1) for omega in omega_parameters(soft)])
    return (1 - (omega if p == 1 else omega.clamp(min=0) ** p)).mean()


@torch.no_grad()
def project_(soft: nn.Module) -> None:
    """Put every omega back into [0, 1], in place: call it after each optimizer step.

    >>> from archlab import switch
    >>> soft = switch(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation")
    >>> omega_parameters(soft)[0].data += 1.3  # as a step of the optimizer may
    >>> project_(soft)
    >>> omegas(soft)["omega"].tolist()
    [1.0, 0.0]
    """
    for omega in omega_parameters(soft):
        omega.clamp_(0, 1)


def omegas(soft: nn.Module) -> pd.DataFrame:
    """One row a switch: site, kind, omega; of a model with a switch a channel also channel, after the site.

    >>> from archlab import switch
    >>> omegas(switch(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation"))
               site        kind  omega
    0  activation.0  activation    0.0
    1  activation.1  activation    0.0
    """
    _, state = switches_of(soft)
    kinds = {site.id: site.kind.value for site in state.sites}
    rows = [
        {"site": site, "channel": channel, "kind": kinds[site], "omega": value}
        for site, omega in named_omegas(soft).items()
        for channel, value in enumerate(omega.reshape(-1).tolist())
    ]
    columns = ["site", *(["channel"] if has_channels(soft) else []), "kind", "omega"]
    return pd.DataFrame(rows, columns=columns)


def has_channels(soft: nn.Module) -> bool:
    """Whether it has a switch a channel."""
    return any(omega.dim() for omega in omega_parameters(soft))


def switch_name(site: str, channel: int) -> str:
    """The name of one of a site's switches: of ``activation.0`` it is ``activation.0[3]``."""
    return f"{site}[{channel}]"


def switch_names(decisions: pd.DataFrame) -> list[str]:
    """The names of the switches of a frame with a row each, as of `omegas`: the site, or with its channel."""
    if "channel" not in decisions:
        return list(decisions["site"])
    return [switch_name(*pair) for pair in zip(decisions["site"], decisions["channel"], strict=True)]


def switch_values(soft: nn.Module) -> dict[str, float]:
    """By name of each switch its omega."""
    frame = omegas(soft)
    return dict(zip(switch_names(frame), frame["omega"].astype(float), strict=True))


@torch.no_grad()
def set_omegas_(soft: nn.Module, value: float | Mapping[str, float | Sequence[float]]) -> None:
    """Set every omega to a number, or those of the given site ids, in place.

    Of a site with a switch a channel it sets all, to a number or to one each; ``activation.0[3]`` is one of them.

    Raises ValueError for a value outside [0, 1], KeyError for an unknown site; nothing is set then.

    >>> from archlab import switch
    >>> soft = switch(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(1, 4), kinds="activation")
    >>> set_omegas_(soft, 1.0)
    >>> set_omegas_(soft, {"activation.0": 0.25})
    >>> omegas(soft)["omega"].tolist()
    [0.25, 1.0]
    """
    known = named_omegas(soft)
    wanted: dict[str, Any] = {}
    several = {site: len(omega) for site, omega in known.items() if omega.dim()}
    places = {switch_name(site, n): (site, n) for site, size in several.items() for n in range(size)}
    for name, given in (value if isinstance(value, Mapping) else dict.fromkeys(known, value)).items():
        site, channel = places.get(name, (name, None))
        if site not in known:
            raise KeyError(f"{name!r} has no switch; {closest(str(name), known)}")
        size = several.get(site) if channel is None else None
        values = _values_in(f"omega of {name}", given, size)
        if channel is None:
            wanted[site] = values if size else values[0]
        else:
            wanted.setdefault(site, known[site].tolist())[channel] = values[0]
    for site, omega in wanted.items():
        if site in several:
            known[site].copy_(torch.tensor(omega))
        else:
            known[site].fill_(omega)


def _values_in(name: str, given: Any, size: int | None) -> list[float]:
    """What is given for a switch as a list of one, for a site of `size` switches of as many, each in [0, 1]."""
    several = given.tolist() if isinstance(given, Tensor) and given.dim() else given
    if size is not None and isinstance(several, Sequence) and not isinstance(several, str):
        if len(several) != size:
            raise ValueError(wrong(name, f"a number, or {size} of them, one a channel", f"{len(several)} of them"))
        values = [plain(one) for one in several]
    else:
        values = [plain(given)] * (size or 1)
    for one in values:
        number(name, one, low=0, high=1)
    return values
