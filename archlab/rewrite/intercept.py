"""Edits at run time, for a method that cannot be traced: the original code runs, chosen ops are replaced.

An op is recognised by its location and occurrence within the running execution, found from the Python
frames, so any control flow is followed. What an edit bypasses is still computed where other code
computes it; such an edit is counted as bypassed, never as removed.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any

from torch import nn
from torch._compile import _disable_dynamo
from torch.overrides import TorchFunctionMode

from ..capture.frames import is_module_call, is_plumbing
from ..capture.location import Location, instruction_of, stack_to
from ..capture.modes import no_fused_layers
from .edits import perform
from .target import Edit, edit_at


class Interceptor(TorchFunctionMode):
    """While active, performs edits on one execution, whose first frame runs `entry`.

    `ops` are edits by location; `calls` are edits of module calls by (child, stack, how often that child was
    called there before), because only the children that are edited are seen here. The names of the targets that were
    come across are added to `met`; `passed` is told the location of each op at a line with an edit.
    """

    def __init__(
        self,
        module: nn.Module,
        entry: Any,
        ops: dict[Location, Edit],
        calls: dict[tuple, Edit],
        met: set[str],
        passed: Callable[[Location], None],
    ):
        super().__init__()
        self.module, self.entry, self.ops, self.calls, self.met = module, entry, ops, calls, met
        self.passed = passed
        self.innermost = {location.stack[-1] for location in ops}
        self.occurrences: dict = {}

    def run(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """One execution: ``function(module, *args, **kwargs)`` with the edits.

        Nothing in it is compiled, as what is compiled has no frames to know an op by; nor do layers look whether they
        can be fused, which asks modules that are gone for their weights.
        """
        if "torch._dynamo" in sys.modules:
            return self._uncompiled(function, args, kwargs)
        return self._run(function, args, kwargs)

    def _run(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        with no_fused_layers(), self:
            return function(self.module, *args, **kwargs)

    _uncompiled = _disable_dynamo(_run)  # also where the whole model is compiled around it

    def issued(self, frame: Any) -> bool:
        """Whether `frame` belongs to this execution, not to a module inside, which may be of the same class."""
        while frame is not None and not is_module_call(frame):
            if frame.f_code is Interceptor._run.__code__:
                return frame.f_locals["self"] is self
            frame = frame.f_back
        return False

    def __enter__(self):
        _running().append(self)
        return super().__enter__()

    def __exit__(self, *error):
        _running().pop()
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        frame = _issuer(sys._getframe(1))
        if frame is not None and instruction_of(frame) in self.innermost:
            stack = stack_to(frame, self.entry) if self.issued(frame) else None
            if stack:
                location = Location(stack, self.occurrence(stack))
                self.passed(location)
                edit = edit_at(self.ops, location)
                if edit is not None:
                    return self.perform(edit, func, args, kwargs)
        return func(*args, **kwargs)

    def perform(self, edit: Edit, func: Callable, args: tuple, kwargs: dict) -> Any:
        self.met.update(part.target.name for part in edit.parts)
        return perform(edit, self.module, func, args, kwargs)

    def occurrence(self, key: Any) -> int:
        """How often `key` was asked for before in this execution."""
        self.occurrences[key] = self.occurrences.get(key, -1) + 1
        return self.occurrences[key]


def intercepted_call(child: str, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """The call of an edited child at `child`: performed by the container that is running, where it has an edit."""
    frame = sys._getframe(1)
    while frame is not None and is_plumbing(frame):
        frame = frame.f_back
    for interceptor in reversed(_running()):
        stack = stack_to(frame, interceptor.entry) if interceptor.issued(frame) else None
        if stack is None:
            continue
        number = interceptor.occurrence((child, stack))
        edit = interceptor.calls.get((child, stack, number)) or interceptor.calls.get((child, stack, None))
        if edit is not None:
            return interceptor.perform(edit, forward, args, kwargs)
        break
    return forward(*args, **kwargs)


def _issuer(frame: Any) -> Any:
    """The frame of the model's own code that issued an op; None where a module call lies between."""
    while frame is not None and is_plumbing(frame):
        if is_module_call(frame):
            return None
        frame = frame.f_back
    return frame


def _running() -> list[Interceptor]:
    if not hasattr(_LOCAL, "stack"):
        _LOCAL.stack = []
    return _LOCAL.stack


_LOCAL = threading.local()
