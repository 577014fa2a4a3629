"""Worker processes that hold a copy of live objects, and do with it what they are told, piece by piece."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...files import write_whole
from ..processes import die_with, end_, how_it_ended, sigterm_as_exception, worker_environment

LAST_WORDS = 600  # characters of what a worker printed, in an error


@dataclass(frozen=True)
class Told:
    """What a worker told of a piece. JSON can write it.

    Attributes:
        outcome: How it ended: "finished", or why not.
        made: What it made, where whoever had it done is to keep that.
        warnings: What the worker warned of meanwhile.
    """

    outcome: str
    made: Any = None
    warnings: Sequence[str] = ()


class Pool:
    """Processes that each hold a copy of `work`, a function of a piece's label that returns what is `Told` of it.

    One is started when it is first needed, and again after it died. They compute as the caller's process does, to the
    bit: with as many threads, and with torch's modes of precision and determinism. None outlives this process.

    Args:
        payload: `work`, pickled with `computing()`, as in ``pickled(call, (computing(), work), …)``.
        folder: Of the payload and of what each worker prints.
        environment: Of the workers; default: this process's own.
        where: The folder that they work in; default: this process's own.
    """

    def __init__(
        self,
        payload: bytes,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        where: Path | None = None,
    ):
        self.folder, self.environment, self.where = folder, environment, where
        self.processes: dict[int, subprocess.Popen] = {}
        self.payload = folder / "work.pickle"
        write_whole(self.payload, payload)

    def begin(self, label: str, slot: int) -> Callable[[], Told | None]:
        """Have the worker of this number do a piece; the function that is returned gives what it told, or None."""
        said = self.folder / f"said-{slot}.json"
        said.unlink(missing_ok=True)
        process = self._process(slot)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: that is seen below
            process.stdin.write(json.dumps({"label": label, "said": str(said)}).encode() + b"\n")
            process.stdin.flush()

        def told() -> Told | None:
            status = process.poll()
            if said.exists():
                return Told(**json.loads(said.read_text(encoding="utf-8")))
            if status is None:
                return None
            words = self._log(slot).read_text(encoding="utf-8", errors="replace").strip()[-LAST_WORDS:]
            return Told(how_it_ended(status) + (f"; the last that it printed: {words}" if words else ""))

        return told

    def stop(self, slot: int) -> None:
        """End the worker of this number, whatever it does."""
        _end(self.processes.pop(slot))

    def end(self) -> None:
        """End all of them."""
        for slot in list(self.processes):
            self.stop(slot)

    def _process(self, slot: int) -> subprocess.Popen:
        if slot in self.processes and self.processes[slot].poll() is not None:
            self.stop(slot)
        if slot not in self.processes:
            given = {"payload": str(self.payload), "parent": os.getpid()}
            code = f"from {work.__module__} import {work.__name__}; {work.__name__}()"
            words = [sys.executable, "-c", code, json.dumps(given)]
            environment = dict(self.environment or worker_environment())
            with open(self._log(slot), "wb") as log:  # a session of its own: with the process ends what it started
                self.processes[slot] = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment,
                    cwd=self.where, start_new_session=True,
                )  # fmt: skip
        return self.processes[slot]

    def _log(self, slot: int) -> Path:
        return self.folder / f"worker-{slot}.txt"


def _end(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # of what it did not read any more
        process.stdin.close()
    end_(process)


def computing() -> dict[str, Any]:
    """How this process computes, where that may change the last bits of a result."""
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        ),
        "cudnn": {name: getattr(torch.backends.cudnn, name) for name in ("benchmark", "deterministic", "allow_tf32")},
    }  # fmt: skip


def compute_as_(other: dict[str, Any]) -> None:
    """Have this process compute as another one does."""
    torch.set_num_threads(other["threads"])
    torch.set_default_dtype(other["dtype"])
    torch.set_float32_matmul_precision(other["matmul"])
    on, warn_only = other["deterministic"]
    torch.use_deterministic_algorithms(on, warn_only=warn_only)
    for name, value in other["cudnn"].items():
        setattr(torch.backends.cudnn, name, value)


def work() -> None:
    """What a worker does: it reads its payload, then a line for each piece; how that ended goes to the file named."""
    given = json.loads(sys.argv[1])
    die_with(given["parent"])
    with sigterm_as_exception():
        other, do = pickle.loads(Path(given["payload"]).read_bytes())
        compute_as_(other)
        for line in sys.stdin:
            order = json.loads(line)
            with warnings.catch_warnings(record=True) as caught:
                told = do(order["label"])
            told = replace(told, warnings=[str(warning.message) for warning in caught])
            write_whole(order["said"], json.dumps(asdict(told)).encode())
