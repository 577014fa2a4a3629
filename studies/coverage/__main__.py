"""``python -m studies.coverage``: does archlab read every family of torchvision, timm and some of Hugging Face?

One row a family: sites of each kind, completeness against the autograd graph, equality at omega = 0 and with the
removed model at omega = 1, gradients, how sites were rewritten, seconds, error. Each family runs in a process of
its own with a time limit, so that neither a crash nor a hang stops the sweep; finished rows are kept in
``scratch/coverage`` and not repeated. Report: ``reports/coverage/{rows.csv,report.md}``. About 25 minutes on one core.
"""

import fnmatch
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from archlab.discovery.kinds import KINDS
from archlab.experiments.dependencies import code_of
from archlab.experiments.provenance import digest

from . import checks, families
from .isolating import isolated

ROOT = Path(__file__).resolve().parents[2]
EXPLAINED = {
    "torchvision.mask_rcnn": "with random weights it finds no box, so that its mask head and the losses behind its "
    "proposals get no input and no gradient",
    "timm.crossvit": "the model itself fails at the sweep's 64 x 64 pixels, which its two patch sizes do not divide",
    "transformers.mamba": "two SiLU gates, off by default, run in code that is not the mixer's own (its kernels are "
    "wrapped), where they are seen but cannot be met again; all other sites are switched and removed",
}
LIBRARIES = ("torch", "torchvision", "timm", "transformers")


def main(
    only: Annotated[str, typer.Option(help="a glob on library.family, as 'timm.*' or '*.resnet*'")] = "*",
    time_limit: Annotated[float | None, typer.Option(help="stop starting families after so many minutes")] = None,
    per_family: Annotated[float, typer.Option(help="seconds after which one family is given up")] = 180,
    again: Annotated[bool, typer.Option(help="repeat rows that are there already")] = False,
    scratch: Annotated[Path, typer.Option(help="where finished rows are kept")] = ROOT / "scratch" / "coverage",
    out: Annotated[Path, typer.Option(help="where the report goes")] = ROOT / "reports" / "coverage",
) -> None:
    """Sweep the families, then write rows.csv and report.md of all rows there are."""
    chosen = [f for f in families.families() if fnmatch.fnmatchcase(f.id, only)]
    if not chosen:
        raise typer.BadParameter(f"--only {only!r} matches no family")
    scratch.mkdir(parents=True, exist_ok=True)
    started, stamp = time.perf_counter(), fingerprint()
    for number, family in enumerate(chosen, 1):
        file = scratch / f"{family.id}.json"
        if not again and file.exists() and json.loads(file.read_text())["stamp"] == stamp:
            continue
        if time_limit is not None and time.perf_counter() - started > 60 * time_limit:
            print(f"stopped at the time limit, {len(chosen) - number + 1} families to go: call again to go on")
            break
        row = isolated(family, per_family)
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(row | {"stamp": stamp}, indent=1))
        temporary.replace(file)
        verdict = row["error"] or ("ok" if sound(row) else "not sound")
        print(f"{number}/{len(chosen)} {family.id} {row['seconds']} s: {verdict}", flush=True)
    write(rows_in(scratch, stamp), out)


def fingerprint() -> str:
    """Hash of what a row depends on: the code behind `checks`, how models are read and rewritten, the libraries."""
    code = code_of(checks.check, [f"archlab.{room}" for room in ("capture", "rewrite", "discovery")])
    return digest([code.hash, versions()])


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in LIBRARIES}


def rows_in(scratch: Path, stamp: str) -> list[dict]:
    """The finished rows made by the present code, in the order of the sweep."""
    order = {f.id: i for i, f in enumerate(families.families())}
    found = [json.loads(file.read_text()) for file in scratch.glob("*.json")]
    found = [row for row in found if row.pop("stamp") == stamp]
    found.sort(key=lambda row: order.get(f"{row['library']}.{row['family']}", len(order)))
    return found


def sound(row: dict) -> bool:
    """Everything that was to hold holds."""
    return bool(
        not row["error"]
        and row["complete"]
        and row["equal_at_zero"]
        and row["equal_at_one"]
        and not row["omegas_without_gradient"]
        and not row["refused"]
    )


def write(rows: list[dict], out: Path) -> None:
    """rows.csv and report.md."""
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(checks.COLUMNS)).to_csv(out / "rows.csv", index=False)
    (out / "report.md").write_text(report(rows))
    print(f"{len(rows)} rows in {out}")


def report(rows: list[dict]) -> str:
    """The report: totals by library, each exception with its reason, and how it was made."""
    libraries = list(dict.fromkeys(row["library"] for row in rows))
    parts = {library: [row for row in rows if row["library"] == library] for library in libraries} | {"all": rows}
    totals = pd.DataFrame([{"library": name} | _totals(part) for name, part in parts.items()])
    exceptions = []
    for r in rows:
        if not sound(r):
            family = f"{r['library']}.{r['family']}"
            cause = f". Cause: {EXPLAINED[family]}." if family in EXPLAINED else ""
            exceptions.append(f"- **{family}** ({r['variant']}): {_why(r)}{cause}")
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join(
        [
            "# Coverage: which networks archlab reads",
            "",
            "`python -m studies.coverage`: one small variant of each family, random weights, evaluation mode, float32.",
            "A family is *sound* where the autograd graph shows no residual add and no activation that is neither a",
            "site nor left with a reason, the switched model equals the original at ω = 0 bit for bit and the removed",
            f"model at ω = 1 (relative difference at most {checks.TOLERANCE:g}), a gradient reaches every ω, and",
            "no site is refused. Switched are activations with skips, then branches with joins, then blocks; of the",
            "removed sites, *physical* are gone and *bypassed* may still be computed. Not in the sweep: torchvision's",
            "quantized models (their ops have no gradients), and torch.compile, which tests/test_contracts.py covers.",
            "",
            totals.to_markdown(index=False),
            "",
            f"## Exceptions ({len(exceptions)})",
            "",
            *(exceptions or ["None."]),
            "",
            "## How",
            "",
            f"{made}; Python {platform.python_version()}, {platform.machine()}, 1 thread; commit {_commit()}.",
            "Variants, parameters and each count by family: `rows.csv`.",
            "",
        ]
    )


def _totals(rows: list[dict]) -> dict:
    def total(*columns: str) -> int:
        return sum(row[column] or 0 for row in rows for column in columns)

    return {
        "families": len(rows),
        "sound": sum(map(sound, rows)),
        "complete": total("complete"),
        "equal at ω = 0": total("equal_at_zero"),
        "equal at ω = 1": total("equal_at_one"),
        "sites": total(*KINDS),
        "switched": total("omegas"),
        **{way: total(way) for way in ("local", "module", "intercepted", "physical", "bypassed")},
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 1),
    }


def _why(row: dict) -> str:
    reasons = [row["error"]] if row["error"] else []
    if row["complete"] is False:
        reasons.append(f"overlooked: {row['overlooked']}")
    if row["equal_at_zero"] is False:
        reasons.append("another output at ω = 0")
    if row["equal_at_one"] is False:
        reasons.append(f"differs from the removed model at ω = 1 by {row['difference_at_one']:.2g}")
    if row["omegas_without_gradient"]:
        reasons.append(f"{row['omegas_without_gradient']} ω without a gradient")
    if row["refused"]:
        reasons.append(f"{row['refused']} sites refused")
    return "; ".join(reasons)


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes that are started
    typer.run(main)
