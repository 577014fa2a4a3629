"""Figure 6: fewer channels alone. SSIM against FPS of baselines of 32 to 4 channels, and the zone that was wanted.

``python -m studies.motion.figures.fig6_width --preset smoke|cpu|gpu|paper [--data DIR] [--time-limit MINUTES]``

The trainings are those of `networks`. Output: ``reports/fig6_width/<preset>/``.
"""

from pathlib import Path

import pandas as pd

from archlab.experiments import command

from ..data.sources import fingerprint
from ..train.family import WIDTHS
from ..train.networks import PRESETS
from .shared import (
    REAL_TIME,
    SSIM_THRESHOLD,
    cell,
    conditions,
    draw_tradeoff,
    needs,
    plain,
    table_of,
    write,
    zone,
)

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "needs", "report"]

ROWS = [{"name": "baseline"}, *({"name": f"width {width}"} for width in WIDTHS)]


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, tradeoff.png and report.md."""
    table, target = table_of(rows, published=False), zone(rows)
    table.save(folder)
    frame = plain(rows)
    draw_tradeoff(rows, folder / "tradeoff.png")
    inside = frame[(frame["FPS"] >= REAL_TIME) & (frame["SSIM"] >= target["SSIM"])]["network"]
    found = f"In the zone: {', '.join(inside)}." if len(inside) else "None of them is in the zone (as in the paper)."
    write(
        folder, "Figure 6: channel-reduced baselines", conditions(rows, "fig6_width"),
        f"Hatched: at least {REAL_TIME:.0f} FPS and SSIM {target['SSIM']:.3f}, the baseline's less .011 (the paper's "
        f".921 less its threshold {SSIM_THRESHOLD}, which short trainings do not reach). {found}",
        "![SSIM against FPS](tradeoff.png)", table.markdown(),
    )  # fmt: skip


if __name__ == "__main__":
    command()
