"""Speed: what is measured is what passes, interleaved, with every setting held; nothing is left changed.

Most tests run on a clock that stands still unless a module lets time pass, so that the numbers are known.
"""

import json
import time

import pytest
import torch
from torch import nn

import archlab as al
from archlab.measure import environment

from .hands import IMAGE, Sees, Takes, X

CUDA = torch.cuda.is_available()

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
