"""What frames come from and go to: pipes, cameras, threads; sound that is taken along."""

import doctest
import io
import sys
import threading
import time
from fractions import Fraction
from itertools import count, islice
from types import SimpleNamespace

import av
import numpy as np
import pytest

from studies.motion import magnification as all_models
from studies.motion import magnify
from studies.motion.magnification import magnification
from studies.motion.video import inputs, overlap
from studies.motion.video.overlap import ahead
from studies.motion.video.reading import frames
from studies.motion.video.sound import Sound
from studies.motion.video.writing import save_video
from tests.studies.motion.test_video import far, waves

OPTIONS = {"model": "linear", "factor": 4.0, "device": "cpu"}


def tone(path, codec, seconds=2.0, rate=48000):
    """Waves of colour at 25 frames a second, and a tone whose loudness rises, so that its place can be told."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25)
        picture.height, picture.width, picture.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream(codec, rate=rate, layout="mono")
        for image in waves(round(25 * seconds)):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode())
        t = np.arange(round(seconds * rate)) / rate
        wave = (32000 * t / seconds * np.sin(2 * np.pi * 440 * t)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format=sound.codec_context.format, rate=rate, frame_size=sound.frame_size or 1024)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(sound.encode(part))
        container.mux(sound.encode())
    return path


def loudness(path, at):
    """How loud the sound of a file is, 1 at the end of `tone`, about second `at` of the file."""
    with av.open(str(path)) as container:
        found = [(float(f.pts * f.time_base), np.abs(f.to_ndarray()).max()) for f in container.decode(audio=0)]
        top = 1.0 if container.streams.audio[0].codec_context.format.name.startswith("flt") else 32768
    return min(found, key=lambda one: abs(one[0] - at))[1] / top


@pytest.mark.parametrize("ending, codec", [("mp4", "aac"), ("mkv", "aac"), ("mkv", "pcm_s16le")])
def test_sound_is_copied_and_stays_in_step(tmp_path, ending, codec):
    path, out = tone(tmp_path / f"in.{ending}", codec), tmp_path / f"out.{ending}"
    save_video(frames(path, start=1.0, end=1.6), out, 25, sound=Sound(path, 1.0))
    with av.open(str(out)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert container.duration / av.time_base == pytest.approx(0.6, abs=0.06)
    assert len(list(frames(out))) == 15
    for second in (0.1, 0.5):
        assert loudness(out, second) == pytest.approx((1 + second) / 2, abs=0.04)


def test_the_command_keeps_the_sound_or_says_what_it_left_out(tmp_path, capsys):
    path = tone(tmp_path / "in.mkv", "pcm_s16le")
    with av.open(str(tmp_path / "strange.mkv"), "w") as container:  # which an .mp4 cannot hold
        picture = container.add_stream("libx264", rate=25)
        picture.height, picture.width, picture.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("wavpack", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16p", layout="mono")
        frame.rate = 8000
        container.mux([*sound.encode(frame), *sound.encode()])
        for image in waves(5):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode())
    magnify.main(str(path), tmp_path / "out.mkv", model="linear", device="cpu", end=0.2)
    assert "left out" not in capsys.readouterr().err
    magnify.main(str(tmp_path / "strange.mkv"), tmp_path / "silent.mp4", model="linear", device="cpu")
    assert ".mp4 holds no sound of wavpack: left out" in capsys.readouterr().err
    for name, kinds in (("out.mkv", ["video", "audio"]), ("silent.mp4", ["video"])):
        with av.open(str(tmp_path / name)) as container:
            assert [stream.type for stream in container.streams] == kinds


@pytest.fixture
def pipes(monkeypatch):
    def set_up(given: bytes):
        class OneWay(io.BytesIO):
            def seekable(self):
                return False

            def close(self):
                pass

        ends = OneWay(given), OneWay()
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=ends[0]))
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=ends[1], write=None))
        return ends

    return set_up


@pytest.mark.parametrize("size", [(48, 64), (47, 61)])
def test_a_pipe_is_read_and_written(tmp_path, pipes, capsys, size):
    clip = waves(6, *size)
    _, out = pipes(b"")
    assert save_video(clip, "-", Fraction(30000, 1001)) == 6
    piped = out.getvalue()
    assert piped.startswith(f"YUV4MPEG2 W{size[1]} H{size[0]} F30000:1001 ".encode())
    _, out = pipes(piped)
    given = inputs.opened("-")
    assert given.rate == Fraction(30000, 1001) and given.expected is None and given.sound is None
    assert far(list(given.frames), clip) < 3
    _, out = pipes(piped)
    magnify.main("-", magnify.Path("-"), factor=4.0, model="linear", device="cpu")
    (tmp_path / "out.y4m").write_bytes(out.getvalue())
    wanted = list(magnification(clip, **OPTIONS))
    assert far(list(frames(tmp_path / "out.y4m")), wanted) < 4
    assert "-: 6 frames" in capsys.readouterr().err
    pipes(b"this is no video")
    with pytest.raises(ValueError, match="standard input cannot be read as a video"):
        inputs.opened("-")


class Camera:
    """OpenCV's camera, of which two are there; the second gives nothing."""

    released = 0

    def __init__(self, name):
        self.name, self.left = name, {0: 20, "/dev/video7": 0}.get(name, 0)

    def isOpened(self):
        return self.name in (0, "/dev/video7")

    def get(self, what):
        return 10.0 if what == "rate" else 0.0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((48, 64, 3), (200, 20, 20 + self.left), np.uint8)  # blue, green, red

    def release(self):
        Camera.released += 1


def test_a_camera_is_asked_by_number_or_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Camera, CAP_PROP_FPS="rate"))
    given = inputs.opened("camera:0", start=0.5, end=1.5)
    assert given.rate == 10 and given.expected == 10
    assert [image[0, 0].tolist() for image in given.frames] == [[34 - n, 20, 200] for n in range(10)]
    assert len(list(inputs.opened("camera:0").frames)) == 20 and Camera.released
    magnify.main("camera:0", tmp_path / "out.mp4", model="linear", device="cpu", end=0.5)
    assert len(list(frames(tmp_path / "out.mp4"))) == 5
    with pytest.raises(FileNotFoundError, match="camera:1: there is no such camera"):
        inputs.opened("camera:1")
    with pytest.raises(ValueError, match="camera:/dev/video7: the camera is there and gives no picture"):
        list(inputs.opened("camera:/dev/video7").frames)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match="camera:0: cameras are read through OpenCV, which is not installed: pip"):
        inputs.opened("camera:0")


def test_items_are_made_ahead_in_another_thread_and_no_more_than_are_wanted():
    made, threads = [], set()

    def numbers():
        try:
            for number in count():
                threads.add(threading.current_thread())
                made.append(number)
                yield number
        finally:
            made.append("closed")

    items = ahead(numbers(), depth=3)
    assert made == [], "nothing is made before the first is asked for"
    assert list(islice(items, 5)) == [0, 1, 2, 3, 4]
    deadline = time.monotonic() + 5
    while len(made) < 9 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert made == list(range(9)), "three wait, and one is in the hands of the thread"
    items.close()
    assert made[-1] == "closed" and threading.current_thread() not in threads


def test_what_fails_ahead_is_raised_after_the_items_before_it():
    def failing():
        yield from range(3)
        raise OSError("broken")

    got = []
    with pytest.raises(OSError, match="broken"):
        got.extend(number for number in map(got.append, ahead(failing())) if False)
    assert got == [0, 1, 2]
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        ahead([1], depth=0)


@pytest.mark.parametrize("model", ["phase", "riesz", "acceleration"])
def test_motion_along_an_axis_is_magnified_and_none_across(model, photo):
    """Moved to the right and up by a quarter of a pixel each: what comes out has moved four times as far one way."""
    moved = 3 if model == "acceleration" else 1  # the frame
    clip = [photo(0.25 * (n == moved), 0.25 * (n == moved)) for n in range(2 * moved)]
    band = {"band": (1.0, 4.0), "rate": 10} if model == "acceleration" else {}

    def gains(axis):
        """By how many pixels it has moved further than the frame, to the right and up."""
        image = list(magnification(clip, model=model, factor=4, axis=axis, device="cpu", **band))[moved]
        return further(clip[moved], image)

    whole = gains(None)
    assert min(whole) > 0.25
    for axis, shares in ((0, (1, 0)), (90, (0, 1)), (45, (1, 1)), (225, (1, 1)), (135, (0, 0)), (-45, (0, 0))):
        assert gains(axis) == pytest.approx(whole * np.array(shares), abs=0.12), axis


def further(frame, image):
    """How far `image` has moved from `frame`, to the right and up, in pixels: by least squares over the slopes."""
    y, x = np.gradient(frame.astype(float).mean(axis=2))
    change = (image.astype(float) - frame).mean(axis=2)
    a, b, c = (part[12:-12, 12:-12].ravel() for part in (x, y, change))
    right, down = np.linalg.lstsq(np.stack([-a, -b], axis=1), c, rcond=None)[0]
    return np.array([right, -down])


@pytest.fixture(scope="module")
def photo():
    """A photo moved to the right and up by so many pixels, 96 x 96 x 3."""
    import torch
    from skimage.data import astronaut

    from studies.motion.data.layers import Layer, draw_layer

    layer = Layer(torch.tensor(astronaut()).permute(2, 0, 1), 4.0, np.full(2, -16.0), np.zeros(2), 1.0)

    def moved(right, up):
        drawn = draw_layer(layer, np.array([[-up, right]]), 96)[0, :3].clamp(0, 1)
        return (drawn.permute(1, 2, 0) * 255).round().byte().numpy()

    return moved


def test_outside_a_mask_frames_are_as_they_were():
    clip = waves(4)
    whole = list(magnification(clip, **OPTIONS))
    shown = list(magnification(clip, **OPTIONS, mask=(10, 5, 30, 30)))
    for still, magnified, image in zip(clip, whole, shown, strict=True):
        outside = np.ones(still.shape[:2], bool)
        outside[5:35, 10:40] = False
        assert np.array_equal(image[outside], still[outside])
        assert np.array_equal(image[13:27, 18:32], magnified[13:27, 18:32])
    assert not np.array_equal(shown[-1][13:27, 18:32], clip[-1][13:27, 18:32])


def test_a_mask_is_in_step_with_a_filter_that_waits():
    clip = waves(9)
    options = OPTIONS | {"mode": "fir", "band": (5, 10), "rate": 25}
    shown = list(magnification(clip, **options, mask=(0, 0, 20, 20)))
    assert all(np.array_equal(image[20:], still[20:]) for image, still in zip(shown, clip, strict=True))


@pytest.mark.parametrize("axis", [float("nan"), float("inf")])
def test_an_axis_is_an_angle(axis):
    with pytest.raises(ValueError, match="axis must be an angle in degrees"):
        magnification(waves(1), model="phase", factor=2, axis=axis)


@pytest.mark.parametrize("module", [all_models, overlap, inputs])
def test_the_examples(module):
    assert not doctest.testmod(module).failed


def clip(path, times, shape=None, transfer=None):
    """Grey frames at these seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if shape is not None:
            stream.codec_context.sample_aspect_ratio = shape
        if transfer is not None:
            stream.codec_context.color_trc = transfer
        for second in times:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * second), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_frames_at_uneven_times_last_as_long_as_they_did(tmp_path, ending):
    uneven = [n / 30 for n in range(60)] + [2 + n / 10 for n in range(60)]
    given = inputs.opened(clip(tmp_path / f"in{ending}", uneven))
    assert float(given.rate) == pytest.approx(119 / 7.9, rel=0.03) and abs(given.expected - 120) <= 2
    even = inputs.opened(clip(tmp_path / f"even{ending}", [n / 30 for n in range(9)]))
    assert float(even.rate) == pytest.approx(30, rel=0.01)


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_pixels_keep_their_shape(tmp_path, ending):
    path, out = clip(tmp_path / f"in{ending}", [0, 1 / 30, 2 / 30], Fraction(4, 3)), tmp_path / f"out{ending}"
    magnify.main(str(path), out, **OPTIONS)
    assert inputs.opened(out).shape == Fraction(4, 3)


def test_hdr_is_named(tmp_path, capsys):
    path = clip(tmp_path / "in.mp4", [0, 1 / 30], transfer=18)
    magnify.main(str(path), tmp_path / "out.mp4", **OPTIONS)
    assert "in.mp4 is HDR (HLG)" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["phase", "riesz"])
def test_what_has_no_texture_is_left_as_it_is_along_an_axis(model):
    flat = np.full((2, 48, 64, 3), 128, np.uint8)
    shown = np.stack(list(magnification(flat, model=model, factor=5.0, axis=0.0, device="cpu")))
    assert far(shown, flat) <= 1


@pytest.mark.parametrize("hertz", [1.0, 7.4])
def test_a_sway_in_the_middle_of_the_band_is_shown_at_its_factor(hertz):
    x, t = np.arange(64), np.arange(90)[:, None, None]
    sway = 0.1 * np.sin(2 * np.pi * hertz / 30 * t)

    def wave(shift):
        return np.broadcast_to(128 + 60 * np.sin(2 * np.pi * (x - shift) / 8), (90, 32, 64))

    given = np.repeat(wave(sway).round().astype(np.uint8)[..., None], 3, axis=-1)
    band = (0.8 * hertz, 1.2 * hertz)
    shown = np.stack(list(magnification(given, model="acceleration", factor=8.0, band=band, rate=30, device="cpu")))
    middle = slice(45, 60)
    error = np.abs(shown[middle, 8:24, 16:48, 0] - wave(8 * sway)[middle, 8:24, 16:48]).mean()
    assert error < 0.25 * np.abs(wave(8 * sway) - wave(0 * sway))[middle].mean()
