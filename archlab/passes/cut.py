"""What a removed operand of a concatenation takes along: the channels with which later layers read it.

Where zeros stand for the operand, a layer that multiplies its channels with weights and sums over them gives the same
without these channels: they are cut, and the operand is left out. That is followed through archlab's record of widths
(`width`), in which the operand's channels are an axis of their own from the concatenation on. Where what lies between
makes something else of zeros (a norm with a bias), or other channels depend on these, nothing is cut: zeros stay.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ..arguments import wrong
from ..discovery.kinds import Kind
from ..discovery.site import Site
from ..rewrite.target import Edit, Freeze
from .checks import Observed
from .concat.followed import Followed
from .heads.cut import heads_cut
from .width.choose import resizing_for
from .width.resize import Resizing, checked


@dataclass(frozen=True)
class Cuts:
    """What removed operands of concatenations become: `resizing` cuts the channels of those that are left out.

    `zeros`: site -> how many zeros stand for it in the others' place; 0 where it is multiplied with zero, as how wide
    it is is not given by layers. `reasons` says why, by site.
    """

    resizing: Resizing = field(default_factory=lambda: Resizing({}))
    zeros: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def edit(self, site: Site) -> Edit | None:
        """How `site` is removed; None where that is done once its channels are cut."""
        number = self.zeros.get(site.id)
        if number is None:
            return None if site.kind is Kind.HEAD else Edit(site.target)
        return Edit(replace(site.target, stand_in=number)) if number else Edit(site.target, Freeze(1.0))

    def options(self) -> dict[str, Any]:
        """As a recipe holds it: nothing where nothing was concatenated."""
        found = {"tensors": self.resizing.tensors, "numbers": self.resizing.numbers, "zeros": self.zeros}
        return {"cuts": found} if any(found.values()) else {}

    def of(self, seen: Observed) -> Observed:
        """What was seen of a model, with the gradients of the channels that stay."""
        gradients = dict(seen.gradients or {})
        for name, dims in self.resizing.tensors.items():
            for dim, index in dims.items() if name in gradients else ():
                taken = torch.tensor(index, device=gradients[name].device)
                gradients[name] = gradients[name].index_select(int(dim), taken)
        return seen if seen.gradients is None else replace(seen, gradients=gradients)


def cuts_in(value: Any) -> Cuts:
    """The `Cuts` of what a recipe says. Raises ValueError for what is none."""
    if not (isinstance(value, Mapping) and set(value) == {"tensors", "numbers", "zeros"}):
        raise ValueError(wrong("discard: cuts", "an object of tensors, numbers and zeros", value))
    zeros = value["zeros"]
    if not (isinstance(zeros, dict) and all(type(n) is int and 0 <= n < 2**31 for n in zeros.values())):
        raise ValueError(wrong("discard: the zeros of cuts", "how many by site", zeros))
    numbers = value["numbers"]
    return Cuts(checked(value["tensors"], {}, numbers) if value["tensors"] else Resizing({}), zeros)


def cuts_for(
    model: nn.Module, example: Any, removed: Sequence[Site], every: Iterable[Site], frozen: Collection[str]
) -> Cuts:
    """What becomes of those of the `removed` sites that are operands of concatenations or heads: cut, where that is
    sound. `every` are all sites, `frozen` ids of those that are blended for good."""
    if any(site.kind is Kind.HEAD for site in removed):
        others = [site for site in removed if site.kind is Kind.CONCAT]
        zeros = uncut(model, example, others, "heads are removed in the same step") if others else Cuts()
        resizing, reasons = heads_cut(model, example, removed, every, frozen)
        return Cuts(resizing, zeros.zeros | dict.fromkeys(reasons, 0), zeros.reasons | reasons)
    sites = [site for site in removed if site.kind is Kind.CONCAT]
    if not sites:
        return Cuts()
    found = Followed(model, example, sites)
    reasons: dict[str, str] = {}
    while True:  # a site that cannot be cut is left as zeros, and the others are asked again
        axes = [axis for site in sites if site.id not in reasons for axis in found.axes(site, reasons)]
        offender = found.first_unsound(set(axes), sites)
        if offender is None:
            break
        blamed, reason = offender
        more = {s.id for s in sites if s.id not in reasons and blamed & set(found.axes(s, {}))}
        reasons |= dict.fromkeys(more or {s.id for s in sites}, reason)
    resizing = resizing_for(model, found.flow, {axis: [] for axis in axes})
    zeros = {site.id: found.width(site) for site in sites if site.id in reasons}
    return Cuts(resizing, zeros, reasons)


def uncut(model: nn.Module, example: Any, removed: Iterable[Site], reason: str) -> Cuts:
    """The same with nothing cut, for the `reason`."""
    sites = [site for site in removed if site.kind in (Kind.CONCAT, Kind.HEAD)]
    found = Followed(model, example, [site for site in sites if site.kind is Kind.CONCAT])
    zeros = {s.id: found.width(s) if s.kind is Kind.CONCAT else 0 for s in sites}
    return Cuts(Resizing({}), zeros, dict.fromkeys(zeros, reason))
