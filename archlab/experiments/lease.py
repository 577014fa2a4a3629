"""A lease on a piece of work, so that two processes rarely do the same; taken over from one that died.

A file lock would vanish with its process by itself, but network file systems keep it only sometimes, and studies
may run on several machines over one folder. So: a small file with a heartbeat. It avoids most repeats, not all;
whoever writes results must bear a second writer.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STALE_S = 60.0  # without a heartbeat this long, the holder is taken for dead; beats come six times as often


@contextlib.contextmanager
def lease(path: str | Path, *, stale_s: float = STALE_S) -> Iterator[Callable[[], bool] | None]:
    """Hold `path` while the block runs.

    Args:
        path: The small file that says who holds it.
        stale_s: Seconds without a heartbeat after which the holder is taken for dead.

    Yields:
        A function that says whether the lease is still ours; None where somebody else holds it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    if not _take(path, token, stale_s):
        yield None
        return
    ended = threading.Event()

    def still_mine() -> bool:
        return _read(path).get("token") == token

    def beat() -> None:
        while not ended.wait(stale_s / 6):
            with contextlib.suppress(OSError):
                if still_mine():
                    os.utime(path)

    beating = threading.Thread(target=beat, name="lease", daemon=True)
    beating.start()
    try:
        yield still_mine
    finally:
        ended.set()
        beating.join()
        with contextlib.suppress(OSError):
            if still_mine():
                path.unlink(missing_ok=True)


def is_held(path: str | Path, *, stale_s: float = STALE_S) -> bool:
    """Whether somebody who lives is seen to hold `path`."""
    try:
        return not _abandoned(Path(path), time.time(), stale_s)
    except OSError:
        return False


def _take(path: Path, token: str, stale_s: float) -> bool:
    mine = path.with_name(f"{path.name}.{token}")
    try:
        mine.write_text(
            json.dumps({"token": token, "pid": os.getpid(), "started": _started(os.getpid()), **_machine()})
        )
        now = mine.stat().st_mtime  # by the clock of the file system, as that of the heartbeats
        for _ in range(3):
            try:
                os.link(mine, path)  # whole from its first moment, and refused where there is one
                return True
            except FileExistsError:
                if not _abandoned(path, now, stale_s):
                    return False
            grave = path.with_name(f"{path.name}.{token}.gone")
            try:
                os.rename(path, grave)  # of several that saw it abandoned, one succeeds
            except FileNotFoundError:
                continue
            if not _abandoned(grave, now, stale_s):  # it had just been taken over: give it back
                with contextlib.suppress(FileExistsError):
                    os.link(grave, path)
                grave.unlink()
                return False
            grave.unlink()
        return False
    finally:
        mine.unlink(missing_ok=True)


def _abandoned(path: Path, now: float, stale_s: float) -> bool:
    """Whether the holder is dead: seen at once where its processes are ours to see, else known by its silence.

    The number of a process says nothing elsewhere: not on another machine, after a restart, or in another container,
    where it may well name nobody while the holder lives. There the heartbeat decides alone.
    """
    try:
        silent_s = now - path.stat().st_mtime
    except FileNotFoundError:
        return True
    holder = _read(path)
    if {name: holder.get(name) for name in _machine()} == _machine() and not _alive(holder):
        return True
    return silent_s > stale_s


def _machine() -> dict[str, Any]:
    """Where a process number means one process: the machine since it started, and the container."""
    return {"host": socket.gethostname(), "boot": _text("/proc/sys/kernel/random/boot_id"), "pids": _pid_namespace()}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the holder's process runs, as seen where it would be seen; a later one may have its number."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid <= 0 or os.name != "posix":
        return True  # cannot be told: the heartbeat decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return _started(pid) == holder.get("started")


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where there is no such thing, or it has ended."""
    told = _text(f"/proc/{pid}/stat")
    if not told:
        return None
    state, *others = told.rpartition(")")[2].split()  # before it stands its name, which may hold blanks
    return None if state in "ZX" else others[18]


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
