"""What a magnifier can be given: a video file, a pipe, a camera; all as a stream of frames of a known rate."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from . import reading
from .sound import Sound

CAMERA = "camera:"
CAMERA_RATE = 30  # frames a second of a camera that does not say


@dataclass(frozen=True)
class Input:
    """Frames to come, RGB, uint8 H x W x 3, and what is known of them beforehand.

    `rate` is frames a second on average; `expected` about how many will come, None where it is not known; `sound`
    what is heard with them, None for nothing; `shape` width by height of a pixel; `hdr` how brightness is coded where
    that is not as in SDR.
    """

    frames: Iterator[np.ndarray]
    rate: Fraction
    expected: int | None = None
    sound: Sound | None = None
    shape: Fraction = Fraction(1)
    hdr: str = ""


def opened(source: str | Path, *, start: float = 0.0, end: float | None = None) -> Input:
    """The frames that `source` names, from second `start` on and before `end`.

    Args:
        source: a video file; ``"-"``, a video on standard input, in whatever format FFmpeg finds there, such as
            uncompressed YUV4MPEG2 (.y4m); or ``"camera:0"``, ``"camera:/dev/video0"``, a camera by its number or the
            name of its device, through OpenCV.
        start: seconds from the first frame.
        end: seconds from the first frame; default: all to the last, of a camera until it is stopped.

    Raises:
        FileNotFoundError: there is no such file or camera.
        ValueError: it is no video or says no rate; start and end leave nothing; OpenCV is needed and not installed. As
            `studies.motion.video.reading.frames` says, some on the way.
    """
    name = str(source)
    if name.startswith(CAMERA):
        return _camera(name.removeprefix(CAMERA), start, end)
    if name == reading.PIPE:
        last = reading.check_window(start, end)
        container, stream = reading.opened(name)
        said = reading.said_by(name, container, stream)
        return Input(reading.decoded(name, container, stream, start, last), said.rate, None, None, said.shape, said.hdr)
    given, said = reading.frames(source, start=start, end=end), reading.look(source)
    return Input(given, said.rate, said.expected(start, end), Sound(source, start), said.shape, said.hdr)


def _camera(name: str, start: float, end: float | None) -> Input:
    reading.check_window(start, end)
    try:
        opencv: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise ValueError(
            f"{CAMERA}{name}: cameras are read through OpenCV, which is not installed: pip install "
            "opencv-python-headless, or pipe the camera in, as ffmpeg -f v4l2 -i /dev/video0 -f yuv4mpegpipe -"
        ) from error
    camera = opencv.VideoCapture(int(name) if name.isdecimal() else name)
    if not camera.isOpened():
        camera.release()
        raise FileNotFoundError(f"{CAMERA}{name}: there is no such camera, or another program has it")
    said = camera.get(opencv.CAP_PROP_FPS)
    rate = Fraction(said if 0 < said < 1e4 else CAMERA_RATE).limit_denominator(1001)
    first, last = round(start * rate), None if end is None else round(end * rate)
    return Input(islice(_seen(camera, name), first, last), rate, None if last is None else last - first)


def _seen(camera: Any, name: str) -> Iterator[np.ndarray]:
    """Its pictures until it gives none."""
    seen = 0
    try:
        while True:
            there, picture = camera.read()
            if not there:
                break
            seen += 1
            yield np.ascontiguousarray(picture[..., ::-1])  # OpenCV's are blue, green, red
    finally:
        camera.release()
    if not seen:
        raise ValueError(f"{CAMERA}{name}: the camera is there and gives no picture")
