"""The figures' studies: what they measure on known ground, and what their reports say of rows made up for it."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from studies.motion.columns import PUBLISHED
from studies.motion.data.generator import Batch
from studies.motion.data.sources import find_sources
from studies.motion.evaluate.gpu_speeds import gpu_fps, gpu_speeds
from studies.motion.evaluate.quality import copy_b
from studies.motion.evaluate.small_motions import NOISES, Point, Scenes, measure, noisy, points
from studies.motion.figures import (
    fig1_cost,
    fig6_width,
    fig7_resolution,
    fig8_noise,
    fig10_impulse,
    fig11_ablation,
    fig13_nas,
)
from studies.motion.figures.fig13_report import networks_of, ranks_table
from studies.motion.figures.shared import rank_correlation, zone
from studies.motion.network.models import MagnificationNet, baseline, proposed
from studies.motion.train import networks
from studies.motion.train.family import NETWORKS


@pytest.fixture(scope="module")
def pictures():
    return find_sources(None, "val")


def speeds(fps: float) -> list[dict]:
    parts = {"encoder": 0.2, "manipulator": 0.1, "decoder": 0.7}
    return [{"fps": fps, "median_ms": 1e3 / fps, "precision": "fp32", "mode": "eager", **parts}]


def made_up(rows: list[dict], folders: dict | None = None) -> pd.DataFrame:
    """Rows as the runner gives them."""
    frame = pd.DataFrame([{"seed": 0, "preset": "smoke", "stale": False, "seconds": 60.0, **row} for row in rows])
    frame.attrs["folders"] = folders or {}
    frame.attrs["conditions"] = {
        "preset": "smoke", "data": "default", "seeds": 1, "wall_s": 60.0, "device": "CPU", "torch": "2",
        "commit": "abc",
    }  # fmt: skip
    return frame


def network_row(name: str, number: int) -> dict:
    fps = 5.0 + 5 * number
    said = {"params_k": 900.0 - number, "flops_g": 40.0 - number, "ssim": 0.9 - 0.004 * number, "lpips": 0.2}
    said |= {"ssim_low": 0.8, "ssim_high": 0.95, "steps": 40, "why_not": "", "fps": fps, "median_ms": 1e3 / fps}
    said |= {"each_ssim": [said["ssim"], 0.9], "each_lpips": [0.2, 0.3], "motion_shown": 0.6, "colour_error": 0.01}
    return {"row": name, **said, "speed": "on a CPU, fp32, eager", "frame": "1920 x 1080", "speeds": speeds(fps)}


def test_speeds_on_a_gpu_are_those_of_the_network_s_design():
    found = gpu_fps(pd.Series(["baseline", "proposed", "scaled A", "width 4"]))
    assert found[0] == pytest.approx(10.58, abs=0.01) and found[1] == found[2] > 2.6 * found[0] and np.isnan(found[3])
    assert len(gpu_speeds()) == 40


def test_there_are_fifteen_motions_and_twice_twenty_one_levels_of_noise():
    found = points()
    sub_pixel = [p for p in found if p.test == "sub-pixel"]
    assert len(sub_pixel) == 15 and all(abs(p.motion * p.factor - 10) < 1e-9 and p.noise == 0 for p in sub_pixel)
    assert (sub_pixel[0].motion, sub_pixel[-1].motion) == pytest.approx((0.04, 1.0))
    noise = [(p.motion, p.factor) for p in found if p.test == "noise"]
    assert noise == [(0.05, 200.0)] * 21 + [(5.0, 2.0)] * 21
    assert (NOISES[0], NOISES[-1]) == pytest.approx((0.01, 100.0))


def test_scenes_are_the_same_at_every_point_but_for_what_it_says(pictures):
    scenes = Scenes(pictures, 48, 2)
    still = list(scenes.at(Point("noise", 5.0, 2.0, 0.0)))
    again = list(scenes.at(Point("noise", 5.0, 2.0, 0.0)))
    assert all(torch.equal(x, y) for one, two in zip(still, again, strict=True) for x, y in zip(one, two, strict=True))
    loud = list(scenes.at(Point("noise", 5.0, 2.0, 10.0)))
    assert torch.equal(still[0][2], loud[0][2]), "the target carries no noise"
    assert not torch.equal(still[0][0], loud[0][0])


def test_noise_has_the_variance_that_its_factor_says():
    grey = torch.full((3, 200, 200), 0.5)
    found = noisy(grey, 2.0, torch.Generator().manual_seed(0)) * 255
    assert found.var().item() == pytest.approx(2.0 * 127.5, rel=0.03)
    assert noisy(grey, 0.0, torch.Generator()) is grey


def test_copying_a_frame_is_measured_at_every_point_and_falls_with_noise(pictures):
    found = measure(copy_b, Scenes(pictures, 48, 1))
    assert len(found) == 57
    noise = found[(found["test"] == "noise") & (found["motion"] == 0.05)]["ssim"].to_numpy()
    assert noise[0] > 0.9 > 0.5 > noise[-1]
    assert (np.diff(noise) < 0.01).all()


def test_filters_of_a_linear_encoder_are_its_kernels():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 5, stride=2, padding=2)

        def encode(self, frame: Tensor) -> tuple[Tensor, Tensor]:
            shape = self.layer(frame)
            return shape, shape

    torch.manual_seed(0)
    net, noise = Linear(), torch.randn(8, 3, 96, 96)
    batches = [Batch(frame[None], frame[None], frame[None], frame[None], torch.ones(1)) for frame in noise]
    filters, explained = fig10_impulse.filters_of(net, batches * 2, 3000)  # type: ignore[arg-type]
    assert min(explained) > 0.99
    kernels = net.layer.weight.detach().numpy()
    reach = fig10_impulse.SIDE // 2 - 2
    for one in filters:
        inner = one[:, reach:-reach, reach:-reach]
        nearest = kernels[np.argmax([(inner * kernel).sum() for kernel in kernels])]
        assert np.corrcoef(inner.ravel(), nearest.ravel())[0, 1] > 0.98
        assert abs(inner).sum() > 0.5 * abs(one).sum()


def test_the_clip_is_magnified_about_its_first_frame():
    frames, target = fig7_resolution.clip(48)
    assert frames.shape == target.shape == (fig7_resolution.FRAMES, 3, 48, 48)
    assert (frames[0] - target[0]).abs().max() <= 2 / 255 + 1e-6, "both begin unmoved"
    moved = [(clip - clip[0]).abs().mean().item() for clip in (frames, target)]
    assert moved[1] > 2 * moved[0]
    assert fig7_resolution.pixels(frames).shape == (fig7_resolution.FRAMES, 48, 48, 3)


def test_the_diagram_s_bars_add_up_to_the_multiply_adds():
    import matplotlib.pyplot as plt

    for net, macs in ((baseline(), 41.196), (proposed(), 9.814)):
        ax = fig1_cost.draw_network(net, plt.subplots()[1])
        assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(macs, abs=0.001)
        assert {bar.get_height() for bar in ax.patches} >= {96, 192, 384}
        plt.close("all")


def test_the_zone_is_real_time_at_the_baseline_s_quality_less_what_the_paper_lost():
    rows = made_up([network_row("baseline", 0), network_row("quarter", 1)])
    assert zone(rows) == {"fps": 25.0, "ssim": pytest.approx(0.889)}


def test_reports_say_what_their_rows_hold(tmp_path):
    named = {module: module.ROWS for module in (fig6_width, fig11_ablation)}
    for module, rows in named.items():
        folder = tmp_path / module.__name__.rpartition(".")[2]
        folder.mkdir()
        module.report(made_up([network_row(row["name"], i) for i, row in enumerate(rows)]), folder)
        text = (folder / "report.md").read_text()
        assert "CPU, torch 2, commit abc" in text and "1920 x 1080" in text
        assert all(row["name"] in text for row in rows)
        assert {p.name for p in folder.iterdir()} >= {"report.md", "table.md", "table.tex", "tradeoff.png"}
    text = (tmp_path / "fig11_ablation" / "report.md").read_text()
    assert all(f"{printed['ssim']:.3f}" in text for printed in PUBLISHED["Fig. 11"].values())
    assert "20.53" in text and "9.86" in text
    assert (tmp_path / "fig11_ablation" / "tradeoff_gpu.png").exists() and "one NVIDIA H200" in text
    assert not (tmp_path / "fig6_width" / "tradeoff_gpu.png").exists(), "one of its networks was timed there"
    assert "None of them is in the zone" in (tmp_path / "fig6_width" / "report.md").read_text()
    quick = [network_row(row["name"], i) | {"fps": 30.0} for i, row in enumerate(fig6_width.ROWS)]
    fig6_width.report(made_up(quick), tmp_path / "fig6_width")
    assert "In the zone: baseline, width 28, width 24." in (tmp_path / "fig6_width" / "report.md").read_text()


def test_reports_of_what_was_not_trained_say_why(tmp_path):
    rows = [network_row(row["name"], i) for i, row in enumerate(fig11_ablation.ROWS)]
    rows[-1] |= {"steps": 0, "why_not": "trained at the presets gpu and paper only", "ssim": None, "params_k": None}
    fig11_ablation.report(made_up(rows), tmp_path)
    assert "scaled C: trained at the presets gpu and paper only" in (tmp_path / "report.md").read_text()


def test_figures_1_7_8_and_10_draw_their_rows(tmp_path):
    rows = [network_row(name, i) for i, name in enumerate(("baseline", "proposed"))]
    fig1_cost.report(made_up(rows), tmp_path)
    assert (tmp_path / "diagram.png").exists() and "2.7 times on a GPU (2.7)" in (tmp_path / "report.md").read_text()
    curve = [{**p._asdict(), "ssim": 0.5, "sd": 0.1} for p in points()]
    about = {"steps": 40, "size": 48, "scenes": 1, "val_data": "samples", "points": curve}
    fig8_noise.report(made_up([{"row": row["name"], **about} for row in fig8_noise.ROWS]), tmp_path)
    assert (tmp_path / "curves.png").exists() and len(pd.read_csv(tmp_path / "points.csv")) == 4 * 57
    folders = {}
    for name in ("baseline", "quarter", "eighth", "linear encoder"):
        folders[name] = str(tmp_path / name)
        (tmp_path / name).mkdir()
        for kind in ("input", "target", name):
            np.save(tmp_path / name / f"{kind}.npy", np.zeros((4, 8, 3)))
        np.save(tmp_path / name / "filters.npy", np.ones((12, 3, 19, 19)))
    rows = [network_row(row["name"], i) | {"clip_l1": 0.1} for i, row in enumerate(fig7_resolution.ROWS)]
    fig7_resolution.report(made_up(rows, folders), tmp_path)
    assert (tmp_path / "slices.png").exists()
    rows = [{"row": n, "steps": 40, "tuned": 5, "ssim": 0.5, "explained": [0.9, 0.8], "patches": 100} for n in
            ("baseline", "linear encoder")]  # fmt: skip
    fig10_impulse.report(made_up(rows, folders), tmp_path)
    assert (tmp_path / "filters.png").exists() and "0.850" in (tmp_path / "report.md").read_text()


def test_networks_times_all_of_them_and_reads_the_weights_of_a_cell(tmp_path):
    from safetensors.torch import save_model

    from archlab.experiments.study import Needed, Scratch

    assert [row["name"] for row in networks.ROWS][: len(NETWORKS)] == list(NETWORKS)
    net = MagnificationNet(NETWORKS["width 4"])
    save_model(net, str(tmp_path / "net.safetensors"))
    needed = {
        networks.of("width 4"): Needed({"steps": 1}, tmp_path),
        networks.of("linear B"): Needed({"steps": 0}, tmp_path),
    }
    found = networks.trained("width 4", Scratch(tmp_path, needed=needed))
    assert found is not None and not found.training
    assert torch.equal(found.encoder.conv1.weight, net.encoder.conv1.weight)
    assert networks.trained("linear B", Scratch(tmp_path, needed=needed)) is None


def search_rows() -> list[dict]:
    """Rows of fig13_nas, each a little worse than the one before; of two supernets one keeps the ranks, the other turns
    them."""
    rows = []
    for number, row in enumerate(fig13_nas.ROWS):
        kind, said = row["what"], {"row": row["name"], **{key: value for key, value in row.items() if key != "name"}}
        path = {"encoder.common.0": "keep", "encoder.common.0.0": 5, "decoder.blocks.0": "skip"}
        if kind.startswith("quality"):
            ssim = 0.7 - 0.001 * number
            said |= network_row(row["name"], 0) | {"row": row["name"], "ssim": ssim, "flops_g": 9.0 + number / 10}
            said |= {"judged": 8, "val_data": "samples", "batch": 2, "size": 48, "patch": 32, "precision": "fp32"}
            said |= {"watched": ssim, "ssim_low": ssim - 0.1, "ssim_high": ssim + 0.1}
        if kind == "quality":
            said |= {"each_ssim": [ssim - 0.01, ssim + 0.01], "macs_g": 9.0}
            said |= {"inherited_bins": ssim / 2, "architecture": path}
            said |= {"inherited_uniform": 1 - ssim} if row["set"] == "b" else {}
        if kind == "supernet":
            said |= {"steps": 16, "least_g": 5.0, "most_g": 30.0, "within": 0.16}
        if kind in ("search", "training"):
            said |= {"architecture": path, "trials": 6, "inherited": 0.5, "macs_g": 9.0, "steps": 40}
        if kind == "costs":
            timed = [*fig13_nas.BY_HAND, *fig13_nas.SUPERNETS, *(f"NAS {name}" for name in "abcd")]
            said |= {"seconds_each": {name: 90.0 for name in [*timed, *(f"search {name}" for name in "abcd")]}}
        rows.append(said)
    return rows


def test_figure_13_needs_only_what_stands_before():
    names = [row["name"] for row in fig13_nas.ROWS]
    assert len(set(names)) == len(names)
    for number, row in enumerate(fig13_nas.ROWS):
        assert all(need in names[:number] for need in fig13_nas.needs(row))
        assert callable(fig13_nas.cell_for(row))
    assert sum(row["what"] == "training" and row["name"].startswith("random") for row in fig13_nas.ROWS) >= 4


def test_figure_13_tells_ranks_and_costs_of_its_rows(tmp_path):
    rows = made_up(search_rows())
    ranks = ranks_table(networks_of(rows)).frame
    assert ranks["τ"].tolist() == pytest.approx([1.0, 1.0, -1.0, -1.0])
    fig13_nas.report(rows, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Winner less random 1" in text and "(a) 7, 9, 8, 10 G" in text
    # 16 steps, 6 trials and 40 steps of 90 seconds; four trainings of 40 steps.
    assert "1.550" in text and "4.000" in text
    assert {"table.md", "bounds.md", "ranks.md", "costs.md", "tradeoff.png"} <= {p.name for p in tmp_path.iterdir()}


def test_a_rank_correlation_has_an_interval_that_says_how_few_there_are():
    one = np.arange(5.0)
    assert rank_correlation(one, one) == pytest.approx((1.0, 1.0, 1.0))
    few = rank_correlation(one, np.array([1.0, 0.0, 2.0, 4.0, 3.0]))
    many = rank_correlation(np.arange(50.0), np.arange(50.0) + np.tile([1.5, 0.0], 25))
    assert few[1] < 0.2 < few[0] < few[2] and many[2] - many[1] < 0.5 * (few[2] - few[1])
