"""Real time: frames a second of the whole pipeline and of magnification alone, at three sizes; where the time goes.

``python -m studies.motion.figures.real_time --preset smoke|cpu|gpu [--time-limit MINUTES]``

The pipeline is that of ``python -m studies.motion.magnify``: an H.264 file is decoded, magnified and encoded, each part
in a thread of its own. On a GPU, where there is one. Output:
``reports/real_time/<preset>/``.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from skimage.data import astronaut
from skimage.transform import resize

from archlab.experiments import Scratch, command
from archlab.report import Column, Picture, plots, table, write_report
from studies.device import device

from ..evaluate.methods import LEARNED, TITLES
from ..evaluate.methods import rows as rows_of
from ..magnification import magnification
from ..video import reading
from ..video.overlap import ahead
from ..video.writing import save_video
from .shared import REAL_TIME, looks_of

__all__ = ["PRESETS", "ROWS", "cell", "fingerprint", "report"]

PRESETS = ("smoke", "cpu", "gpu")
ROWS = rows_of((*LEARNED, "linear", "riesz", "phase"))
SIZES = {"smoke": ((160, 90),), "cpu": ((640, 360), (1280, 720), (1920, 1080))}
SIZES["gpu"] = SIZES["cpu"]
FRAMES = {"smoke": (4,), "cpu": (3, 1, 1), "gpu": (300, 300, 300)}  # timed, after one that is not
FACTOR, RATE = 10.0, 25
PARTS = ("decode", "magnify", "encode")


def fingerprint(preset: str, data: Path | None) -> str:
    return "scikit-image samples"


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The times of one method at each size."""
    found = []
    for (width, height), count in zip(SIZES[preset], FRAMES[preset], strict=True):
        path = scratch.folder / f"{width}.mp4"
        save_video(swaying(width, height, count + 1), path, RATE)
        found.append({"width": width, "height": height, "frames": count, **times(row["name"], path, scratch.folder)})
    where = torch.cuda.get_device_name() if device().type == "cuda" else f"{torch.get_num_threads()} threads"
    return {"times": found, "on": where}


def times(name: str, path: Path, folder: Path) -> dict[str, float | None]:
    """Milliseconds a frame of each part alone, and frames a second of all of them, overlapped."""

    def magnified(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        return magnification(frames, model=name, factor=FACTOR, device=device())

    frames = list(reading.frames(path))
    found = {"decode": per_frame(lambda: reading.frames(path)), "magnify": per_frame(lambda: magnified(frames))}
    out = folder / "out.mp4"
    clock = Clock(own_time())
    save_video(clock.after_the_first(iter(frames)), out, RATE)
    found["encode"] = clock.seconds() / clock.frames
    ms: dict[str, float | None] = {f"{part}_ms": 1e3 * seconds for part, seconds in found.items()}
    if device().type == "cpu" and frames[0].shape[1] > SIZES["cpu"][0][0]:  # it would take minutes, and say no more
        return ms | {"overlapped_fps": None}
    clock = Clock(perf_counter)
    shown = ahead(magnified(ahead(reading.frames(path))))
    save_video(clock.after_the_first(shown), out, RATE)
    return ms | {"overlapped_fps": clock.frames / clock.seconds()}


def own_time() -> Callable[[], float]:
    """What a part alone is timed by: on a CPU the time that its cores worked for this process, whatever else runs."""
    return perf_counter if device().type == "cuda" else process_time


class Clock:
    """Times what is done from the second frame on: the first of a network takes longer."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.begun, self.frames = now, 0.0, 0

    def after_the_first(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        yield next(frames)
        self.begun = self.now()
        for frame in frames:
            self.frames += 1
            yield frame

    def seconds(self) -> float:
        return self.now() - self.begun


def per_frame(frames: Callable[[], Iterator[np.ndarray]]) -> float:
    """Seconds a frame, the first aside."""
    clock = Clock(own_time())
    for _ in clock.after_the_first(frames()):
        pass
    return clock.seconds() / clock.frames


def swaying(width: int, height: int, count: int) -> Iterator[np.ndarray]:
    """A photo that moves by a pixel a frame."""
    photo = (np.asarray(resize(astronaut(), (height, width + count))) * 255).astype(np.uint8)
    return (photo[:, n : n + width] for n in range(count))


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write fps.png, table.md and report.md."""
    first = rows[rows["seed"] == 0]
    frame = pd.concat(
        [pd.DataFrame(row["times"]).assign(method=TITLES[row["row"]]) for row in first.to_dict("records")],
        ignore_index=True,
    )
    frame["size"] = frame["width"].astype(str) + " x " + frame["height"].astype(str)
    frame["magnify_fps"] = 1e3 / frame["magnify_ms"]
    frame["overlapped_fps"] = frame["overlapped_fps"].astype(float)
    parts = frame[[f"{part}_ms" for part in PARTS]]
    frame["in_order_fps"], frame["at_best_fps"] = 1e3 / parts.sum(axis=1), 1e3 / parts.max(axis=1)
    draw(frame, folder / "fps.png")
    columns = [Column("method", "method"), Column("size", "size")]
    columns += [Column(f"{part}_ms", part, unit="ms", digits=0) for part in PARTS]
    columns += [
        Column("magnify_fps", "magnify alone", unit="FPS", digits=2),
        Column("in_order_fps", "in order", unit="FPS", digits=2),
        Column("at_best_fps", "overlapped, at best", unit="FPS", digits=2),
        Column("overlapped_fps", "overlapped, as it went", unit="FPS", digits=2),
    ]
    shown, there = table(frame, columns=columns), frame[frame["at_best_fps"] >= REAL_TIME]
    reached = [f"{row['method']} at {row['size']}" for row in there.to_dict("records")]
    write_report(
        rows, folder, "Real time",
        f"Total gain {FACTOR:g}, static mode, H.264 in and out, on {first['on'].iloc[0]}; the first frame is not "
        "timed. Milliseconds a frame of each part alone, on a CPU those of one core. Frames a second by these: of "
        "magnification alone; of all parts in order; overlapped at best, where each part has cores of its own. As it "
        "went: by the clock, in three threads, with whatever else the machine did; on a CPU at the smallest size.",
        Picture("fps.png", "frames a second by size"), shown,
        f"At {REAL_TIME:g} frames a second or more: {', '.join(reached) or 'none'}. The paper: 9.6 (baseline) and 25.8 "
        "(proposed) at 1920 x 1080 on an RTX 3090, networks alone.",
        command=f"python -m {__name__}", tables={"table": shown},
    )  # fmt: skip


def draw(frame: pd.DataFrame, path: Path) -> None:
    """A line a method: the whole pipeline, overlapped, against the size; dotted, in order."""
    _, ax = plt.subplots(figsize=(5.0, 3.2), layout="constrained")
    looks = looks_of(frame["method"].unique())
    for name, rows in frame.groupby("method", sort=False):
        colour, _ = looks[str(name)]
        pixels = rows["width"] * rows["height"] / 1e6
        ax.plot(pixels, rows["at_best_fps"], color=colour, marker="o", markersize=3, linewidth=1.2, label=str(name))
        ax.plot(pixels, rows["in_order_fps"], color=colour, linestyle=":", linewidth=1.0)
    ax.axhline(REAL_TIME, color="0.5", linestyle="--", linewidth=0.8)
    ax.annotate(f"{REAL_TIME:g} FPS", (1.01, REAL_TIME), xycoords=("axes fraction", "data"), fontsize=plots.FONT - 1,
                va="center")  # fmt: skip
    ax.set_yscale("log")
    sizes = frame.drop_duplicates("size")
    ax.set_xticks(sizes["width"] * sizes["height"] / 1e6, sizes["size"])
    ax.set_xlabel("size of a frame [pixels]", fontsize=plots.FONT)
    ax.set_ylabel("frames a second", fontsize=plots.FONT)
    ax.tick_params(labelsize=plots.FONT - 1)
    ax.legend(fontsize=plots.FONT - 1, frameon=False, title="whole pipeline, overlapped at best; dotted: in order",
              title_fontsize=plots.FONT - 1, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3)  # fmt: skip
    plots.save(ax, path)


if __name__ == "__main__":
    command()
