"""Videos read frame by frame: what a magnifier is given, through PyAV.

PyAV decodes whatever FFmpeg does, and since version 17 converts colours by the space that a frame says it is in. It
leaves to its user which way is up, where in time a frame lies, and errors that name the file.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

SLACK_S = 5e-4  # containers round a frame's time to as much as a millisecond
HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers of the transfer functions
SAME_RATE = 0.01  # two rates that differ by less than this share are one
PIPE = "-"  # the name of standard input and output


def frames(path: str | Path, *, start: float = 0.0, end: float | None = None) -> Iterator[np.ndarray]:
    """The frames of a video as RGB, uint8 H x W x 3, decoded one by one as they are asked for.

    Those shown from second `start` on and before `end`, counted from the first frame. Upright, where the file says how
    the camera was held. What is not RGB becomes it by the file's own colour space; times between frames are not kept
    (see `Facts.rate`).

    Args:
        path: of any format that FFmpeg reads.
        start: seconds from the first frame.
        end: seconds from the first frame; default: all to the last.

    Raises:
        FileNotFoundError: at once, for a missing file.
        ValueError: at once where it cannot be read as a video; on the way where decoding fails or no frame lies between
            `start` and `end`.

    >>> import tempfile
    >>> from studies.motion.video.writing import save_video
    >>> path = Path(tempfile.mkdtemp()) / "grey.mp4"
    >>> save_video(np.full((50, 48, 64, 3), 128, np.uint8), path, 25)
    50
    >>> next(frames(path)).shape, len(list(frames(path, start=0.4, end=1)))
    ((48, 64, 3), 15)
    """
    last = check_window(start, end)
    container, stream = opened(path)
    if start and not _sought(container, stream, start):
        container.close()
        container, stream = opened(path)
    return decoded(path, container, stream, start, last)


@dataclass(frozen=True)
class Facts:
    """What a video says of itself beforehand.

    `rate` is frames a second on average; `seconds` how long it lasts, None where it says nothing; `shape` width by
    height of a pixel as it is shown; `hdr` how brightness is coded where that is not as in SDR, whose numbers mean
    other colours.
    """

    rate: Fraction
    seconds: float | None
    shape: Fraction
    hdr: str

    def expected(self, start: float = 0.0, end: float | None = None) -> int | None:
        """About how many frames `frames` will give between two seconds; None where that is not known."""
        if self.seconds is None:
            return None
        return max(1, round(self.rate * (min(self.seconds, math.inf if end is None else end) - start)))


def look(path: str | Path) -> Facts:
    """What a video file says of itself. Raises as `frames` does, and ValueError where nothing tells its rate."""
    container, stream = opened(path)
    with container:
        said = said_by(path, container, stream)
        rate = said.rate if stream.frames or not stream.time_base else _counted(container, stream, said.rate)
    shape = 1 / said.shape if said.shape != 1 and _lies(path) else said.shape
    return replace(said, rate=rate, shape=shape)


def said_by(path: str | Path, container: InputContainer, stream: VideoStream) -> Facts:
    """What an opened video says before anything is read of it, which is all that a pipe can tell."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise ValueError(f"{_name(path)}: says no frame rate")
    seconds = None
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / av.time_base
    codec = stream.codec_context
    return Facts(rate, seconds, codec.sample_aspect_ratio or Fraction(1), HDR.get(codec.color_trc, ""))


def _counted(container: InputContainer, stream: VideoStream, said: Fraction) -> Fraction:
    """The rate by the times of all frames. Matroska says that between most frames, whatever it is on average."""
    assert stream.time_base
    times = []
    with suppress(FFmpegError):  # the file may be cut off
        times.extend(packet.pts for packet in container.demux(stream) if packet.pts is not None)
    lasted = (max(times) - min(times)) * stream.time_base if times else 0
    counted = (len(times) - 1) / lasted if lasted else said
    return said if abs(counted / said - 1) < SAME_RATE else counted.limit_denominator(1001)


def _lies(path: str | Path) -> bool:
    """Whether frames are turned by a right angle before they are shown, which the first one tells."""
    container, stream = opened(path)
    with container:
        first = next(container.decode(stream), None)
        return first is not None and round(first.rotation / 90) % 2 == 1


def xt_slice(frames: Iterable[np.ndarray], row: int) -> np.ndarray:
    """One row of every frame under that of the frame before, T x W x 3: motion along the row shows as a wave.

    >>> xt_slice(np.zeros((5, 48, 64, 3), np.uint8), row=20).shape
    (5, 64, 3)
    """
    return np.stack([frame[row] for frame in frames])


def check_window(start: float, end: float | None) -> float:
    """`end`, or infinity for None. Raises ValueError where no time lies between."""
    last = math.inf if end is None else end
    if not 0 <= start < last:
        raise ValueError(f"start must be at least 0 and before end, got start={start}, end={end} (seconds)")
    return last


def opened(path: str | Path) -> tuple[InputContainer, VideoStream]:
    """A file, or ``"-"`` for standard input, and its video. Raises as `frames` does."""
    if str(path) != PIPE and not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        container = av.open(sys.stdin.buffer if str(path) == PIPE else str(path), "r", metadata_errors="replace")
    except FFmpegError as error:
        raise ValueError(f"{_name(path)} cannot be read as a video: {error.strerror}") from error
    if not container.streams.video:
        kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
        container.close()
        raise ValueError(f"{_name(path)} holds no video: {kinds} was found in it")
    stream = shown_first(container)
    stream.thread_type = "AUTO"
    return container, stream


def shown_first(container: InputContainer) -> VideoStream:
    """Of several videos in a file the one that players show, by what the file says of each."""
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) else container.streams.video[0]


def _sought(container: InputContainer, stream: VideoStream, start: float) -> bool:
    """Go to the last key frame before second `start`, without decoding what is before; False where that fails.

    An MPEG transport stream has no index and may be entered too late.
    """
    if stream.start_time is None or not stream.time_base:
        return False
    place = stream.start_time + int(start / stream.time_base)
    try:
        container.seek(place, stream=stream)
        picture = next(container.decode(stream), None)
        container.seek(place, stream=stream)
    except FFmpegError:
        return False
    return picture is not None and picture.pts is not None and _time(picture, stream, 0) <= start


def decoded(
    path: str | Path, container: InputContainer, stream: VideoStream, start: float, end: float
) -> Iterator[np.ndarray]:
    """What `frames` gives of an opened video."""
    with container:
        pictures, seen, given = container.decode(stream), 0, 0
        while True:
            try:
                picture = next(pictures, None)
                if picture is None:
                    break
                image = picture.to_ndarray(format="rgb24")
            except FFmpegError as error:
                after = f"{seen} frames" + (f" from second {start:g} on" if start else "")
                raise ValueError(f"{_name(path)} is broken: decoding fails after {after}: {error.strerror}") from error
            time = _time(picture, stream, seen)
            seen += 1
            if time >= end - SLACK_S:
                break
            if time >= start - SLACK_S:
                given += 1
                yield np.rot90(image, round(picture.rotation / 90))
    if not given:
        raise ValueError(f"{_name(path)}: no frame lies between seconds {start:g} and {end:g}, {seen} were decoded")


def _time(picture: av.VideoFrame, stream: VideoStream, seen: int) -> float:
    """Seconds from the first frame; without time stamps, as in a bare H.264 stream, by the number of frames."""
    if picture.pts is None or stream.start_time is None or stream.time_base is None:
        return float(seen / (stream.guessed_rate or stream.average_rate or 25))
    return float((picture.pts - stream.start_time) * stream.time_base)


def _name(path: str | Path) -> str:
    return "standard input" if str(path) == PIPE else str(path)
