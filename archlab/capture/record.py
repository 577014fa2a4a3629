"""What one recorded run of a model holds: its ops, module calls and values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx

from .location import Location
from .macs.attention import Inside


@dataclass(eq=False)
class Execution:
    """One execution of a container: a module's ``forward``, or another method entered from outside."""

    module: str  # path; "" is the root
    method: str
    entry: Any  # code object of the first frame; a chain starts there
    occurrences: dict = field(default_factory=dict)


@dataclass(eq=False)
class Op:
    """One call of a torch function that made or changed a tensor. Shapes are those of the tensors only."""

    index: int
    func: Callable
    execution: Execution
    location: Location
    call: "ModuleCall | None"  # innermost module call it ran in
    inputs: tuple[int, ...] = ()  # value ids, in order of appearance in the arguments
    outputs: tuple[int, ...] = ()
    mutated: tuple[int, ...] = ()  # value ids as they were before this op changed them in place
    in_shapes: tuple[tuple[int, ...], ...] = ()
    in_dtypes: tuple[torch.dtype, ...] = ()
    out_shapes: tuple[tuple[int, ...], ...] = ()
    dtype: torch.dtype | None = None  # of the first output
    names: tuple[str | None, ...] = ()  # of the inputs, those that are parameters or buffers
    options: dict = field(default_factory=dict)  # non-tensor keyword arguments
    positional: tuple = ()  # positional arguments; None stands where a tensor stood
    elements: int = 0  # that its outputs have
    macs: int = 0
    inside: Inside | None = None  # what it does beside making its outputs, where that is known
    uncounted: tuple[str, ...] = ()  # what multiplied in it and has no formula: not in `macs`
    scripted: bool = False  # a scripted or traced part issued it, whose code is not Python's
    grad: bool = True  # autograd could follow it
    autocast: bool = False  # it ran under autocast
    view: bool = False  # it made tensors on the storage of an input: no element was written

    @property
    def name(self) -> str:
        return getattr(self.func, "__name__", str(self.func))

    @property
    def params(self) -> tuple[str, ...]:
        """Names of the parameters and buffers among the inputs."""
        return tuple(name for name in self.names if name is not None)


# Called after each op, as ``watch(op, args, kwargs, result)``.
Watch = Callable[[Op, tuple, dict, Any], None]


class Stopped(Exception):
    """Raised by a watcher that has seen enough."""


@dataclass(eq=False)
class ModuleCall:
    """One call of a module: ops ``first`` to ``last`` (exclusive) ran inside it."""

    module: str
    execution: Execution | None  # the container that called it; None for a call from outside
    location: Location | None
    parent: "ModuleCall | None"
    first: int
    last: int = -1
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    in_shapes: tuple[tuple[int, ...], ...] = ()
    out_shapes: tuple[tuple[int, ...], ...] = ()
    dtypes: tuple[torch.dtype | None, torch.dtype | None] = (None, None)  # first tensor in, first tensor out
    direct: bool = True  # its first tensor is an argument, not part of one
    tensor_out: bool = False  # the output is one tensor, not a tuple or a dict
    mutates_input: bool = False
    returns_input: bool = False  # the output is its first input itself, perhaps changed in place
    scripted: bool = False
    hooked: bool = False  # a hook of the module changed what it got or gave, or may change gradients


@dataclass
class Capture:
    """The record of one run. Values are numbered; a tensor changed in place becomes a new value."""

    ops: list[Op]
    calls: list[ModuleCall]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    constants: dict[int, str]  # value id -> name, for parameters and buffers
    producer: dict[int, Op]
    params: dict[str, int]  # parameter name -> elements, shared ones once
    param_bytes: int
    buffer_bytes: int
    storage: dict[int, int]  # value id -> number of the storage it lies on
    storage_bytes: list[int]  # by that number
    asked: set[int]  # values of which the model's own code asked the shape, or what they hold
    spared: set[int]  # values that a dropout in the model's code hands on in evaluation

    def consumers(self) -> dict[int, list[Op]]:
        """For each value, the ops that read it."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.inputs):
                found.setdefault(value, []).append(op)
        return found

    def reached(self) -> tuple[set[str], set[str]]:
        """Paths of the modules that were called, and names of the parameters and buffers that were read."""
        return {call.module for call in self.calls}, {name for op in self.ops for name in op.params}
