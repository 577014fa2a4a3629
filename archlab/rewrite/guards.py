"""Which calls of a method, and of which modules, a traced graph is valid for; and the graph as a function that runs."""

import itertools
import keyword
import linecache
import re
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from ..capture.frames import is_own_method
from ..capture.location import ORIGINS, Location

PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)
_NUMBERS = itertools.count()
_PART = rf"(?!(?:{'|'.join(keyword.kwlist)})(?:\.|$))[A-Za-z_][A-Za-z0-9_]*|\d+"
_PLAIN_PATH = re.compile(rf"(?:{_PART})(?:\.(?:{_PART}))*")  # what fx writes into code as it is


class Untraceable(Exception):
    """The method cannot be traced; the message is the reason.

    `raised` are the reasons of the traces that are going on: a model's code may catch what is raised in it.
    """

    raised: ClassVar[list[str]] = []

    def __init__(self, reason: str):
        super().__init__(reason)
        self.raised.append(reason)


class Placeholder:
    """Stands in an argument pattern for something that is an input of the graph: a tensor, a float, or an object.

    What a trace may do with an object is to hand it on (a transformer's cache): it may change between two calls.
    """

    def __init__(self, kind: type):
        self.kind = kind

    def holds(self, value: Any) -> bool:
        """Whether a value may stand in this place of the trace."""
        return isinstance(value, Tensor) if self.kind is Tensor else type(value) is self.kind


TENSOR, NUMBER = Placeholder(Tensor), Placeholder(float)


def pattern_of(value: Any, *, numbers: bool) -> Any:
    """An argument tree with placeholders for its tensors, objects and, with `numbers`, floats."""
    if isinstance(value, Tensor):
        return TENSOR
    if numbers and type(value) is float:
        return NUMBER
    if type(value) in (tuple, list):
        return type(value)(pattern_of(v, numbers=numbers) for v in value)
    if type(value) is dict:
        return {k: pattern_of(v, numbers=numbers) for k, v in value.items()}
    if isinstance(value, (*PLAIN, torch.Size)):
        return value
    return Placeholder(type(value))


def fill(pattern: Any, value: Any, leaves: list) -> bool:
    """Append what stands at the placeholders of `pattern` to `leaves`; False where `value` does not fit the pattern."""
    if isinstance(pattern, Placeholder):
        leaves.append(value)
        return pattern.holds(value)
    if isinstance(pattern, (tuple, list)) and not isinstance(pattern, torch.Size):
        if type(value) is not type(pattern) or len(value) != len(pattern):
            return False
        return all(fill(p, v, leaves) for p, v in zip(pattern, value, strict=True))
    if isinstance(pattern, dict):
        if type(value) is not dict or value.keys() != pattern.keys():
            return False
        return all(fill(p, value[k], leaves) for k, p in pattern.items())
    return type(value) is type(pattern) and value == pattern


def replace_placeholders(pattern: Any, make: Callable[[Placeholder], Any]) -> Any:
    """`pattern` as arguments again, with ``make(placeholder)`` in the place of each."""
    if isinstance(pattern, Placeholder):
        return make(pattern)
    if type(pattern) in (tuple, list):
        return type(pattern)(replace_placeholders(p, make) for p in pattern)
    if type(pattern) is dict:
        return {k: replace_placeholders(p, make) for k, p in pattern.items()}
    return pattern


def leaves_of(args: tuple, kwargs: dict, patterns: tuple, named: dict) -> list | None:
    """What stands at the placeholders of a call's patterns; None where the call does not fit them."""
    leaves: list = []
    if len(args) != len(patterns) or kwargs.keys() != named.keys():
        return None
    for pattern, value in zip(patterns, args, strict=True):
        if not fill(pattern, value, leaves):
            return None
    for name, pattern in named.items():
        if not fill(pattern, kwargs[name], leaves):
            return None
    return leaves


@dataclass(frozen=True, eq=False)
class GuardedGraph:
    """A graph of a method and the calls it is valid for."""

    args: tuple
    kwargs: dict
    reads: tuple[tuple[str, str, Any], ...]  # path, name and value of the modules' attributes that the trace read
    graph: fx.Graph
    facts: tuple = ()  # what the traced code asked about its inputs (a side, a dtype), as answered in the trace
    ask: Callable | None = None  # (module, *leaves) -> the same of another call
    grad: bool | None = None  # the gradient mode it was traced in, where the traced code switches it
    own: bool = False  # the traced code worked on a tensor that the module holds: other modules may hold other values
    run: Callable | None = None  # (module, *leaves) -> output

    def matches(self, module: nn.Module, args: tuple, kwargs: dict) -> list | None:
        """The graph's inputs for this call, or None where the graph does not hold for it."""
        for path, name, value in self.reads:
            try:
                if getattr(module.get_submodule(path) if path else module, name) != value:
                    return None
            except AttributeError:  # another module stands there now
                return None
        if self.grad is not None and torch.is_grad_enabled() != self.grad:
            return None
        leaves = leaves_of(args, kwargs, self.args, self.kwargs)
        if leaves is None or self.ask is None:
            return leaves
        try:
            return leaves if self.ask(module, *leaves) == self.facts else None
        except (IndexError, TypeError):  # a question that was asked after another, whose answer is no longer the same
            return None


def structure_of(module: nn.Module, marks: Mapping[int, Hashable]) -> Hashable:
    """What decides how the code of `module` is traced, as a key: modules with equal ones are traced alike.

    It holds the classes of `module` and of those below, what is set on them, what their tensors are like (not what
    these hold), and which of them are one and the same. Where something cannot be compared the key equals no other.
    `marks` adds to modules, by their ids.
    """
    numbers: dict[int, int] = {}  # of the modules and tensors, in the order in which they are met

    def once(thing: Any, key: Callable[[], Hashable]) -> Hashable:
        if id(thing) in numbers:
            return numbers[id(thing)]
        numbers[id(thing)] = len(numbers)
        return key()

    def of_tensor(tensor: Tensor) -> Hashable:
        return type(tensor), tensor.shape, tensor.dtype, tensor.device, tensor.layout, tensor.requires_grad

    def of_module(part: nn.Module) -> Hashable:
        if any(vars(cls).get("__slots__") for cls in type(part).__mro__):  # holds what its vars do not show
            return object()
        parts: list[Hashable] = [id(type(part)), marks.get(id(part))]  # a rewritten class equals the one that it was
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers", "_modules"):
                key = of_module if name == "_modules" else of_tensor
                parts += [(name, n, v if v is None else once(v, lambda v=v, key=key: key(v))) for n, v in value.items()]
            elif value or name not in _TABLES:  # torch's tables of hooks are mostly empty
                parts.append((name, _compared(value.__func__ if is_own_method(value, part) else value)))
        return tuple(parts)

    return once(module, lambda: of_module(module))


_TABLES = frozenset(vars(nn.Module())) - {"training"}


def _compared(value: Any) -> Hashable:
    """`value` as a part of a key; one that equals nothing else where it may hold more than can be seen."""
    if type(value) in PLAIN:
        return type(value), repr(value)  # 1 equals True, and 0.0 equals -0.0
    if type(value) in (dict, OrderedDict):
        return type(value), tuple((_compared(k), _compared(v)) for k, v in value.items())
    if type(value) in (list, tuple, torch.Size):
        return type(value), tuple(map(_compared, value))
    if type(value) in (set, frozenset):
        return type(value), frozenset(map(_compared, value))
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return id(value)  # code, the same for both
    return object()


def fact_function(graph: fx.Graph, nodes: list[fx.Node]) -> Callable:
    """``(module, *leaves) -> tuple``: the values of `nodes` of `graph`, which nothing but its inputs decides."""
    wanted = set(nodes)
    for node in reversed(graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    alone, copies = fx.Graph(), {}
    for node in graph.nodes:
        if node.op == "placeholder" or node in wanted:
            copies[node] = alone.node_copy(node, copies.__getitem__)
    alone.output(tuple(copies[node] for node in nodes))
    return _compiled(alone, "facts", f"<archlab facts {next(_NUMBERS)}>")[0]


def compile_graph(graph: fx.Graph, origin: tuple[str, str, Any]) -> Callable:
    """The graph as a Python function ``(module, *leaves)``, whose source is shown in tracebacks.

    `origin` is the execution (module path, method, entry) that the nodes' locations refer to.
    """
    number = next(_NUMBERS)
    name = f"{origin[1]}_{number}"  # a name of its own: code objects of equal text are equal, even from two files
    function, source = _compiled(graph, name, f"<archlab {number} {origin[0] or 'root'}.{origin[1]}>")
    ORIGINS[function.__code__] = _lines(graph, source, origin)
    return function


def _compiled(graph: fx.Graph, name: str, filename: str) -> tuple[Callable, str]:
    """The graph as a function, and its source. A path stands in it only where all its names are plain ones.

    Names of modules are data, a key of a ModuleDict may be any text: what is no identifier is reached by its number.
    """
    paths: list[str] = []
    strange = [
        n for n in graph.nodes if n.op in ("call_module", "get_attr") and not _PLAIN_PATH.fullmatch(str(n.target))
    ]
    for node in strange:
        paths.append(str(node.target))
        node.target = f"archlab_path_{len(paths) - 1}"
    try:
        code = graph.python_code("self", verbose=False)
    finally:
        for node, path in zip(strange, paths, strict=True):
            node.target = path
    source = code.src.replace("def forward(", f"def {name}(", 1)
    source = re.sub(r"self\.archlab_path_(\d+)", r"archlab_at(self, \1)", source)
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)

    def at(module: Any, number: int) -> Any:
        for part in paths[number].split("."):
            module = getattr(module, part)
        return module

    scope = {**code.globals, "archlab_at": at}
    exec(compile(source, filename, "exec"), scope)
    weakref.finalize(scope[name].__code__, linecache.cache.pop, filename, None)
    return scope[name], source


def _lines(
    graph: fx.Graph, source: str, origin: tuple[str, str, Any]
) -> dict[int, tuple[Location, tuple[str, str, Any]]]:
    """Line of generated source -> original location, for the nodes that have one. fx gives each node a line."""
    locations = {node.name: node.meta.get("location") for node in graph.nodes}
    lines = {}
    for number, line in enumerate(source.splitlines(), 1):
        for statement in line.split(";"):  # ``x += y;  iadd = x`` is one node
            if statement.rstrip().endswith("= None"):  # what was read for the last time: other nodes
                continue
            name = statement.split("=")[0].split(":")[0].strip()
            if locations.get(name) is not None:
                lines.setdefault(number, (locations[name], origin))
    return lines
