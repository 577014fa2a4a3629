"""Magnify the motion in a video, frame by frame and as fast as the device can: any length, in constant memory.

``python -m studies.motion.magnify INPUT OUTPUT --factor 10 [--mode butter --band 0.4 3 --fps 30] [--start S] [--end S]
[--weights NAME|FILE]``

From Python call `studies.motion.video.magnifier.magnify`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from archlab.training import bar

from .network.weights import network
from .video import files
from .video.magnifier import Execution, Precision, magnify
from .video.temporal import Temporal, temporal_filter


def main(
    input: Annotated[Path, typer.Argument(help="A video, of any format that FFmpeg reads.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="The magnified one: .mp4, .mov or .mkv.", show_default=False)],
    factor: Annotated[float, typer.Option(help="Total gain of motions; 1 shows the video itself.")] = 10.0,
    mode: Annotated[
        Temporal, typer.Option(help="Motion away from the first frame, the one before, or in a band.")
    ] = "static",
    band: Annotated[
        tuple[float, float] | None, typer.Option(help="Of iir, butter and fir: lower and upper edge, Hz.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second at capture; default: the file's.")] = None,
    drift: Annotated[float | None, typer.Option(help="Of static: seconds in which the reference follows.")] = None,
    start: Annotated[float, typer.Option(help="Second of the input to begin at; its frame is the first.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Second of the input to stop before.")] = None,
    weights: Annotated[str, typer.Option(help="baseline, proposed, or a safetensors file.")] = "baseline",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU, where there is one.")] = None,
    precision: Annotated[Precision, typer.Option(help="auto: half precision where the device has it.")] = "auto",
    execution: Annotated[Execution, typer.Option(help="How the network is run.")] = "eager",
) -> None:
    """Magnify small motions in a video; written at its frame rate, without sound."""
    try:
        if output.resolve() == input.resolve():
            raise ValueError(f"{output}: the output would overwrite the input while it is read")
        given, rate = files.frames(input, start=start, end=end), files.frame_rate(input)
        motion = temporal_filter(mode, rate=float(rate) if fps is None else fps, band=band, drift_s=drift)
        options: dict[str, Any] = {"filter": motion, "device": device, "precision": precision, "execution": execution}
        magnified = magnify(network(weights), given, factor=factor, **options)
        expected, begun = files.about_frames(input, start=start, end=end), perf_counter()
        with bar("magnify", expected or 0, wanted=expected is not None) as show:

            def watched() -> Iterator[np.ndarray]:
                for number, frame in enumerate(magnified, start=1):
                    yield frame
                    show(number, lambda: f"{number / (perf_counter() - begun):.2f} frames/s")  # noqa: B023

            count = files.save_video(watched(), output, rate)
    except (ValueError, FileNotFoundError) as error:
        print(f"magnify: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    print(f"{output}: {count} frames, {count / (perf_counter() - begun):.3g} a second")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
