"""What happens once before a model is run again and again: it is copied, placed, cast, and compiled or captured.

`compiled` and `captured` serve any function; `make_executable` makes of a model and an example what `speed` measures,
so that what is measured afterwards is nothing but runs.
"""

import functools
import inspect
import itertools
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.copies import copied
from ..capture.example import fresh, moved, run_example, tensors_given
from ..capture.misfit import misfits_told
from ..capture.modes import failed_in
from .clocks import Work
from .environment import DTYPES

HALF = ("fp16", "bf16")
WARM_UP_RUNS = 3  # on a side stream before a capture, as torch's documentation asks for

_COMPILE_OPTIONS = inspect.signature(torch.compile).parameters


@dataclass(frozen=True, eq=False)
class Executable:
    """A model made ready to be run on an example.

    Attributes:
        work: Runs `net` once on the example.
        net: The copy that is run.
        batch: The first size of the example's first tensor.
        graphs: How many graphs torch.compile made; None where nothing was compiled.
    """

    work: Work
    net: nn.Module
    batch: int
    graphs: int | None


_NUMBERS = itertools.count()


def compiled(function: types.FunctionType, **options: Any) -> Callable[..., Any]:
    """Return `function` compiled for fixed shapes, from a code object of its own.

    torch keeps compiled code by the code object it is made from and gives up after 8 versions, running the rest in
    eager mode without an error. Two models of a class share their code objects, and so do two calls of this function
    with the same `function`. So each is entered through a copy of `function` with a code object, and where torch can do
    so a cache for what it calls where the graph breaks, of its own. Fixed shapes, or the second would be compiled for
    any shape, which is slower.

    Args:
        function: Compiled when it is first called.
        **options: For `torch.compile`, such as `fullgraph`.

    >>> def twice(x):
    ...     return x + x
    >>> compiled(twice, backend="eager")(torch.ones(2))
    tensor([2., 2.])
    """
    # Another object, and of another name: torch keeps by name which numbers have differed, and compiles for any such.
    code = function.__code__.replace(co_name=f"{function.__code__.co_name}_{next(_NUMBERS)}")
    own = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    if "isolate_recompiles" in _COMPILE_OPTIONS:  # from torch 2.14
        options = {"isolate_recompiles": True, **options}
    return torch.compile(own, dynamic=False, **options)


def captured(
    work: Callable[..., Any], inputs: Sequence[Tensor] = (), *, warm_up: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Return ``work(*inputs)`` captured as a CUDA graph on the current device, to be replayed on other inputs.

    A graph reads and writes the same memory each time: a replay copies what it is given to where `inputs` are, and its
    result is overwritten by the next.

    Args:
        work: What is captured. It must not wait for the GPU.
        inputs: Tensors on the GPU that are the graph's to keep.
        warm_up: Run in place of `work` before the capture, where `work` changes something that must not change yet.

    Returns:
        A function of as many tensors as `inputs`, of their shapes, from any device.
    """
    # Allocations and libraries' first calls must be over before a capture; they may not happen on its stream.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_RUNS):
            (warm_up or work)(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work(*inputs)
    return functools.partial(_replay, graph, work, inputs, result)  # none of which may be freed while it is replayed


def _replay(graph: torch.cuda.CUDAGraph, work: Any, inputs: Sequence[Tensor], result: Any, *given: Tensor) -> Any:
    for there, value in zip(inputs, given, strict=True):
        there.copy_(value)
    graph.replay()
    return result


def make_executable(
    name: str,
    model: nn.Module,
    example: Any,
    *,
    device: torch.device,
    precision: str,
    mode: str,
    memory_format: str | None,
) -> Executable:
    """Make of copies of `model` and `example` something to be run again and again on `device`.

    It has been run once in eager mode. To be called, and what is returned too, under `environment.fixed_settings`.

    Args:
        name: What errors call the model.
        precision, mode, memory_format: As for `speed`.

    Raises:
        ValueError: where the model runs, but not in this precision, compiled or captured.
    """
    with torch.inference_mode(False), torch.no_grad():  # else the copies would be tensors of inference mode
        net = copied(model).eval().to(device)
        net = net.half() if precision == "fp16" else net.bfloat16() if precision == "bf16" else net.float()
        given = fresh(moved(example, device=device, dtype=DTYPES[precision]))
        tensors = tensors_given(given)
        if memory_format == "channels_last":
            net = _channels_last(name, net, tensors)

    def work() -> Any:
        return run_example(net, given)

    before = [tuple(tensor.shape) for tensor in tensors_given(given)]
    if precision in HALF:
        _run_in_half(name, work, device, precision)
    else:
        with misfits_told(net, given, f"archlab ran {name} on {device}"):
            work()
    if (after := [tuple(tensor.shape) for tensor in tensors_given(given)]) != before:
        raise ValueError(
            f"{name} changes what it is given: its tensors had the shapes {before[:4]}, and have {after[:4]} after a "
            "run, as a cache grows, so that no two runs are alike; give an al.Call(fn, ...) whose fn makes that anew"
        )
    batch = next((tensor.shape[0] for tensor in tensors if tensor.dim()), 1)
    if mode == "compile":
        fast, graphs = _compiled_model(name, net, given)
        return Executable(fast, net, batch, graphs)
    return Executable(_captured_model(name, work) if mode == "graph" else work, net, batch, None)


def _run_in_half(name: str, work: Work, device: torch.device, precision: str) -> None:
    """Run once; what fails may be that the model has no such precision."""
    try:
        work()
    except Exception as error:
        raise ValueError(
            f"{name} does not run in {precision} on {device}, itself and its inputs cast: {_summary(error)}; "
            f"raised in {failed_in(error)}"
        ) from error


def _channels_last(name: str, net: nn.Module, tensors: list[Tensor]) -> nn.Module:
    images = [tensor for tensor in tensors if tensor.dim() == 4]
    if not images and all(p.dim() != 4 for p in net.parameters()):
        raise ValueError(f"memory_format='channels_last' changes nothing: {name} and its example have no 4-d tensor")
    for tensor in images:  # copies of our own
        tensor.data = tensor.contiguous(memory_format=torch.channels_last)
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _run_on(net: nn.Module, given: Any) -> Any:
    """`run_example`, entered by a function: torch.compile(net) would leave alone another method than ``forward``."""
    return run_example(net, given)


def _compiled_model(name: str, net: nn.Module, given: Any) -> tuple[Work, int]:
    """What runs `net` on `given` compiled, and how many graphs that took. Torch's limit of versions is an error."""
    from torch._dynamo import config  # these take longer to import than all of archlab
    from torch._dynamo.utils import counters

    fast = compiled(_run_on)
    before = counters["stats"]["unique_graphs"]
    try:
        # The setting's name in torch 2.6, which stayed when a second one was given to it.
        with warnings.catch_warnings(), config.patch(fail_on_cache_limit_hit=True):
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")  # whether it is on, was asked for
            fast(net, given)
    except Exception as error:
        hint = "" if "RecompileLimit" not in type(error).__name__ else (
            ": parts of it would run in eager mode; torch.compiler.config.recompile_limit (in torch 2.6 "
            "torch._dynamo.config.cache_size_limit) is how many versions of one piece of code are made"
        )  # fmt: skip
        raise ValueError(f"torch.compile fails on {name}, which runs in eager mode: {_summary(error)}{hint}") from error
    graphs = counters["stats"]["unique_graphs"] - before
    if not graphs:
        raise ValueError(f"torch.compile makes no graph of {name}: it would run in eager mode; use mode='eager'")
    return functools.partial(fast, net, given), graphs


def _captured_model(name: str, work: Work) -> Work:
    try:
        return captured(work)
    except Exception as error:
        raise ValueError(f"{name} cannot be captured as a CUDA graph: {_summary(error)}; mode='eager' runs") from error


def _summary(error: BaseException) -> str:
    """The error's type and the first line of what it says; the second too, where the first announces it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
