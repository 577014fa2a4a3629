"""The columns of all tables of the motion studies, and the numbers that the paper prints: a new column is a line here.

Names are those that rows have: `evaluate.costs` and `evaluate.quality` make the values.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from archlab.report import Column, Table, table

COSTS = (
    Column("params_k", "params", unit="K", digits=0, better="lower"),
    Column("flops_g", "FLOPs", unit="G", digits=2, better="lower"),
)
SPEED = (Column("fps", "FPS", digits=3, better="higher"),)
GPU_SPEED = Column("fps_gpu", "FPS, H200", digits=1, better="higher")  # of `evaluate.gpu_speeds`
SSIM = Column("ssim", "SSIM", digits=3, better="higher", change=True)
# Of `evaluate.beside_ssim`, and what a report says of them.
BESIDE_SSIM = (
    Column("motion_shown", "motion", digits=2, better="higher"),
    Column("colour_error", "colour error", digits=3, better="lower"),
)
BESIDE_SSIM_TOLD = (
    "*motion*: the share of the wanted displacement that is shown, 1 being right (six photos, factors 5 and 20). "
    "*colour error*: L1 distance from the target of what is left of an image once its luma is taken away."
)
QUALITY = (SSIM, Column("lpips", "LPIPS", digits=3, better="lower", change=True))

# What the paper prints, and where: by row and column. It gives the baseline SSIM .932 in Table 1 and .921 in Fig. 11,
# and parameters in Fig. 11 only as 24.4 % fewer in the end. FPS are of an RTX 3090 at full HD.
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "Table 1": {
        "baseline": {"params_k": 967, "flops_g": 41.3, "ssim": 0.932, "lpips": 0.180},
        "encoder activation": {"params_k": 967, "flops_g": 41.3, "ssim": 0.929, "lpips": 0.187},
        "encoder skip": {"params_k": 967, "flops_g": 41.3, "ssim": 0.925, "lpips": 0.195},
        "encoder block": {"params_k": 838, "flops_g": 37.6, "ssim": 0.928, "lpips": 0.186},
        "manipulator activation": {"params_k": 967, "flops_g": 41.3, "ssim": 0.930, "lpips": 0.181},
        "manipulator skip": {"params_k": 967, "flops_g": 41.3, "ssim": 0.931, "lpips": 0.181},
        "manipulator block": {"params_k": 948, "flops_g": 40.6, "ssim": 0.930, "lpips": 0.182},
        "decoder activation": {"params_k": 967, "flops_g": 41.3, "ssim": 0.902, "lpips": 0.252},
        "decoder skip": {"params_k": 967, "flops_g": 41.3, "ssim": 0.903, "lpips": 0.231},
        "decoder block": {"params_k": 524, "flops_g": 25.0, "ssim": 0.864, "lpips": 0.317},
    },
    "Fig. 1": {
        "baseline": {"params_k": 967, "flops_g": 41.3, "fps": 9.6},
        "proposed": {"params_k": 731, "flops_g": 9.86, "fps": 25.8},
    },
    "Fig. 11": {
        "baseline": {"fps": 9.6, "ssim": 0.921, "lpips": 0.191},
        "quarter": {"fps": 13.6, "ssim": 0.920, "lpips": 0.203},
        "linear A": {"fps": 16.8, "ssim": 0.918, "lpips": 0.208},
        "scaled A": {"fps": 25.8, "ssim": 0.918, "lpips": 0.211},
        "proposed": {"fps": 25.8, "ssim": 0.920, "lpips": 0.164},
    },
    "Fig. 11, costs": {"linear": {"flops_g": 20.5}, "scaled": {"flops_g": 9.86, "params_k": 731}},
}
PAPER_DIGITS = {"fps": 1}  # where the paper gives fewer decimals than are shown of ours


def table_of(
    rows: pd.DataFrame,
    columns: Iterable[Column],
    *,
    first: Sequence[Column] = (Column("row", "network"),),
    published: str = "",
    by: str = "row",
    changes: Iterable[str] = (),
) -> Table:
    """A table of `rows`, changes against the first of them; beside it the paper's numbers.

    Args:
        rows: a row a line.
        columns: what is shown of each.
        first: the columns that say which row it is.
        published: where in the paper the numbers stand, a key of `PUBLISHED`; none by default.
        by: the column whose value finds a row in `PUBLISHED`.
        changes: names of the columns whose published numbers show their change too.
    """
    rows, columns, beside = rows.copy(), list(columns), []
    printed: Mapping[str, Mapping[str, float]] = PUBLISHED[published] if published else {}
    for column in columns:
        numbers = {row: values[column.name] for row, values in printed.items() if column.name in values}
        rows[column.name] = pd.to_numeric(rows[column.name])
        if numbers:
            name = f"paper_{column.name}"
            rows[name] = rows[by].map(numbers).astype(float)
            title, digits = f"paper: {column.unit or column.title}", PAPER_DIGITS.get(column.name, column.digits)
            beside.append(Column(name, title, digits=digits, change=column.name in changes))
    return table(rows, columns=[*first, *columns, *beside], base=0, better={})
