"""The coverage sweep: its families are all there are, a row says what went wrong, the report names each exception."""

import inspect
import os
import signal
import time
import warnings

import pandas as pd
import pytest
import timm
import torch
import torchvision
from torch import nn

import archlab as al
from archlab.experiments import run
from studies.coverage import checks, isolation, study
from studies.coverage.families import HUGGING_FACE, Family, families, seeded
from studies.coverage.reshaping import PASSES, outcome
from studies.coverage.situations import SITUATIONS, situation
from tests.contracts.zoo import ZOO

ENDS = ("", " reshaped")  # of the names of a family's rows


def family(make, name: str = "made_up") -> Family:
    return Family("tests", name, name, make)


def home_of(name: str) -> str:
    return inspect.getmodule(torchvision.models.get_model_builder(name)).__name__


def test_every_family_of_torchvision_and_timm_is_swept_and_15_of_hugging_face():
    swept = families()
    homes = {home_of(f.variant) for f in swept if f.library == "torchvision"}
    named = [name for name in torchvision.models.list_models() if "quantized" not in name]
    assert {home_of(name) for name in named} == homes
    assert len({f.id for f in swept}) == len(swept)
    assert {f.name for f in swept if f.library == "timm"} == set(timm.list_modules())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated names are asked for as well
        wrong = [f.id for f in swept if f.library == "timm" and f.variant not in timm.list_models(module=f.name)]
    assert not wrong
    assert len(HUGGING_FACE) >= 15


@pytest.mark.parametrize("entry", ["stack", "gpt", "updates"])
def test_a_sound_row(entry):
    row = checks.checked(family(lambda: (ZOO[entry].build(), ZOO[entry].example()), entry))
    assert tuple(row) == checks.COLUMNS and row["error"] is None
    assert study.sound(row)
    counted = ZOO[entry].sites
    assert {kind: row[kind] for kind in counted} == counted
    assert row["omegas"] == row["local"] == sum(counted.values()) + row["norm"] + row["head"]


def test_a_cache_without_the_heads_that_went_is_no_difference():
    row = checks.check("transformers.gpt2")
    assert row["error"] is None and row["head"] == 8 and row["difference_at_one"] == 0


def made_up(*rows: dict) -> pd.DataFrame:
    """Rows as the runner gives them, of what `checks` or `isolated` returned."""
    named = [{"row": f"tests.{'abc'[i]}", "part": "sites", "variant": "tiny", **row} for i, row in enumerate(rows)]
    met = {"row": "28. A made-up situation", "part": "situation", "outcome": "refused", "found": "ValueError: no"}
    shaped = dict.fromkeys(PASSES, "ok") | {"fold": "refused: ValueError: no", "deeper": "failed: KeyError: 3"}
    shaped |= {"row": "tests.a reshaped", "part": "reshaping"}
    frame = pd.DataFrame([{**row, "stale": False} for row in (*named, shaped, met)])
    frame.attrs["conditions"] = {
        "preset": "cpu", "data": "default", "seeds": 1, "wall_s": 60.0, "device": "CPU", "torch": "2", "commit": "abc",
    }  # fmt: skip
    return frame


def report(folder, *rows: dict) -> str:
    study.report(made_up(*rows), folder)
    return (folder / "report.md").read_text()


def test_a_row_of_a_family_that_fails_says_why_and_the_report_names_it(tmp_path):
    def broken() -> tuple[nn.Module, torch.Tensor]:
        raise RuntimeError("no such\nvariant")

    rows = [
        checks.checked(family(broken)),
        checks.checked(family(lambda: (ZOO["stack"].build(), ZOO["stack"].example()))),
    ]
    assert rows[0]["error"] == "RuntimeError: no such variant"
    text = report(tmp_path, *rows)
    assert "## Exceptions (1)\n\n- **tests.a** (tiny): RuntimeError: no such variant" in text
    assert "| tests     |          2 |       1 |" in text
    assert "| deeper           |    0 |        0 |      0 |         0 |        1 |" in text
    assert "- **tests.a**, deeper: failed: KeyError: 3" in text
    assert "| 28. A made-up situation | refused   | ValueError: no |" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"complete": False, "overlooked": "2 gelu"}, "overlooked: 2 gelu"),
        ({"equal_at_zero": False}, "another output at ω = 0"),
        ({"equal_at_one": False, "difference_at_one": 0.25}, "differs from the removed model at ω = 1 by 0.25"),
        ({"omegas_without_gradient": 3}, "3 ω without a gradient"),
        ({"refused": 1}, "1 sites refused"),
    ],
)
def test_whatever_does_not_hold_makes_a_row_unsound(change, said, tmp_path):
    row = dict.fromkeys(checks.COLUMNS, 0) | {"error": None}
    row |= {"complete": True, "overlooked": "", "equal_at_zero": True, "equal_at_one": True, "difference_at_one": 0.0}
    lost = {"cpu_s": 1.0, "error": "lost"}
    assert study.sound(row)
    assert not study.sound(row | change)
    text = report(tmp_path, row | change, lost)
    assert f"- **tests.a** (tiny): {said}\n" in text and "- **tests.b** (tiny): lost" in text


def hangs(name):
    time.sleep(60)


def dies(name):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("check, reason", [(hangs, "gave up after 1 s"), (dies, "the process died, exit code -9")])
def test_a_row_that_hangs_or_kills_its_process_says_the_reason(check, reason, monkeypatch):
    monkeypatch.setattr(isolation, "METHOD", "fork")  # so that the child knows this module
    assert isolation.isolated(check, "made_up", limit_s=1)["error"] == reason


@pytest.mark.parametrize("name", SITUATIONS)
def test_no_situation_from_a_public_bug_report_ends_wrong(name):
    row = situation(name)
    assert row["outcome"] in ("right", "refused"), row["found"]


def test_the_study_runs_families_once_and_keeps_them(tmp_path, monkeypatch):
    asked = []

    def isolated(check, name, limit_s):
        asked.append(name)
        return checks.checked(family(lambda: (ZOO["stack"].build(), ZOO["stack"].example())))

    monkeypatch.setattr(study, "isolated", isolated)
    options = {"preset": "cpu", "only": "transformers.b*", "out": tmp_path / "reports", "scratch": tmp_path / "work"}
    for _ in range(2):
        rows = run(study, **options)
        assert set(rows["row"]) == {f"transformers.{name}{end}" for name in ("bart", "bert", "bloom") for end in ENDS}
    assert len(asked) == 6 and not (tmp_path / "reports" / "coverage" / "cpu" / "report.md").exists()


def test_what_came_of_a_pass():
    def raises(error):
        raise error

    made = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.zeros(1, 3)
    assert outcome(made, lambda model, x: al.remove(model, x, kinds="activation")) == "ok"
    assert outcome(made, lambda model, x: raises(KeyError("a"))).startswith("failed: KeyError: 'a'")
    assert outcome(made, lambda model, x: raises(ValueError("a"))).startswith("failed: ValueError")
    assert outcome(made, lambda model, x: al.fold(model, x)).startswith("refused: ValueError: nothing to fold")
    assert outcome(made, lambda model, x: al.apply(al.recipe(model), model, x)).startswith("failed")


def test_no_parameter_hides_a_site():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return x + self.scale * torch.relu(x)

    model, _ = seeded(family(lambda: (Scaled(), torch.zeros(1, 4))))
    assert model.scale.all()
