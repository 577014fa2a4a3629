"""What is killed: a study, a search, a learned removal, each in a process of its own, and what each leaves.

Processes are forked from a server that has all loaded (`preload`), so that each begins within a tenth of a second.
"""

import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import archlab as al
from archlab.experiments import run
from archlab.removal import learn_to_remove

from . import victim

OPTIONS = {f"block {number}": [0, 1, 2, 3] for number in range(6)}
TRIALS = {"smoke": 12, "cpu": 60}
STEPS = {"smoke": (30, 6, 12), "cpu": (300, 60, 120)}  # of a removal: soft, push, tune


def study(folder: Path, preset: str, workers: int = 0) -> dict[str, Any]:
    """The victim's rows, and how many results stand there."""
    rows = run(victim, preset=preset, out=folder / "reports", scratch=folder / "scratch", workers=workers)
    if rows.attrs["missing"] or rows.attrs["unwritten"]:
        return {"missing": {**rows.attrs["missing"], "unwritten": rows.attrs["unwritten"]}}
    results = len(list((folder / "reports").rglob("cells/*.json")))
    return {"rows": json.loads(rows.drop(columns="seconds").to_json()), "results": results}


def search(folder: Path, preset: str) -> dict[str, Any]:
    """The history of a search."""
    found = al.search(
        OPTIONS, judged, trials=TRIALS[preset], objectives={"score": "higher"}, population=10, folder=folder,
        progress=False,
    )  # fmt: skip
    return {"history": json.loads(found.history.to_json()), "best": found.best}


def judged(architecture: Any) -> dict[str, float]:
    time.sleep(0.005)
    return {"score": sum(value * (-0.7) ** place for place, value in enumerate(architecture.values()))}


def removal(folder: Path, preset: str) -> dict[str, Any]:
    """The thin network's weights, its history and decisions."""
    soft, push, tune = STEPS[preset]
    found = learn_to_remove(
        victim.network(), victim.TASK, kinds="block", lam=0.5, soft_steps=soft, push_steps=push, tune_steps=tune,
        lr=1e-3, lr_omega=0.1, folder=folder, save_every=20, evaluate=True, progress=False,
    )  # fmt: skip
    frames = ("history", "omegas", "decisions", "qualities")
    told = {name: json.loads(getattr(found, name).to_json(double_precision=15)) for name in frames}
    return {"weights": victim.bits(found.model), **told}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {"study": study, "search": search, "removal": removal}


def _worked(job: str, folder: str, preset: str, most_bytes: int | None, options: dict[str, Any]) -> None:
    """What a process does; no file that it writes may have more than `most_bytes`."""
    os.setsid()  # what it starts is killed with it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which those that began in the background ignore
    torch.set_num_threads(1)
    log = os.open(Path(folder).with_suffix(".log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    left = JOBS[job](Path(folder), preset, **options)
    Path(folder).with_suffix(".json").write_text(json.dumps(left, sort_keys=True))


@contextmanager
def begun(
    job: str, folder: Path, preset: str, *, most_bytes: int | None = None, **options: Any
) -> Iterator[BaseProcess]:
    """A process that works on a job in `folder`; it and what it started are gone afterwards."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.preload"])
    folder.with_suffix(".json").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_worked, args=(job, str(folder), preset, most_bytes, options))
    process.start()
    try:
        yield process
    finally:
        end(process)


def end(process: BaseProcess, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process and wait for it; with SIGKILL also to what it started."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, number) if number == signal.SIGKILL else os.kill(process.pid, number)
    except ProcessLookupError:
        if process.is_alive():  # it has no session yet
            process.kill()
    process.join()


def finished(job: str, folder: Path, preset: str, **options: Any) -> dict[str, Any] | None:
    """What a job leaves when nothing disturbs it (any more); None where it failed, as its log says."""
    with begun(job, folder, preset, **options) as process:
        process.join()
    return left_by(folder)


def left_by(folder: Path) -> dict[str, Any] | None:
    path = folder.with_suffix(".json")
    return json.loads(path.read_text()) if path.is_file() else None
