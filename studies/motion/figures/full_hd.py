"""Full HD on a CPU: what makes the proposed network faster there, step by step, and what that does to its output.

``python -m studies.motion.figures.full_hd --preset smoke|cpu [--time-limit MINUTES]``

Each row is timed in turn with the network as torch runs it (fp32, channels last), frame by frame, so that drift hits
both; either has a process of its own, as what the C library does with freed memory is a process's. Run it on an idle
machine, with as many threads as it has cores. Output: ``reports/full_hd/<preset>/``.
"""

import copy
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pandas as pd
import torch

from archlab.experiments import Scratch, command
from archlab.report import Column, table, write_report

from ..network.fast import keep_freed_memory, pad_by_ring_, sum_in_fp32_, upsampling_folded
from ..network.models import MagnificationNet, proposed
from ..video.stream import Stream, begun, coarsest_stride, eager, encoded, has_bf16, inference
from ..video.temporal import STATIC
from .real_time import FACTOR, swaying

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "report"]

PRESETS = ("smoke", "cpu")
SIZES = {"smoke": (160, 96), "cpu": (1920, 1080)}
FRAMES = {"smoke": 1, "cpu": 7}  # timed, after one that is not
GOAL = 1.5  # frames a second
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Form:
    """How the network runs."""

    dtype: torch.dtype = torch.float32
    folded: bool = False
    ring: bool = False
    mixed: bool = False
    kept: bool = False


FORMS = {
    "fp32": Form(),
    "fold": Form(folded=True),
    "ring": Form(folded=True, ring=True),
    "bf16": Form(torch.bfloat16, folded=True, ring=True),
    "mixed": Form(folded=True, ring=True, mixed=True),
    "kept": Form(folded=True, ring=True, mixed=True, kept=True),
}
TITLES = {
    "fp32": "fp32, as torch runs it",
    "fold": "upsampling folded",
    "ring": "and borders by ring",
    "bf16": "these and bf16",
    "mixed": "these and the decoder's convolutions in bf16",
    "kept": "and freed memory kept",
}
ROWS = [{"name": name} for name in FORMS]

Run = Callable[[torch.Tensor], np.ndarray]


def fingerprint(preset: str, data: Path | None) -> str:
    return "scikit-image samples"


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Seconds a frame of one form and of fp32 beside it, and the difference of what they show, in levels of 256."""
    frames = [torch.from_numpy(frame.copy()) for frame in swaying(*SIZES[preset], FRAMES[preset] + 2)]
    times, apart, shown = [], [], dict[str, np.ndarray]()
    with ExitStack() as stack:
        names = dict.fromkeys(("fp32", row["name"]))
        processes = {name: stack.enter_context(_process(FORMS[name], frames[:2])) for name in names}
        for frame in frames[2:]:
            for name, process in processes.items():
                shown[name], s, cpu_s = process.submit(_show, frame).result()
                times.append({"form": name, "s": s, "cpu_s": cpu_s})
            levels = np.abs(shown[row["name"]].astype(np.int16) - shown["fp32"])
            apart.append((int(levels.max()), float(levels.mean())))
    medians, (most, mean) = pd.DataFrame(times).groupby("form").median(), zip(*apart, strict=True)
    return {
        "cpu_s": float(medians["cpu_s"][row["name"]]),
        "wall_s": float(medians["s"][row["name"]]),
        "fp32_cpu_s": float(medians["cpu_s"]["fp32"]),
        "fp32_wall_s": float(medians["s"]["fp32"]),
        "most": max(most),
        "mean": float(np.mean(mean)),
        "frames": FRAMES[preset],
        "threads": torch.get_num_threads(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "bf16": has_bf16(CPU),
    }


def _process(form: Form, frames: list[torch.Tensor]) -> ProcessPoolExecutor:
    """One that shows frames in a form."""
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_begin,
        initargs=(form, frames, torch.get_num_threads()),
    )  # fmt: skip


def _begin(form: Form, frames: list[torch.Tensor], threads: int) -> None:
    global _run
    torch.set_num_threads(threads)
    if form.kept:
        keep_freed_memory()
    _run = running(proposed(pretrained=True), form, frames)


def _show(frame: torch.Tensor) -> tuple[np.ndarray, float, float]:
    """A frame as it is shown, and the seconds that took, by the clock and of all threads."""
    began, worked = perf_counter(), process_time()
    image = _run(frame)
    return image, perf_counter() - began, process_time() - worked


def running(net: MagnificationNet, form: Form, frames: list[torch.Tensor]) -> Run:
    """What shows a frame in a form, after it has shown the second of `frames`; the first is the reference."""
    stride = coarsest_stride(net)
    net = upsampling_folded(net) if form.folded else copy.deepcopy(net)
    net = net.eval().requires_grad_(False).to(CPU, form.dtype)
    net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if form.ring:
        pad_by_ring_(net)
    if form.mixed:
        sum_in_fp32_(net)
    stream = Stream(net, FACTOR, stride, STATIC, CPU, form.dtype, form.mixed)
    first, second = frames
    with inference(CPU):
        memory = begun(stream, *encoded(stream, first))
        step = eager(stream, memory, second)

    def run(frame: torch.Tensor) -> np.ndarray:
        with inference(CPU):
            return step(frame)[0].numpy()

    run(second)
    return run


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md and report.md."""
    first = rows[rows["seed"] == 0]
    frame = first.assign(
        form=first["row"].map(TITLES), faster=first["fp32_wall_s"] / first["wall_s"], fps=1 / first["wall_s"],
    )  # fmt: skip
    columns = [
        Column("form", "form"),
        Column("cpu_s", "a frame", unit="CPU seconds", digits=2),
        Column("wall_s", "by the clock", unit="s", digits=2),
        Column("fps", "FPS", digits=2),
        Column("faster", "times fp32", digits=2),
        Column("most", "largest difference", unit="levels", digits=0),
        Column("mean", "mean difference", unit="levels", digits=3),
    ]
    shown, said = table(frame, columns=columns), first.iloc[0]
    has = [name for name, there in (("AMX", said["amx"]), ("instructions for bf16", said["bf16"])) if there]
    best = frame[frame["most"] <= 2]["fps"].max()
    write_report(
        rows, folder, "Full HD on a CPU",
        f"The proposed network, total gain {FACTOR:g}, a frame of a stream from 8-bit pixels to 8-bit pixels, channels "
        f"last, {int(said['threads'])} threads on a CPU with {' and '.join(has) or 'neither AMX nor bf16'}. CPU "
        f"seconds of all threads, and seconds by the clock, medians of {int(said['frames'])} frames that alternate "
        "with those of fp32. Differences are those of all these frames from fp32's, in levels of 256.",
        shown,
        f"The aim, {GOAL:g} frames a second within 2 levels, is {'reached' if best >= GOAL else 'not reached here'}.",
        command=f"python -m {__name__}", tables={"table": shown},
    )  # fmt: skip


if __name__ == "__main__":
    command()
