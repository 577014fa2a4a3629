"""The sweep of supernets: what is told of a family that can be searched, of one that cannot, and of one that fails."""

import pandas as pd
import pytest
import torch
from torch import nn

from studies.coverage import supernets
from studies.coverage.families import families
from studies.coverage.reshaping import outcome


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return self.act(self.conv(x))


class Counted(nn.Module):
    """Another output at each call, which no seed fixes."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        Counted.calls += 1
        return self.block(x) + Counted.calls


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Block(), Block()).eval()


IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", supernets.CHOICES)
def test_a_network_of_blocks_can_be_searched_in_every_way(kind):
    assert outcome((net(), IMAGE), supernets.CHOICES[kind]) == "ok"


def test_what_has_no_such_module_and_what_cannot_be_chosen_at_say_so():
    linear = nn.Sequential(nn.Linear(8, 8, bias=False)).eval()
    assert outcome((linear, IMAGE), supernets.CHOICES["kernel"]) == "none: it has no convolution of a square kernel"
    strided = nn.Sequential(nn.Conv2d(3, 4, (3, 1))).eval()
    assert outcome((strided, IMAGE), supernets.CHOICES["kernel"]).startswith("none")
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval()
    assert outcome((classifier, IMAGE), supernets.CHOICES["width"]).startswith("refused: ValueError")


def test_a_supernet_that_is_not_equal_has_failed():
    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = outcome((Counted().eval(), image), supernets.CHOICES["optional"])
    assert found == "failed: AssertionError: the supernet at the original architecture gives another output"


def test_the_report_counts_and_names_what_failed_or_was_refused(tmp_path):
    assert [row["name"] for row in supernets.ROWS] == [one.id for one in families()]
    ok = dict.fromkeys(supernets.CHOICES, "ok") | {"cpu_s": 1.0, "error": None, "variant": "tiny", "stale": False}
    rows = pd.DataFrame(
        [
            {"row": "tests.a", **ok, "width": "refused: ValueError: no", "either": "none: it has none"},
            {"row": "tests.b", **ok, "kernel": "failed: AssertionError: another output"},
            {"row": "tests.c", "variant": "tiny", "stale": False, "cpu_s": 600.0, "error": "gave up after 600 s"},
        ]
    )
    rows.attrs["conditions"] = {
        "preset": "cpu", "data": "default", "seeds": 1, "wall_s": 60.0, "device": "CPU", "torch": "2", "commit": "abc",
    }  # fmt: skip
    supernets.report(rows, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Of 3 families 2 have a supernet" in text
    assert "| kernel   |    1 |      0 |         0 |        2 |" in text
    assert "- **tests.b**, kernel: failed: AssertionError: another output" in text
    assert "- **tests.c**, optional: gave up after 600 s" in text
    assert "## Refused (1)\n\n- **tests.a**, width: refused: ValueError: no" in text
