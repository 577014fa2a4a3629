"""Magnify the motion in a video, frame by frame and as fast as the device can: any length, in constant memory.

``python -m studies.motion.magnify INPUT OUTPUT --factor 10 [--model baseline|proposed|linear|phase|riesz|acceleration|
jerk|FILE] [--mode static|dynamic|iir|butter|fir] [--band LOW HIGH] [--fps RATE] [--side-by-side] [--slice ROW]``

From Python call `studies.motion.magnification.magnification`.
"""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import typer
from matplotlib.image import imsave

from archlab.training import bar

from .magnification import beside, magnification
from .video import files
from .video.magnifier import Execution, Precision
from .video.temporal import Temporal

STOPPED = 130  # the exit status of what was interrupted
TOO_FEW = 0.9  # of the frames that a file says it has; decoders do not tell a file that is cut off from one that ends


def main(
    input: Annotated[Path, typer.Argument(help="A video, of any format that FFmpeg reads.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="The magnified one: .mp4, .mov or .mkv.", show_default=False)],
    factor: Annotated[float, typer.Option(help="Total gain of motions; 1 shows the video itself.")] = 10.0,
    model: Annotated[
        str,
        typer.Option(
            help="A network: baseline, proposed, or a safetensors file; or linear, phase, riesz, acceleration, jerk."
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
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Show the input to the left.")] = False,
    slice: Annotated[
        int | None, typer.Option(help="Also draw this row of pixels over time, beside the output, as a .png.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU, where there is one.")] = None,
    precision: Annotated[Precision, typer.Option(help="auto: half precision where the device has it.")] = "auto",
    execution: Annotated[Execution, typer.Option(help="How the network is run.")] = "eager",
) -> None:
    """Magnify small motions in a video; written at its frame rate, without sound. Stopped, it keeps what is done."""
    seen = Seen()
    try:
        if output.resolve() == input.resolve():
            raise ValueError(f"{output}: the output would overwrite the input while it is read")
        rate, expected = files.frame_rate(input), files.about_frames(input, start=start, end=end)
        magnified = partial(
            magnification,
            model=model,
            factor=factor,
            mode=mode,
            rate=float(rate) if fps is None else fps,
            band=band,
            drift_s=drift,
            device=device,
            precision=precision,
            execution=execution,
        )
        given = files.frames(input, start=start, end=end)
        shown = beside(given, magnified) if side_by_side else magnified(given)
        with terminated_as_interrupted(), bar("magnify", expected or 0, wanted=expected is not None) as show:
            files.save_video(watched(shown, slice, seen, show), output, rate)
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
    print(f"{output}: {seen.frames} frames, {seen.frames / (perf_counter() - seen.begun):.3g} a second")


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


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """A plain kill, too, lets the file be finished: until then no player opens it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
