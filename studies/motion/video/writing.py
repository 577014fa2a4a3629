"""Videos written as they come: what a magnifier gives, through PyAV."""

import math
import sys
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from .reading import PIPE
from .sound import Sound

BT709 = 1  # FFmpeg's number for the primaries and the transfer function of HD video
CRF = 18  # x264's constant rate factor, at which the eye sees no loss; its default is 23
WRITTEN = (".mp4", ".mov", ".mkv")


def save_video(
    frames: Iterable[np.ndarray],
    path: str | Path,
    fps: Fraction | float,
    *,
    sound: Sound | None = None,
    shape: Fraction = Fraction(1),
) -> int:
    """Write frames (uint8 H x W x 3, RGB) as H.264 to `path`, an .mp4, .mov or .mkv, as they come. Returns how many.

    Colours are BT.709, at half resolution as in most videos (at full resolution where a side is odd, which not every
    player shows). The file is begun when the first frame is there; where a later one fails, those before it are kept.

    Args:
        frames: of one size.
        path: the file; ``"-"`` is standard output, which gets uncompressed frames (YUV4MPEG2, colours BT.601).
        fps: frames a second.
        sound: what is heard with them, as far as there are frames; not through a pipe.
        shape: width by height of a pixel.

    Raises:
        ValueError: there is no frame, their size changes, or `path` cannot be written as such a video.
        BrokenPipeError: who reads standard output has closed it.
    """
    check_written(path)
    if not 1e-3 <= fps < math.inf:
        raise ValueError(f"fps must be at least 0.001, got {fps}")
    rate = Fraction(fps).limit_denominator(65_535)  # 29.97, not the float next to it
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"{path}: there is no frame to write")
    check_frame(first, 0, first.shape)
    count, pipe = 0, _Pipe()
    try:
        with _begun(path, pipe) as container:
            stream = _stream_like(first, container, rate)
            codec = stream.codec_context
            codec.sample_aspect_ratio = shape
            heard = sound.beside(container) if sound is not None and str(path) != PIPE else None
            try:
                for frame in chain([first], iterator):
                    check_frame(frame, count, first.shape)
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
                        format=stream.pix_fmt, dst_colorspace=codec.colorspace, dst_color_range=codec.color_range
                    )
                    picture.pts, picture.time_base = count, 1 / rate
                    container.mux(stream.encode(picture))
                    count += 1
                    if heard is not None:
                        heard(float(count / rate))
            finally:
                container.mux(stream.encode())  # what the encoder holds back: dozens of frames
    except (FFmpegError, BrokenPipeError) as error:
        if pipe.closed:
            raise BrokenPipeError(f"standard output was closed after {count} frames") from error
        raise ValueError(f"{path} cannot be written as a video: {error.strerror}") from error
    return count


def check_written(path: str | Path) -> None:
    """Raise ValueError where `path` is neither a pipe nor a file of a kind that is written here, in a folder."""
    if str(path) == PIPE:
        return
    if Path(path).suffix.lower() not in WRITTEN:
        raise ValueError(f"{path}: a video is written as {', '.join(WRITTEN)}, not as {Path(path).suffix!r}")
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"{path}: its folder is not there")


class _Pipe:
    """Standard output, which remembers that it was closed: FFmpeg does not hand on why a write failed."""

    closed = False

    def write(self, data: bytes) -> int:
        try:
            return sys.stdout.buffer.write(data)
        except BrokenPipeError:
            self.closed = True
            raise


def _begun(path: str | Path, pipe: _Pipe) -> OutputContainer:
    if str(path) == PIPE:
        return av.open(pipe, "w", format="yuv4mpegpipe")
    return av.open(str(path), "w")


def _stream_like(frame: np.ndarray, container: OutputContainer, rate: Fraction) -> VideoStream:
    """The stream of a new file or pipe for frames of the size of `frame`."""
    piped = container.format.name == "yuv4mpegpipe"
    options = {} if piped else {"crf": str(CRF)}
    stream = container.add_stream("wrapped_avframe" if piped else "libx264", rate=rate, options=options)
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = frame.shape[:2]
    stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
    codec = stream.codec_context
    codec.color_range = ColorRange.MPEG
    if piped:  # it says nothing of colours, and is read as BT.601
        codec.colorspace = Colorspace.ITU601
    else:
        codec.colorspace, codec.color_primaries, codec.color_trc = Colorspace.ITU709, BT709, BT709
    return stream


def check_frame(frame: Any, number: int, shape: tuple[int, ...]) -> None:
    """Raise ValueError where frame `number`, an array or a tensor, is no RGB image of 8 bits, or not of `shape`."""
    found, dtype = tuple(frame.shape), str(frame.dtype).removeprefix("torch.")
    if len(found) != 3 or found[2] != 3 or dtype != "uint8":
        raise ValueError(f"a frame must be uint8, H x W x 3, got {dtype}, {_in_words(found)} as frame {number}")
    if found != tuple(shape):
        raise ValueError(
            f"all frames must be of one size: frame {number} is {_in_words(found)}, those before are {_in_words(shape)}"
        )


def _in_words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
