"""The coverage sweep: its families are all there are, a row says what went wrong, the report names each exception."""

import warnings

import pytest
import timm
import torch
from torch import nn

from studies.coverage import __main__ as sweep
from studies.coverage import checks
from studies.coverage.families import HUGGING_FACE, Family, coverage_of_torchvision, families, seeded
from tests.contracts.zoo import ZOO


def family(make, name: str = "made_up") -> Family:
    return Family("tests", name, name, make)


def test_every_family_of_torchvision_and_timm_is_swept_and_15_of_hugging_face():
    assert not coverage_of_torchvision()
    swept = families()
    assert len({f.id for f in swept}) == len(swept)
    assert {f.name for f in swept if f.library == "timm"} == set(timm.list_modules())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated names are asked for as well
        wrong = [f.id for f in swept if f.library == "timm" and f.variant not in timm.list_models(module=f.name)]
    assert not wrong
    assert len(HUGGING_FACE) >= 15


@pytest.mark.parametrize("entry", ["stack", "gpt", "updates"])
def test_a_sound_row(entry):
    row = checks.check(family(lambda: (ZOO[entry].build(), ZOO[entry].example()), entry))
    assert tuple(row) == checks.COLUMNS and row["error"] is None
    assert sweep.sound(row)
    counted = ZOO[entry].sites
    assert {kind: row[kind] for kind in counted} == counted
    assert row["omegas"] == row["local"] == sum(counted.values())


def test_a_row_of_a_family_that_fails_says_why_and_the_report_names_it():
    def broken() -> tuple[nn.Module, torch.Tensor]:
        raise RuntimeError("no such\nvariant")

    rows = [checks.check(family(broken)), checks.check(family(lambda: (ZOO["stack"].build(), ZOO["stack"].example())))]
    assert rows[0]["error"] == "RuntimeError: no such variant"
    text = sweep.report(rows)
    assert "## Exceptions (1)\n\n- **tests.made_up** (made_up): RuntimeError: no such variant" in text
    assert "| tests     |          2 |       1 |" in text


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
def test_whatever_does_not_hold_makes_a_row_unsound(change, said):
    row = dict.fromkeys(checks.COLUMNS, 0) | {"library": "a", "family": "b", "variant": "c", "error": None}
    row |= {"complete": True, "overlooked": "", "equal_at_zero": True, "equal_at_one": True, "difference_at_one": 0.0}
    assert sweep.sound(row)
    assert not sweep.sound(row | change)
    assert f"- **a.b** (c): {said}\n" in sweep.report([row | change])


def test_no_parameter_hides_a_site():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return x + self.scale * torch.relu(x)

    model, _ = seeded(family(lambda: (Scaled(), torch.zeros(1, 4))))
    assert model.scale.all()
