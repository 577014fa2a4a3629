"""The studies of all methods side by side: the tracker, what each method sees, what is judged, what reports say."""

import doctest

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread

from studies.motion.classical.acceleration import acceleration, jerk_aware
from studies.motion.data.generator import Generator
from studies.motion.data.sources import find_sources
from studies.motion.evaluate import tracking
from studies.motion.evaluate.methods import NAMES, PEAK, SWAY, Seen, method, rows
from studies.motion.evaluate.quality import copy_b
from studies.motion.evaluate.small_motions import Scenes, measure, measure_method, points
from studies.motion.evaluate.tracking import corners, displacements
from studies.motion.figures import fig2_linearity, fig14_slices, fig17_subpixel, fig19_vibration, real_time
from studies.motion.magnification import raised
from studies.motion.video.temporal import filtered
from studies.motion.video.writing import save_video
from tests.studies.motion.test_figures import made_up


@pytest.fixture(scope="module")
def pictures():
    return find_sources(None, "val")


@pytest.fixture(scope="module")
def vibration():
    return fig19_vibration.clip(128, 96, 32)


@pytest.mark.parametrize("moved", [(0.05, -0.1), (3.3, 1.8), (-7.0, 7.0)])
def test_points_are_found_where_they_went(moved, pictures):
    generator = Generator(pictures, 128, device="cpu")
    layer = generator.background(np.random.default_rng(1), np.array(moved), blurred=False)
    first, other = (image.mean(dim=0).numpy() for image in generator.render([layer], (0.0, 1.0)))
    where = corners(first, 30, margin=20)
    assert 5 < len(where) <= 30 and where.min() >= 20
    assert np.median(displacements(first, other, where), axis=0) == pytest.approx(moved, abs=0.05)
    brighter = displacements(first, other + 0.2, where)
    assert np.median(brighter, axis=0) == pytest.approx(moved, abs=0.05)
    with pytest.raises(ValueError, match="there is no point to track"):
        displacements(first, other, where[:0])


@pytest.mark.parametrize("design", [acceleration, jerk_aware])
def test_a_raised_factor_brings_out_as_much_as_is_asked_for(design):
    filter = design(1 / 8, 1.0)
    sway = torch.tensor([SWAY[n % 8] for n in range(48)], dtype=torch.float64)
    plain = filter if design is acceleration else filter.acceleration
    shown = sway + (raised(filter, 10.0, 1 / 8) - 1) * filtered(plain, sway)
    assert shown[24 + PEAK % 8] == pytest.approx(10.0, rel=0.01)


def test_every_method_shows_the_frame_that_counts(pictures):
    """Without gain, that frame itself; with some, what has moved further."""
    assert list(NAMES) == [row["name"] for row in rows()] and all(len(row["weights"]) == 12 for row in rows()[:3])
    generator = Generator(pictures, 48, device="cpu")
    layer = generator.background(np.random.default_rng(1), np.array([0.3, 0.4]), blurred=False)
    for name in ("phase", "acceleration"):
        seen = method(name)
        *frames, target = generator.render([layer], (*seen.shifts, 3.0)) * 2 - 1
        frames = torch.stack(frames)
        moved = frames[seen.shifts.index(1.0)]
        assert len(frames) == len(seen.shifts)
        assert (seen.show(frames, 1.0)[0] - moved).abs().mean() < 0.01
        off = [(image - target).abs().mean() for image in (seen.show(frames, 3.0), moved[None])]
        assert off[0] < off[1], name


def test_what_is_measured_of_pairs_is_what_is_measured_of_methods(pictures, monkeypatch):
    few = points()[:2]
    monkeypatch.setattr("studies.motion.evaluate.small_motions.points", lambda: few)
    scenes = Scenes(pictures, 48, 1)
    last = Seen((0.0, 0.3, 1.0), lambda frames, factor: frames[-1:])  # one more is quantised, so SSIM may differ
    both = measure(copy_b, scenes), measure_method(last, scenes)
    assert np.allclose(both[0]["ssim"], both[1]["ssim"], atol=0.01) and len(both[0]) == 2


def test_linearity_is_told_from_saturation(pictures):
    frame = pd.DataFrame({"wanted": np.tile(np.arange(1.0, 11), 2)})
    straight = fig2_linearity.summary(frame.assign(measured=0.9 * frame["wanted"]))
    assert straight == pytest.approx({"slope": 0.9, "r2": 1.0, "farthest": 9.0, "until": 10.0})
    bent = fig2_linearity.summary(frame.assign(measured=frame["wanted"].clip(upper=3.0)))
    assert bent["until"] == 3.0 and bent["slope"] < 0.5 and bent["r2"] < 0.7
    copying = fig2_linearity.measured(Seen((0.0, 1.0), lambda frames, factor: frames[1:]), pictures, 96, 1)
    assert np.allclose(copying["measured"], copying["motion"], atol=0.05)
    true = fig2_linearity.measured(None, pictures, 96, 1)
    assert np.allclose(true["measured"], true["wanted"], atol=0.1)


def test_a_vibration_is_judged_by_what_is_known_of_it(vibration):
    assert fig19_vibration.clip(128, 96, 32) is vibration
    true = fig19_vibration.judged(vibration.target, vibration)
    assert true.hz == pytest.approx(21.0, abs=0.05) and true.amplitude == pytest.approx(1.0, abs=0.03)
    assert true.ringing < 0.02 and true.flicker == 0 and true.ssim == pytest.approx(1.0)
    still = fig19_vibration.judged(vibration.frames, vibration)
    assert still.amplitude == pytest.approx(1 / 20, abs=0.01) and still.flicker > 1
    t = np.arange(32)[:, None, None, None]
    ring = 20 * np.sin(2 * np.pi * 21 * t / 100) * ~vibration.object[None, ..., None]
    ringing = fig19_vibration.judged((vibration.target + ring).clip(0, 255).astype(np.uint8), vibration)
    assert ringing.ringing > 0.2


def test_sharpness_and_flicker_are_those_of_the_clip_itself_where_it_is_copied():
    frames, target = fig14_slices.rendered(48, 28)
    assert frames.shape == target.shape == (28, 48, 48, 3)
    same = fig14_slices.numbers(frames, frames, target)
    assert same["sharp"] == same["flicker"] == 1 and same["ssim"] < 0.99
    blurred = (frames.astype(int) + np.roll(frames, 1, axis=2) + np.roll(frames, 2, axis=2)) // 3
    assert fig14_slices.numbers(blurred.astype(np.uint8), frames, None)["sharp"] < 0.95
    assert fig14_slices.numbers(target, frames, target)["flicker"] > 2


def test_clips_that_are_not_there_are_left_out_and_slices_drawn(tmp_path):
    from archlab.experiments.study import Scratch

    (tmp_path / "videos").mkdir()
    save_video(fig14_slices.rendered(192, 80)[0], tmp_path / "videos" / "bigbuckbunny.mp4", 25)
    rows = []
    for row in (fig14_slices.ROWS[0], next(row for row in fig14_slices.ROWS if row["name"] == "linear")):
        folder = tmp_path / row["name"]
        folder.mkdir()
        rows.append({"row": row["name"], **fig14_slices.cell(row, "smoke", 0, Scratch(folder, data=tmp_path))})
    assert list(rows[0]["clips"]) == ["rendered", "bunny"] and rows[0]["clips"]["bunny"]["sharp"] == 1
    assert imread(tmp_path / "linear" / "rendered.png").shape[:2] == (12, 64)
    fig14_slices.report(made_up(rows, {row["row"]: str(tmp_path / row["row"]) for row in rows}), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "bunny: 5, the motion away from the frame before" in text and "baby" not in text
    assert (tmp_path / "slices.png").exists()


def test_reports_draw_what_their_rows_hold(tmp_path, vibration):
    found = [{"photo": 0, "motion": d, "factor": far / d, "wanted": far, "measured": far}
             for d in fig2_linearity.MOTIONS for far in (5.0, 10.0)]  # fmt: skip
    about = {"size": 48, "photos": 1, "val_data": "samples", "points": found}
    fig2_linearity.report(made_up([{"row": row["name"], **about} for row in fig2_linearity.ROWS]), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "baseline (learned) 1.000" in text and (tmp_path / "curves.png").exists()
    curve = [{**p._asdict(), "ssim": 0.5, "sd": 0.1} for p in points()]
    about = {"size": 48, "scenes": 1, "val_data": "samples", "points": curve}
    fig17_subpixel.report(made_up([{"row": row["name"], **about} for row in fig17_subpixel.ROWS]), tmp_path)
    assert len(pd.read_csv(tmp_path / "points.csv")) == 9 * 57
    true = vars(fig19_vibration.judged(vibration.target, vibration))
    rows, folders = [], {}
    for row in fig19_vibration.ROWS:
        folder = tmp_path / row["name"]
        folder.mkdir()
        for name in ("input", "target", row["name"]):
            np.save(folder / f"{name}.npy", vibration.frames[:, :, 50].transpose(1, 0, 2))
        folders[row["name"]] = str(folder)
        rows.append({"row": row["name"], "frames": 32, "width": 128, "height": 96, "tracker": true, **true})
    fig19_vibration.report(made_up(rows, folders), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "proposed (learned): 21.00 Hz, within 0.1 Hz; amplitude" in text and (tmp_path / "slices.png").exists()


def test_times_of_the_parts_and_of_the_whole(tmp_path):
    save_video(real_time.swaying(64, 48, 4), tmp_path / "in.mp4", 25)
    found = real_time.times("linear", tmp_path / "in.mp4", tmp_path)
    assert set(found) == {"decode_ms", "magnify_ms", "encode_ms", "overlapped_fps"}
    assert all(value > 0 for value in found.values()) and (tmp_path / "out.mp4").exists()
    quick = dict.fromkeys(("decode_ms", "magnify_ms", "encode_ms"), 30.0)
    times = [{"width": w, "height": h, "frames": 3, **found, **quick} for w, h in real_time.SIZES["cpu"]]
    real_time.report(made_up([{"row": row["name"], "times": times, "on": "a CPU"} for row in real_time.ROWS]), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "25 frames a second or more: baseline (learned) at 640 x 360" in text and (tmp_path / "fps.png").exists()


@pytest.mark.parametrize("module", [tracking, fig19_vibration])
def test_the_examples(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
