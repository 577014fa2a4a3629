"""One check in a process of its own: neither a crash nor a hang stops the sweep."""

import multiprocessing
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

METHOD = "forkserver"  # each process starts with the libraries loaded, and with nothing of this one

Row = dict[str, Any]


def isolated(check: Callable[[str], Row], name: str, limit_s: float) -> Row:
    """``check(name)`` in a process of its own; a row with seconds and "error" alone where that did not answer."""
    context: Any = multiprocessing.get_context(METHOD)
    context.set_forkserver_preload(["studies.coverage.preload"])
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(check, name, sender))
    started = time.perf_counter()
    worker.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(limit_s) else _lost(f"gave up after {limit_s:.0f} s", limit_s)
    except EOFError:
        worker.join()
        return _lost(f"the process died, exit code {worker.exitcode}", time.perf_counter() - started)
    finally:
        worker.kill()
        worker.join()


def _work(check: Callable[[str], Row], name: str, sender: Connection) -> None:
    warnings.simplefilter("ignore")
    sender.send(check(name))


def _lost(reason: str, seconds: float) -> Row:
    return {"cpu_s": round(seconds, 2), "error": reason}
