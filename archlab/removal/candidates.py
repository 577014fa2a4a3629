"""The sites that a removal may take, and `kinds="all"`, which leaves out by itself what cannot be taken together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..discovery.kinds import BY_DEFAULT
from ..discovery.select import Where, resolve_conflicts
from ..discovery.site import Site
from ..passes.survey import sites
from ..rewrite.target import How

ALL = "all"


@dataclass(frozen=True, eq=False)
class Candidates:
    """The sites that may go, in the order they ran.

    Attributes:
        sites: They can be rewritten; with `kinds="all"`, all at once.
        refused: By id, why a chosen site cannot be rewritten.
        resolved: By id, in favour of which other site one was left out, by ``kinds="all"`` alone.
        macs: Of the whole model.
        params: Of the whole model.
    """

    sites: list[Site]
    refused: dict[str, str]
    resolved: dict[str, str]
    macs: int
    params: int
    ids: frozenset[str] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "ids", frozenset(site.id for site in self.sites))

    @property
    def kinds(self) -> list[str]:
        """The kinds of the sites, for `switch`."""
        return list(dict.fromkeys(site.kind.value for site in self.sites))

    @property
    def where(self) -> Callable[[Site], bool]:
        """Which sites of these kinds they are, for `switch`."""
        return lambda site: site.id in self.ids

    def told(self) -> str:
        """How many were left out, and of one why; "" where there is none."""
        if not self.resolved:
            return ""
        site, why = next(iter(self.resolved.items()))
        return f"kinds='all' left out {len(self.resolved)} of the sites, which conflict with others ({site}: {why})"


def candidates(model: nn.Module, example: Any, *, kinds: str | Iterable[str], where: Where = None) -> Candidates:
    """Find the sites of `kinds` that match `where` and can be rewritten; "all" are those that a pass takes by default.

    Raises:
        ValueError: where no site is chosen, or none of those chosen can be rewritten.
    """
    every = kinds == ALL
    found = sites(model, example, kinds=BY_DEFAULT if every else kinds, where=where)
    refused = {site.id: site.told for site in found if site.how is How.REFUSED}
    present = [site for site in found if site.id not in refused]
    if not present:
        site, how = next(iter(refused.items()))
        raise ValueError(f"none of the {len(refused)} chosen sites can be rewritten; {site} is {how}")
    taken, resolved = resolve_conflicts(present) if every else (present, {})
    macs = sum(op.macs for op in found.record.ops)
    return Candidates(taken, refused, resolved, macs, sum(found.record.params.values()))


def inside(site: Site, block: Site) -> bool:
    """Whether a site lies in the module that another one removes, and so goes with it."""
    return block.module is not None and f"{site.path}.".startswith(f"{block.module}.")
