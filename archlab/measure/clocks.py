"""Clocks of a CPU and a GPU.

A clock makes marks while work goes on, and says afterwards how much time lies between them. On a GPU a mark is an
event in the stream of kernels: the GPU sets its time when it gets there, the program does not wait.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

import torch

Work = Callable[[], Any]


class Clock(Protocol):
    name: str

    def begin(self) -> None:
        """Before the first mark of a run: nothing that was asked for earlier is still being done afterwards."""

    def mark(self) -> Any: ...

    def between(self, marks: Sequence[Any]) -> list[float]:
        """Milliseconds from each mark to the next; their sum is the time from the first to the last."""
        ...


class WallClock:
    """What passes while the program waits for a CPU."""

    name = "wall clock"

    def begin(self) -> None:
        pass

    def mark(self) -> float:
        return perf_counter()

    def between(self, marks: Sequence[float]) -> list[float]:
        return [1e3 * (later - earlier) for earlier, later in pairwise(marks)]


class EventClock:
    """CUDA events on the current stream, made once and used again in each run."""

    name = "CUDA events"

    def __init__(self):
        self.events: list[torch.cuda.Event] = []
        self.used = 0

    def begin(self) -> None:
        torch.cuda.synchronize()
        self.used = 0

    def mark(self) -> torch.cuda.Event:
        if self.used == len(self.events):
            self.events.append(torch.cuda.Event(enable_timing=True))
        event = self.events[self.used]
        self.used += 1
        event.record()
        return event

    def between(self, marks: Sequence[torch.cuda.Event]) -> list[float]:
        marks[-1].synchronize()
        return [earlier.elapsed_time(later) for earlier, later in pairwise(marks)]


def clock_on(device: torch.device) -> Clock:
    """The clock for what runs on `device`."""
    return EventClock() if device.type == "cuda" else WallClock()


def timed(clock: Clock, work: Work) -> float:
    """Milliseconds that `work` takes. Its result is let go after the last mark."""
    clock.begin()
    first = clock.mark()
    result = work()
    marks = [first, clock.mark()]
    del result
    return clock.between(marks)[0]
