"""How much of the world's networks archlab reads: every torchvision and timm family, some of Hugging Face's.

``python -m studies.coverage [--only 'timm.*'] [--time-limit MINUTES]``

One row a family: sites of each kind, completeness against the autograd graph, equality at omega = 0 and with the
removed model at omega = 1, gradients, how sites were rewritten, seconds, error. One more a family: what of it can be
folded, deepened, widened, narrowed and run coarser. And one row a situation from a public bug report, done right or
refused by name. Each row runs in a process of its own with a time limit, so that neither a crash nor a hang stops the
sweep. Beside other work the rows of sites took 50 minutes of two cores, those of reshaping 95. Output:
``reports/coverage/cpu/``, each count in its rows.csv.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import archlab as al
from archlab.experiments import Scratch
from archlab.report import table, write_report

from .checks import TOLERANCE, check
from .families import families
from .isolation import isolated
from .reshaping import PASSES, reshaped
from .situations import SITUATIONS, situation

NAME = "coverage"
PRESETS = ("cpu",)
RESHAPED = " reshaped"  # ends the name of such a row
FAMILIES = {family.id: family for family in families()}
CHECKS = {
    "sites": check,
    "reshaping": reshaped,
    "situation": situation,
}  # by a row's part: what makes it of the name of what is checked
ROWS = [
    *({"name": name, "part": "sites", "variant": family.variant} for name, family in FAMILIES.items()),
    *(
        {"name": f"{name}{RESHAPED}", "part": "reshaping", "variant": family.variant}
        for name, family in FAMILIES.items()
    ),
    *({"name": name, "part": "situation"} for name in SITUATIONS),
]
LIMIT_S = 600.0  # after which one row is given up; reshaping maxvit took more than 180 beside other jobs
EXPLAINED = {
    "torchvision.mask_rcnn": "with random weights it finds no box, so that its mask head and the losses behind its "
    "proposals get no input and no gradient",
}
LIBRARIES = ("torch", "torchvision", "timm", "transformers")
ABOUT = (
    "One small variant of each family, random weights, evaluation mode, float32. A family is *sound* where the "
    "autograd graph shows no residual add and no activation that is neither a site nor skipped with a reason, the "
    "switched model equals the original at ω = 0 bit for bit and the removed model at ω = 1 (relative difference at "
    f"most {TOLERANCE:g}), a gradient reaches every ω, and no site is refused. Switched are activations with skips, "
    "then branches with joins, then blocks, concatenations, norms and heads; of the removed sites, *physical* are gone "
    "and *bypassed* may still be computed. Gates are listed and not switched: without its softmax, masked attention is "
    "infinite. Not in the sweep: torchvision's quantized models (their ops have no gradients), and torch.compile, "
    "which tests/contracts covers."
)
OF_RESHAPING = (
    "The same families, each pass on a new copy: `fold` after all activations are removed; two blocks more and all but "
    "one less of the largest stack of blocks; half and 1.5 times the width, fresh, pruned and preserved; one block on "
    "half the resolution. *Partly*: some layers stay, each with its reason on the step; *none*: there is nothing that "
    "the pass is for; *failed*: a raw error, a model that stays as it was without a word, or a result that cannot be "
    "printed."
)
OF_SITUATIONS = (
    "Each is a model of a few lines after a public bug report. *Right*: the result is what a hand-written model gives. "
    "*Refused*: nothing is returned, and the message names what stands in the way."
)


def fingerprint(preset: str, data: Path | None) -> dict[str, str]:
    """The networks are those of the libraries as installed."""
    return {name: version(name) for name in LIBRARIES}


def depends(row: dict[str, Any]) -> list[str]:
    """What is checked is how models are read and rewritten."""
    return ["archlab.capture", "archlab.rewrite", "archlab.discovery", "archlab.passes"]


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """What was found of one row; where its process crashed or hung, the reason stands in "error"."""
    return isolated(CHECKS[row["part"]], row["name"].removesuffix(RESHAPED), LIMIT_S)


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write report.md: totals by library, each exception with its reason, and what came of each situation."""
    found = rows.astype(object).where(rows.notna(), None).to_dict("records")
    swept, shaped, met = ([row for row in found if row["part"] == part] for part in CHECKS)
    for row in swept:
        row["library"] = row["row"].split(".")[0]
    libraries = dict.fromkeys(row["library"] for row in swept)
    parts = {library: [row for row in swept if row["library"] == library] for library in libraries} | {"all": swept}
    totals = table(
        pd.DataFrame([{"library": name, **_totals(part)} for name, part in parts.items()]), digits={"minutes": 1}
    )
    exceptions = [
        f"**{row['row']}** ({row['variant']}): {_why(row)}"
        + (f". Cause: {EXPLAINED[row['row']]}." if row["row"] in EXPLAINED else "")
        for row in swept
        if not sound(row)
    ]
    reshaping = table(pd.DataFrame([{"pass": title, **_outcomes(shaped, title)} for title in PASSES]))
    failed = [
        f"**{row['row'].removesuffix(RESHAPED)}**, {title}: {row['error'] or row[title]}"
        for row in shaped
        for title in PASSES
        if _begin(row, title) == "failed"
    ]
    situations = table(pd.DataFrame([{"situation": row["row"], **_outcome(row)} for row in met]))
    write_report(
        rows, folder, "Coverage: which networks archlab reads", ABOUT, totals,
        f"## Exceptions ({len(exceptions)})", exceptions or "None.",
        "## Reshaping", OF_RESHAPING, reshaping, "Failed:", failed or ["nothing"],
        "## Situations from public bug reports", OF_SITUATIONS, situations,
        command="python -m studies.coverage",
        tables={"table": totals, "reshaping": reshaping, "situations": situations},
        about=", ".join(f"{name} {version(name)}" for name in LIBRARIES) + "; one thread. Variants, parameters and "
        "each count by family: `rows.csv`.",
    )  # fmt: skip


def _begin(row: Mapping[Any, Any], title: str) -> str:
    """How the result of a pass begins; a family that hung or crashed failed."""
    return "failed" if row["error"] or not row.get(title) else str(row[title]).partition(":")[0]


def _outcomes(rows: Sequence[Mapping[Any, Any]], title: str) -> dict[str, int]:
    begins = [_begin(row, title) for row in rows]
    return {name: begins.count(name) for name in ("ok", "partly", "none", "refused", "failed")}


def _outcome(row: Mapping[Any, Any]) -> dict[str, str]:
    """Right, refused or wrong, with what was found; a situation that hung or crashed is wrong."""
    return (
        {"outcome": "wrong", "found": row["error"]} if row.get("error") else {k: row[k] for k in ("outcome", "found")}
    )


def sound(row: Mapping[Any, Any]) -> bool:
    """Everything that was to hold holds."""
    return bool(
        not row["error"]
        and row["complete"]
        and row["equal_at_zero"]
        and row["equal_at_one"]
        and not row["omegas_without_gradient"]
        and not row["refused"]
    )


def _totals(rows: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    def total(*columns: str) -> int:
        return int(sum(row.get(column) or 0 for row in rows for column in columns))  # floats beside empty cells

    return {
        "families": len(rows),
        "sound": sum(map(sound, rows)),
        "complete": total("complete"),
        "equal at ω = 0": total("equal_at_zero"),
        "equal at ω = 1": total("equal_at_one"),
        "sites": total(*al.KINDS),
        "switched": total("omegas"),
        **{way: total(way) for way in ("local", "module", "intercepted", "physical", "bypassed")},
        "minutes": round(sum(row["cpu_s"] for row in rows) / 60, 1),
    }


def _why(row: Mapping[Any, Any]) -> str:
    reasons = [row["error"]] if row["error"] else []
    if row["complete"] is False:
        reasons.append(f"overlooked: {row['overlooked']}")
    if row["equal_at_zero"] is False:
        reasons.append("another output at ω = 0")
    if row["equal_at_one"] is False:
        reasons.append(f"differs from the removed model at ω = 1 by {row['difference_at_one']:.2g}")
    if row["omegas_without_gradient"]:
        reasons.append(f"{row['omegas_without_gradient']:.0f} ω without a gradient")
    if row["refused"]:
        reasons.append(f"{row['refused']:.0f} sites refused")
    return "; ".join(reasons)
