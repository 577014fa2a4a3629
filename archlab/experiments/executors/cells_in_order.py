"""Cells in order, for any executor: each after those it needs, leases minded, each outcome told."""

import sys
from collections.abc import Callable

from ..cells import Cell, standing
from ..lease import is_held
from ..order import in_order


def cells_in_order(
    cells: list[Cell], places: int, deadline: float | None, begin: Callable[[Cell, int], Callable[[], str | None]]
) -> dict[Cell, str]:
    """`in_order` for cells."""
    return in_order(cells, places, deadline, begin, standing=standing, held=lambda cell: is_held(cell.lease), tell=tell)


def tell(cell: Cell, outcome: str) -> None:
    """A line about a cell for who watches."""
    result = standing(cell)
    took = f", {result['seconds']:.0f} s" + (", stale" if result["stale"] else "") if result else ""
    print(f"{cell.label}: {outcome}{took}", file=sys.stderr, flush=True)
