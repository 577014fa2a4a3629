"""Speed module by module: each has its own time and the parts are the whole; and the clocks that tell it."""

import sys
import time

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import archlab as al
from archlab.measure import clocks, environment
from archlab.measure.clocks import EventClock, WallClock
from archlab.measure.module_timer import ModuleTimer

from .hands import HANDS, IMAGE, Sees, Takes, X


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
