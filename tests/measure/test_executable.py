"""What is compiled or captured: a version of its own, static memory; on a CPU with stand-ins for torch's CUDA graph."""

from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import torch

from archlab.measure import executable
from archlab.measure.executable import WARM_UP_RUNS, captured, compiled

CUDA = torch.cuda.is_available()


def scaled(x, factor=2.0, *, offset=1.0):
    return x * factor + offset


def test_a_compiled_function_takes_what_the_function_takes():
    x = torch.arange(3.0)
    fast = compiled(scaled, backend="eager")
    assert torch.equal(fast(x), scaled(x)) and torch.equal(fast(x, 3.0, offset=x), scaled(x, 3.0, offset=x))
    bound = 5.0

    def closure(x):
        return x * bound

    assert torch.equal(compiled(closure, backend="eager")(x), closure(x))


@pytest.mark.parametrize("options", [executable._COMPILE_OPTIONS, {}])
def test_each_is_compiled_from_code_of_its_own(options, monkeypatch):
    """More of them, each for another shape, than torch keeps versions of one piece of code; an old torch as well."""
    monkeypatch.setattr(executable, "_COMPILE_OPTIONS", options)
    shapes = []

    def backend(graph, example):
        shapes.append(tuple(example[0].shape))
        return graph

    sizes = range(2, 4 + torch._dynamo.config.recompile_limit)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for size in sizes:
            compiled(scaled, backend=backend)(torch.zeros(size))
    assert shapes == [(size,) for size in sizes], "one each, and none for any shape"
    torch.compiler.reset()


class Graph:
    """A CUDA graph that does nothing: what a replay copies is seen without it."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


@pytest.fixture
def no_gpu(monkeypatch):
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Mock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda what: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)


def test_a_replay_copies_its_inputs_into_the_captured_memory(no_gpu):
    there, seen = torch.zeros(3), []

    def work(x):
        seen.append(x)
        return x

    replay = captured(work, [there])
    assert len(seen) == WARM_UP_RUNS + 1 and all(x is there for x in seen)
    result = replay(torch.arange(3.0))
    assert result is there and there.tolist() == [0, 1, 2] and len(seen) == WARM_UP_RUNS + 1
    assert replay(torch.ones(3, dtype=torch.float64)) is result and there.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="shorter"):
        replay()


def test_what_warms_up_may_be_something_else(no_gpu):
    state = torch.zeros(())
    replay = captured(lambda: state.add_(1), warm_up=lambda: state.clone().add_(1))
    assert state == 1, "the capture alone, which on a GPU only records"
    replay()


@pytest.mark.skipif(not CUDA, reason="there is no GPU")
def test_a_replay_computes_on_what_it_is_given():
    with torch.inference_mode():
        total = torch.zeros(3, device="cuda")

        def work(x):
            total.add_(x)
            return total * 2

        replay = captured(work, [torch.ones(3, device="cuda")], warm_up=lambda x: x * 2)
        assert total.tolist() == [0, 0, 0], "nothing has been computed yet"
        assert replay(torch.full((3,), 2.0)).tolist() == [4, 4, 4], "from any device"
        assert replay(torch.full((3,), 3.0, device="cuda")).tolist() == [10, 10, 10]
