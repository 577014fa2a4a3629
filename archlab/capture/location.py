"""Where an op or a module call was issued: a location that is found again in another run, a trace, an interception.

A location is the call stack of (code object, bytecode offset) from the first frame of the module call (or method) that
runs the op, its *container*, down to the line that issued it; and the occurrence: how often that same line was passed
before in the same execution. So an op is never matched by a global counter.
"""

import dis
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from .frames import is_module_call, is_plumbing

# Code that archlab generated -> line -> the location and execution (module, method, entry) of the op in the
# original code. A rewritten model is so read as if its original code still ran, and passes compose.
# It forgets code that is gone.
ORIGINS: WeakKeyDictionary[Any, dict[int, tuple["Location", tuple[str, str, Any]]]] = WeakKeyDictionary()


class Location(NamedTuple):
    """Where an op or a module call was issued, relative to its container's execution."""

    stack: tuple[tuple[int, int], ...]  # (number of the code object, bytecode offset), outermost first
    occurrence: int | None  # None: every one, in a loop of any length

    @property
    def every(self) -> "Location":
        """This line of code, however often it is passed."""
        return Location(self.stack, None)


def model_frames(frame: Any, stop: Callable[[Any], bool]) -> list:
    """The frames from `frame` outwards until `stop(frame)`, innermost first, without torch's plumbing."""
    frames = []
    while frame is not None and not stop(frame):
        if not is_plumbing(frame):
            frames.append(frame)
        frame = frame.f_back
    return frames


def call_stack(frames: list, entry: Any) -> tuple[tuple[int, int], ...]:
    """The stack from the frame `entry` to the innermost of `frames`, which are given innermost first."""
    stack = []
    for frame in frames:
        stack.append(instruction_of(frame))
        if frame is entry:
            break
    return tuple(reversed(stack))


def instruction_of(frame: Any) -> tuple[int, int]:
    """Where `frame` is: the number of its code object and the bytecode offset of the instruction.

    Equal code objects have one number: a copied ``torch.fx.GraphModule`` has its code compiled anew.
    """
    return _CODES.setdefault(frame.f_code, len(_CODES)), _instruction(frame)


_CODES: dict[Any, int] = {}


def passes(location: Location, filename: str) -> bool:
    """Whether code of the file `filename` is on the stack of `location`."""
    numbers = {number for number, _ in location.stack}
    return any(code.co_filename == filename for code, number in _CODES.items() if number in numbers)


def _instruction(frame: Any) -> int:
    """The bytecode offset of the call, operator or attribute that `frame` is at, the same however often it has run.

    CPython specialises instructions that have run a few times, and then stops at another of those that make one call:
    3.11 calls a C function from PRECALL once it is warm, from CALL before; a call of a Python function stands at CALL's
    inline cache. All of them are taken for the first.
    """
    return _first_offsets(frame.f_code)[frame.f_lasti // 2]


@cache
def _first_offsets(code: Any) -> list[int]:
    offsets: list[int] = []
    previous = None
    for step in dis.get_instructions(code):
        offsets += offsets[-1:] * (step.offset // 2 - len(offsets))  # the inline cache of the instruction before
        calls = previous is not None and previous.opname in ("KW_NAMES", "PRECALL")
        offsets.append(offsets[-1] if calls else step.offset)
        previous = step
    return offsets + offsets[-1:] * (len(code.co_code) // 2 - len(offsets))


def stack_to(frame: Any, entry: Any) -> tuple[tuple[int, int], ...] | None:
    """The stack from the outermost frame of the code object `entry` to `frame`.

    None where `entry` is not running, or a module call lies between.
    """
    stack, found = [], None
    while frame is not None and not is_module_call(frame):
        if not is_plumbing(frame):
            stack.append(instruction_of(frame))
            if frame.f_code == entry:
                found = len(stack)
        frame = frame.f_back
    return tuple(reversed(stack[:found])) if found else None
