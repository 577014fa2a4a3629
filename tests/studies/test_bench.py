"""The bench measures what it says, interleaved, and writes its report; no test asks its numbers."""

import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from archlab.experiments import run
from studies.bench import cases, interleave, study
from studies.bench.cases import BLENDS, CASES, SMOKE, SWITCHED, OneTensor, Setup, ratio
from studies.motion.data.generator import Generator
from studies.motion.train import training

CPU = torch.device("cpu")


def test_variants_are_interleaved_and_each_is_first_once():
    order = []
    times = interleave.interleaved({n: lambda n=n: order.append(n) for n in "abc"}, repeats=3, warmup=1, device=CPU)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert list(times) == ["a", "b", "c"] and len(times) == 3
    assert (times >= 0).all(axis=None)


def test_on_one_thread_waiting_is_no_time():
    said, _ = interleave.clock(CPU)
    assert said == "CPU time of the process"
    times = interleave.interleaved({"wait": lambda: time.sleep(0.2)}, repeats=1, warmup=0, device=CPU)
    assert times["wait"].item() < 0.1


VALUES = ["ratio_of", "median", "p10", "p90", "base_ms", "repeats", "aim", "met", "note"]


def test_a_row_is_the_ratio_of_each_round_and_judges_its_median():
    above, below = pd.Series([2.0, 6.0, 40.0]), pd.Series([2.0, 2.0, 4.0])
    made = ratio("b / c", above, below, most=3)
    assert list(made) == VALUES
    assert (made["median"], made["p10"], made["p90"]) == pytest.approx((3, 1.4, 8.6))
    assert (made["base_ms"], made["repeats"], made["aim"], made["met"]) == (2000, 3, "≤ 3", True)
    assert ratio("b / c", above, below, least=3.1)["met"] is False
    assert ratio("b / c", above, below)["met"] is None


def test_what_costs_more_is_named_with_its_operator():
    small, large = torch.rand(8, 8), torch.rand(400, 400)
    text = interleave.extra_kernels(lambda: small + small, lambda: (small + small, large @ large), device=CPU)
    assert text.startswith(("aten::mm +", "aten::matmul +")), text


def test_switched_are_each_kind_and_all_together_in_both_places():
    assert len(SWITCHED) == 8
    assert SWITCHED["together, everywhere"] == (("activation", "skip", "block"), "everywhere")
    net, batch = cases._training(Setup(CPU, SMOKE), small=True)
    counts = {name: len(list(_omegas(cases._switched(net, batch, *SWITCHED[name])))) for name in SWITCHED}
    assert counts["activation, residual blocks"] == counts["skip, residual blocks"] == 17
    assert counts["block, residual blocks"] == counts["block, everywhere"] == 17
    assert counts["together, residual blocks"] == 51
    assert counts["activation, everywhere"] == 17 + 8 and counts["skip, everywhere"] == 17 + 1


def _omegas(net):
    return (name for name, _ in net.named_parameters() if "omega" in name)


@pytest.mark.parametrize("name", BLENDS)
def test_rival_blends_compute_the_same(name):
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    omega = torch.tensor(0.3, requires_grad=True)
    y = BLENDS[name](x, omega)
    y.square().sum().backward()
    slope = torch.where(x > 0, 1.0, 0.3)
    torch.testing.assert_close(y, x * slope)
    torch.testing.assert_close(x.grad, 2 * x * slope**2)
    torch.testing.assert_close(omega.grad, (2 * 0.3 * x.square() * (x <= 0)).sum())


def test_one_tensor_keeps_one_tensor():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        OneTensor.apply(torch.randn(7, requires_grad=True), torch.tensor(0.5, requires_grad=True))
    assert len(kept) == 1


SOME = [
    "step/fp32/skip, everywhere", "step/bf16/block, residual blocks", "step/bf16/plain",
    *(f"blend/{name}" for name in BLENDS), "sites/resnet18, 224 x 224", "cost/stream", "data/generator",
]  # fmt: skip


@pytest.mark.parametrize("name", SOME)
def test_a_case_measures_its_ratio(name):
    made = CASES[name](Setup(CPU, SMOKE))
    assert list(made) == VALUES and made["median"] > 0 and made["p10"] <= made["p90"]
    if name == "step/bf16/plain" and made["note"]:  # a CPU without instructions for it says how slow they are
        ratios = [made["median"], *(CASES[name](Setup(CPU, SMOKE))["median"] for _ in range(4))]
        assert sorted(ratios)[2] > 1, ratios  # each is of one step, which another process may stretch


def test_a_run_measures_on_one_thread_and_says_so(tmp_path):
    torch.set_num_threads(2)
    try:
        folders = {"out": tmp_path / "reports", "scratch": tmp_path / "work"}
        rows = run(study, preset="smoke", only="data/*", **folders)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert list(rows["row"]) == ["data/generator"] and list(rows["clock"]) == ["CPU time of the process"]
    assert "samples/s made" in rows["note"].item()


def test_the_preset_gpu_needs_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = run(study, preset="gpu", only="data/*", out=tmp_path / "reports", scratch=tmp_path / "work")
    assert "torch finds no CUDA device" in rows.attrs["missing"]["data/generator (seed 0)"]


def test_samples_are_made_whole_where_a_step_sees_patches(monkeypatch):
    sizes = []

    class Spy(Generator):
        def batch(self, indices, *, noise):
            sizes.append(self.size)
            return super().batch(indices, noise=noise)

    budget = training.Budget(size=48, batch=1, steps=1, lr=1e-3, precision="fp32", patch=32)
    monkeypatch.setattr(training, "budget_for", lambda preset: budget)
    monkeypatch.setattr(cases, "Generator", Spy)
    setup = Setup(CPU, replace(SMOKE, size=None))
    assert cases._training(setup)[1].a.shape[-1] == 32
    assert cases.data(setup)["median"] > 0 and set(sizes) == {48}


def test_a_missed_aim_stands_out_with_its_note(tmp_path):
    bad = ratio("switched / plain", pd.Series([2.0]), pd.Series([1.0]), most=1.15, note="it is aten::lerp")
    free = ratio("bf16 / fp32", pd.Series([2.0]), pd.Series([1.0]))
    about = {"clock": "CPU time", "measured_on": "cpu, 2 cores", "load": 0.5, "stale": False}
    rows = pd.DataFrame([{"row": "step/x", **bad, **about}, {"row": "step/y", **free, **about}])
    rows.attrs["conditions"] = {
        "preset": "cpu", "data": "default", "seeds": 1, "wall_s": 60.0, "device": "CPU", "torch": "2", "commit": "abc",
    }  # fmt: skip
    study.report(rows, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "**no**" in text and "- step/x: it is aten::lerp" in text and "CPU time on cpu, 2 cores, one thread" in text
    assert "step/y:" not in text and "commit abc" in text
