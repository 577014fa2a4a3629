"""Clocks of a CPU and a GPU, and a watch that takes a run apart by module.

A clock makes marks while work goes on, and says afterwards how much time lies between them. On a GPU a mark is an
event in the stream of kernels: the GPU sets its time when it gets there, the program does not wait.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

import pandas as pd
import torch
from torch import nn

Work = Callable[[], Any]
COLUMNS = ("module", "type", "calls", "self_ms", "self_share", "total_ms", "total_share")


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


class Watch:
    """Times a model's modules, the root's children at depth 1 and so on, while it runs.

    Marks are made around each call of a module's ``forward``, which is wrapped for that one run: hooks would see
    nothing of a direct call, would miss the end of one that raises, and make torch's transformer layers take another
    path. The time between two marks is that of the innermost module that is running then, so that the parts are the
    whole. What a module does in another method, and what no module does, is that of the module around it.
    """

    def __init__(self, net: nn.Module, clock: Clock, *, depth: int):
        self.net, self.clock = net, clock
        self.modules = {path: module for path, module in net.named_modules() if path.count(".") < depth}
        self.runs: list[dict[str, tuple[float, float]]] = []  # by path: self and total ms
        self.calls: dict[str, int] = {}  # in the latest run

    def timed(self, work: Work) -> float:
        """Milliseconds that `work` takes with the marks in it; its parts are kept in `runs`."""
        marks: list[Any] = []
        steps: list[str | None] = []  # what begins at each mark but the first; None: the latest to begin ends
        with self._marked(marks, steps):
            self.clock.begin()
            marks.append(self.clock.mark())
            result = work()
            marks.append(self.clock.mark())
        del result
        spans = self.clock.between(marks)
        self._add(spans, steps)
        return sum(spans)

    @contextmanager
    def _marked(self, marks: list[Any], steps: list[str | None]) -> Iterator[None]:
        before = []
        try:
            for path, module in self.modules.items():
                if path:
                    before.append((module, vars(module).get("forward")))
                    vars(module)["forward"] = self._around(module.forward, path, marks, steps)
            yield
        finally:
            for module, forward in before:
                vars(module).pop("forward") if forward is None else vars(module).update(forward=forward)

    def _around(self, forward: Callable, path: str, marks: list[Any], steps: list[str | None]) -> Callable:
        mark = self.clock.mark

        def marked(*args: Any, **kwargs: Any) -> Any:
            steps.append(path)
            marks.append(mark())
            try:
                return forward(*args, **kwargs)
            finally:
                steps.append(None)
                marks.append(mark())

        return marked

    def _add(self, spans: list[float], steps: list[str | None]) -> None:
        own, total, self.calls = dict.fromkeys(self.modules, 0.0), dict.fromkeys(self.modules, 0.0), {"": 1}
        running = [""]
        for span, step in zip(spans, [*steps, None], strict=True):
            own[running[-1]] += span
            for path in set(running):  # one that calls itself counts once
                total[path] += span
            if step is None:
                running.pop()
            else:
                running.append(step)
                self.calls[step] = self.calls.get(step, 0) + 1
        assert not running, "each module that began has ended, the whole last"
        self.runs.append({path: (own[path], total[path]) for path in self.modules})

    def frame(self) -> pd.DataFrame:
        """One row a module: module, type, calls (in a run), self_ms, self_share, total_ms, total_share.

        `self_ms` is without the modules below that have rows of their own, and adds up to the `total_ms` of the first
        row, the model. So that it does, times are means, of those half of the runs that took neither longest nor
        shortest: medians of parts do not add up, and a plain mean follows a single interruption.
        """
        runs = sorted(self.runs, key=lambda run: run[""][1])
        kept = runs[len(runs) // 4 : len(runs) - len(runs) // 4]
        means = {path: [sum(run[path][i] for run in kept) / len(kept) for i in (0, 1)] for path in self.modules}
        whole = means[""][1]
        rows = [
            (path, type(module).__name__, self.calls.get(path, 0), own, own / whole, total, total / whole)
            for (path, module), (own, total) in zip(self.modules.items(), means.values(), strict=True)
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))
