"""Speed: what is measured is what passes, interleaved, with every setting held; parts add up; nothing is left changed.

Most tests run on a clock that stands still unless a module lets time pass, so that the numbers are known.
"""

import inspect
import json
import sys
import time

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import archlab as al
from archlab.measure import clocks, environment, executable
from archlab.measure import speed as speed_module
from archlab.measure.clocks import EventClock, WallClock
from archlab.measure.module_timer import ModuleTimer

CUDA = torch.cuda.is_available()
ISOLATED = "isolate_recompiles" in inspect.signature(torch.compile).parameters
X = torch.zeros(2, 3)


class Hands:
    """A clock's hands: `now` in seconds, and who let time pass, in order."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def move(self, ms: float, name: str = "") -> None:
        self.now += ms / 1e3
        self.calls.append(name)


HANDS = Hands()


@pytest.fixture
def hands(monkeypatch):
    """Every clock of archlab shows what `HANDS` show."""
    HANDS.__init__()
    for module in (clocks, speed_module):
        monkeypatch.setattr(module, "perf_counter", lambda: HANDS.now)
    return HANDS


class Takes(nn.Module):
    """Takes the milliseconds `ms`, or in each call the next of them and the last for ever. The identity."""

    def __init__(self, *ms: float, name: str = ""):
        super().__init__()
        self.ms, self.name = list(ms), name

    def forward(self, x):
        HANDS.move(self.ms.pop(0) if len(self.ms) > 1 else self.ms[0], self.name)
        return x


# --- what is measured ---------------------------------------------------------------------------


def test_percentiles_of_known_times(hands):
    warming, runs = [10.0] * 4, [7.0, 1, 11, 2, 5, 3, 4, 6, 8, 9, 10]
    found = al.speed(Takes(*warming, *runs), X, seconds=0.0655)
    assert found.times["ms"].tolist() == pytest.approx(runs)
    assert (found.median_ms, found.p10_ms, found.p90_ms) == pytest.approx((6, 2, 10))
    assert found.fps == pytest.approx(2 / 6e-3)
    assert found.frame()["runs"].tolist() == [11]


def test_several_models_run_interleaved_and_equally_often(hands):
    found = al.speed({"a": Takes(2, name="a"), "b": Takes(6, name="b")}, X, seconds=0.04)
    runs = len(found.times)
    assert runs == 20 and hands.calls[-runs:] == ["a", "b"] * 10
    assert found.times["turn"].tolist() == [turn for turn in range(10) for _ in "ab"]
    assert found.frame()[["model", "median_ms", "runs"]].to_numpy().tolist() == [
        ["a", pytest.approx(2), 10],
        ["b", pytest.approx(6), 10],
    ]


def test_runs_before_it_is_steady_are_not_counted(hands):
    found = al.speed(Takes(500, 300, 100, 30, 11, 10, 10.5, 10), X, seconds=1)
    assert found.conditions["warmup_runs"] == {"Takes": 6}  # after the very first: 300, 100, 30, 11, 10, 10.5
    assert found.p90_ms == pytest.approx(10)


def test_a_model_that_is_never_steady_is_warmed_up_no_longer_than_measured(hands):
    found = al.speed(Takes(*[10.0, 20.0] * 1000), X, seconds=0.3)
    assert found.conditions["warmup_runs"] == {"Takes": 20}


def test_a_slow_model_runs_three_times_whatever_the_budget(hands):
    found = al.speed({"slow": Takes(20_000, name="slow"), "fast": Takes(1, name="fast")}, X, seconds=0.5)
    assert found.frame()["runs"].tolist() == [3, 3]
    assert hands.calls.count("slow") == 1 + 1 + 3, "once to see that it runs, once to warm up"


def test_real_time_passes_too():
    class Sleeps(nn.Module):
        def __init__(self, seconds):
            super().__init__()
            self.seconds = seconds

        def forward(self, x):
            time.sleep(self.seconds)
            return x

    found = al.speed({"long": Sleeps(0.006), "short": Sleeps(0.002)}, X, seconds=0.05)
    long, short = found.frame()["median_ms"]
    assert 6 <= long and 2 <= short < long


@pytest.mark.parametrize(
    "example, batch",
    [
        (torch.zeros(5, 3), 5),
        ((torch.zeros(4, 3), 10.0), 4),
        ({"x": torch.zeros(3, 3), "y": torch.zeros(7)}, 3),
        (al.Call(lambda net, x: net.other(x), torch.zeros(6, 3)), 6),
        (al.Call(lambda net, x: net(x), x=torch.zeros(8, 3)), 8),
        ((torch.tensor(1.0), torch.zeros(9)), 9),
        (torch.tensor(1.0), 1),
    ],
)
def test_the_batch_is_the_first_size_of_the_first_tensor(hands, example, batch):
    class Any(Takes):
        def forward(self, x, y=None):
            return super().forward(x)

        other = forward

    assert al.speed(Any(1), example, seconds=0.01).frame()["batch"].tolist() == [batch]
    assert al.speed(Any(1), example, seconds=0.01, batch=20).fps == pytest.approx(20e3)


def test_each_model_may_have_an_example_of_its_own():
    nets = {"x": nn.Linear(3, 1), "y": nn.Linear(4, 1)}
    found = al.speed(nets, {"y": torch.zeros(5, 4), "x": X}, seconds=0.01)
    assert found.batch == {"x": 2, "y": 5}


def test_a_dict_of_other_names_is_keywords_for_all(hands):
    found = al.speed({"x": Takes(1), "y": Takes(1)}, {"x": X}, seconds=0.01)
    assert found.batch == {"x": 2, "y": 2}


# --- how it is told -----------------------------------------------------------------------------


def test_the_frame_is_tidy_and_the_numbers_of_several_models_are_not_one(hands):
    found = al.speed({"a": Takes(2), "b": Takes(6)}, X, seconds=0.04)
    columns = "model median_ms p10_ms p90_ms fps runs batch device precision mode memory_format".split()
    assert list(found.frame()) == columns
    with pytest.raises(ValueError, match=r"2 models were measured, a, b: see \.frame\(\)"):
        found.median_ms  # noqa: B018
    with pytest.raises(ValueError, match=r"speed\(\.\.\., by_module=depth\)"):
        found.by_module()


def test_it_prints_as_a_table(hands):
    lines = repr(al.speed({"a": Takes(2), "longer": Takes(0.0125)}, X, seconds=0.04)).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["model", "median", "[ms]", "p10", "p90", "FPS", "runs"],
        ["a", "2.000", "2.000", "2.000", "1,000", lines[1].split()[-1]],
        ["longer", "0.01250", "0.01250", "0.01250", "160,000", lines[2].split()[-1]],
    ]
    assert lines[3].endswith("fp32, eager, batch 2, 1 thread" if torch.get_num_threads() == 1 else "threads")


def test_the_conditions_are_recorded_and_fit_into_json():
    found = al.speed(nn.Linear(3, 3), X, seconds=0.01)
    told = json.loads(json.dumps(found.conditions))
    assert told["torch"] == torch.__version__ and told["threads"] == torch.get_num_threads()
    assert (told["measured_on"], told["clock"], told["float32_products"]) == ("cpu", "wall clock", "ieee")
    assert told["device"] and told["seconds"] == 0.01


# --- what it is measured under, and what it changes ----------------------------------------------

SEEN: list[dict] = []


class Sees(nn.Module):
    """Writes down what it is run under. Its weight is 4-dimensional."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("ids", torch.arange(3))
        self.register_buffer("turns", torch.ones(3, dtype=torch.complex64))

    def forward(self, x, ids=None):
        SEEN.append(
            {
                "inference": torch.is_inference_mode_enabled(),
                "autocast": torch.is_autocast_enabled(x.device.type),
                "training": self.training,
                "benchmark": torch.backends.cudnn.benchmark,
                "float32": environment.float32_precision(torch.device("cuda")),
                "weight": self.conv.weight.dtype,
                "x": x.dtype,
                "ids": (self.ids.dtype, None if ids is None else ids.dtype),
                "turns": self.turns.dtype,
                "last": [t.is_contiguous(memory_format=torch.channels_last) for t in (x, self.conv.weight)],
                "own": vars(self.conv).get("forward"),
                "plain": not (x.is_inference() or self.conv.weight.is_inference()),
            }
        )
        return self.conv(x)


IMAGE = torch.randn(1, 3, 8, 8)


@pytest.fixture
def seen():
    SEEN.clear()
    return SEEN


def test_runs_are_in_eval_and_inference_mode_without_autocast(seen):
    with torch.autocast("cpu", torch.bfloat16):
        al.speed(Sees().train(), IMAGE, seconds=0.01)
    for run in seen:
        assert run["inference"] and not run["training"] and not run["autocast"] and run["benchmark"]
        assert run["float32"] == ("ieee", "ieee")
        assert run["plain"], "parameters and inputs are tensors as they are outside of inference mode"


@pytest.mark.parametrize(
    "precision, dtype", [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_half_precision_casts_model_and_inputs_but_no_integers(seen, precision, dtype):
    example = (IMAGE.double(), torch.arange(4))
    found = al.speed(Sees().double(), example, precision=precision, seconds=0.01)
    for run in seen:
        assert run["weight"] == run["x"] == dtype
        assert run["ids"] == (torch.int64, torch.int64) and run["turns"] == torch.complex64
    assert found.frame()["precision"].tolist() == [precision]
    assert ("cast" in found.conditions) == (precision != "fp32")


def test_memory_format_is_that_of_filters_and_images(seen):
    al.speed(Sees(), IMAGE, memory_format="channels_last", seconds=0.01)
    assert all(run["last"] == [True, True] for run in seen)
    seen.clear()
    al.speed(Sees(), IMAGE, seconds=0.01)
    assert all(run["last"] == [False, False] for run in seen)


@pytest.mark.parametrize("options", [{}, {"by_module": 1}, {"precision": "bf16", "memory_format": "channels_last"}])
def test_model_example_and_settings_are_left_as_they_were(options, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    class Changes(Sees):
        def forward(self, x, ids=None):
            self.last = super().forward(x)
            self.ids += 1
            x += torch.randn_like(x)
            return x

    net, example = Changes().train(), torch.randn(1, 3, 8, 8)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    before, given, random, flags = vars(net).copy(), example.clone(), torch.get_rng_state(), _flags()
    al.speed(net, example, seconds=0.01, **options)
    assert net.training and vars(net).keys() == before.keys() and "forward" not in vars(net.conv)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert net.conv.weight.dtype == torch.float32 and net.conv.weight.is_contiguous() and net.conv.weight.requires_grad
    assert torch.equal(example, given)
    assert torch.equal(torch.get_rng_state(), random)
    assert _flags() == flags


def test_settings_are_put_back_after_a_failure_too():
    flags = _flags()
    with pytest.raises(RuntimeError):
        al.speed(Sees(), torch.zeros(1, 4, 8, 8), seconds=0.01)
    assert _flags() == flags and not torch.is_inference_mode_enabled()


def _flags() -> list:
    """The settings that decide over TF32 in both of torch's interfaces, and cuDNN's autotuner."""
    found: list = [torch.backends.cudnn.benchmark]
    found += [backend.fp32_precision for backend in (*environment._CUDA, *environment._CPU)]
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append("contradictory")
    return found


def _medium():
    torch.set_float32_matmul_precision("medium")  # bfloat16 in products on a CPU


def _older():
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = True, False


def _newer():
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = "tf32"


NEWER = pytest.param(_newer, marks=pytest.mark.skipif(not environment._CUDA, reason="this torch has none"))


@pytest.mark.parametrize("set_before", [lambda: None, _medium, _older, NEWER])
@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_as_said_whatever_was_set_before_and_put_back(set_before, allowed):
    with environment._tf32(allowed=True):  # puts back what this test sets
        set_before()
        flags = _flags()
        with environment._tf32(allowed):
            wanted = "tf32" if allowed else "ieee"
            assert environment.float32_precision(torch.device("cuda")) == (wanted, wanted)
            assert {backend.fp32_precision for backend in environment._CUDA} <= {wanted}
            assert {backend.fp32_precision for backend in environment._CPU} <= {"ieee"}
            if "contradictory" not in flags:
                assert _flags()[-2:] == (["high", True] if allowed else ["highest", False])
        assert _flags() == flags


# --- module by module ---------------------------------------------------------------------------


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Takes(2), Takes(3)

    def forward(self, x):
        HANDS.move(1)
        return self.b(self.a(self.a(x)))


class Outer(nn.Module):
    """In a run: 1 of its own, two calls of `inner` (8 each), a direct call (4), one that fails (5), none of `idle`."""

    def __init__(self):
        super().__init__()
        self.inner, self.direct, self.fails, self.idle = Inner(), Takes(4), Fails(), Takes(100)

    def forward(self, x):
        HANDS.move(1)
        x = self.direct.forward(self.inner(self.inner(x)))
        try:
            self.fails(x)
        except KeyError:
            return x

    def other(self, x):
        """Another method: 0.5 of its own."""
        HANDS.move(0.5)
        return self.inner.a(x)


class Fails(nn.Module):
    def forward(self, x):
        HANDS.move(5)
        raise KeyError


def _parts(found, column: str = "self_ms") -> dict[str, float]:
    frame = found.by_module()
    return dict(zip(frame["module"], frame[column].round(9), strict=True))


def test_each_module_has_its_own_time_and_the_parts_are_the_whole(hands):
    found = al.speed(Outer(), X, seconds=0.2, by_module=2)
    assert _parts(found) == {"": 1, "inner": 2, "inner.a": 8, "inner.b": 6, "direct": 4, "fails": 5, "idle": 0}
    assert _parts(found, "total_ms") == {
        "": 26, "inner": 16, "inner.a": 8, "inner.b": 6, "direct": 4, "fails": 5, "idle": 0
    }  # fmt: skip
    assert _parts(found, "calls") == {
        "": 1, "inner": 2, "inner.a": 4, "inner.b": 2, "direct": 1, "fails": 1, "idle": 0
    }  # fmt: skip
    frame = found.by_module()
    assert frame["self_ms"].sum() == pytest.approx(frame["total_ms"][0], rel=1e-12)
    assert frame["self_share"].sum() == pytest.approx(1)
    assert (frame["total_share"] * 26).round(9).tolist() == frame["total_ms"].round(9).tolist()
    assert list(frame["type"])[:3] == ["Outer", "Inner", "Takes"]


def test_what_is_deeper_is_of_the_module_above(hands):
    found = al.speed(Outer(), X, seconds=0.2, by_module=1)
    assert _parts(found) == {"": 1, "inner": 16, "direct": 4, "fails": 5, "idle": 0}


def test_another_method_than_forward_is_timed_by_module(hands):
    found = al.speed(Outer(), al.Call(lambda net, x: net.other(x), X), seconds=0.01, by_module=2)
    assert {path: ms for path, ms in _parts(found).items() if ms} == {"": 0.5, "inner.a": 2}


def test_the_runs_that_are_timed_by_module_come_between_the_plain_ones(seen):
    al.speed(Sees(), IMAGE, seconds=0.01, by_module=1)
    timed = [run["own"] is not None for run in seen]
    assert timed == [False, *[False, True] * (len(timed) // 2)], "the first only sees that it runs"


def test_parts_add_up_though_the_runs_differ(hands):
    slow_first = Takes(*[4.0] * 8, 1, 2, 3, 4, 5, 6, 7, 8, 100, 1, 5)
    net = nn.Sequential(slow_first, Takes(2))
    found = al.speed(net, X, seconds=0.05, by_module=1)
    frame = found.by_module()
    assert frame["self_ms"].sum() == pytest.approx(frame["total_ms"][0], rel=1e-12)
    assert found.frame()["apart_ms"][0] == frame["total_ms"][0] < 15, "one interrupted run is left out"


def test_runs_that_warm_up_are_no_part_of_the_parts(hands):
    net = nn.Sequential(Takes(*[1.0] * 7, 10))  # a first run, three pairs to warm up, then three slow pairs
    assert _parts(al.speed(net, X, seconds=0.02, by_module=1))["0"] == 10


def test_a_module_that_calls_itself_counts_once_in_its_total(hands):
    class Again(nn.Module):
        def forward(self, x, times=2):
            HANDS.move(1)
            return self(x, times - 1) if times else x

    found = al.speed(nn.Sequential(Again()), X, seconds=0.01, by_module=1)
    assert _parts(found, "total_ms") == {"": 3, "0": 3} and _parts(found, "calls")["0"] == 3


def test_modules_are_as_they_were_between_the_runs_that_are_timed_by_module():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    wrapped = net[0].forward
    vars(net[0])["forward"] = wrapped  # someone else's
    timer = ModuleTimer(net, WallClock(), depth=1)
    timer.timed(lambda: net(X))
    assert vars(net[0])["forward"] is wrapped and "forward" not in vars(net[1])
    with pytest.raises(RuntimeError):
        timer.timed(lambda: net(torch.zeros(2, 4)))
    assert vars(net[0])["forward"] is wrapped and "forward" not in vars(net[1])
    assert len(timer.runs) == 1


def test_being_timed_changes_nothing_that_torch_does():
    """Hooks would: with one set, a transformer layer does not take its fused kernel."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = al.speed(layer, torch.zeros(1, 4, 8), seconds=0.01, by_module=1)
    assert _parts(found, "calls") == {"": 1} | {name: 0 for name, _ in layer.named_children()}
    assert _parts(found, "self_share")[""] == 1


def test_a_switched_model_is_timed_by_module_too():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    soft = al.switch(net, X, kinds="activation")
    calls = _parts(al.speed(soft, X, seconds=0.01, by_module=1), "calls")
    assert calls["0"] == calls["2"] == 1


def test_several_models_are_timed_by_module_in_one_frame(hands):
    frame = al.speed({"a": Outer(), "b": nn.Sequential(Takes(3))}, X, seconds=0.05, by_module=1).by_module()
    assert list(frame)[:4] == ["model", "module", "type", "calls"]
    assert frame.groupby("model")["self_ms"].sum().round(9).to_dict() == {"a": 26, "b": 3}


def test_bars_are_the_parts_and_always_the_whole(hands):
    frame = al.speed(Outer(), X, seconds=0.1, by_module=2).by_module()
    ax = al.plot.breakdown(frame, value="self_ms")
    assert [round(bar.get_width(), 6) for bar in ax.patches] == [1, 2, 8, 6, 4, 5, 0]
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["(between them)", "inner", "inner.a", "inner.b", "direct", "fails", "idle"]
    assert [text.get_text() for text in ax.texts][2] == "30.8 %"
    few = al.plot.breakdown(frame, value="self_ms", most=4)
    assert [round(bar.get_width(), 6) for bar in few.patches] == [8, 6, 5, 1 + 2 + 4 + 0]
    assert [text.get_text() for text in few.get_yticklabels()] == ["inner.a", "inner.b", "fails", "4 others"]
    with pytest.raises(ValueError, match="no column 'ms'"):
        al.plot.breakdown(frame, value="ms")
    for drawn in (ax, few):
        plt.close(drawn.figure)


# --- clocks -------------------------------------------------------------------------------------


class Event:
    """A CUDA event for a machine without one."""

    made = 0

    def __init__(self, enable_timing=False):
        assert enable_timing
        Event.made += 1

    def record(self):
        self.at = HANDS.now

    def synchronize(self):
        HANDS.calls.append("waited for an event")

    def elapsed_time(self, later):
        return 1e3 * (later.at - self.at)


def test_gpu_marks_are_events_that_are_waited_for_and_used_again(hands, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: hands.calls.append("waited for all"))
    clock, net = EventClock(), Outer()
    timer = ModuleTimer(net, clock, depth=2)
    for _ in range(3):
        assert timer.timed(lambda: net(X)) == pytest.approx(26)
        assert clocks.timed(clock, lambda: net(X)) == pytest.approx(26)
    assert Event.made == 2 + 2 * 10, "as many as one run needs: its ends and ten calls"
    assert hands.calls[0] == "waited for all" and hands.calls[-1] == "waited for an event"
    assert timer.frame()["self_ms"].round(9).tolist() == [1, 2, 8, 6, 4, 5, 0]


def test_the_clock_is_that_of_the_device():
    assert isinstance(clocks.clock_on(torch.device("cpu")), WallClock)
    assert isinstance(clocks.clock_on(torch.device("cuda", 0)), EventClock)


def _program(folder, text: str) -> None:
    file = folder / "nvidia-smi"
    file.write_text(f"#!{sys.executable}\n{text}\n")
    file.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvidia-smi is a script")
def test_clocks_of_a_gpu_are_read_while_it_is_busy(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    unknown = dict.fromkeys(("driver", "clock_sm", "clock_memory", "power"))
    assert environment.nvidia_smi("GPU-1", busy=lambda: None) == unknown, "there is none"
    rounds: list[int] = []
    _program(tmp_path, "import sys, time; time.sleep(.1); print('580.1, 1980 MHz, 2619 MHz, ' + sys.argv[1])")
    found = environment.nvidia_smi("GPU-1", busy=lambda: rounds.append(time.sleep(0.005) or 1))
    assert found == {"driver": "580.1", "clock_sm": "1980 MHz", "clock_memory": "2619 MHz", "power": "--id=GPU-1"}
    assert len(rounds) > 5
    _program(tmp_path, "print('N/A, N/A, N/A, N/A'); raise SystemExit(6)")
    assert environment.nvidia_smi("GPU-1", busy=lambda: None) == unknown
    _program(tmp_path, "import time; time.sleep(60)")
    begun = time.monotonic()
    assert environment.nvidia_smi("GPU-1", busy=lambda: None, patience_s=0.2) == unknown
    assert time.monotonic() - begun < 20


# --- torch.compile ------------------------------------------------------------------------------


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


# --- what cannot be done ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"precision": "fp8"}, "precision must be one of 'fp32', 'tf32', 'fp16', 'bf16', got 'fp8'"),
        ({"mode": "jit"}, "mode must be one of 'eager', 'compile', 'graph', got 'jit'"),
        ({"memory_format": "nhwc"}, "memory_format must be one of None, 'channels_last', got 'nhwc'"),
        ({"memory_format": "channels_last"}, "changes nothing: Linear and its example have no 4-d tensor"),
        ({"precision": "tf32"}, "compute capability 8.0 and later, not of cpu"),
        ({"mode": "graph"}, "mode='graph' is a CUDA graph, and the device is cpu: use 'eager' or 'compile'"),
        ({"mode": "compile", "by_module": 1}, "by_module=1 is for mode='eager'"),
        ({"by_module": 0}, "by_module must be a whole number of at least 1 or None, got 0"),
        ({"batch": 0}, "batch must be a whole number of at least 1 or None, got 0"),
        ({"seconds": 0}, "seconds must be a finite number above 0 up to 86400, got 0"),
        ({"device": "meta"}, "device must be a cpu or cuda device, got 'meta'"),
        ({"device": "gpu"}, "device must be a cpu or cuda device, got 'gpu'"),
    ],
)
def test_what_cannot_be_measured_is_named(options, reason):
    with pytest.raises(ValueError) as error:
        al.speed(nn.Linear(3, 3), X, **options)
    assert reason in str(error.value)


@pytest.mark.skipif(CUDA, reason="there is a GPU")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="device='cuda:0': torch finds no CUDA device here"):
        al.speed(nn.Linear(3, 3), X, device="cuda:0")


def test_no_model_and_what_is_no_model():
    with pytest.raises(ValueError, match=r"a dict of some by name, got \{\}"):
        al.speed({}, X)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got"):
        al.speed({"a": X}, X)  # type: ignore[dict-item]


def test_a_precision_that_an_op_lacks_is_named():
    class Inverts(nn.Module):
        def forward(self, x):
            return torch.linalg.inv(x)

    reason = r"Sequential does not run in fp16 on cpu, itself and its inputs cast: .*; raised in 0 \(Inverts\)"
    with pytest.raises(ValueError, match=reason):
        al.speed(nn.Sequential(Inverts()), torch.eye(3), precision="fp16")


def test_a_model_that_fails_says_where():
    with pytest.raises(RuntimeError) as error:
        al.speed(nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4)), X)
    (note,) = error.value.__notes__
    assert note == "raised in 1 (Linear): archlab ran Sequential on cpu on the example, (2, 3) torch.float32"


# --- on a GPU -----------------------------------------------------------------------------------


@pytest.mark.skipif(not CUDA, reason="there is no GPU")
class TestGpu:
    NET = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(32, 32, 3), nn.ReLU()))
    IMAGES = torch.randn(2, 3, 128, 128)

    @pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
    @pytest.mark.parametrize("mode", ["eager", "graph"])
    @pytest.mark.parametrize("memory_format", [None, "channels_last"])
    def test_every_way(self, precision, mode, memory_format):
        flags = _flags()
        found = al.speed(
            {"a": self.NET, "b": self.NET}, self.IMAGES, device="cuda", precision=precision, mode=mode,
            memory_format=memory_format, seconds=0.1,
        )  # fmt: skip
        one, other = found.frame()["median_ms"]
        assert 0.5 < one / other < 2, "the same network twice"
        assert found.conditions["clock"] == "CUDA events" and found.conditions["driver"] != ""
        assert found.conditions["float32_products"] == ("tf32" if precision == "tf32" else "ieee")
        assert _flags() == flags and next(self.NET.parameters()).device.type == "cpu"
        json.dumps(found.conditions)

    def test_compiled(self):
        found = al.speed(self.NET, self.IMAGES, device="cuda", mode="compile", seconds=0.1)
        assert found.median_ms > 0 and found.conditions["graphs"] == {"Sequential": 1}

    def test_parts_are_the_whole(self):
        found = al.speed(self.NET, self.IMAGES, device="cuda", seconds=0.1, by_module=2)
        frame = found.by_module()
        assert frame["self_ms"].sum() == pytest.approx(frame["total_ms"][0]) and (frame["self_ms"] >= 0).all()
        assert frame["calls"].tolist() == [1] * 6

    def test_a_graph_does_the_work(self):
        big, small = (nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(n))) for n in (20, 1))
        found = al.speed(
            {"big": big, "small": small}, torch.zeros(2048, 2048), device="cuda", mode="graph", seconds=0.2
        )
        long, short = found.frame()["median_ms"]
        assert long > 5 * short

    def test_what_cannot_be_captured_is_named(self):
        class Asks(nn.Module):
            def forward(self, x):
                return x * float(x.sum())

        with pytest.raises(ValueError, match="Asks cannot be captured as a CUDA graph"):
            al.speed(Asks(), torch.ones(3), device="cuda", mode="graph")
