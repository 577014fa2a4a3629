"""A model made ready to be measured: a copy of it in eval mode, placed, cast, and compiled or captured as a CUDA graph.

Everything that happens once (copying, compiling, capturing) happens here, so that what is measured afterwards is
nothing but runs.
"""

import inspect
import types
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.copies import copied
from ..capture.example import Call, fresh, moved, run_example, tensors_in
from ..capture.recorder import failed_in
from .clocks import Work
from .environment import DTYPES

HALF = ("fp16", "bf16")
SIDE_RUNS = 3  # on a side stream before a capture, as torch's documentation asks for


@dataclass(frozen=True, eq=False)
class Ready:
    """`work()` runs `net` once; `batch` is the first size of its first tensor, `graphs` what torch.compile made."""

    work: Work
    net: nn.Module
    batch: int
    graphs: int | None


def prepare(
    name: str,
    model: nn.Module,
    example: Any,
    *,
    device: torch.device,
    precision: str,
    mode: str,
    memory_format: str | None,
) -> Ready:
    """`model` and `example`, which are left untouched, as something to be run again and again on `device`.

    It has been run once in eager mode. To be called, and what is returned too, under `environment.held`.
    """
    with torch.inference_mode(False), torch.no_grad():  # else the copies would be tensors of inference mode
        net = copied(model).eval().to(device)
        net = net.half() if precision == "fp16" else net.bfloat16() if precision == "bf16" else net.float()
        given = fresh(moved(example, device=device, dtype=DTYPES[precision]))
        tensors = tensors_in((given.args, given.kwargs) if isinstance(given, Call) else given)
        if memory_format == "channels_last":
            net = _channels_last(name, net, tensors)

    def work() -> Any:
        return run_example(net, given)

    first_run(name, work, device, precision)
    batch = next((tensor.shape[0] for tensor in tensors if tensor.dim()), 1)
    if mode == "compile":
        compiled, graphs = _compiled(name, net, given)
        return Ready(compiled, net, batch, graphs)
    return Ready(_graphed(name, work) if mode == "graph" else work, net, batch, None)


def first_run(name: str, work: Work, device: torch.device, precision: str) -> None:
    """Run once, and say of what fails where in the model it was."""
    try:
        work()
    except Exception as error:
        place = f"raised in {failed_in(error)}"
        if precision in HALF:
            raise ValueError(
                f"{name} does not run in {precision} on {device}, itself and its inputs cast: {_told(error)}; {place}"
            ) from error
        error.add_note(f"{place}: archlab ran {name} on the example on {device}")
        raise


def _channels_last(name: str, net: nn.Module, tensors: list[Tensor]) -> nn.Module:
    images = [tensor for tensor in tensors if tensor.dim() == 4]
    if not images and all(p.dim() != 4 for p in net.parameters()):
        raise ValueError(f"memory_format='channels_last' changes nothing: {name} and its example have no 4-d tensor")
    for tensor in images:  # copies of our own
        tensor.data = tensor.contiguous(memory_format=torch.channels_last)
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _compiled(name: str, net: nn.Module, given: Any) -> tuple[Work, int]:
    """What runs `net` on `given` compiled, and the number of graphs that this took.

    torch keeps compiled code by the code object it is made from and gives up after 8 versions, running the rest in
    eager mode without an error. Two models of a class share their code objects, so each model here is entered through
    a function with one of its own, with its own cache for what it calls where the graph breaks, and the limit is an
    error. The function is also what lets another method than ``forward`` be compiled, which torch.compile(net) leaves
    alone. Fixed shapes, or the second model of a class would be compiled for any shape, which is slower.
    """

    from torch._dynamo import config  # these take longer to import than all of archlab
    from torch._dynamo.utils import counters

    def once(net: nn.Module, given: Any) -> Any:
        return run_example(net, given)

    own = types.FunctionType(once.__code__.replace(co_name="once"), once.__globals__)
    separate: dict[str, Any] = (
        {"isolate_recompiles": True} if "isolate_recompiles" in _COMPILE_OPTIONS else {}
    )  # torch 2.14
    compiled = torch.compile(own, dynamic=False, **separate)
    before = counters["stats"]["unique_graphs"]
    try:
        with warnings.catch_warnings(), config.patch(fail_on_recompile_limit_hit=True):
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")  # whether it is on, was asked for
            compiled(net, given)
    except Exception as error:
        hint = "" if "RecompileLimit" not in type(error).__name__ else (
            ": parts of it would run in eager mode; torch.compiler.config.recompile_limit is how many versions of one "
            "piece of code are made"
        )  # fmt: skip
        raise ValueError(f"torch.compile fails on {name}, which runs in eager mode: {_told(error)}{hint}") from error
    graphs = counters["stats"]["unique_graphs"] - before
    if not graphs:
        raise ValueError(f"torch.compile makes no graph of {name}: it would run in eager mode; use mode='eager'")

    def work() -> Any:
        return compiled(net, given)

    return work, graphs


_COMPILE_OPTIONS = inspect.signature(torch.compile).parameters


def _graphed(name: str, work: Work) -> Work:
    """`work` captured as a CUDA graph on the current device, its inputs and results always in the same memory."""
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(SIDE_RUNS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()
    except Exception as error:
        raise ValueError(f"{name} cannot be captured as a CUDA graph: {_told(error)}; mode='eager' runs") from error

    def replay() -> Any:
        graph.replay()
        return result, work  # which the graph reads and writes: neither may be freed

    return replay


def _told(error: BaseException) -> str:
    """The error's type and the first line of what it says; the second too, where the first announces it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
