"""Worker processes: what they begin with, and how they and their runners end from outside.

SIGTERM is told as an exception, and no worker outlives its runner.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType

GRACE_S = 5.0  # that a worker has to end in order
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies


class Terminated(SystemExit):
    """The process was asked to end by SIGTERM; it does, with the exit status that shells give for it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextlib.contextmanager
def sigterm_as_exception() -> Iterator[None]:
    """While open, SIGTERM raises `Terminated`, so that what is open is put in order: leases, attempts, workers.

    Where somebody else handles it, or in another thread than the main one, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def raised(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, raised)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def die_with(parent: int) -> None:
    """Have this process killed as soon as `parent`, which started it, dies, even of SIGKILL. Linux can; others not."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before
            os._exit(1)


def worker_environment() -> dict[str, str]:
    """The environment of a worker: this process's own, with all that it finds modules in."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def end_(process: subprocess.Popen, *, grace_s: float = GRACE_S) -> None:
    """End a process that has a session of its own, and those that it started: asked first, for `grace_s`."""
    if process.poll() is None and grace_s:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    if process.poll() is None:
        _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()


def how_it_ended(status: int) -> str:
    """What became of a worker that did not say it itself."""
    return f"killed by signal {-status}" if status < 0 else f"failed: it ended the program, with status {status}"


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number) if os.name == "posix" else process.send_signal(number)
