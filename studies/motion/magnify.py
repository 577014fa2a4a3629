"""Magnify the motion in a video, frame by frame and as fast as the device can: any length, in constant memory.

``python -m studies.motion.magnify INPUT OUTPUT --factor 10 [--model baseline|proposed|compact|lightweight|linear|phase|
riesz|acceleration|jerk|FILE] [--mode static|dynamic|iir|butter|fir] [--band LOW HIGH] [--fps RATE]
[--mask X Y WIDTH HEIGHT] [--axis DEGREES] [--side-by-side] [--slice ROW]``

INPUT is a file, - (a video on standard input) or camera:0; OUTPUT a file, or - for uncompressed YUV4MPEG2 (.y4m) on
standard output. Decoding, magnifying and encoding overlap, each in a thread.

From Python call `studies.motion.magnification.magnification`.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Annotated

import numpy as np
import typer
from matplotlib.image import imsave

from archlab.training import bar

from .magnification import beside, magnification
from .network.fast import keep_freed_memory
from .video import inputs
from .video.magnifier import Execution, Precision
from .video.overlap import ahead
from .video.reading import PIPE
from .video.temporal import Temporal
from .video.writing import check_written, save_video

STOPPED = 130  # the exit status of what was interrupted
TOO_FEW = 0.9  # of the frames that a file says it has; decoders do not tell a file that is cut off from one that ends


def main(
    input: Annotated[
        str,
        typer.Argument(
            help="A video, of any format that FFmpeg reads; - for one on standard input; camera:0 for a camera.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(help="The magnified one: .mp4, .mov, .mkv; - for .y4m on standard output.", show_default=False),
    ],
    factor: Annotated[float, typer.Option(help="Total gain of motions; 1 shows the video itself.")] = 10.0,
    model: Annotated[
        str,
        typer.Option(
            help="baseline, proposed, compact, lightweight or a safetensors file; "
            "or linear, phase, riesz, acceleration, jerk."
        ),
    ] = "baseline",
    mode: Annotated[
        Temporal | None,
        typer.Option(help="Motion away from the first frame (static, the default), the one before, or in a band."),
    ] = None,
    band: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Of iir, butter, fir, acceleration and jerk: lower and upper edge, Hz."),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second at capture; default: the file's.")] = None,
    drift: Annotated[float | None, typer.Option(help="Of static: seconds in which the reference follows.")] = None,
    start: Annotated[float, typer.Option(help="Second of the input to begin at; its frame is the first.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Second of the input to stop before.")] = None,
    mask: Annotated[
        tuple[int, int, int, int] | None,
        typer.Option(help="Magnify only in this box: its left, top, width and height, pixels."),
    ] = None,
    axis: Annotated[
        float | None,
        typer.Option(help="Of phase, riesz, acceleration, jerk: only motion along it; degrees, 0 along rows, 90 up."),
    ] = None,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Show the input to the left.")] = False,
    slice: Annotated[
        int | None, typer.Option(help="Also draw this row of pixels over time, beside the output, as a .png.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU, where there is one.")] = None,
    precision: Annotated[Precision, typer.Option(help="auto: half precision where the device has it.")] = "auto",
    execution: Annotated[Execution, typer.Option(help="How the network is run.")] = "eager",
) -> None:
    """Magnify small motions in a video; written at its frame rate, with its sound. Stopped, it keeps what is done."""
    seen, stop, expected = Seen(), Stop(), None
    said = sys.stderr if str(output) == PIPE else sys.stdout
    try:
        if str(output) != PIPE and output.resolve() == Path(input).resolve():
            raise ValueError(f"{output}: the output would overwrite the input while it is read")
        check_written(output)
        given = inputs.opened(input, start=start, end=end)
        expected = given.expected
        if given.hdr:
            print(
                f"magnify: {input} is HDR ({given.hdr}), and is written as if it were not: its colours will be off; "
                "turn it into SDR first, by ffmpeg's filters zscale and tonemap",
                file=sys.stderr,
            )
        magnified = partial(
            magnification,
            model=model,
            factor=factor,
            mode=mode,
            rate=float(given.rate) if fps is None else fps,
            band=band,
            drift_s=drift,
            axis=axis,
            mask=mask,
            device=device,
            precision=precision,
            execution=execution,
        )
        decoded = ahead(given.frames)
        shown = ahead(beside(decoded, magnified) if side_by_side else magnified(decoded))
        with stop.instead_of_signals(), bar("magnify", expected or 0, wanted=expected is not None) as show:
            written = watched(stop.between(shown), slice, seen, show)
            save_video(written, output, given.rate, sound=given.sound, shape=given.shape)
    except BrokenPipeError as error:  # who reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in its buffer goes nowhere
        print(f"magnify: {error}", file=sys.stderr)
        raise typer.Exit(STOPPED) from error
    except (ValueError, FileNotFoundError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        kept = f"; {output} shows the {seen.frames} frames before" if seen.frames else ""
        print(f"magnify: {'stopped' if stopped else error}{kept}", file=sys.stderr)
        raise typer.Exit(STOPPED if stopped else 2) from error
    finally:
        if seen.rows:
            imsave(output.with_suffix(".png"), np.stack(seen.rows))
    if expected is not None and seen.frames < TOO_FEW * expected:
        print(
            f"magnify: {input} holds {seen.frames} frames and says about {expected}: it may be cut off", file=sys.stderr
        )
    if given.sound is not None and str(output) != PIPE and (silent := given.sound.left_out(output)):
        print(f"magnify: {output.suffix} holds no sound of {', '.join(silent)}: left out", file=sys.stderr)
    print(f"{output}: {seen.frames} frames, {seen.frames / (perf_counter() - seen.begun):.3g} a second", file=said)


@dataclass
class Seen:
    """How many frames were written since when, and the row of each that is drawn."""

    frames: int = 0
    rows: list[np.ndarray] = field(default_factory=list)
    begun: float = field(default_factory=perf_counter)


def watched(
    frames: Iterable[np.ndarray], row: int | None, seen: Seen, show: Callable[[int, Callable[[], str]], None]
) -> Iterator[np.ndarray]:
    """`frames` as they come, noted in `seen` and shown."""
    for frame in frames:
        if row is not None and not 0 <= row < len(frame):
            raise ValueError(f"slice must be a row of the frames, 0 to {len(frame) - 1}, got {row}")
        yield frame
        seen.frames += 1
        if row is not None:
            seen.rows.append(frame[row].copy())
        show(seen.frames, lambda: f"{seen.frames / (perf_counter() - seen.begun):.2f} frames/s")


@dataclass
class Stop:
    """A stop asked for by Ctrl-C or a plain kill, which comes between two frames: the file is finished, and plays."""

    asked: bool = False
    waiting: bool = False

    @contextmanager
    def instead_of_signals(self) -> Iterator[None]:
        """While it lasts, signals that are not ignored ask for the stop."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        taken = [number for number, handler in before.items() if handler != signal.SIG_IGN]
        for number in taken:
            signal.signal(number, self._ask)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])

    def between(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """`frames`, until KeyboardInterrupt is raised: at once while the next is waited for, else after this one."""
        while True:
            self.waiting = True
            if self.asked:
                raise KeyboardInterrupt
            frame = next(frames, None)
            self.waiting = False
            if frame is None:
                return
            yield frame

    def _ask(self, number: int, at: FrameType | None) -> None:
        self.asked = True
        if self.waiting:
            raise KeyboardInterrupt


if __name__ == "__main__":
    keep_freed_memory()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
