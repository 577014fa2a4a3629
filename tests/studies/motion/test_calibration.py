"""Figures 4 and 5: what stands for viewers, and how its ranks agree with those on synthetic samples."""

import doctest

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_model
from skimage.data import astronaut

from archlab.experiments.study import Needed, Scratch
from studies.motion.evaluate import frame_quality
from studies.motion.evaluate.frame_quality import blur, flicker, noise
from studies.motion.figures import fig5_calibration, fig14_slices
from studies.motion.figures.fig5_calibration import MEASURES, SEEN, agreement, points
from studies.motion.network.models import Config, MagnificationNet
from studies.motion.train.networks import of
from tests.studies.motion.test_figures import made_up


def test_noise_is_measured_in_levels_and_edges_are_none():
    steps = np.full((2, 64, 64, 3), 60, np.uint8)
    steps[:, 20:, :], steps[:, :, 33:] = 200, 90
    assert noise(steps) < 0.2
    grey = np.random.default_rng(0).normal(128, 5, (2, 64, 64, 1))  # of all colours alike, so their mean is as noisy
    assert noise(np.broadcast_to(grey.round(), (2, 64, 64, 3))) == pytest.approx(5, rel=0.03)


def test_blur_and_noise_tell_a_photo_from_a_blurred_one():
    photo = astronaut()[None, 60:160, 180:280]
    smooth = (photo[:, 1:, 1:].astype(int) + photo[:, :-1, 1:] + photo[:, 1:, :-1] + photo[:, :-1, :-1]) // 4
    assert blur(smooth) > blur(photo) + 0.02 and noise(smooth) < 0.5 * noise(photo)


def test_flicker_is_that_of_what_stands_still():
    clip = np.full((6, 8, 8, 3), 100, np.uint8)
    clip[:, :2] += (np.arange(6, dtype=np.uint8) * 9)[:, None, None, None]
    assert flicker(clip, clip) == 0
    shown = clip.copy()
    shown[1::2] += 3
    assert flicker(shown, clip) == 3


def row_of(number: int, name: str) -> dict:
    """A network, each better than the one before by all measures but flicker."""
    by = {"blur": -0.01, "noise_off": -0.1, "flicker": 0.1, "lpips_input": -0.01, "ssim_input": 0.01}
    clips = {clip: {measure: 3.0 + step * number for measure, step in by.items()} for clip in SEEN}
    quality = {"ssim": 0.6 + 0.04 * number, "ssim_low": 0.5, "ssim_high": 0.9, "lpips": 0.3 - 0.02 * number}
    return {"row": name, "steps": 40, "params_k": 9.0, "judged": 8, "frames": 4, "clips": clips, **quality}


def test_agreement_counts_what_is_better_as_better():
    frame = points(pd.DataFrame([row_of(number, name) for number, name in enumerate("abcde")]))
    found = agreement(frame).set_index("measure")
    whole = found.loc[[measure.heading for name, measure in MEASURES.items() if name != "flicker"]]
    columns = ["τ, SSIM", "τ, LPIPS", "least of a clip", "largest"]
    assert whole[columns].to_numpy() == pytest.approx(1)
    assert found.loc["flicker [levels]", ["τ, SSIM", "SSIM: high"]].to_list() == pytest.approx([-1, -1])
    bunny = frame["clip"] == "bunny"
    frame.loc[bunny, "blur"] = frame.loc[bunny, "blur"].to_numpy()[::-1]
    turned = agreement(frame).iloc[0]
    assert turned[["least of a clip", "largest", "τ, SSIM"]].to_list() == pytest.approx([-1, 1, 1])
    assert "LPIPS to the input" not in agreement(frame.assign(lpips_input=np.nan))["measure"].to_list()


def test_a_cell_measures_what_its_network_shows_and_the_report_says_what_stands_for_viewers(tmp_path, monkeypatch):
    monkeypatch.setattr(fig5_calibration, "SEEN", {"rendered": fig14_slices.RENDERED, "bunny": SEEN["bunny"]})
    monkeypatch.setattr(fig5_calibration, "why_no_lpips", lambda backbone: "not tried: it would be downloaded")
    save_model(MagnificationNet(Config(width=4)), str(tmp_path / "net.safetensors"))
    quality = {key: 0.7 for key in ("params_k", "ssim", "ssim_low", "ssim_high", "lpips")} | {"steps": 1, "judged": 8}
    needed = {of("width 4"): Needed({}, tmp_path), of("quality of width 4"): Needed(quality, tmp_path)}
    found = fig5_calibration.cell({"name": "width 4"}, "smoke", 0, Scratch(tmp_path, needed=needed))
    assert list(found["clips"]) == ["rendered"] and found["ssim"] == 0.7, "without data there is no clip of a file"
    assert 0 < found["clips"]["rendered"]["ssim_input"] < 1 and 0 < found["clips"]["rendered"]["blur"] < 1
    folders, rows = {}, []
    for number, row in enumerate(fig5_calibration.ROWS):
        folders[row["name"]] = str(tmp_path / row["name"])
        (tmp_path / row["name"]).mkdir()
        for kind in ("input", row["name"]):
            np.save(tmp_path / row["name"] / f"{kind}.npy", np.load(tmp_path / "width 4.npy"))
        rows.append(row_of(number, row["name"]))
    fig5_calibration.report(made_up(rows, folders), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Networks with that: none; the best has 0.880" in text and "cannot be repeated" in text
    assert (tmp_path / "frames.png").exists() and (tmp_path / "calibration.png").exists()


def test_a_part_of_a_small_frame_has_the_size_of_all_parts():
    assert fig5_calibration.crop(np.ones((30, 90, 3), np.uint8), (40, 80)).shape == (48, 48, 3)


def test_the_examples():
    result = doctest.testmod(frame_quality)
    assert result.attempted and not result.failed
