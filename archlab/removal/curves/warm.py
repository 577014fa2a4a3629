"""Warm starts: runs that begin with the thin network of the next larger budget, not with the original."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...capture.copies import copied
from ...discovery.find import sites_of
from ...discovery.select import Where
from ...discovery.site import Site
from ...training.checkpoint import FILE, load_checkpoint, save_checkpoint
from ..budget import SITES, Savings, share_left
from ..candidates import candidates, inside

THIN = "thin"  # the folder of the network that a run ends with, in the run's own
ROUNDED = 1e-9  # of a share of sites


def save_thin(folder: Path, model: nn.Module, gone: Sequence[str]) -> None:
    """Keep the network that a run ends with: what went, and the weights."""
    save_checkpoint(folder / THIN, {"gone": list(gone), "model": model.state_dict()})


def has_thin(folder: Path) -> bool:
    """Whether it is kept."""
    return (folder / THIN / FILE).is_file()


@dataclass(frozen=True, eq=False)
class Way:
    """The way from the original to a thin network, run after run.

    Attributes:
        example: Runs each of the networks.
        kinds: Of the sites that may go.
        chosen: Which of them may, in the original.
        models: The original, and the network after each run.
        gone: By run, the ids of the sites that went; they are those of the network before.
    """

    example: Any
    kinds: str | Iterable[str]
    chosen: Where
    models: Sequence[nn.Module]
    gone: Sequence[Sequence[str]]

    @classmethod
    def of(
        cls, model: nn.Module, example: Any, kinds: str | Iterable[str], chosen: Where, folders: Iterable[Path]
    ) -> "Way":
        """The way that was kept in the folders of the runs."""
        models, gone = [model], []
        for folder in folders:
            saved = load_checkpoint(folder / THIN)
            assert saved is not None, f"{folder} was seen to have it"
            before = models[-1]
            found = sites_of(before, example)
            thin = Savings(before, example, found, ()).without(saved["gone"]) if saved["gone"] else copied(before)
            thin.load_state_dict(saved["model"])
            models.append(thin)
            gone.append(saved["gone"])
        return cls(example, kinds, chosen, models, gone)

    @property
    def thin(self) -> nn.Module:
        """The network that it ends with."""
        return self.models[-1]

    def where(self) -> Where:
        """Which sites of the thin network may go: those that might in the original, whatever they are called now.

        Raises:
            ValueError: they cannot be told apart.
        """
        where = self.chosen
        for before, after, gone in zip(self.models, self.models[1:], self.gone, strict=False):
            if where is not None:
                where = _followed(before, after, self.example, self._ids(before, where), gone)
        return where

    def budget(self, budget: Mapping[str, float]) -> dict[str, float]:
        """What of the thin network may stay, so that of the original a budget is met; none where it is met already."""
        ((measure, share),) = budget.items()
        if measure == SITES:
            to_go = len(self._ids(self.models[0], self.chosen)) * (1 - share) - sum(map(len, self.gone))
            left = 1 - (to_go - ROUNDED) / len(self._ids(self.thin, self.where()))
        else:
            left = share / share_left(measure, self.models[0], self.thin, self.example)
        return {measure: left} if left < 1 else {}

    def _ids(self, model: nn.Module, where: Where) -> frozenset[str]:
        """The sites of a network that may go."""
        return candidates(model, self.example, kinds=self.kinds, where=where).ids


def _followed(before: nn.Module, after: nn.Module, example: Any, chosen: Iterable[str], gone: Sequence[str]) -> Where:
    """Which sites are the `chosen` ones of the network before: the k-th that was left is the k-th, in its container."""
    blocks = [site for site in sites_of(before, example) if site.id in gone]
    old = _by_container(
        site
        for site in sites_of(before, example)
        if site.id not in gone and not any(inside(site, block) for block in blocks)
    )
    ids = set()
    for place, found in _by_container(sites_of(after, example)).items():
        stayed = old.get(place, [])
        if len(stayed) != len(found) and any(site.id in chosen for site in stayed):
            raise ValueError(
                f"warm_start: after {gone[0]} went, the sites of kind {place[1]} in {place[0] or 'the model itself'} "
                f"cannot be told apart; choose them by where=None, or leave warm_start"
            )
        ids |= {now.id for was, now in zip(stayed, found, strict=False) if was.id in chosen}
    return lambda site: site.id in ids


def _by_container(found: Iterable[Site]) -> dict[tuple[str, str], list[Site]]:
    """Sites by container and kind, in the order they ran."""
    by_container: dict[tuple[str, str], list[Site]] = {}
    for site in found:
        by_container.setdefault((site.path, site.kind.value), []).append(site)
    return by_container
