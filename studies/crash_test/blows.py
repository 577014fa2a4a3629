"""What happens to a job: each blow is a function of its folder, and returns in words how it went and what the job left.

A blow ends with the job run once more, undisturbed. `took_s` is how long that takes from the start.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .jobs import begun, end, finished, left_by

FULL_KB, ROOM_KB = 48, 65_536  # a disk that gets full, and the same when there is room again
TRIES = 30  # to meet a job while it runs
Left = dict[str, Any] | None
Blow = Callable[[str, Path, str, float, random.Random], tuple[str, Left]]


def met(job: str, folder: Path, preset: str, number: int, moment_s: float) -> tuple[Path, float]:
    """Send a job a signal after `moment_s`, or sooner and in another folder where it had ended; where and when."""
    for attempt in range(TRIES):
        place = folder / str(attempt)
        with begun(job, place, preset) as process:
            process.join(moment_s)
            if process.is_alive():
                end(process, number)
                if left_by(place) is None:
                    return place, moment_s
        moment_s *= 0.7
    raise RuntimeError(f"{job} ended {TRIES} times before it was met; its logs are in {folder}")


def killed(job: str, folder: Path, preset: str, took_s: float, draw: random.Random) -> tuple[str, Left]:
    place, moment = met(job, folder, preset, signal.SIGKILL, draw.uniform(0, took_s))
    return f"after {moment:.2f} s", finished(job, place, preset)


def interrupted(job: str, folder: Path, preset: str, took_s: float, draw: random.Random) -> tuple[str, Left]:
    """Ctrl-C."""
    place, moment = met(job, folder, preset, signal.SIGINT, draw.uniform(0.3, 0.9) * took_s)
    return f"after {moment:.2f} s", finished(job, place, preset)


def worker_killed(job: str, folder: Path, preset: str, took_s: float, draw: random.Random) -> tuple[str, Left]:
    """Kill one of two workers of a runner, which names its cell and goes on with the others."""
    with begun(job, folder, preset, workers=2) as process:
        while not (workers := _children(process.pid)) and process.is_alive():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, took_s))
        os.kill(workers[0], signal.SIGKILL)
        process.join()
    missing = (left_by(folder) or {}).get("missing", {})
    named = [cell for cell, why in missing.items() if "killed by signal 9" in why]
    return f"named: {', '.join(named) or 'none, it had ended'}", finished(job, folder, preset)


def truncated(glob: str) -> Blow:
    """The newest file of that name, left by a kill, cut to two thirds."""

    def blow(job: str, folder: Path, preset: str, took_s: float, draw: random.Random) -> tuple[str, Left]:
        for attempt in range(TRIES):
            place, _ = met(job, folder / f"met {attempt}", preset, signal.SIGKILL, draw.uniform(0.5, 0.95) * took_s)
            found = [path for path in place.rglob(glob) if path.is_file()]
            if found:
                newest = max(found, key=lambda path: path.stat().st_mtime)
                content = newest.read_bytes()
                newest.write_bytes(content[: 2 * len(content) // 3])
                left = finished(job, place, preset)
                if left is None and str(newest) in place.with_suffix(".log").read_text(encoding="utf-8"):
                    newest.rename(newest.with_suffix(".aside"))  # as the error said, which names it
                    return "refused by name, then put aside", finished(job, place, preset)
                return "gone on with", left
        raise RuntimeError(f"{job} left no {glob} in {TRIES} kills; see {folder}")

    return blow


def disk_full(job: str, folder: Path, preset: str, took_s: float, draw: random.Random) -> tuple[str, Left]:
    """A disk of a few kilobytes, on which there is room later: a tmpfs, or without the right to mount one, a limit."""
    folder.mkdir(parents=True)
    if not _mounted(folder, FULL_KB):
        went = finished(job, folder, preset, most_bytes=1024 * FULL_KB // 8)
        return f"RLIMIT_FSIZE {FULL_KB // 8} kB; {_went(went)}", finished(job, folder, preset)
    try:
        went = finished(job, folder, preset)
        _mounted(folder, ROOM_KB, "remount,")
        return f"tmpfs of {FULL_KB} kB; {_went(went)}", finished(job, folder, preset)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def two_runners(job: str, folder: Path, preset: str, took_s: float, draw: random.Random) -> tuple[str, Left]:
    """Both at once on one folder: each cell is made by one of them."""
    with begun(job, folder, preset) as one, begun(job, folder, preset) as other:
        for process in (one, other):
            process.join()
    attempts = len(list(folder.rglob("attempts/*.json")))
    return f"{attempts} attempts", finished(job, folder, preset)


def _went(left: Left) -> str:
    return "the process failed" if left is None else "named, the runner ended" if "missing" in left else "it had room"


def _children(pid: int | None) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _mounted(folder: Path, kilobytes: int, how: str = "") -> bool:
    words = ["mount", "-t", "tmpfs", "-o", f"{how}size={kilobytes}k", "tmpfs", str(folder)]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
