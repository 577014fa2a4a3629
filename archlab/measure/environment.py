"""What a measured time depends on beside the model: set while measuring, put back afterwards, and written down.

Nothing here is left to chance or to what ran before in the process: a float32 product is not the same work with TF32
as without, a convolution not the same with cuDNN's first algorithm as with its best.
"""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..capture.modes import random_states_kept

VERSION = "0.1.0"  # of archlab, as pyproject.toml has it
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Each has an attribute fp32_precision: of matrix products, convolutions and recurrent layers. Before torch 2.9 there
# are none, and the older pair of settings decides alone.
_CUDA: tuple[Any, ...] = ()
_CPU: tuple[Any, ...] = ()
if hasattr(torch.backends.cudnn, "conv"):
    _CUDA = (torch.backends.cuda.matmul, *(getattr(torch.backends.cudnn, op) for op in ("conv", "rnn")))
    _CPU = tuple(getattr(torch.backends.mkldnn, op) for op in ("matmul", "conv", "rnn"))
_SMI = {"driver": "driver_version", "clock_sm": "clocks.sm", "clock_memory": "clocks.mem", "power": "power.draw"}


@contextmanager
def fixed_settings(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """While open: inference mode, no autocast, TF32 as said, cuDNN's autotuner on, `device` the current one.

    All of it, and the random state, is as before afterwards.
    """
    cuda = device.type == "cuda"
    benchmark = torch.backends.cudnn.benchmark
    with ExitStack() as stack:
        if cuda:
            stack.enter_context(torch.cuda.device(device))
        stack.enter_context(random_states_kept([torch.cuda.current_device()] if cuda else []))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(_tf32(tf32))
        stack.callback(setattr, torch.backends.cudnn, "benchmark", benchmark)
        torch.backends.cudnn.benchmark = True
        yield


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """TF32 in products, convolutions and recurrent layers of the GPU, or full float32; on a CPU always the latter."""
    before = [(backend, backend.fp32_precision) for backend in (*_CUDA, *_CPU)]
    # torch has an older pair of settings beside these. Where they contradict, reading the older raises (also inside
    # torch.compile), so they are set alike; where they cannot be read they contradict already and are left alone.
    older: list[tuple[Callable, Any, Any]] = []
    for read, write, value in (
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "high" if allowed else "highest"),
        (lambda: torch.backends.cudnn.allow_tf32, lambda on: setattr(torch.backends.cudnn, "allow_tf32", on), allowed),
    ):
        try:
            older.append((write, read(), value))
        except RuntimeError:
            continue
    try:
        for write, _, value in older:
            write(value)
        for backend in _CUDA:
            backend.fp32_precision = "tf32" if allowed else "ieee"
        for backend in _CPU:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for write, value, _ in older:
            write(value)
        for backend, value in before:
            backend.fp32_precision = value


def float32_precision(device: torch.device) -> tuple[str, str]:
    """Return what products and convolutions in float32 are computed in on `device` now, each "ieee" or "tf32"."""
    cuda = device.type == "cuda"
    if backends := _CUDA if cuda else _CPU:
        return backends[0].fp32_precision, backends[1].fp32_precision
    products, convolutions = torch.get_float32_matmul_precision() != "highest", torch.backends.cudnn.allow_tf32
    return "tf32" if products else "ieee", "tf32" if cuda and convolutions else "ieee"


def conditions_on(device: torch.device, busy: Callable[[], Any]) -> dict[str, Any]:
    """Return machine, versions and settings for what is measured on `device`, to be asked for under `fixed_settings`.

    Args:
        device: The one that is measured.
        busy: Called again and again meanwhile: what a GPU's clocks are, they are while it works.

    Returns:
        `conditions`, with the device's own; what cannot be found out is None.
    """
    cuda = device.type == "cuda"
    products, convolutions = float32_precision(device)
    found = conditions() | {
        "device": torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        "measured_on": str(device),
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(),
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "cudnn_benchmark": torch.backends.cudnn.benchmark if cuda else None,
        "float32_products": products,
        "float32_convolutions": convolutions,
        "date": time.strftime("%Y-%m-%d"),
    }
    if cuda:
        found |= nvidia_smi(f"GPU-{torch.cuda.get_device_properties(device).uuid}", busy)
    return found


def nvidia_smi(gpu: str, busy: Callable[[], Any], *, patience_s: float = 10.0) -> dict[str, str | None]:
    """Return driver, clocks and power of a GPU, read by nvidia-smi while `busy` is called again and again.

    An idle GPU lowers its clocks within moments, and would show those.

    Args:
        gpu: Its name for nvidia-smi, "GPU-" and the UUID.
        busy: Runs something on it.
        patience_s: How long nvidia-smi may take.

    Returns:
        driver, clock_sm, clock_memory, power as nvidia-smi writes them; all None where it does not answer.
    """
    words = ["nvidia-smi", f"--id={gpu}", f"--query-gpu={','.join(_SMI.values())}", "--format=csv,noheader"]
    unknown: dict[str, str | None] = dict.fromkeys(_SMI)
    try:
        asked = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return unknown
    with asked:
        begun = time.monotonic()
        while asked.poll() is None:
            busy()
            if time.monotonic() - begun > patience_s:
                asked.kill()
                return unknown
        values = [value.strip() for value in (asked.stdout.read() if asked.stdout else "").split(",")]
    if asked.returncode or len(values) != len(_SMI):
        return unknown
    return dict(zip(_SMI, values, strict=True))


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def conditions(device: torch.device | None = None) -> dict[str, Any]:
    """Return what a measured number depends on beside the code: device, versions, threads, system, commit.

    Args:
        device: Where it is measured; default: the first GPU, where there is one.
    """
    cuda = torch.cuda.is_available() if device is None else device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.processor() or platform.machine()})",
        "threads": torch.get_num_threads(),
        "archlab": VERSION,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "system": platform.system(),
        "commit": _commit(os.getcwd()),
    }


def conditions_of(model: nn.Module) -> dict[str, Any]:
    """Return `conditions` where the model is, with today's date first."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return {"date": time.strftime("%Y-%m-%d"), **conditions(device)}


@cache
def _commit(folder: str) -> str:
    """The commit that is checked out in the present folder, with a + where files differ from it.

    It is asked for once a process, whose code is that of its start; git takes longer than a small cell.
    """
    try:
        said = [
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said[0] + ("+" if said[1] else "")
