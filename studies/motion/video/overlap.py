"""Do steps of a pipeline at the same time: decode the next frames while one is magnified and one before is encoded.

Decoding, torch and encoding all leave Python's lock to others while they work, so threads are enough.
"""

from collections.abc import Iterable, Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")

POLL_S = 0.05  # in which a thread that waits notices that nobody wants more


def ahead(items: Iterable[Item], *, depth: int = 2) -> Iterator[Item]:
    """`items` in order, each made by a thread of its own before it is asked for: up to `depth` wait.

    The thread begins with the first that is asked for. What `items` raises is raised here, after the items before it.
    Closed early, the item that is being made is waited for, and `items`, where it is a generator, is closed.

    Args:
        items: used by that thread alone.
        depth: how many are made beforehand: so much memory.

    Raises:
        ValueError: at once, where `depth` is less than 1.

    >>> list(ahead(number**2 for number in range(5)))
    [0, 1, 4, 9, 16]
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    return _taken(items, Queue(depth), Event())


def _taken(items: Iterable[Item], queue: "Queue[tuple[str, object]]", unwanted: Event) -> Iterator[Item]:
    thread = Thread(target=_make, args=(items, queue, unwanted), daemon=True)
    thread.start()
    try:
        while True:
            kind, value = queue.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # pyright: ignore[reportReturnType]
    finally:
        unwanted.set()
        thread.join()  # Python's end would tear a thread out of torch's or FFmpeg's code, and abort


def _make(items: Iterable[Item], queue: "Queue[tuple[str, object]]", unwanted: Event) -> None:
    iterator = iter(items)
    try:
        for item in iterator:
            if not _put(queue, ("item", item), unwanted):
                break
        else:
            _put(queue, ("end", None), unwanted)
    except BaseException as error:
        _put(queue, ("error", error), unwanted)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _put(queue: "Queue[tuple[str, object]]", entry: tuple[str, object], unwanted: Event) -> bool:
    """Whether it was wanted."""
    while not unwanted.is_set():
        try:
            queue.put(entry, timeout=POLL_S)
            return True
        except Full:
            continue
    return False
