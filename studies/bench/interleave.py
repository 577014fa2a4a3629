"""Interleaved times, A B A B: a drift of the machine meets all alike, and the ratio within one round stands."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]


@contextmanager
def one_thread() -> Iterator[None]:
    """While open, torch computes on one thread of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clock(device: torch.device) -> tuple[str, Callable[[], float]]:
    """What is measured, in words, and a function that reads it in seconds.

    On a CPU with one thread it is this process's CPU time: what an idle machine's wall clock would show, whatever
    else runs there.
    """
    if device.type == "cuda":

        def synchronised() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return "wall time, synchronised with the GPU", synchronised
    if torch.get_num_threads() == 1:
        return "CPU time of the process", time.process_time
    return "wall time", time.perf_counter


def interleaved(works: Mapping[str, Work], *, repeats: int, warmup: int, device: torch.device) -> pd.DataFrame:
    """Seconds of each of `works`, a column each: a row a round, in which each runs once; without `warmup` rounds.

    Each round begins with another of them, so that none is always the first.
    """
    _, now = clock(device)
    names, rows = list(works), []
    for number in range(warmup + repeats):
        begin, seconds = number % len(names), {}
        for name in names[begin:] + names[:begin]:
            gc.collect()  # what an earlier one left is not this one's time
            begun = now()
            works[name]()
            seconds[name] = now() - begun
        rows.append(seconds)
    return pd.DataFrame(rows[warmup:], columns=names)


def spread(ratios: pd.Series) -> dict[str, float]:
    """Median, and the values that a tenth of the rounds lie below and above."""
    return {name: float(ratios.quantile(q)) for name, q in (("median", 0.5), ("p10", 0.1), ("p90", 0.9))}


def extra_kernels(plain: Work, other: Work, *, device: torch.device, most: int = 3) -> str:
    """The operators that `other` spends more time in than `plain`, in one profiled run each: ``aten::mul +1.2 ms``."""
    before, after = _by_kernel(plain, device), _by_kernel(other, device)
    extra = sorted(((ms - before.get(name, 0.0), name) for name, ms in after.items()), reverse=True)
    return ", ".join(f"{name} +{ms:.1f} ms" for ms, name in extra[:most] if ms > 0)


def _by_kernel(work: Work, device: torch.device) -> dict[str, float]:
    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as seen:
        work()
    microseconds = {e.key: e.self_device_time_total if gpu else e.self_cpu_time_total for e in seen.key_averages()}
    return {name: us / 1e3 for name, us in microseconds.items()}
