"""Videos in and out: colours, sizes, time, rotation, and errors that name the file."""

import doctest
import struct
from fractions import Fraction
from itertools import chain, islice, pairwise

import av
import numpy as np
import pytest
from av.stream import Disposition

from studies.motion.video import reading
from studies.motion.video.reading import frames, look, xt_slice
from studies.motion.video.writing import save_video


def waves(count=30, height=48, width=64):
    """Smooth frames with a little colour, all different."""
    y, x = np.mgrid[:height, :width]
    steps = [
        np.stack([128 + 90 * np.sin(x / 9 + t + 0.2 * c) * np.cos(y / 11) for c in range(3)], axis=-1)
        for t in range(count)
    ]
    return np.stack(steps).round().astype(np.uint8)


def written(path, clip, rate=25, codec="libx264", options=None):
    """`clip` written without the code under test: a key frame every fifth, B-frames between."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"g": "5", "crf": "10"})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def far(images, others):
    assert len(images) == len(others)
    return max(np.abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(images, others, strict=True))


@pytest.mark.parametrize("size", [(48, 64), (47, 61)])
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_what_is_written_is_read_again(tmp_path, size, ending):
    clip = waves(30, *size)
    path = tmp_path / f"clip{ending}"
    assert save_video(iter(clip), path, Fraction(30000, 1001)) == 30
    again = list(frames(path))
    assert again[0].shape == (*size, 3) and again[0].dtype == np.uint8
    assert far(again, clip) < 3
    assert far(again[1:], clip[:-1]) > 20  # so order matters to the line above
    said = look(path)
    assert said.rate == pytest.approx(30000 / 1001, rel=1e-3)
    assert said.expected() == 30 and said.expected(0.4, 0.8) == 12


@pytest.mark.parametrize("colour", [(200, 30, 30), (30, 200, 30), (30, 30, 200), (255, 255, 255), (0, 0, 0)])
def test_colours_stay_and_their_space_is_written(tmp_path, colour):
    save_video(np.full((3, 32, 32, 3), colour, np.uint8), tmp_path / "flat.mp4", 25)
    with av.open(str(tmp_path / "flat.mp4")) as container:
        picture = next(container.decode(video=0))
        codec = container.streams.video[0].codec_context
        tags = codec.colorspace, codec.color_range, codec.color_primaries, codec.color_trc
        assert tags == (1, 1, 1, 1)  # BT.709, its primaries and transfer function; levels 16 to 235
        red, green, blue = (value / 255 for value in colour)
        luma = 16 + 219 * (0.2126 * red + 0.7152 * green + 0.0722 * blue)
        assert np.frombuffer(picture.planes[0], np.uint8)[0] == pytest.approx(luma, abs=2)
    assert far(list(frames(tmp_path / "flat.mp4")), [np.array(colour)] * 3) < 3


def test_the_rate_is_kept_exactly(tmp_path):
    for rate, kept in ((Fraction(30000, 1001), Fraction(30000, 1001)), (29.97, Fraction(2997, 100)), (24, 24)):
        save_video(waves(4), tmp_path / "clip.mp4", rate)
        assert look(tmp_path / "clip.mp4").rate == kept


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "h264"])
def test_windows_cut_a_video_into_its_frames(tmp_path, ending):
    path = written(tmp_path / f"clip.{ending}", waves(30))
    whole = list(frames(path))
    assert far(whole, waves(30)) < 3
    cuts = [0.0, 0.2, 0.24, 0.5, 0.77, None]  # of a frame, between frames, on a key frame, at none
    parts = [list(frames(path, start=a or 0.0, end=b)) for a, b in pairwise(cuts)]
    assert [len(part) for part in parts] == [5, 1, 7, 7, 10]
    assert all(np.array_equal(a, b) for a, b in zip(whole, chain(*parts), strict=True))


@pytest.fixture
def damaged(tmp_path):
    """30 frames at 25 a second, zeros where the sixth of ten parts of the file was."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8)
    path = written(tmp_path / "clip.mp4", noise)
    raw = path.read_bytes()
    begin, end = len(raw) // 2, len(raw) * 6 // 10
    path.write_bytes(raw[:begin] + bytes(end - begin) + raw[end:])
    return path


def test_frames_are_decoded_as_they_are_asked_for_and_a_broken_file_is_named(damaged):
    reader = frames(damaged)
    assert len(list(islice(reader, 3))) == 3
    with pytest.raises(ValueError, match=r"clip\.mp4 is broken: decoding fails after \d+ frames: Invalid data"):
        list(reader)


def test_what_lies_before_a_window_is_not_decoded(damaged):
    assert len(list(frames(damaged, start=1.0))) == 5


# Where a phone held upright says that its frames, taken sideways, go: right becomes down, down becomes left.
CLOCKWISE = (0, 1, 0, -1, 0, 0, 0, 0, 16384)


@pytest.mark.parametrize("matrix, turns", [(CLOCKWISE, -1), ((-1, 0, 0, 0, -1, 0, 0, 0, 16384), 2)])
def test_a_rotated_video_comes_upright(tmp_path, matrix, turns):
    clip = waves(3)
    path = tmp_path / "clip.mp4"
    save_video(clip, path, 25, shape=Fraction(4, 3))
    raw = bytearray(path.read_bytes())
    place = raw.index(b"tkhd") + 44  # the track header's matrix, 16.16 fixed point
    assert struct.unpack(">9i", raw[place : place + 36])[::4] == (65536, 65536, 2**30), "the matrix is elsewhere"
    raw[place : place + 36] = struct.pack(">9i", *(value << 16 for value in matrix))
    path.write_bytes(raw)
    assert far(list(frames(path)), [np.rot90(image, turns) for image in clip]) < 3
    assert look(path).shape == (Fraction(3, 4) if turns % 2 else Fraction(4, 3)), "that of the pixels as they are shown"


def test_what_is_no_video_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4: no such file"):
        frames(tmp_path / "absent.mp4")
    (tmp_path / "junk.mp4").write_bytes(b"this is no video" * 50)
    (tmp_path / "empty.mp4").touch()
    for name in ("junk.mp4", "empty.mp4", ""):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a video: "):
            frames(tmp_path / name)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        silence.rate = 8000
        container.mux(stream.encode(silence))
    for ask in (frames, look):
        with pytest.raises(ValueError, match=r"sound\.wav holds no video: audio was found in it"):
            ask(tmp_path / "sound.wav")


def test_a_window_without_frames_is_an_error(tmp_path):
    path = written(tmp_path / "clip.mp4", waves(10))
    for start, end in ((-1, None), (0.2, 0.2), (0, 0), (float("nan"), None)):
        with pytest.raises(ValueError, match="start must be at least 0 and before end"):
            frames(path, start=start, end=end)
    with pytest.raises(ValueError, match=r"clip\.mp4: no frame lies between seconds 3 and inf"):
        list(frames(path, start=3))


def test_what_cannot_be_written_is_said(tmp_path):
    clip = waves(3)
    with pytest.raises(ValueError, match=r"clip\.avi: a video is written as \.mp4, \.mov, \.mkv, not as '\.avi'"):
        save_video(clip, tmp_path / "clip.avi", 25)
    for fps in (0, -25, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"fps must be at least 0\.001, got"):
            save_video(clip, tmp_path / "clip.mp4", fps)
    with pytest.raises(ValueError, match=r"clip\.mp4: there is no frame to write"):
        save_video([], tmp_path / "clip.mp4", 25)
    for wrong, words in (
        (clip / np.float32(255), "float32, 48 x 64 x 3 as frame 0"),
        (clip[..., 0], "uint8, 48 x 64 as"),
    ):
        with pytest.raises(ValueError, match=f"a frame must be uint8, H x W x 3, got {words}"):
            save_video(wrong, tmp_path / "clip.mp4", 25)
    assert not list(tmp_path.iterdir()), "a file was begun"
    with pytest.raises(ValueError, match=r"clip\.mp4: its folder is not there"):
        save_video(clip, tmp_path / "absent" / "clip.mp4", 25)


def test_frames_before_a_wrong_one_are_kept(tmp_path):
    clip = waves(12)
    path = tmp_path / "clip.mp4"
    with pytest.raises(ValueError, match="frame 12 is 24 x 64 x 3, those before are 48 x 64 x 3"):
        save_video([*clip, clip[0, :24]], path, 25)
    assert far(list(frames(path)), clip) < 3


def test_of_two_videos_in_a_file_the_one_is_read_that_players_show(tmp_path):
    path, clip = tmp_path / "two.mkv", waves(4)
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25, options={"crf": "10"}) for _ in range(2)]
        for stream, said in zip(streams, (Disposition.attached_pic, Disposition.default), strict=True):
            stream.height, stream.width, stream.pix_fmt, stream.disposition = 48, 64, "yuv420p", said
        for image in clip:
            for stream, shown in zip(streams, (255 - image, image), strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    assert far(list(frames(path)), clip) < 3


def test_a_slice_shows_a_moving_edge_as_a_line():
    clip = np.zeros((6, 8, 10, 3), np.uint8)
    for t in range(6):
        clip[t, t:, 2 + t :] = 255
    assert [row.argmax() for row in xt_slice(clip, row=7)[..., 0]] == [2, 3, 4, 5, 6, 7]
    assert xt_slice(clip, row=0).shape == (6, 10, 3)


def test_a_real_clip(shared_data):
    path = shared_data / "videos" / "guitar.mp4"
    if not path.is_file():
        pytest.skip("no videos/guitar.mp4 in shared/data")
    assert look(path).rate == Fraction(30000, 1001) and look(path).expected() == 300
    first = list(islice(frames(path), 40))
    assert first[0].shape == (192, 432, 3) and far(first[:1], first[1:2]) < 10
    assert np.array_equal(next(frames(path, start=1.0)), first[30])  # frame 30 is shown at 1.001 s


def test_the_examples():
    assert doctest.testmod(reading).failed == 0
