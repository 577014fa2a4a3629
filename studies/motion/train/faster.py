"""What trains a network of this family better in the same time: variants of the recipe, each given as many seconds.

``python -m studies.motion.train.faster --preset smoke|cpu [--data DIR] [--workers 2]``

The network with its decoder at a quarter of the resolution goes on from the trained baseline, as in `networks`. Row
"pace" times a step of each way, in turn; each way then makes as many steps as fit into the seconds of the preset, its
rate falling to zero in just these. At cpu a row takes a minute of a core. Output:
``reports/faster/<preset>/``.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al
from archlab.experiments import Scratch, command
from archlab.report import Column, table, write_report
from studies.bench.interleave import interleaved
from studies.device import device

from .. import columns
from ..data.generator import Batch
from ..data.sources import find_sources
from ..evaluate.quality import HeldOut, evaluate, summary
from ..network.example import example_for
from ..network.fast import pad_in_half_
from ..network.models import QUARTER, MagnificationNet, baseline
from . import training
from .averaging import AveragedAdam
from .derive import carried, from_baseline
from .family import budget_for, fingerprint

__all__ = ["PRESETS", "ROWS", "cell_for", "fingerprint", "needs", "report"]

PRESETS = ("smoke", "cpu")
SECONDS = {"smoke": 1.0, "cpu": 60.0}  # of each training
ROUNDS = {"smoke": 2, "cpu": 15}  # in which every way makes a step
JUDGED = {"smoke": 8, "cpu": 128}
PACE, RECIPE, COMPILED = "pace", "the recipe", "compiled"
LATE = 5  # a fifth of the steps are late


class FusedAdam(AveragedAdam):
    """`AveragedAdam` by one kernel for all weights."""

    def __init__(self, params: Any, **options: Any):
        super().__init__(params, fused=True, **options)


class AveragedMuon(AveragedAdam):
    """Adam, but for the weights of convolutions from channels to channels the update is an orthogonal matrix: Muon.

    Keller Jordan 2024; momentum .95, five steps of Newton and Schulz. Liu et al. 2025 (arXiv:2502.16982) scale the
    update so that the rate is as Adam's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of the weights and of their mean."""
        momenta = {}  # into the state only after Adam, which takes one that is not empty for its own
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() == 4 and min(p.shape[:2]) > 3 and p.grad is not None:  # neither colours in nor colours out
                    before = self.state[p].get("momentum", torch.zeros_like(p))
                    momenta[p] = before.mul(0.95).add_(p.grad)
                    direction = orthogonal((p.grad + 0.95 * momenta[p]).flatten(1)).view_as(p)
                    p.add_(direction, alpha=-group["lr"] * 0.2 * max(p.shape[0], p[0].numel()) ** 0.5)
                    p.grad.zero_()  # Adam moves it no further
        found = super().step(closure)
        for p, momentum in momenta.items():
            self.state[p]["momentum"] = momentum
        return found


def orthogonal(matrix: Tensor) -> Tensor:
    """The orthogonal matrix next to a matrix, roughly: its singular values end between .7 and 1.2."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T) / (matrix.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x if wide else x.T


@dataclass(frozen=True)
class Way:
    """How a row trains, where it differs from the recipe."""

    budget: Mapping[str, Any]  # fields of `training.Budget`
    optimizer: type[AveragedAdam] = AveragedAdam
    fresh: bool = False  # the layers at the change of resolution
    half_padding: bool = False  # which `training.train_` has taken since
    regulariser_every: int = 1
    late_patch: int | None = None  # pixels of the one patch that a late step sees


WAYS = {
    RECIPE: Way({}),
    "8 patches a step": Way({"batch": 8}),
    "patches of 64 pixels": Way({"patch": 64}),
    "patches of 96 at the end": Way({}, late_patch=96),
    "fp32": Way({"precision": "fp32"}),
    "padding in bf16": Way({}, half_padding=True),
    "regulariser every 4th step": Way({}, regulariser_every=4),
    "fused Adam": Way({}, optimizer=FusedAdam),
    "Muon between channels": Way({}, optimizer=AveragedMuon),
    "fresh layers": Way({}, fresh=True),
}
ROWS = [{"name": PACE}, *({"name": name} for name in WAYS)]


def needs(row: dict[str, Any]) -> list[str]:
    return [] if row["name"] == PACE else [PACE]


def cell_for(row: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    return pace if row["name"] == PACE else cell


def pace(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """Seconds of a step of each way, the mean of steps in turn; of a compiled one also what compiling it takes."""
    works = {name: step_of(way, preset, seed, scratch) for name, way in WAYS.items()}
    begun = perf_counter()
    works[COMPILED] = step_of(WAYS[RECIPE], preset, seed, scratch, compiled=True)
    works[COMPILED]()
    compiling_s = perf_counter() - begun
    times = interleaved(works, repeats=ROUNDS[preset], warmup=2, device=device())
    return {"paces_s": {name: float(times[name].mean()) for name in works}, "compiling_s": compiling_s}


def step_of(way: Way, preset: str, seed: int, scratch: Scratch, *, compiled: bool = False) -> Callable[[], None]:
    """What makes one step of a way, each call the next; a fifth are late ones."""
    net, budget = network(way, seed), budget_of(way, preset)
    if way.half_padding:
        pad_in_half_(net)
    task = task_of(way, budget, seed, scratch, late=lambda step: step % LATE == 0)
    optimizer = way.optimizer(net.parameters(), lr=budget.lr)
    loss, numbers = torch.compile(task.loss) if compiled else task.loss, itertools.count()

    def step() -> None:
        batch = task.batches(next(numbers))
        with torch.autocast(device().type, torch.bfloat16, enabled=budget.precision == "bf16"):
            found = loss(net, batch)
        found.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """The network trained this way for the seconds of the preset, and judged."""
    way, step_s = WAYS[row["name"]], scratch.needed[PACE].values["paces_s"][row["name"]]
    steps = max(LATE, int(SECONDS[preset] / step_s))
    budget = replace(budget_of(way, preset), steps=steps)
    net = network(way, seed)
    task = task_of(way, budget, seed, scratch, late=lambda step: step >= steps - steps // LATE)
    values = training.train_(net, task, budget, scratch, title=row["name"], optimizer=way.optimizer,
                             half_padding=way.half_padding)  # fmt: skip
    samples = HeldOut(find_sources(scratch.data, "val"), budget.size, JUDGED[preset])
    found = evaluate(net.eval(), samples, data=scratch.data)
    ssims = [round(value, 5) for value in found["ssim"]]
    return values | summary(found) | {"ssims": ssims, "step_s": step_s, "precision": budget.precision}


def budget_of(way: Way, preset: str) -> training.Budget:
    """The budget of a way; a patch is no larger than a sample."""
    budget = replace(budget_for(preset), **way.budget)
    return budget if budget.patch is None else replace(budget, patch=min(budget.patch, budget.size))


def network(way: Way, seed: int) -> MagnificationNet:
    """What the training of a way begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = baseline(pretrained=True)
        if way.fresh:
            coarser = al.scale_resolution(start, example_for(start), span="decoder.blocks", factor=2)
            net = carried(coarser, QUARTER)  # pyright: ignore[reportArgumentType]
        else:
            net = from_baseline(QUARTER, start)
    return net.to(device(), memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def task_of(way: Way, budget: training.Budget, seed: int, scratch: Scratch, *, late: Callable[[int], bool]) -> al.Task:
    """The task of a way; which of its steps are late ones."""
    task = training.task_for(scratch, budget, seed=seed)
    if way.late_patch is not None:
        large = replace(budget, patch=min(way.late_patch, budget.size), batch=1)
        at_the_end = training.task_for(scratch, large, seed=seed)
        return replace(task, batches=lambda step: (at_the_end if late(step) else task).batches(step))
    if (every := way.regulariser_every) > 1:
        batches = task.batches
        return replace(task, batches=lambda step: (batches(step), every * (step % every == 0)), loss=weighted_loss)
    return task


def weighted_loss(net: Any, given: tuple[Batch, int]) -> Tensor:
    """`training.loss` with so many times its regulariser; without it, two frames alone are encoded."""
    batch, times = given
    if times:
        value, image = training.loss_and_image(net, batch)
        own = F.l1_loss(image, batch.target)
        return own + times * (value - own)
    texture, shape = net.encode(torch.cat(batch[:2]))
    (_, texture_b), (shape_a, shape_b) = texture.chunk(2), shape.chunk(2)
    return F.l1_loss(net.decoder(texture_b, net.manipulator(shape_a, shape_b, batch.factor)), batch.target)


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md and report.md."""
    first: dict[str, Any] = {row["row"]: row for row in rows[rows["seed"] == 0].to_dict("records")}
    shown = rows[(rows["seed"] == 0) & (rows["row"] != PACE)].copy()
    recipe, paces = first[RECIPE], first[PACE]["paces_s"]
    shown["step_ms"] = shown["step_s"] * 1000
    gains = [al.interval(found, recipe["ssims"], method="bootstrap") for found in shown["ssims"]]
    shown["gain"] = ["" if name == RECIPE else f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
                     for name, gain in zip(shown["row"], gains, strict=True)]  # fmt: skip
    ssim, lpips = (replace(column, change=False) for column in columns.QUALITY)
    found = table(
        shown,
        columns=[Column("row", "way"), Column("step_ms", "a step", unit="ms", digits=0),
                 Column("steps", "steps", digits=0), ssim, Column("gain", "SSIM less the recipe's"), lpips],
    )  # fmt: skip
    preset = rows.attrs["conditions"]["preset"]
    write_report(
        rows, folder, "What trains better in the same time", ABOUT,
        f"The network with its decoder at ¼ of the resolution, from the trained baseline, for {SECONDS[preset]:g} "
        f"seconds of steps as timed in turn with those of the other ways; the recipe in {recipe['precision']}. SSIM "
        f"and LPIPS on {int(recipe['judged'])} held-out samples, with the paired 95 % bootstrap interval over them.",
        found,
        f"Compiled by torch.compile a step of the recipe takes {1000 * paces[COMPILED]:.0f} ms, after "
        f"{first[PACE]['compiling_s']:.0f} seconds of compiling; not trained so.",
        command=f"python -m {__name__}", tables={"table": found},
    )  # fmt: skip


ABOUT = (
    "*The recipe*: 4 patches of 48 pixels a step, Adam at 1e-3 down a cosine, the mean of the weights; at the "
    "change of resolution new layers begin as means and copies of pixels. The others differ in what their name "
    "says. *Patches of 96 at the end*: one a step, in the last fifth. *Padding in bf16*: of maps that are in bf16 "
    "already, where autocast casts them to fp32 to pad. *Regulariser every 4th step*: with four times its weight; "
    "else two frames are encoded and not four. *Muon*: torch's Adam for all but the convolutions from channels to "
    "channels. *Fresh layers*: as torch initialises them."
)


if __name__ == "__main__":
    command()
