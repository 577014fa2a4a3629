"""How long each module of a model takes, in parts that add up to the whole run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
from torch import nn

from .clocks import Clock, Work

COLUMNS = ("module", "type", "calls", "self_ms", "self_share", "total_ms", "total_share")


class ModuleTimer:
    """Times a model's modules while it runs, those down to `depth` (1: the root's children).

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
        """Milliseconds that `work` takes with the marks in it; its parts are added to `runs`."""
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
        """Divide a run among the modules: `spans` lie between its marks, `steps` say what began or ended at each."""
        # The modules that are running form a stack; a span belongs to the innermost, and to the total of all of them.
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
        middle = runs[len(runs) // 4 : len(runs) - len(runs) // 4]
        means = {path: [sum(run[path][i] for run in middle) / len(middle) for i in (0, 1)] for path in self.modules}
        whole = means[""][1]
        rows = [
            (path, type(module).__name__, self.calls.get(path, 0), own, own / whole, total, total / whole)
            for (path, module), (own, total) in zip(self.modules.items(), means.values(), strict=True)
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))
