"""The magnifier by its command: files of weights, videos in and out, and what is stopped, broken or wrong."""

import runpy
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from skimage.io import imread

import archlab as al
from studies.motion.network import models
from studies.motion.network.models import Config, MagnificationNet, baseline
from studies.motion.network.weights import DESIGNS, network
from studies.motion.video.magnifier import magnify
from studies.motion.video.reading import frames, look
from studies.motion.video.writing import save_video

from .clips import CPU, assert_within, clip, plain


def test_a_file_of_weights_says_which_network_it_is(tmp_path):
    for design in DESIGNS:
        net = MagnificationNet(replace(design, width=4))
        save_model(net, str(tmp_path / "net.safetensors"))
        again = network(str(tmp_path / "net.safetensors"))
        assert again.config == net.config
        assert torch.equal(again.decoder.conv1.weight, net.decoder.conv1.weight)
        al.save(net, tmp_path / "by_archlab.safetensors")  # its recipe holds no pass
        assert network(str(tmp_path / "by_archlab.safetensors")).config == net.config


def test_a_network_thinned_by_archlab_magnifies(tmp_path):
    image = torch.zeros(1, 3, 32, 32)
    thin = al.remove(baseline(), (image, image, 2.0), kinds="block", where="encoder*")
    al.save(thin, tmp_path / "thin.safetensors")
    net = network(str(tmp_path / "thin.safetensors"))
    assert sum(p.numel() for p in net.parameters()) < 900_000
    video = clip(2, 32, 32)
    for fast, wanted in zip(magnify(net, video, factor=5, **CPU), plain(thin, video, 5.0), strict=True):
        assert_within(1e-4, fast, wanted)


def test_thinned_networks_are_found_at_any_width_and_compact_is_one(tmp_path):
    image = torch.zeros(1, 3, 32, 32)
    thin = al.remove(baseline(width=8), (image, image, 2.0), kinds="block", where="encoder*")
    al.save(thin, tmp_path / "thin.safetensors")
    assert network(str(tmp_path / "thin.safetensors")).config.width == 8
    narrow = al.scale_width(baseline(), (image, image, 2.0), ratio=0.25)
    al.save(narrow, tmp_path / "narrow.safetensors")
    again = network(str(tmp_path / "narrow.safetensors"))
    assert torch.equal(again.decoder.conv1.weight, narrow.decoder.conv1.weight)
    compact = network("compact")
    assert sum(p.numel() for p in compact.parameters()) == 184_763
    (shown,) = magnify(compact, clip(1, 32, 32), factor=5, **CPU)
    assert shown.shape == (32, 32, 3)


def test_weights_that_are_none_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "PRETRAINED_PROPOSED", tmp_path / "proposed.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"weights of the proposed network are not in this checkout \(.*proposed"
    ):
        network("proposed")
    with pytest.raises(FileNotFoundError, match="basline: no such file, and none of baseline, proposed, compact"):
        network("basline")
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 9)
    with pytest.raises(ValueError, match=r"junk\.safetensors cannot be read as safetensors"):
        network(str(tmp_path / "junk.safetensors"))
    save_file({"x": torch.zeros(1)}, tmp_path / "recipe.safetensors", {"recipe": "{"})
    with pytest.raises(ValueError, match=r"recipe\.safetensors cannot be read as safetensors: .*recipe"):
        network(str(tmp_path / "recipe.safetensors"))
    save_model(torch.nn.Linear(2, 2), str(tmp_path / "linear.safetensors"))
    with pytest.raises(ValueError, match=r"linear\.safetensors holds the weights of no magnification network"):
        network(str(tmp_path / "linear.safetensors"))


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs ``python -m studies.motion.magnify WORDS`` in this process, in a folder of its own; its exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["magnify", *map(str, words)])
        with pytest.raises(SystemExit) as stopped, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
            runpy.run_module("studies.motion.magnify", run_name="__main__")
        return stopped.value.code

    run.folder = tmp_path
    return run


def test_the_command_line_magnifies_a_part_of_a_video(command, capsys):
    net = MagnificationNet(Config(width=4))
    save_model(net, "net.safetensors")
    save_video(clip(20), "in.mp4", 10)
    window = ("--start", 0.5, "--end", 1.2, "--model", "net.safetensors")
    assert command("in.mp4", "out.mp4", "--factor", 5, "--device", "cpu", "--precision", "fp32", *window) == 0
    said = capsys.readouterr()
    assert "out.mp4: 7 frames" in said.out and "magnify 7/7" in said.err
    assert look("out.mp4").rate == 10
    wanted = magnify(net, frames("in.mp4", start=0.5, end=1.2), factor=5, **CPU)
    for image, written in zip(wanted, frames("out.mp4"), strict=True):
        assert np.abs(image.astype(int) - written).mean() < 3


@pytest.mark.parametrize(
    "words, said",
    [
        (("absent.mp4", "out.mp4"), "absent.mp4: no such file"),
        (("in.mp4", "in.mp4"), "in.mp4: the output would overwrite the input while it is read"),
        (("in.mp4", "out.gif"), "out.gif: a video is written as .mp4, .mov, .mkv, not as '.gif'"),
        (("in.mp4", "nowhere/out.mp4"), "nowhere/out.mp4: its folder is not there"),
        (("in.mp4", "out.mp4", "--factor", "0"), "factor must be positive and finite, got 0.0"),
        (
            ("in.mp4", "out.mp4", "--mode", "iir"),
            "mode iir needs a band in Hz, its lower and upper edge, and the rate of capture",
        ),
        (
            ("in.mp4", "out.mp4", "--mode", "butter", "--band", "1", "5"),
            "a band must satisfy 0 < low < high < 5 Hz, half of 10 frames a second; got 1 to 5 Hz. The rate is that of "
            "capture, which a slowed video does not play at",
        ),
        (
            ("in.mp4", "out.mp4", "--model", "absent"),
            "absent: no such file, and none of baseline, proposed, compact, lightweight, linear, phase, riesz, "
            "acceleration, jerk",
        ),
        (("in.mp4", "out.mp4", "--factor", "-2", "--model", "phase"), "factor must be positive and finite, got -2.0"),
        (
            ("in.mp4", "out.mp4", "--model", "jerk", "--mode", "fir", "--band", "1", "2"),
            "model jerk has a filter of its own, and neither mode nor drift: leave them out",
        ),
        (
            ("in.mp4", "out.mp4", "--model", "acceleration"),
            "model acceleration needs a band in Hz about the motion to be seen, and the rate of capture",
        ),
        (
            ("in.mp4", "out.mp4", "--model", "riesz", "--precision", "bf16"),
            "model riesz runs eagerly in single precision; for a network only: precision bf16",
        ),
        (
            ("in.mp4", "out.mp4", "--model", "linear", "--axis", "0"),
            "model linear does not tell axes apart, got axis 0: use phase, riesz, acceleration, jerk",
        ),
        (("in.mp4", "out.mp4", "--device", "gpu"), "device must be a cpu or cuda device, got 'gpu'"),
        (
            ("in.mp4", "out.mp4", "--model", "linear", "--mask", "0", "0", "5", "0"),
            "mask must be left, top, width and height of a box in pixels, got (0, 0, 5, 0)",
        ),
        (
            ("in.mp4", "out.mp4", "--model", "linear", "--mask", "40", "0", "20", "9"),
            "mask 40 0 20 9 (left, top, width, height) does not lie in frames of 56 x 40 pixels",
        ),
        (
            ("in.mp4", "out.mp4", "--model", "linear", "--slice", "40"),
            "slice must be a row of the frames, 0 to 39, got 40",
        ),
    ],
)
def test_the_command_line_says_in_a_line_what_is_wrong(command, capsys, words, said):
    save_video(clip(2), "in.mp4", 10)
    assert command(*words) == 2
    assert capsys.readouterr().err == f"magnify: {said}\n"
    assert len(list(frames("in.mp4"))) == 2 and len(list(Path.cwd().iterdir())) == 1


@pytest.mark.parametrize("model", ["linear", "phase", "riesz", "acceleration", "jerk"])
def test_the_command_line_has_the_classical_methods_side_by_side_with_the_input(command, model):
    save_video(clip(9), "in.mp4", 10)
    options = ("--band", 1, 3) if model in ("acceleration", "jerk") else ("--mode", "fir", "--band", 2, 3)
    shown = ("--side-by-side", "--slice", 7, "--device", "cpu")
    assert command("in.mp4", "out.mp4", "--factor", 5, "--model", model, *options, *shown) == 0
    written, given = list(frames("out.mp4")), list(frames("in.mp4"))
    assert len(written) == 9 and written[0].shape == (40, 112, 3)
    left = np.array([image[:, :56] for image in written]).astype(int)
    assert np.abs(left - np.array(given)).mean() < 4 < np.abs(left[1:] - np.array(given)[:-1]).mean()
    picture = imread("out.png")[..., :3]
    assert picture.shape == (9, 112, 3)
    assert np.abs(picture.astype(int) - [image[7] for image in written]).mean() < 5


CLIPS = """
from pathlib import Path

from studies.motion.magnify import main

PRESETS = ("smoke",)
ROWS = [{"name": "first", "model": "net.safetensors"}, {"name": "second", "model": "phase"}]


def cell(row, preset, seed, scratch):
    out = scratch.folder / "out.mp4"
    main(f"{row['name']}.mp4", out, model=row["model"], mode="fir", band=(1, 3), device="cpu", precision="fp32")
    return {"video": str(out)}


def report(rows, folder):
    pass
"""


def test_two_clips_magnified_by_workers_at_once_are_the_files_of_one_process(tmp_path, monkeypatch):
    """As rows of a study, one by a network and one by a classical method, both with a filter that has a memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("study_of_clips.py").write_text(CLIPS)
    save_model(MagnificationNet(Config(width=4)), "net.safetensors")
    for number, name in enumerate(("first", "second")):
        save_video(clip(6 - number, 40, 40 + 8 * number), f"{name}.mp4", 10)
    videos = []
    for workers in (2, 0):
        rows = al.run("study_of_clips", preset="smoke", workers=workers, out=f"out{workers}", scratch=f"by{workers}")
        assert rows.attrs["missing"] == {}, [log.read_text() for log in Path().glob("by*/*/*/*/log.txt")]
        videos.append([Path(video).read_bytes() for video in rows["video"]])
    assert videos[0] == videos[1] and videos[0][0] != videos[0][1]
    assert [len(list(frames(video))) for video in rows["video"]] == [6, 5]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_what_is_stopped_leaves_a_video_that_plays(command, capsys, monkeypatch, stop):
    save_video(clip(30), "in.mp4", 10)

    def stopping(*args, **kwargs):
        for number, frame in enumerate(frames(*args, **kwargs)):
            if number == 20:  # in the thread that decodes, which is a few frames ahead
                signal.raise_signal(stop)
            yield frame

    monkeypatch.setattr("studies.motion.video.reading.frames", stopping)
    before = signal.getsignal(signal.SIGTERM)
    of_caller = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs behind a shell may ignore it
    try:
        assert command("in.mp4", "out.mp4", "--model", "linear", "--slice", 3) == 130
    finally:
        signal.signal(signal.SIGINT, of_caller)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == before
    written = len(list(frames(command.folder / "out.mp4")))
    assert 10 < written < 30 and len(imread(command.folder / "out.png")) == written
    assert capsys.readouterr().err.endswith(f"magnify: stopped; out.mp4 shows the {written} frames before\n")


@pytest.mark.parametrize("name", ["broken.mp4", "cut.mkv"])
def test_a_video_that_is_broken_or_cut_off_is_magnified_up_to_there(command, capsys, name):
    """Without its end an .mp4 has no index and is no video; decoders see no fault in an .mkv."""
    save_video(np.random.default_rng(0).integers(0, 256, (30, 48, 48, 3), np.uint8), name, 10)
    data = Path(name).read_bytes()
    half, later = len(data) // 2, len(data) * 6 // 10
    Path(name).write_bytes(data[:half] + (bytes(later - half) + data[later:] if name == "broken.mp4" else b""))
    status, said = command(name, "out.mp4", "--model", "linear"), capsys.readouterr().err
    done = len(list(frames("out.mp4")))
    assert 9 < done < 25
    if name == "broken.mp4":
        assert status == 2 and "broken.mp4 is broken: decoding fails after" in said
        assert said.endswith(f"; out.mp4 shows the {done} frames before\n")
    else:
        assert status == 0 and said.endswith(f"cut.mkv holds {done} frames and says about 30: it may be cut off\n")
