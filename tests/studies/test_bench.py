"""The bench measures what it says, in turns, and writes its report; its numbers are not judged here."""

import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from studies.bench import cases, measuring
from studies.bench.__main__ import main, report
from studies.bench.cases import BLENDS, COLUMNS, SMOKE, SWITCHED, OneTensor, Setup, row
from studies.motion.data.generator import Generator
from studies.motion.train import training

CPU = torch.device("cpu")


def test_variants_take_turns_and_each_is_first_once():
    order = []
    times = measuring.in_turns({n: lambda n=n: order.append(n) for n in "abc"}, repeats=3, warmup=1, device=CPU)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert list(times) == ["a", "b", "c"] and len(times) == 3
    assert (times >= 0).all(axis=None)


def test_on_one_thread_waiting_is_no_time():
    said, _ = measuring.clock(CPU)
    assert said == "CPU time of the process"
    times = measuring.in_turns({"wait": lambda: time.sleep(0.2)}, repeats=1, warmup=0, device=CPU)
    assert times["wait"].item() < 0.1


def test_a_row_is_the_ratio_of_each_turn_and_judges_its_median():
    above, below = pd.Series([2.0, 6.0, 40.0]), pd.Series([2.0, 2.0, 4.0])
    made = row("a", "b / c", above, below, most=3)
    assert list(made) == list(COLUMNS)
    assert (made["median"], made["p10"], made["p90"]) == pytest.approx((3, 1.4, 8.6))
    assert (made["base_ms"], made["repeats"], made["aim"], made["met"]) == (2000, 3, "≤ 3", True)
    assert row("a", "b / c", above, below, least=3.1)["met"] is False
    assert row("a", "b / c", above, below)["met"] is None


def test_what_costs_more_is_named_with_its_operator():
    small, large = torch.rand(8, 8), torch.rand(400, 400)
    text = measuring.extra_kernels(lambda: small + small, lambda: (small + small, large @ large), device=CPU)
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


@pytest.mark.parametrize(
    "group, only, expected",
    [
        (cases.steps, "step/fp32/skip, everywhere", ["step/fp32/skip, everywhere"]),
        (cases.steps, "step/bf16/block, residual*", ["step/bf16/block, residual blocks"]),
        (cases.blends, "blend/*", ["blend/archlab", "blend/prelu", "blend/own function"]),
        (cases.looks, "sites/resnet18*", ["sites/resnet18, 224 x 224"]),
        (cases.costs, "*", ["cost/stream, 480 x 272"]),
        (cases.data, "*", ["data/generator"]),
        (cases.data, "step/*", []),
    ],
)
def test_each_group_measures_the_rows_that_are_wanted(group, only, expected):
    rows = list(group(Setup(CPU, SMOKE, only)))
    found = [r["what"] for r in rows]
    if found[-1:] == ["step/bf16/plain"]:  # a CPU without bf16 instructions says how slow they are
        assert found.pop() and rows[-1]["median"] > 1
    assert found == expected
    assert all(list(r) == list(COLUMNS) and r["median"] > 0 and r["p10"] <= r["p90"] for r in rows)


def test_the_report_says_what_was_measured_and_where(tmp_path, capsys):
    main(smoke=True, only="data/*", out=tmp_path)
    assert list(pd.read_csv(tmp_path / "rows.csv")["what"]) == ["data/generator"]
    assert capsys.readouterr().out.startswith("data/generator: ")
    text = (tmp_path / "report.md").read_text()
    for said in ("| data/generator", "samples/s made", "- torch: ", "- commit: ", "- effort: smoke", "CPU time"):
        assert said in text, said


def test_a_part_or_a_smoke_run_leaves_the_report_of_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(smoke=True, only="data/*")
    assert not list(tmp_path.iterdir())


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
    assert list(cases.data(setup)) and set(sizes) == {48}


def test_a_glob_that_matches_nothing_is_an_error(tmp_path):
    with pytest.raises(Exception, match=r"--only 'steps/\*' matches no row"):
        main(smoke=True, only="steps/*", out=tmp_path)
    assert not (tmp_path / "rows.csv").exists()


def test_a_missed_aim_stands_out_with_its_note():
    bad = row("step/x", "switched / plain", pd.Series([2.0]), pd.Series([1.0]), most=1.15, note="it is aten::lerp")
    text = report(pd.DataFrame([bad]), {"machine": "a slow one"})
    assert "**no**" in text and "- step/x: it is aten::lerp" in text and "- machine: a slow one" in text
