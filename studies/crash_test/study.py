"""What do a study, a search and a learned removal leave after kills, cuts and full disks: an undisturbed run's bits?

``python -m studies.crash_test --preset smoke|cpu [--only GLOB]``

Each blow falls on a job in a process of its own, then the same call runs again; what it leaves (rows, history, hashes
of all weights) is compared with what a run leaves to which nothing happened. The last two rows are times: of 1,000
cells that do nothing, and of equal cells with one worker and two, which says something on an idle machine only. cpu
takes about five minutes of an idle machine. Output: ``reports/crash_test/<preset>/``.
"""

import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from archlab.experiments import Scratch, run
from archlab.report import Column, table, write_report

from . import blows, busy, trivial
from .jobs import JOBS, finished

NAME = "crash_test"
PRESETS = ("smoke", "cpu")
KILLS = {"smoke": 2, "cpu": 20}
AIM_MS, AIM_TIMES, QUIET = 20.0, 1.7, 0.5  # of a cell; of two workers; the load below which that says something
BLOWS: Mapping[str, tuple[blows.Blow, tuple[str, ...]]] = {
    "SIGKILL at a random moment": (blows.killed, tuple(JOBS)),
    "Ctrl-C": (blows.interrupted, tuple(JOBS)),
    "disk full": (blows.disk_full, tuple(JOBS)),
    "checkpoint cut off": (blows.truncated("*.pt"), ("study", "removal")),
    "journal cut off": (blows.truncated("*.log"), ("search",)),
    "cell cut off": (blows.truncated("cells/*.json"), ("study",)),
    "one of two workers killed": (blows.worker_killed, ("study",)),
    "two runners on one folder": (blows.two_runners, ("study",)),
}
CELLS, WORKERS = "1,000 cells that do nothing", "equal cells, two workers against one"
ROWS = [
    *({"name": f"{job}: {blow}", "job": job, "blow": blow} for blow, (_, jobs) in BLOWS.items() for job in jobs),
    {"name": CELLS}, {"name": WORKERS},
]  # fmt: skip
COLUMNS = (
    Column("job", "job"), Column("blow", "what happened"), Column("blows", "times", digits=0),
    Column("same", "identical after", digits=0), Column("told", "how it went"),
)  # fmt: skip


def cell_for(row: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    return {CELLS: cells, WORKERS: workers}.get(row["name"], blow)


def blow(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Strike a job, some moments drawn for it, and compare what it leaves with what one leaves that was not struck."""
    strike, _ = BLOWS[row["blow"]]
    folder = scratch.folder / f"{os.getpid()}"  # an attempt of this cell finds nothing of an earlier one
    finished(row["job"], folder / "first", preset)  # the server is there from now on
    begun = time.monotonic()
    right = finished(row["job"], folder / "undisturbed", preset)
    took_s = time.monotonic() - begun
    if right is None or "missing" in right:
        raise RuntimeError(f"{row['job']} fails without a blow: {right}; see {folder / 'undisturbed.log'}")
    count = KILLS[preset] if strike is blows.killed else 1
    draw, told, different = random.Random(f"{row['name']} {seed}"), [], []
    for number in range(count):
        how, left = strike(row["job"], folder / f"blow {number}", preset, took_s, draw)
        told.append(how)
        if left != right:
            different.append(f"{how}: {folder / f'blow {number}'}")
    return {"blows": count, "same": count - len(different), "told": _spread(told), "different": different,
            "undisturbed_s": took_s}  # fmt: skip


def cells(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Time and memory of cells that do nothing, in this process: the first hundred, then the others."""
    folder = scratch.folder / f"{os.getpid()}"
    options = {"preset": preset, "out": folder / "reports", "scratch": folder / "scratch"}
    run(trivial, only="cell 0*", **options)
    before, begun, begun_cpu = _memory_mb(), time.monotonic(), time.process_time()
    done = run(trivial, only="cell 1*" if preset == "smoke" else "*", **options)
    count, grown_mb = len(done) - 100, _memory_mb() - before
    each_ms = 1e3 * (time.monotonic() - begun) / count
    each_cpu_ms = 1e3 * (time.process_time() - begun_cpu) / count
    told = (
        f"{each_ms:.1f} ms a cell (aim: under {AIM_MS:g}), {each_cpu_ms:.1f} ms of CPU time, the rest waiting for the "
    )
    told += f"disk and others; {grown_mb:+.1f} MB over {count} cells; load {os.getloadavg()[0]:.1f}"
    return {"each_ms": each_ms, "each_cpu_ms": each_cpu_ms, "grown_mb": grown_mb, "told": told}


def workers(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The time of one worker over that of two, on equal cells of one thread; on a busy machine it is not measured."""
    folder, load, times = scratch.folder / f"{os.getpid()}", os.getloadavg()[0], {}
    if load > QUIET:
        told = f"not measured, as the load before was {load:.1f}: it says something below {QUIET:g} only. On an idle "
        told += "machine delete this row's file in cells/ and call again"
        return {"ratio": None, "load": load, "told": told}
    for count in (1, 2):
        begun, out = time.monotonic(), folder / str(count)
        run(busy, preset=preset, workers=count, out=out / "reports", scratch=out / "scratch")
        times[count] = time.monotonic() - begun
    ratio = times[1] / times[2]
    told = (
        f"{ratio:.2f} times as fast (aim: {AIM_TIMES:g}), {times[1]:.0f} s and {times[2]:.0f} s, "
        f"{os.cpu_count()} cores, "
    )
    return {"ratio": ratio, "load": load, "told": f"{told}load before {load:.1f}"}


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md and report.md."""
    struck = rows[rows["blows"].notna()]
    shown = table(struck, columns=COLUMNS, better={})
    others = [f"{row['row']}: {row['told']}." for row in rows[rows["blows"].isna()].to_dict("records")]
    wrong = [line for lines in struck["different"] for line in lines]
    write_report(
        rows, folder, "Crash test: what is left after kills, cuts and full disks",
        f"After {int(struck['same'].sum())} of {int(struck['blows'].sum())} blows rows, history and weights were those "
        "of an undisturbed run to the bit: nothing was lost, nothing was there twice.",
        shown, *(["Different:", wrong] if wrong else []), "## Times", others,
        command="python -m studies.crash_test", tables={"table": shown},
        about="Random moments are uniform over the time of the undisturbed run.",
    )  # fmt: skip


def _spread(told: list[str]) -> str:
    """Of many what the first and the last were."""
    return told[0] if len(told) == 1 else f"{min(told)} to {max(told)}"


def _memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
