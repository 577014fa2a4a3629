"""One method of one module as a torch.fx graph, every child a leaf, every node with its location.

Why not `torch.fx.symbolic_trace`: it traces whole models, turns every argument into a proxy
(``mask is not None`` is then silently true), bakes attributes and tensor constants in, and does
not say where in the code a node came from. Here an argument that is no tensor is a constant of
the trace (a float is passed on as an input where the code allows that, an object where it is only
handed on). What the code asked is remembered, plain attributes of the module and those below as well as
the inputs' shapes, and `GuardedGraph.matches` says for each later call whether the graph is valid for it. What
it reads elsewhere, from a configuration object say, is taken to stay as it is. Code that changes anything
else than its local variables, or draws random numbers outside torch, is not traced.
"""

import builtins
import keyword
import operator
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import magic_methods
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.fx.node import map_arg
from torch.fx.proxy import Attribute
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..capture.frames import is_tracing
from ..capture.functions import applied_by
from ..capture.location import Location, stack_to
from .guards import (
    PLAIN,
    GuardedGraph,
    Placeholder,
    Untraceable,
    fact_function,
    leaves_of,
    pattern_of,
    replace_placeholders,
)
from .side_effects import are_changed, as_they_are, autocast_is_marked, watched

_FX_CONTAINERS = (dict, list, immutable_dict, immutable_list)
_ASKED = ("bool", "call", "contains", "float", "index", "int", "iter", "len")
_INPLACE_OPERATORS = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")


def trace(module: nn.Module, function: Callable, entry: Any, args: tuple, kwargs: dict) -> GuardedGraph:
    """Trace ``function(module, *args, **kwargs)``; nodes carry their `Location` relative to the code object `entry`.

    Raises Untraceable with the reason.
    """
    reason: Exception = RuntimeError("not tried")
    before = len(Untraceable.raised)
    for numbers in (True, False):
        patterns = tuple(pattern_of(a, numbers=numbers) for a in args)
        named = {k: pattern_of(v, numbers=numbers) for k, v in kwargs.items()}
        try:
            leaves = leaves_of(args, kwargs, patterns, named)
            assert leaves is not None, "a call fits the patterns that were made of it"
            return _Tracer(entry).guarded(module, function, patterns, named, leaves)
        except Untraceable as error:
            reason = error
        except Exception as error:  # whatever the model's own code raises when it meets a proxy
            reason = error
        finally:
            del Untraceable.raised[before:]
    text = str(reason).strip().split("\n")[0].split(". ")[0]
    raise Untraceable(text if isinstance(reason, Untraceable) else f"{type(reason).__name__}: {text}")


class _Proxy(fx.Proxy):
    """A proxy that keeps in-place operators in place, and whose length or number is known where it is a fact."""

    tracer: "_Tracer"

    def __getattr__(self, name: str) -> Any:
        if name in _TENSOR_ATTRIBUTES:  # an op like any other, where it is asked for
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return _Attribute(self, name)

    def __len__(self) -> int:
        return self.tracer.fact(self.tracer.create_proxy("call_function", len, (self,), {}).node)

    def __int__(self) -> int:
        return int(self.tracer.fact(self.node))

    def __float__(self) -> float:
        return float(self.tracer.fact(self.node))

    def __index__(self) -> int:
        return operator.index(self.tracer.fact(self.node))


def _inplace(name: str) -> Callable:
    function = getattr(operator, name)

    def method(self, other):
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in _INPLACE_OPERATORS:
    setattr(_Proxy, f"__{_name}__", _inplace(_name))


class _Attribute(Attribute, _Proxy):
    """What ``proxy.name`` gives: a method to call, or a value."""


class _Handed(_Proxy):
    """Stands for an object that the traced code may compare with None, ask for its class and hand on, nothing else."""

    def __getattr__(self, name: str):
        raise Untraceable(f"it looks into a {self.node.meta['kind'].__name__}")


def _refuse_to_look(self: _Handed, *args: Any) -> Any:
    raise Untraceable(f"it works on a {self.node.meta['kind'].__name__}")


for _name in (*magic_methods, *_INPLACE_OPERATORS, *_ASKED):
    setattr(_Handed, f"__{_name.strip('_')}__", _refuse_to_look)


_FACT_METHODS = frozenset({"size", "dim", "numel", "stride", "is_floating_point", "get_device"})
_FACT_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "is_cuda", "requires_grad", "layout"})
_TENSOR_ATTRIBUTES = frozenset({"T", "mT", "H", "mH", "real", "imag", "data"})
_NO_TENSOR_METHODS = _FACT_METHODS | {"item", "tolist"}


def holds_tensor(node: fx.Node) -> bool:
    """Whether what `node` makes is a tensor, by its name: not a shape, a dtype or a number."""
    if node.op == "placeholder":
        return node.meta.get("kind") is Tensor
    if node.op == "call_method":
        return node.target not in _NO_TENSOR_METHODS
    if node.op == "call_function":
        if node.target is getattr:
            return node.args[1] not in _FACT_ATTRIBUTES
        if node.target is len:
            return False
        if getattr(node.target, "__module__", "") == "_operator":
            return any(holds_tensor(n) for n in node.all_input_nodes)
    return True


@contextmanager
def _proxies_pass_for_tensors() -> Iterator[None]:
    """While tracing, ``isinstance(x, Tensor)`` in a model's code is true of a proxy that holds one; so for the rest.

    The builtin is replaced, because a proxy whose ``__class__`` lies would be believed by torch's C++ code as well.
    """
    real = builtins.isinstance

    def passes(value: Any, classes: Any) -> bool:
        if real(value, classes):
            return True
        if type(value) not in (_Proxy, _Attribute, _Handed) or is_tracing(sys._getframe(1)):
            return False
        if type(value) is _Handed:
            stands_for = value.node.meta["kind"]
        else:
            stands_for = Tensor if holds_tensor(value.node) else type(value.tracer.fact(value.node))
        wanted = classes if real(classes, tuple) else get_args(classes) or (classes,)
        return any(real(c, type) and issubclass(stands_for, c) for c in wanted)

    builtins.isinstance = passes
    try:
        yield
    finally:
        builtins.isinstance = real


class _Factories(TorchFunctionMode):
    """While tracing, a call that makes a tensor from nothing becomes a node, not a constant of the trace."""

    def __init__(self, tracer: "_Tracer"):
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            self.tracer.switch_grad(*args)
            return func(*args)
        if types or getattr(func, "__module__", "") not in ("torch", "torch._C", None):
            self.tracer.own |= any(issubclass(type(a), Tensor) for a in args)  # `isinstance` says so of proxies, too
            return func(*args, **kwargs)
        return self.tracer.create_proxy("call_function", func, args, kwargs)


# Those that make a tensor of what a model's code reads off another: its size, type or device.
_FACTORIES = ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "tensor", "zeros")


@contextmanager
def _factories_take_proxies(tracer: "_Tracer") -> Iterator[None]:
    """While tracing, ``torch.zeros(x.shape[0], 3, device=x.device)`` and its like are nodes.

    torch looks at the arguments before a mode sees the call, and refuses such proxies: some in torch 2.14, all in 2.6.
    """

    def taking(function: Callable) -> Callable:
        def make(*args, **kwargs):
            if any(issubclass(type(leaf), fx.Proxy) for leaf in tree_leaves((args, kwargs))):
                return tracer.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        return make

    real = {name: getattr(torch, name) for name in _FACTORIES}
    for name, function in real.items():
        setattr(torch, name, taking(function))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(torch, name, function)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, entry: Any):
        super().__init__()
        self.entry = entry
        self.occurrences: dict = {}
        self.facts: dict[fx.Node, Any] = {}
        self.minds_grad = False
        self.own = False  # it worked on a tensor itself, no proxy

    def guarded(self, module: nn.Module, function: Callable, args: tuple, kwargs: dict, leaves: list) -> GuardedGraph:
        """The graph of ``function(module, *args, **kwargs)`` and the calls it is valid for.

        `args` and `kwargs` are patterns, `leaves` what stands at their placeholders in the call that is traced.
        """
        self.function, self.patterns, self.leaves = function, (args, kwargs), leaves
        # 1. Run the code on proxies, while what it reads is noted and what it changes makes it untraceable.
        reads: dict[tuple[str, str], Any] = {}
        grad, before = torch.is_grad_enabled(), len(Untraceable.raised)
        with ExitStack() as stack:
            stack.enter_context(watched(module, reads, self.mind_grad))
            stack.enter_context(_Factories(self))
            stack.enter_context(_factories_take_proxies(self))
            stack.enter_context(_proxies_pass_for_tensors())
            stack.enter_context(applied_by(self.leaf))
            graph = self.trace(module)
        if caught := Untraceable.raised[before:]:  # by the model's own code, which then went on another way
            raise Untraceable(caught[0])
        if are_changed(self.handed):
            raise Untraceable("it changes a list or dict that it was given")
        # 2. What it asked becomes the guard: attributes it read, shapes and numbers it decided by, the gradient mode.
        facts = tuple(self.facts.values())
        ask = fact_function(graph, list(self.facts)) if facts else None
        noted = tuple((path, name, value) for (path, name), value in reads.items())
        return GuardedGraph(args, kwargs, noted, graph, facts, ask, grad if self.minds_grad else None, self.own)

    def leaf(self, apply: Callable, args: tuple, kwargs: dict) -> Any:
        """A custom autograd function is a node, where it gets what is traced: its backward is its own."""
        if not any(isinstance(value, fx.Proxy) for value in tree_leaves((args, kwargs))):
            return apply(*args, **kwargs)
        return self.create_proxy("call_function", apply, args, kwargs)

    def mind_grad(self) -> None:
        """From here on the graph depends on the gradient mode of its trace."""
        self.minds_grad = True

    def switch_grad(self, mode: bool) -> None:
        """What ``torch.no_grad`` and its like come down to is a node; the mode it returns to is that of this trace."""
        self.mind_grad()
        self.create_node("call_function", torch.set_grad_enabled, (mode,), {})

    def to_bool(self, obj):
        return bool(self.fact(obj.node))

    def iter(self, obj: Any) -> Iterator:
        return iter([obj[i] for i in range(len(obj))])

    def fact(self, node: fx.Node) -> Any:
        """The value of `node`, where the inputs' shapes, types or plain numbers decide it. The graph holds for it only.

        Raises Untraceable where it depends on what a tensor holds, or on the shape of one that is computed here.
        """
        value = self._value(node)
        if not isinstance(value, (*PLAIN, torch.Size, torch.layout)):
            raise Untraceable("it decides by what a tensor holds")
        return self.facts.setdefault(node, value)

    def _value(self, node: fx.Node) -> Any:
        if node in self.facts:
            return self.facts[node]
        args: Any = map_arg(node.args, self._value)
        if node.op == "placeholder":
            return self.leaves[node.meta["leaf"]]
        if node.op == "call_function":
            if node.target is getattr and args[1] in _FACT_ATTRIBUTES:
                return getattr(args[0], args[1])
            arithmetic = getattr(node.target, "__module__", "") == "_operator" and not holds_tensor(node)
            if callable(node.target) and (node.target is len or arithmetic):
                return node.target(*args)
        if node.op == "call_method" and node.target in _FACT_METHODS:
            return getattr(args[0], str(node.target))(*args[1:], **node.kwargs)
        raise Untraceable("it decides by what it computes")

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        count = 0

        def placeholder(kind: Placeholder) -> Any:
            nonlocal count
            proxy = self.create_proxy("placeholder", f"leaf_{count}", (), {})
            proxy.node.meta |= {"kind": kind.kind, "leaf": count}
            count += 1
            return proxy if kind.kind in (Tensor, float) else _Handed(proxy.node, self)

        args, kwargs = self.patterns
        args = tuple(replace_placeholders(p, placeholder) for p in args)
        kwargs = {k: replace_placeholders(p, placeholder) for k, p in kwargs.items()}
        self.handed = as_they_are((args, kwargs))
        function = self.function

        def call_method(root):
            return function(root, *args, **kwargs)

        return call_method, [self.root]

    def is_leaf_module(self, m, module_qualified_name):
        return True

    def proxy(self, node):
        return _Proxy(node, self)

    def create_arg(self, a):
        if issubclass(type(a), fx.Proxy):
            return a.node
        if isinstance(a, dict | list) and type(a) not in _FX_CONTAINERS:
            return self._container(a)
        return super().create_arg(a)

    def get_fresh_qualname(self, prefix: str) -> str:
        """Where fx would keep a tensor or an object that it cannot write down, as an attribute of the traced module."""
        raise Untraceable("it uses a tensor or an object that is neither an input nor an attribute")

    def _container(self, made: Any) -> fx.Node:
        """A node that makes a dict or list of a class of its own, which fx would turn into a plain one."""
        if is_dataclass(made):  # also the outputs of Hugging Face's models, which are dicts as well
            given: tuple = (), {field.name: getattr(made, field.name) for field in fields(made)}
        elif type(made) is OrderedDict:
            given = (list(made.items()),), {}
        else:
            raise Untraceable(f"it makes a {type(made).__name__}")
        args, kwargs = self.create_arg(given[0]), self.create_arg(given[1])
        return self.create_node("call_function", type(made), args, kwargs)  # type: ignore[arg-type]

    def create_proxy(self, kind, target, args, kwargs, *rest, **named):
        if not all(key.isidentifier() and not keyword.iskeyword(key) for key in kwargs):
            raise Untraceable("it calls with a keyword that is no name")  # which fx would write into code
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        asks = target is getattr and args[1] not in _TENSOR_ATTRIBUTES
        if kind not in ("placeholder", "get_attr", "output") and not asks:
            if not autocast_is_marked():
                raise Untraceable("it switches autocast on or off")
            proxy.node.meta["location"] = self._location(sys._getframe(1))
        return proxy

    def _location(self, frame: Any) -> Location | None:
        stack = stack_to(frame, self.entry)
        if stack is None:
            return None
        occurrence = self.occurrences[stack] = self.occurrences.get(stack, -1) + 1
        return Location(stack, occurrence)


def is_mutating(node: fx.Node) -> bool:
    """Whether the node, by its name, changes its first argument in place and returns it."""
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        if name in _INPLACE_OPERATORS:
            return True
    else:
        return False
    return (name.endswith("_") and not name.endswith("__")) or node.kwargs.get("inplace") is True
