"""How far a long run is: a bar on a terminal; elsewhere (a log file, CI) a line now and then and one at the end.

rich draws bars, but in a log it prints only the last state; an hour of training must not be silent there.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from ..arguments import flag, function, text

BAR_S, LINE_S = 0.3, 60.0  # at most this often


@dataclass(frozen=True, kw_only=True)
class Display:
    """Whether and how a training shows how far it is. `fit` describes each option."""

    progress: bool
    title: str = "fit"
    describe: Callable[[nn.Module], str] | None = None

    def __post_init__(self):
        flag("progress", self.progress)
        text("title", self.title)
        function("describe", self.describe, "the model", optional=True)


@contextlib.contextmanager
def bar(title: str, total: int, *, wanted: bool = True) -> Iterator[Callable[[int, Callable[[], str]], None]]:
    """Show how far a long run is, on the error stream: a bar on a terminal, elsewhere a line a minute.

    Args:
        title: What stands before it.
        total: Steps in all.
        wanted: False shows nothing.

    Yields:
        ``show(done, text)``, to be called after each step: how many are done, and a function that returns a few words.
        It is called only when something is drawn, so it may cost a little.

    >>> with bar("search", 3, wanted=False) as show:
    ...     for done in range(1, 4):
    ...         show(done, lambda: "best 0.5")
    """
    if not wanted:
        yield lambda done, text: None
        return
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
        )
        with Progress(*columns, console=console) as drawn:
            row = drawn.add_task(title, total=total, state="")
            yield _seldom(total, BAR_S, lambda done, text: drawn.update(row, completed=done, state=text()))
    else:

        def line(done: int, text: Callable[[], str]) -> None:
            console.print(f"{title} {done}/{total} {text()}".rstrip(), highlight=False, markup=False, soft_wrap=True)

        yield _seldom(total, LINE_S, line)


def _seldom(
    total: int, interval_s: float, draw: Callable[[int, Callable[[], str]], None]
) -> Callable[[int, Callable[[], str]], None]:
    last = time.monotonic()

    def show(done: int, text: Callable[[], str]) -> None:
        nonlocal last
        if time.monotonic() - last >= interval_s or done >= total:
            last = time.monotonic()
            draw(done, text)

    return show
