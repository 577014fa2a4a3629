"""`launch`: a function in several processes that train one model together, by torch's launcher and accelerate.

``accelerate launch`` would do where there are GPUs; on CPUs it starts one process. So torch's launcher, which it uses
itself, starts them, and in each accelerate makes the process group: by NCCL on GPUs, by gloo on CPUs.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from importlib import util
from pathlib import Path
from typing import Any

import torch

from ...arguments import flag, function, whole
from ...files import write_whole
from ..processes import die_with, end_, how_it_ended, sigterm_as_exception, worker_environment
from .pickled import pickled
from .pool import compute_as_, computing

MOST_PROCESSES = 1_024  # more cannot be meant
DIED = "died.txt"
GOES_ON = "where `fit` has a folder, the same call goes on from its checkpoint"


def launch(work: Callable[[], Any], *, processes: int, cpu: bool | None = None) -> None:
    """Call a function in several processes at once, whose `fit` then trains one model together.

    Each process has a copy of what the function holds. `fit` takes its share of every batch there, averages gradients,
    and lets the first process write: the losses are those of one process on the whole batches, to rounding, but for
    what a model computes across a batch, as a BatchNorm, or draws at random, as a dropout. Give it a folder: after
    this call, the same `fit` in this process takes the trained weights from there. A function that was killed is
    gone on with from its checkpoint by the same call.

    Args:
        work: Takes nothing; what it returns is lost.
        processes: How many; each has a GPU, or its part of this process's threads.
        cpu: True uses no GPU; default: where there are fewer GPUs than processes.

    Raises:
        ModuleNotFoundError: accelerate is not installed.
        TypeError: the function cannot be pickled, naming what of it.
        RuntimeError: a process failed, with its error, or died, by its number; the others have ended then, too.

    >>> launch(lambda folder: folder, processes=2)
    Traceback (most recent call last):
    TypeError: launch: work must be a function that takes nothing, got <lambda>; <lambda>(folder): missing a required \
argument: 'folder'
    """
    function("launch: work", work)
    whole("launch: processes", processes, most=MOST_PROCESSES)
    if cpu is not None:
        flag("launch: cpu", cpu)
    if util.find_spec("accelerate") is None:
        raise ModuleNotFoundError(
            "launch needs the package accelerate, which is not installed: pip install 'archlab[accelerate]'"
        )
    cpu = torch.cuda.device_count() < processes if cpu is None else cpu
    own = computing()
    own |= {"threads": max(1, own["threads"] // processes) if cpu else own["threads"]}
    with tempfile.TemporaryDirectory(prefix="archlab-") as folder, sigterm_as_exception():
        write_whole(
            Path(folder) / "work.pickle",
            pickled("launch", (own, cpu, work), {"work": work}, remedy="train in one process"),
        )
        given = {"folder": folder, "parent": os.getpid(), "processes": processes}
        words = [sys.executable, "-c", _call(start), json.dumps(given)]
        environment = {"OMP_NUM_THREADS": str(own["threads"]), **worker_environment()}
        process = subprocess.Popen(words, env=environment, start_new_session=True)
        try:
            status = process.wait()
        finally:
            end_(process)
        if status:
            raise RuntimeError(f"launch: {told_in(Path(folder)) or how_it_ended(status)}")


def start() -> None:
    """What torch's launcher does, which ends all processes where one fails. It dies with who called `launch`."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    given = json.loads(sys.argv[1])
    die_with(given["parent"])
    words = ["--standalone", f"--nproc-per-node={given['processes']}", "--no-python"]
    try:
        run.main([*words, sys.executable, "-c", _call(take_part), given["folder"], str(os.getpid())])
    except ChildFailedError as error:
        statuses = {failure.local_rank: failure.exitcode for failure in error.failures.values()}
        tell_who_died(Path(given["folder"]), statuses)
        raise


def take_part() -> None:
    """What each process does."""
    folder = Path(sys.argv[1])
    die_with(int(sys.argv[2]))
    try:
        from accelerate import PartialState

        own, cpu, work = pickle.loads((folder / "work.pickle").read_bytes())
        compute_as_(own)
        state = PartialState(cpu=cpu)
        work()
        state.wait_for_everyone()
        state.destroy_process_group()
    except BaseException as error:
        told = f"process {os.environ.get('RANK')} failed: {type(error).__name__}: {error}"
        write_whole(folder / f"error-{os.environ.get('RANK')}.txt", told.encode())
        traceback.print_exc()
        raise


def _call(of: Callable[[], None]) -> str:
    return f"from {of.__module__} import {of.__name__}; {of.__name__}()"


def tell_who_died(folder: Path, statuses: Mapping[int, int]) -> None:
    """Write which process died without an error of its own, if one did; torch's launcher ends the others by SIGTERM."""
    silent = [rank for rank in statuses if not (folder / f"error-{rank}.txt").exists()]
    for rank in sorted(silent, key=lambda rank: statuses[rank] == -signal.SIGTERM)[:1]:
        if statuses[rank] != -signal.SIGTERM or len(silent) == len(statuses):
            told = f"process {rank} {how_it_ended(statuses[rank])}; the others have ended for it; {GOES_ON}"
            write_whole(folder / DIED, told.encode())


def told_in(folder: Path) -> str:
    """Which process died, or the error of the one that failed first: others fail for it."""
    errors = sorted(folder.glob("error-*.txt"), key=lambda path: path.stat().st_mtime_ns)
    told = [path for path in (folder / DIED, *errors) if path.exists()]
    return told[0].read_text(encoding="utf-8") if told else ""
