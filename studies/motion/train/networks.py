"""The networks of the paper's figures, each trained once, evaluated and timed; the figures' studies take them here.

``python -m studies.motion.train.networks --preset smoke|cpu|gpu|paper [--data DIR] [--weights DIR] [--only GLOB]``

``--weights`` takes networks that were trained elsewhere: ``<name>.safetensors`` with its facts, ``<name>.json``.
A figure's study runs what it needs of these rows by itself; this command runs all. cpu takes about three hours of a
core with AMX for the thirteen trainings, six without, and 5 minutes for the speeds. Output:
``reports/networks/<preset>/``.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

import archlab as al
from archlab.experiments import Scratch, Wanted, command
from archlab.report import Column, write_report
from studies.device import device, resources

from .. import columns
from ..data.sources import find_sources
from ..evaluate.beside_ssim import beside_ssim
from ..evaluate.costs import costs
from ..evaluate.quality import COMPARED, HeldOut, Magnifier, copy_b, evaluate, summary
from ..network.example import STREAMED, streamed
from ..network.models import MagnificationNet
from . import training
from .family import LARGE_ONLY, NETWORKS, began, budget_for, fingerprint, load, train
from .given import fingerprint as fingerprint_of
from .given import told

__all__ = ["PRESETS", "ROWS", "cell_for", "fingerprint", "given", "needs", "report", "resources"]

PRESETS = ("smoke", "cpu", "gpu", "paper")
SPEED, COPY = "speed", "copy of B"
ROWS: list[dict[str, Any]] = [
    *({"name": name} for name in NETWORKS),
    *({"name": f"quality of {name}", "what": "quality", "network": name} for name in NETWORKS),
    {"name": f"quality of {COPY}", "what": "quality", "network": COPY},
    {"name": SPEED, "what": "speed"},
]
JUDGED = {"smoke": 8, "cpu": 256, "gpu": 512, "paper": 5000}
# Frames whose streaming is timed: full HD, as the paper's (height, width); smoke takes a small one.
FULL_HD = {"smoke": (96, 160), "cpu": (1080, 1920), "gpu": (1080, 1920), "paper": (1080, 1920)}
# How the networks are timed: what is possible on the device. The paper says neither.
VARIANTS = {
    "cpu": [{}],
    "cuda": [
        {"precision": precision, "mode": mode, "memory_format": "channels_last"}
        for precision in ("fp32", "tf32", "fp16", "bf16")
        for mode in ("eager", "graph", "compile")
    ],
}
SECONDS = {"smoke": 0.2, "cpu": 8.0, "gpu": 1.0, "paper": 2.0}


def needs(row: dict[str, Any]) -> list[str]:
    """The network that is judged."""
    return [row["network"]] if row.get("network") in NETWORKS else []


def given(row: dict[str, Any], weights: Path) -> str | None:
    """A network of a folder of weights stands for its training."""
    return fingerprint_of(weights, row["name"]) if row["name"] in NETWORKS else None


def cell_for(row: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """What makes a row: a training stays valid while how its network is evaluated and timed is edited."""
    return {"quality": quality, "speed": speed}.get(row.get("what", ""), training_of)


def training_of(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """One network trained."""
    if row["name"] in LARGE_ONLY and preset in ("smoke", "cpu") and scratch.weights is None:
        return {"steps": 0, "why_not": f"trained at the presets gpu and paper only, not at {preset}"}
    try:
        return train(row["name"], preset, seed, scratch)
    except al.BackboneMissing as error:
        return {"steps": 0, "why_not": str(error)}


def quality(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """SSIM and LPIPS of one network on held-out samples, with its costs."""
    name = row["network"]
    if name == COPY:
        return judged(copy_b, preset, scratch)
    net = trained(name, scratch, key=name)
    if net is None:
        return {"steps": 0, "why_not": scratch.needed[name].values["why_not"]}
    values = scratch.needed[name].values
    return costs(net) | judged(net, preset, scratch) | {"steps": values["steps"], "given": told(values)}


def judged(magnify: Magnifier, preset: str, scratch: Scratch) -> dict[str, Any]:
    """The quality of a magnifier on held-out samples, of each as well, and what SSIM hides."""
    held_out, size = find_sources(scratch.data, "val"), budget_for(preset).size
    samples = HeldOut(held_out, size, JUDGED[preset])
    found = evaluate(magnify, samples, data=scratch.data)
    values = {f"each_{name}": found[name].round(5).tolist() for name in COMPARED}
    return summary(found) | values | beside_ssim(magnify, samples, held_out, size) | {"val_data": held_out.fingerprint}


def speed(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """All networks timed."""
    return {"speeds": speeds(preset).round(5).to_dict("records")}


def trained(name: str, scratch: Scratch, *, key: Wanted | None = None) -> MagnificationNet | None:
    """The network `name` with the weights of its cell, which the caller's row needed; None where it was not trained."""
    key = key or of(name)
    return load(name, scratch, key) if scratch.needed[key].values["steps"] else None


def of(row: str) -> tuple[ModuleType, str]:
    """A row of this study as another one's `needs` names it."""
    return sys.modules[__name__], row


def speeds(preset: str) -> pd.DataFrame:
    """All networks timed, interleaved, on one streamed frame (one encoder pass), by module as well where eager.

    Columns: network, variant, fps, median_ms, p10_ms, p90_ms, runs, and the share of encoder, manipulator, decoder.
    """
    height, width = FULL_HD[preset]
    where = device()
    height, width = (-(-side // 8) * 8 for side in (height, width))  # 1080 is no multiple of the coarsest stride
    nets = {name: training.new_network(config, seed=0).eval() for name, config in NETWORKS.items()}
    calls = {name: streamed(net, height, width, where) for name, net in nets.items()}
    frames = []
    for variant in VARIANTS[where.type]:
        depth = 1 if variant.get("mode", "eager") == "eager" else None
        measured = al.speed(nets, calls, seconds=SECONDS[preset], by_module=depth, **variant)
        frame = measured.frame().rename(columns={"model": "network"})
        frame["conditions"] = str(measured).splitlines()[-1]
        if depth is not None:
            parts = measured.by_module().pivot(index="model", columns="module", values="total_share")
            frame = frame.join(parts[["encoder", "manipulator", "decoder"]], on="network")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True).assign(height=height, width=width)


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md and report.md."""
    first: dict[str, Any] = {row["row"]: row for row in rows[rows["seed"] == 0].to_dict("records")}
    shown = [name for name in NETWORKS if first[name]["steps"]]
    preset = rows.attrs["conditions"]["preset"]
    speed = pd.DataFrame(first[SPEED]["speeds"])
    fps = speed.drop_duplicates("network").set_index("network")["fps"]
    told_of: list[dict[str, Any]] = [
        {**first[f"quality of {name}"], "row": name, "fps": fps[name], "loss": first[name]["loss"],
         "minutes": first[name]["seconds"] / 60}
        for name in shown
    ]  # fmt: skip
    lines = pd.DataFrame([*told_of, {**first[f"quality of {COPY}"], "row": COPY}])
    trainings = (Column("loss", "loss"), Column("minutes", "training", unit="min", digits=1))
    shown_of = [*columns.COSTS, *columns.QUALITY, *columns.BESIDE_SSIM, *columns.SPEED, *trainings]
    table = columns.table_of(lines, shown_of)
    quality = first["quality of baseline"]
    why = [f"{name}: {first[name]['why_not']}" for name in NETWORKS if name not in shown]
    elsewhere = {name: words for name in shown if (words := told(first[name]))}
    own = next((first[name] for name in shown if name not in elsewhere), None)
    write_report(
        rows, folder, f"The networks of the figures, preset {preset}",
        _trained(own, preset) if own is not None else "",
        [f"{name}: {words}" for name, words in elsewhere.items()],
        f"Evaluated on {quality['judged']:.0f} held-out samples, {quality['val_data']}; *{COPY}* shows frame B as it "
        f"is, and no motion. FPS: one streamed frame of {speed['width'].iloc[0]} x {speed['height'].iloc[0]} (one "
        "encoder pass), "
        f"{speed['conditions'].iloc[0]}, all networks interleaved. "
        f"FLOPs by the paper's rule, at {STREAMED} x {STREAMED}. {columns.BESIDE_SSIM_TOLD}",
        table, *(["Not trained:", why] if why else []), command=f"python -m {__name__}", tables={"table": table},
    )  # fmt: skip


def _trained(row: dict[str, Any], preset: str) -> str:
    """How the networks were trained that this study trained itself."""
    return (
        f"Each {began(preset)}: {row['steps']:.0f} steps of {row['batch']:.0f} samples of {row['size']:.0f} "
        f"pixels ({row['patch']:.0f} seen), {row['precision']}, the same samples in the same order; "
        f"{row['train_data']}."
    )


if __name__ == "__main__":
    command()
