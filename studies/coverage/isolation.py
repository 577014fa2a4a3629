"""One family in a process of its own: neither a crash nor a hang stops the sweep."""

import multiprocessing
import time
import warnings
from multiprocessing.connection import Connection
from typing import Any

from . import checks
from .families import Family, families

METHOD = "forkserver"  # each process starts with the libraries loaded, and with nothing of this one


def isolated(family: Family, limit_s: float) -> dict[str, Any]:
    """`checks.check` of one family in a process of its own; a row with the reason where that did not answer."""
    context: Any = multiprocessing.get_context(METHOD)
    context.set_forkserver_preload(["studies.coverage.preload"])
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(family.id, sender))
    started = time.perf_counter()
    worker.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(limit_s) else _lost(family, f"gave up after {limit_s:.0f} s", limit_s)
    except EOFError:
        worker.join()
        return _lost(family, f"the process died, exit code {worker.exitcode}", time.perf_counter() - started)
    finally:
        worker.kill()
        worker.join()


def _work(family_id: str, sender: Connection) -> None:
    warnings.simplefilter("ignore")
    family = next(f for f in families() if f.id == family_id)
    sender.send(checks.check(family))


def _lost(family: Family, reason: str, seconds: float) -> dict[str, Any]:
    row = dict.fromkeys(checks.COLUMNS)
    known = {"library": family.library, "family": family.name, "variant": family.variant}
    return row | known | {"cpu_s": round(seconds, 2), "error": reason}
