"""Figure 6: fewer channels alone. SSIM against FPS of baselines of 32 to 4 channels, and the zone that was wanted.

``python -m studies.motion.figures.fig6_width --preset smoke|cpu|gpu|paper [--data DIR] [--time-limit MINUTES]``

The trainings are those of `networks`. Output: ``reports/fig6_width/<preset>/``.
"""

from pathlib import Path

import pandas as pd

from archlab.experiments import command
from archlab.report import write_report

from ..train.family import WIDTHS, fingerprint
from ..train.networks import PRESETS
from .shared import SSIM_THRESHOLD, about, against_baseline, cell, draw_tradeoffs, needs, table_of, trained_rows, zone

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "needs", "report"]

ROWS = [{"name": "baseline"}, *({"name": f"width {width}"} for width in WIDTHS)]


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md, tradeoff.png and report.md."""
    table, target, shown = table_of(rows, published=""), zone(rows), trained_rows(rows)
    pictures = draw_tradeoffs(rows, folder)
    inside = shown[(shown["fps"] >= target["fps"]) & (shown["ssim"] >= target["ssim"])]["row"]
    found = f"In the zone: {', '.join(inside)}." if len(inside) else "None of them is in the zone (as in the paper)."
    write_report(
        rows, folder, "Figure 6: channel-reduced baselines",
        f"Hatched: at least {target['fps']:.0f} FPS and SSIM {target['ssim']:.3f}, the baseline's less .011 (the "
        f"paper's .921 less its threshold {SSIM_THRESHOLD}, which short trainings do not reach). {found}",
        *pictures, table, *against_baseline(rows),
        command=f"python -m {__name__}", about=about(rows), tables={"table": table},
    )  # fmt: skip


if __name__ == "__main__":
    command()
