"""How runs and their workers end from outside: SIGTERM is told as an exception, and no worker outlives its runner."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

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
