"""Speed of compiled models: each variant is compiled for itself, and what cannot be compiled is an error."""

import inspect

import pytest
import torch
from torch import nn

import archlab as al
from archlab.measure import executable

from .hands import Takes, X

ISOLATED = "isolate_recompiles" in inspect.signature(torch.compile).parameters


class Variant(nn.Module):
    """Its class has one piece of code for all widths."""

    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(3, width)

    def forward(self, x):
        return self.mix(x).relu()

    def other(self, x):
        return self.mix(x).sigmoid()


class Breaks(nn.Module):
    """`parts` layers of other widths, between which the graph breaks."""

    def __init__(self, *widths):
        super().__init__()
        self.parts = nn.ModuleList(Break(width) for width in widths)

    def forward(self, x):
        return [part(x[:, : part.width]) for part in self.parts]


class Break(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width, self.scale = width, nn.Parameter(torch.ones(width))

    def forward(self, x):
        x = x * self.scale
        torch._dynamo.graph_break()
        return x + self.scale


@pytest.fixture
def compiled(monkeypatch):
    """torch.compile with a backend that only counts: how often each compiled graph ran, by a name of what is in it."""
    runs: dict[str, int] = {}
    compile_ = torch.compile

    def backend(graph, example):
        name = " ".join(node.name for node in graph.graph.nodes if node.op not in ("placeholder", "output"))
        name += f" {[tuple(p.shape) for p in example if isinstance(p, nn.Parameter)]}"
        name += " symbolic" * any(isinstance(value, torch.SymInt) for value in example)

        def run(*args):
            runs[name] = runs.get(name, 0) + 1
            return graph(*args)

        return run

    monkeypatch.setattr(torch, "compile", lambda *args, **options: compile_(*args, backend=backend, **options))
    yield runs
    torch.compiler.reset()


@pytest.mark.parametrize("isolated", [ISOLATED, False])
def test_each_of_many_variants_runs_compiled(compiled, isolated, monkeypatch):
    """torch keeps eight versions of a piece of code and runs the ninth in eager mode, without saying so."""
    if not isolated:
        monkeypatch.setattr(executable, "_COMPILE_OPTIONS", {})
    nets = {f"{width}": Variant(width) for width in range(1, 13)}
    found = al.speed(nets, X, mode="compile", seconds=0.01)
    assert found.conditions["graphs"] == dict.fromkeys(nets, 1)
    runs = found.frame().set_index("model")["runs"]
    assert len(compiled) == len(nets), "none stands for several, as one for any shape would"
    for (name, graph), warmed in zip(compiled.items(), found.conditions["warmup_runs"].items(), strict=True):
        assert graph == 1 + warmed[1] + runs[warmed[0]], name


def test_no_variant_is_compiled_for_any_shape(compiled):
    nets = {f"{size}": nn.Sequential(nn.ReLU()) for size in range(2, 6)}
    al.speed(nets, {name: torch.zeros(int(name), 3) for name in nets}, mode="compile", seconds=0.01)
    assert len(compiled) == 1 and "symbolic" not in next(iter(compiled))


def test_another_method_is_compiled_too(compiled):
    found = al.speed(Variant(2), al.Call(lambda net, x: net.other(x), X), mode="compile", seconds=0.01)
    assert [name.split()[:2] for name in compiled] == [["linear", "sigmoid"]]
    assert found.frame()["mode"].tolist() == ["compile"]


@pytest.mark.skipif(not ISOLATED, reason="this torch keeps the code between graph breaks in one place for all")
def test_variants_whose_graphs_break_do_not_take_each_others_place(compiled):
    nets = {f"{width}": Breaks(width, width + 1, width + 2) for width in (1, 4, 7)}
    found = al.speed(nets, torch.zeros(2, 20), mode="compile", seconds=0.01)
    assert set(found.conditions["graphs"].values()) == {6}, "two of each layer"


def test_what_was_compiled_before_is_not_what_is_measured(compiled):
    net = Breaks(2)
    with torch.inference_mode():
        torch.compile(net, dynamic=False)(torch.zeros(2, 20))
    assert al.speed(net, torch.zeros(2, 20), mode="compile", seconds=0.01).conditions["graphs"] == {"Breaks": 2}


def test_a_model_that_torch_would_run_in_eager_mode_is_an_error(compiled):
    with pytest.raises(ValueError, match=r"torch.compile fails on Breaks.*recompile_limit .*is how many versions"):
        al.speed(Breaks(*range(1, 13)), torch.zeros(2, 20), mode="compile", seconds=0.01)
    with pytest.raises(ValueError, match=r"torch\.compile makes no graph of Takes: it would run in eager mode"):
        al.speed(Takes(1), X, mode="compile", seconds=0.01)


def test_a_compiler_that_fails_is_named(monkeypatch):
    def backend(graph, example):
        raise OSError("no compiler here")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **options: compile_(*args, backend=backend, **options))
    with pytest.raises(
        ValueError, match=r"torch\.compile fails on Variant, which runs in eager mode: .*no compiler here"
    ):
        al.speed(Variant(2), X, mode="compile", seconds=0.01)
