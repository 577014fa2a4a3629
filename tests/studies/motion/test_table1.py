"""Table 1: which sites are candidates, what their removal costs, how rows become the paper's table."""

import pandas as pd
import pytest

import archlab as al
from studies.motion import table1
from studies.motion.columns import PUBLISHED
from studies.motion.evaluate.paired import change_against
from studies.motion.network.models import baseline
from studies.motion.table1_path import lambda_path
from studies.motion.table1_report import against_control, mark, report, table_of
from studies.motion.train import training


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


def made_rows(folder, seeds=1):
    """What a run of every row gives, with invented numbers."""
    lines = []
    for i, row in enumerate(table1.ROWS):
        for seed in range(min(seeds, table1.seeds(row))):
            line = {"row": row["name"], "part": None, "kind": None, **row, "seed": seed, "stale": False}
            if row["what"] == "train":
                line |= {"steps": 100, "loss": 0.1, "losses": [0.3, 0.2, 0.1], "seconds": 60.0}
            elif row["what"] == "sensitivity":
                sites = [{"site": "a/skip.0", "kind": "skip", "ssim": 0.7, "delta_ssim": -0.1}]
                line |= {"untouched": {"ssim": 0.8}, "watched": 2, "sites": sites}
            elif row["what"] == "check":
                quality = [
                    {"magnifier": name, "size": size, "factor": factor, "ssim": value, "low": value - 0.01,
                     "high": value + 0.01}
                    for name, value in (("ours", 0.8), ("copy of B", 0.7))
                    for size, factor in ((48, None), (64, None), (48, 5.0))
                ]  # fmt: skip
                points = [{"factor": 5.0, "wanted": wanted, "measured": measured, "on_target": wanted}
                          for wanted, measured in ((1.0, 1.1), (2.0, 2.2), (3.0, 1.5))]  # fmt: skip
                line |= {"quality": quality, "linearity": [{"magnifier": "ours", "size": 64, "points": points}]}
            else:
                line |= {"params_k": 900.0, "flops_g": 40.0, "ssim": 0.8 - 0.01 * i + 0.1 * seed, "ssim_crop8": 0.8}
                line |= {"ssim_low": 0.7, "ssim_high": 0.9, "lpips": None, "no_lpips": "not at hand", "judged": 8}
                line |= {"size": 48, "patch": 48, "batch": 2, "precision": "fp32"}
                line |= {"train_data": "photos", "val_data": "other photos", "removed": 1, "sites": 2}
                line |= {"each_ssim": [0.8 - 0.01 * i, 0.7 - 0.01 * i], "each_lpips": [None, None]}
            if row["what"] == "learn":
                line |= dict(
                    lam=row.get("lam", table1.LAM),
                    lam_per_site=0.025,
                    p=1.0,
                    tau=0.5,
                    lr=1e-4,
                    lr_omega=0.1,
                    near_tau=0,
                )
                line |= dict(soft_steps=2, push_steps=1, tune_steps=1, omega_steps=[0, 1])
                line |= {"omegas": {"a": [0.0, 1.0]}, "phases": [{"phase": "soft", "ssim": 0.7}]}
            lines.append(line)
    rows = pd.DataFrame(lines)
    rows.attrs["folders"] = {"training of the baseline": str(folder)}
    rows.attrs["conditions"] = {
        "preset": "smoke", "data": "default", "seeds": seeds, "wall_s": 60.0, "device": "CPU", "torch": "2",
        "commit": "a",
    }  # fmt: skip
    return rows


def test_the_table_stands_beside_the_published_one(tmp_path):
    table = table_of(without_path(made_rows(tmp_path)))
    assert len(table.frame) == 17 and table.frame["paper: SSIM"].notna().sum() == len(PUBLISHED["Table 1"])
    assert "0.780 (-0.010)" in table.markdown() and "Δ 1/2" in table.markdown()


def without_path(rows):
    return rows[~rows["row"].str.contains("λ")]


def test_several_seeds_give_means_of_the_rows_that_carry_the_claim(tmp_path):
    rows = without_path(made_rows(tmp_path, seeds=2))
    table = table_of(rows)
    assert len(table.frame) == 17
    ssim = table.frame.set_index("Row")["SSIM sd"]
    assert ssim["Decoder, blocks by hand"] == pytest.approx(0.0707, abs=1e-4) and pd.isna(
        ssim["Manipulator outer ReLU"]
    )
    assert "Δ 2/4" in table.markdown()
    apart = against_control(rows).frame.set_index("Row")
    assert apart["runs"]["encoder block"] == 2 and apart["removed"]["encoder block"] == "2/4", "every seed counts"
    assert apart["runs"]["encoder skip"] == 1


def test_a_row_is_compared_with_the_control_of_its_seeds():
    runs = pd.DataFrame({"seed": [0], "each_ssim": [[0.5, 0.6, 0.8]]})
    control = pd.DataFrame({"seed": [0, 1], "each_ssim": [[0.6, 0.7, 0.9], [0.0, 0.0, 0.0]]})
    assert change_against(runs, control, "ssim").mean == pytest.approx(-0.1)
    assert change_against(runs.assign(each_ssim=[[None] * 3]), control, "ssim") is None


def test_the_path_has_every_learned_row_of_the_first_seed_in_the_order_of_lambda(tmp_path):
    path = lambda_path(made_rows(tmp_path, seeds=2))
    assert len(path) == 27 and path["share"].tolist() == [0.5] * 27
    assert path["part"].tolist() == sorted(path["part"], key=list(table1.PARTS).index)
    for (_, kind), lams in path.groupby(["part", "kind"])["lam"]:
        assert len(lams) == 3 and lams.is_monotonic_increasing and table1.LAM in lams.tolist(), kind


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_report_is_written_whole(tmp_path, seeds):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "baseline.safetensors").write_bytes(b"weights")
    report(made_rows(tmp_path / "work", seeds), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "SSIM above copying frame B at factor 5, intervals apart: holds" in text
    assert "slope 0.714 within 0.85 to 1.15: **fails**" in text, "through the origin"
    assert "its R² -0.866 at least 0.95: **fails**" in text and "SSIM above the public network" in text
    assert ("Means of 2 seeds" in text) == (seeds == 2)
    assert {f.name for f in tmp_path.glob("*.png")} == {
        "displacement.png", "lambda_path.png", "omegas.png", "samples.png", "sensitivity.png", "training.png",
    }  # fmt: skip
    assert "decoder without its residual blocks +0.0100 [+0.0100, +0.0100]." in text, "what carries the paper's claim"
    assert (tmp_path / "table.tex").exists() and (tmp_path / "baseline.safetensors").exists()


def test_one_setting_for_all_and_room_for_omega_to_cross():
    for effort in table1.EFFORT.values():
        assert effort.lr_omega * effort.soft >= 3
