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
        if still_mine():
            path.unlink(missing_ok=True)


def _take(path: Path, token: str, stale_s: float) -> bool:
    mine = path.with_name(f"{path.name}.{token}")
    mine.write_text(json.dumps({"token": token, "host": socket.gethostname(), "pid": os.getpid()}))
    try:
        for _ in range(3):
            try:
                os.link(mine, path)  # whole from its first moment, and refused where there is one
                return True
            except FileExistsError:
                if not _abandoned(path, stale_s):
                    return False
            grave = path.with_name(f"{path.name}.{token}.gone")
            try:
                os.rename(path, grave)  # of several that saw it abandoned, one succeeds
            except FileNotFoundError:
                continue
            if not _abandoned(grave, stale_s):  # it had just been taken over: give it back
                with contextlib.suppress(FileExistsError):
                    os.link(grave, path)
                grave.unlink()
                return False
            grave.unlink()
        return False
    finally:
        mine.unlink()


def _abandoned(path: Path, stale_s: float) -> bool:
    """Whether the holder is dead: known so on this machine, else by its silence."""
    try:
        silent_s = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True
    holder = _read(path)
    if holder.get("host") == socket.gethostname() and not _alive(holder.get("pid")):
        return True
    return silent_s > stale_s


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or os.name != "posix":
        return True  # cannot be told: the heartbeat decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read(path: Path) -> dict:
    try:
        held = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
