"""What a trace may not miss: while code is traced, what it asks is noted, and what it changes makes it untraceable."""

import copy
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import stateless

from ..capture.example import is_plain_object
from ..capture.frames import asks_for_a_model
from .guards import PLAIN, Untraceable

_LOCK = threading.RLock()  # what is replaced while tracing is replaced in all threads
_DEVICES = ("cpu", "cuda")


@contextmanager
def watched(root: nn.Module, reads: dict[tuple[str, str], Any], mind_grad: Callable[[], None]) -> Iterator[None]:
    """While open, code of `root` runs in a trace: `reads` gets the plain attributes that it reads, by path and name,
    `mind_grad` is called where it asks whether gradients are on.

    Raises Untraceable where it changes what is not its own: an attribute, a list, a dict or an object of a module, the
    gradient mode for good, the state of random numbers outside torch; all but attributes are put back.
    `autocast_is_marked` tells whether it has changed that. Traces may lie within each other.
    """
    grad = torch.is_grad_enabled()
    with _LOCK, torch.set_grad_enabled(grad), _nothing_changes(root), _attributes_watched(root, reads):
        with _modes_watched(mind_grad), _autocast_marked(), _parameters_stay():
            yield
            if torch.is_grad_enabled() is not grad:
                raise Untraceable("it leaves gradients switched on or off")


@contextmanager
def _autocast_marked() -> Iterator[None]:
    """While tracing, autocast is in a state that no model sets, so that code that changes it is noticed."""
    before = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _DEVICES]
    for device in _DEVICES:
        torch.set_autocast_enabled(device, True)
        torch.set_autocast_dtype(device, torch.complex64)
    try:
        yield
    finally:
        for device, enabled, dtype in before:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)


def autocast_is_marked() -> bool:
    """Whether autocast still is as a trace set it."""
    return all(torch.is_autocast_enabled(d) and torch.get_autocast_dtype(d) is torch.complex64 for d in _DEVICES)


@contextmanager
def _attributes_watched(root: nn.Module, reads: dict[tuple[str, str], Any]) -> Iterator[None]:
    """While open, plain attributes of `root` and the modules below that are read are noted, by path and name.

    Raises Untraceable where one is set. The base class is hooked, as a class of their own would answer ``type(m) is``.
    """
    paths = {id(module): path for path, module in root.named_modules()}
    before = {name: vars(nn.Module).get(name) for name in ("__getattribute__", "__setattr__")}
    get, set_ = nn.Module.__getattribute__, nn.Module.__setattr__  # in a trace within a trace, those of the outer one

    def read(self, name):
        value = get(self, name)
        if type(value) in PLAIN and not name.startswith("__") and id(self) in paths:
            reads[paths[id(self)], name] = value
        return value

    def write(self, name, value):
        if id(self) in paths:
            raise Untraceable(f"it sets its attribute {name!r}")
        set_(self, name, value)

    nn.Module.__getattribute__, nn.Module.__setattr__ = read, write  # type: ignore[method-assign]
    try:
        yield
    finally:
        for name, method in before.items():
            delattr(nn.Module, name) if method is None else setattr(nn.Module, name, method)


@contextmanager
def _modes_watched(mind_grad: Callable[[], None]) -> Iterator[None]:
    """While open, code that asks whether gradients are on is noted; code that asks for autocast is not traced."""
    grad, autocast = torch.is_grad_enabled, torch.is_autocast_enabled

    def is_grad_enabled():
        if asks_for_a_model(sys._getframe(1)):
            mind_grad()
        return grad()

    def is_autocast_enabled(*device):
        if asks_for_a_model(sys._getframe(1)):
            raise Untraceable("it asks whether autocast is on")
        return autocast(*device)

    torch.is_grad_enabled, torch.is_autocast_enabled = is_grad_enabled, is_autocast_enabled
    try:
        yield
    finally:
        torch.is_grad_enabled, torch.is_autocast_enabled = grad, autocast


@contextmanager
def _parameters_stay() -> Iterator[None]:
    """Raises Untraceable where a module is called with other parameters than its own (`torch.func.functional_call`): a
    graph would call it with its own."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise Untraceable("it calls a module with other parameters")

    before = stateless._reparametrize_module
    stateless._reparametrize_module = refuse
    try:
        yield
    finally:
        stateless._reparametrize_module = before


@contextmanager
def _nothing_changes(root: nn.Module) -> Iterator[None]:
    """Raises Untraceable, and puts things back, where lists, dicts and objects that the modules hold, or random states,
    are changed."""
    # A scripted module notes its methods in its own dict when they are first asked for; its code changes nothing there.
    plain = [module for module in root.modules() if not isinstance(module, torch.jit.ScriptModule)]
    kept = as_they_are([vars(module) for module in plain])
    python, numpy = random.getstate(), _numpy_state()
    try:
        yield
    finally:
        changed = are_changed(kept)
        for container, before in kept if changed else ():
            container.clear()
            container.extend(before) if isinstance(container, list | deque) else container.update(before)
        drew = random.getstate() != python or not all(map(np.array_equal, _numpy_state(), numpy))
        if drew:
            random.setstate(python)
            np.random.set_state(numpy)
    if changed:
        raise Untraceable("it changes a list, a dict or an object that a module holds")
    if drew:
        raise Untraceable("it draws random numbers outside torch")


def _numpy_state() -> Any:
    kind, keys, *rest = np.random.get_state()
    return kind, np.array(keys), *rest


def as_they_are(tree: Any) -> list[tuple[Any, Any]]:
    """All in `tree` that code may change, however deep, each with a shallow copy: lists, dicts, sets, deques, and the
    attributes of plain objects, as a dict."""
    found, open_, seen = [], [tree], set[int]()
    while open_:
        value = open_.pop()
        if issubclass(type(value), torch.fx.Proxy):  # what is asked of one becomes a part of the trace
            continue
        held = vars(value) if is_plain_object(value) else value
        if not isinstance(held, _CONTAINERS) or id(held) in seen:
            continue
        seen.add(id(held))
        if not isinstance(held, tuple | frozenset):
            found.append((held, copy.copy(held)))
        open_ += held.values() if isinstance(held, dict) else held
    return found


_CONTAINERS = (list, tuple, dict, set, frozenset, deque)


def are_changed(kept: list[tuple[Any, Any]]) -> bool:
    """Whether something of `as_they_are` holds other things than it did."""
    return any(_ids(container) != _ids(before) for container, before in kept)


def _ids(container: Any) -> list[int]:
    parts = [*container, *container.values()] if isinstance(container, dict) else container
    ids = [id(part) for part in parts]
    return sorted(ids) if isinstance(container, set) else ids
