"""What a model does with one site alone removed: ω = 1 at that switch, which equals the physical removal."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from ...discovery.site import Site
from ...passes.switch import switch
from ...passes.switch_state import set_omegas_
from ...training.task import Task, qualities_of


def switched_by_kind(model: nn.Module, example: Any, found: Sequence[Site]) -> Iterator[tuple[nn.Module, list[Site]]]:
    """Yield for each kind a copy of `model` with a switch at each site of it, all at 0, and these sites.

    Kinds apart, as a skip and a branch share an add and cannot both have a switch.
    """
    for kind in dict.fromkeys(site.kind for site in found):
        ids = {site.id for site in found if site.kind == kind}
        soft = switch(model, example, kinds=kind, where=lambda site, ids=ids: site.id in ids)
        yield soft, [site for site in found if site.id in ids]


def only_(soft: nn.Module, gone: Sequence[str]) -> None:
    """Switch exactly these sites off, in place."""
    set_omegas_(soft, 0.0)
    set_omegas_(soft, dict.fromkeys(gone, 1.0))


def untouched_qualities(task: Task, model: nn.Module, columns: tuple[str, ...]) -> dict[str, float]:
    """The qualities that others are compared with, in a table that has these `columns`, too.

    Raises:
        ValueError: where there is none, or the name of a change is one's own.
    """
    untouched = qualities_of(task, model, columns=columns, untouched=True)
    if twice := [name for name in untouched if f"delta_{name}" in untouched]:
        raise ValueError(f"task.quality: 'delta_{twice[0]}' is the column of what {twice[0]!r} changes by; rename it")
    return untouched


def qualities_without(
    task: Task, soft: nn.Module, site: str, untouched: dict[str, float], columns: tuple[str, ...]
) -> dict[str, float]:
    """Each quality of `soft`, in which `site` is off, and as ``delta_<quality>`` its change from the untouched model.

    Raises:
        ValueError: where they are not those of the untouched model.
    """
    values = qualities_of(task, soft, columns=columns, untouched=False)
    if values.keys() != untouched.keys():
        raise ValueError(
            f"task.quality must name the same qualities each time: {', '.join(untouched)} of the untouched "
            f"model, got {', '.join(values)} without {site}"
        )
    return values | {f"delta_{name}": value - untouched[name] for name, value in values.items()}
