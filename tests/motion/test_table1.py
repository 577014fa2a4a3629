"""Table 1: which sites are candidates, what their removal costs, how rows become the paper's table."""

import pandas as pd
import pytest

import archlab as al
from studies.motion import table1, training
from studies.motion.models import baseline
from studies.motion.table1_report import PUBLISHED, mark, table_of


@pytest.fixture(scope="module")
def net():
    return baseline().eval()


@pytest.fixture(scope="module")
def example():
    return training.task(None, training.BASELINE["smoke"], seed=0, quality=lambda net: {}).example


@pytest.mark.parametrize("part, count", [("encoder", 7), ("manipulator", 1), ("decoder", 9), ("", 17)])
@pytest.mark.parametrize("kind", table1.KINDS)
def test_candidates_are_the_residual_blocks_of_a_part(net, example, part, count, kind):
    assert len(al.sites(net, example, kinds=kind, where=table1.in_residual_blocks(net, part))) == count


@pytest.mark.parametrize(
    "name, params, flops", [("encoder", 837_507, 37.6), ("manipulator", 948_483, 40.6), ("decoder", 523_843, 25.0)]
)
def test_removing_blocks_by_name_costs_what_the_paper_says(net, example, name, params, flops):
    six = [f"decoder.blocks/block.{i}" for i in range(6)]
    where = six if name == "decoder" else table1.in_residual_blocks(net, name)
    costs = table1.costs(al.remove(net, example, kinds="block", where=where))
    assert round(1000 * costs["params_k"]) == params
    assert round(costs["flops_g"], 1) == flops


def test_the_baseline_costs_what_the_paper_says(net):
    costs = table1.costs(net)
    assert (costs["params_k"], round(costs["flops_g"], 1)) == (966.979, 41.3)


def test_marks():
    assert mark({"removed": 7, "sites": 7}) == "✗ 7/7"
    assert mark({"removed": 2, "sites": 9}) == "Δ 2/9"
    assert mark({"removed": 0, "sites": 9}) == "– 0/9"


def test_the_table_stands_beside_the_published_one():
    judged = [row for row in table1.ROWS if row["what"] in ("judge", "learn", "hand", "control")]
    rows = pd.DataFrame(
        [
            {
                "row": row["name"], "part": None, "kind": None, **row, "removed": 1, "sites": 2,
                "params_k": 900.0, "flops_g": 40.0, "ssim": 0.8 - 0.01 * i, "ssim_crop8": 0.8, "lpips": None,
            }
            for i, row in enumerate(judged)
        ]
    )  # fmt: skip
    table = table_of(rows)
    assert len(table.frame) == 13 and table.frame["paper: SSIM"].notna().sum() == len(PUBLISHED)
    assert "0.790 (-0.010)" in table.markdown() and "Δ 1/2" in table.markdown()


def test_one_setting_for_all_and_room_for_omega_to_cross():
    for effort in table1.EFFORT.values():
        assert effort.lr_omega * effort.soft >= 3
