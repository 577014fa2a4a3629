"""What is measured: five groups of rows, each a function that measures those of its rows that are wanted."""

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import archlab as al
from archlab.capture.example import moved, run_example
from archlab.rewrite.blend import blend
from studies.motion.data.generator import Batch, Generator
from studies.motion.data.sources import find_sources
from studies.motion.network.models import MagnificationNet, ResidualBlock, baseline
from studies.motion.table1 import in_residual_blocks
from studies.motion.train import training

from .measuring import Work, extra_kernels, in_turns, spread

COLUMNS = ("what", "ratio_of", "median", "p10", "p90", "base_ms", "repeats", "aim", "met", "note")
Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Effort:
    """How many turns, and how large: `size` pixels of a training crop (None: as trained), `frame` of a costed one."""

    warmup: int
    steps: int
    slow_steps: int  # in bf16, on a CPU without instructions for it
    blends: int
    sites: int
    cost: int
    data: int
    size: int | None
    frame: tuple[int, int]  # height, width


FULL = Effort(warmup=1, steps=8, slow_steps=3, blends=20, sites=5, cost=2, data=8, size=None, frame=(1080, 1920))
SMOKE = Effort(warmup=0, steps=1, slow_steps=1, blends=1, sites=1, cost=1, data=1, size=32, frame=(272, 480))


@dataclass(frozen=True)
class Setup:
    """Where and how much is measured, and which rows: a glob on `what`."""

    device: torch.device
    effort: Effort
    only: str = "*"

    def wants(self, what: str) -> bool:
        return fnmatch.fnmatchcase(what, self.only)

    def in_turns(self, works: Mapping[str, Work], repeats: int) -> pd.DataFrame:
        """Seconds of each of `works` on this device, a row a turn."""
        return in_turns(works, repeats=repeats, warmup=self.effort.warmup, device=self.device)

    @property
    def budget(self) -> training.Budget:
        """What the motion study trains on such a device."""
        return training.budget_for("gpu" if self.device.type == "cuda" else "cpu")


def row(
    what: str, ratio_of: str, above_s: pd.Series, below_s: pd.Series, *, most: float | None = None,
    least: float | None = None, note: str = "",
) -> dict[str, Any]:  # fmt: skip
    """A row: the ratio of two columns of times, the median of the lower, and whether its aim (if any) is met."""
    found = spread(above_s / below_s)
    made = {"what": what, "ratio_of": ratio_of, **found, "base_ms": 1e3 * below_s.median(), "repeats": len(below_s)}
    if most is not None:
        return made | {"aim": f"≤ {most:g}", "met": found["median"] <= most, "note": note}
    if least is not None:
        return made | {"aim": f"≥ {least:g}", "met": found["median"] >= least, "note": note}
    return made | {"aim": "", "met": None, "note": note}


# a training step, switched over plain

KINDS = ("activation", "skip", "block")
SWITCHED = {
    f"{name}, {where}": (kinds, where)
    for where in ("residual blocks", "everywhere")
    for name, kinds in (*((kind, (kind,)) for kind in KINDS), ("together", KINDS))
}


def steps(setup: Setup) -> Rows:
    """Forward and backward of the motion study's loss, without the optimizer's step."""
    for precision in ("fp32", "bf16"):
        wanted = [name for name in SWITCHED if setup.wants(f"step/{precision}/{name}")]
        if wanted:
            yield from _steps(setup, precision, wanted)


def _steps(setup: Setup, precision: str, wanted: list[str]) -> Rows:
    slow = precision == "bf16" and setup.device.type == "cpu" and setup.budget.precision != "bf16"
    net, batch = _training(setup, small=slow)
    works = {"plain": partial(_step, net, batch, precision)}
    for name in wanted:
        works[name] = partial(_step, _switched(net, batch, *SWITCHED[name]), batch, precision)
    if slow:
        works["fp32"] = partial(_step, net, batch, "fp32")
    times = setup.in_turns(works, setup.effort.slow_steps if slow else setup.effort.steps)
    for name in wanted:
        most = 1.35 if name.startswith("together") else 1.15
        made = row(f"step/{precision}/{name}", "switched / plain", times[name], times["plain"], most=most)
        if not made["met"]:
            made["note"] = "most of it: " + extra_kernels(works["plain"], works[name], device=setup.device)
        yield made
    if slow:
        note = (
            f"this machine emulates bf16: its steps were measured on one crop of {batch.a.shape[-1]} pixels, "
            "and say little of a machine that has it"
        )
        yield row("step/bf16/plain", "bf16 / fp32", times["plain"], times["fp32"], note=note)


def _training(setup: Setup, *, small: bool = False) -> tuple[MagnificationNet, Batch]:
    """The baseline and a batch as they are trained on this device; `small`: one sample of 32 x 32 pixels."""
    size, count = (32, 1) if small else (setup.effort.size or setup.budget.size, setup.budget.batch)
    batch = Generator(find_sources(None, "train"), size, device=setup.device).batch(range(count), noise=True)
    side = None if small or setup.effort.size else setup.budget.patch
    frames = training.patches(batch[:4], side, step=0)
    a, b, clean_b, target = (x.to(memory_format=torch.channels_last) for x in frames)
    net = baseline().to(setup.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return net, Batch(a, b, clean_b, target, batch.factor)


def _switched(net: MagnificationNet, batch: Batch, kinds: tuple[str, ...], where: str) -> nn.Module:
    inside = in_residual_blocks(net, "") if where == "residual blocks" else None
    soft = al.switch(net, (batch.a[:1], batch.b[:1], 10.0), kinds=kinds, where=inside)
    al.set_omegas_(soft, 0.5)
    return soft


def _step(net: nn.Module, batch: Batch, precision: str) -> None:
    net.zero_grad(set_to_none=True)
    with torch.autocast(batch.a.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss = training.loss(net, batch)
    loss.backward()


# ways to blend a ReLU with nothing: what archlab.blending was chosen from


class OneTensor(torch.autograd.Function):
    """``relu(x)`` blended with x by omega, keeping nothing but x: the leanest there is in Python.

    It reads omega as a number, which waits for a GPU and breaks a compiled graph.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, omega: Tensor) -> Tensor:
        ctx.slope = omega.item()
        ctx.save_for_backward(x)
        return F.leaky_relu(x, ctx.slope)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (x,), (grad,) = ctx.saved_tensors, grads
        slope = torch.ops.aten.leaky_relu_backward(grad, x, ctx.slope, False)
        return slope, (grad * x.clamp(max=0)).sum()


BLENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "archlab": lambda x, omega: blend(F.relu(x), x, omega),
    "prelu": lambda x, omega: F.prelu(x, omega.reshape(1)),
    "own function": OneTensor.apply,
}


def blends(setup: Setup) -> Rows:
    """Forward and backward of one residual block of the decoder, its ReLU blended, over the plain block."""
    wanted = [name for name in BLENDS if setup.wants(f"blend/{name}")]
    if not wanted:
        return
    net, batch = _training(setup)
    side = batch.a.shape[-1] // 2
    block = net.decoder.blocks[0]
    assert isinstance(block, ResidualBlock)
    x = torch.randn(len(batch.a), block.conv1.in_channels, side, side, device=setup.device)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    omega = torch.tensor(0.5, device=setup.device, requires_grad=True)

    def run_block(act: Callable[[Tensor, Tensor], Tensor]) -> None:
        block.zero_grad(set_to_none=True)
        x.grad = omega.grad = None
        (x + block.conv2(act(block.conv1(x), omega))).sum().backward()

    works = {"plain": partial(run_block, lambda x, omega: F.relu(x))}
    works |= {name: partial(run_block, BLENDS[name]) for name in wanted}
    times = setup.in_turns(works, setup.effort.blends)
    for name in wanted:
        yield row(f"blend/{name}", "blended / plain block", times[name], times["plain"])


# looking at a model, over running it


def _pair() -> tuple[Tensor, Tensor, float]:
    return torch.rand(2, 3, 96, 96), torch.rand(2, 3, 96, 96), 10.0


def _photo() -> Tensor:
    return torch.rand(1, 3, 224, 224)


LOOKED_AT: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "baseline, 2 x 96 x 96": (baseline, _pair),
    "resnet18, 224 x 224": (torchvision.models.resnet18, _photo),
    "vit_b_16, 224 x 224": (torchvision.models.vit_b_16, _photo),
}


def looks(setup: Setup) -> Rows:
    """`al.sites` over one forward pass without gradients."""
    for name, (build, example) in LOOKED_AT.items():
        if setup.wants(f"sites/{name}"):
            model, given = build().eval().to(setup.device), moved(example(), device=setup.device)
            works = {"forward": partial(_forward, model, given), "sites": partial(al.sites, model, given)}
            times = setup.in_turns(works, setup.effort.sites)
            yield row(f"sites/{name}", "sites / forward pass", times["sites"], times["forward"], most=5)


@torch.no_grad()
def _forward(model: nn.Module, example: Any) -> None:
    run_example(model, example)


# counting a cost, over fvcore, which runs the model


def costs(setup: Setup) -> Rows:
    """fvcore's time over that of `al.cost`, both on the CPU."""
    height, width = setup.effort.frame
    what = f"cost/stream, {width} x {height}"
    if not setup.wants(what):
        return
    net = baseline().eval()
    for work in _counting(net, 32, 32).values():
        work()  # what they import is not measured
    works = _counting(net, height, width)
    times = in_turns(works, repeats=setup.effort.cost, warmup=0, device=torch.device("cpu"))
    yield row(what, "fvcore / cost", times["fvcore"], times["cost"], least=100)


def _counting(net: MagnificationNet, height: int, width: int) -> dict[str, Work]:
    frame, shape = torch.rand(1, 3, height, width), torch.rand(1, net.config.width, height // 2, width // 2)
    example = al.Call(lambda net, f, s: net.stream(f, s, 10.0), frame, shape)
    return {"cost": partial(al.cost, net, example), "fvcore": partial(al.fvcore_cost, net, example)}


# making samples, over training on them

MADE = 10  # samples a turn: two of each part of the data set


def data(setup: Setup) -> Rows:
    """What a training step takes in, over what the generator makes in that time."""
    if not setup.wants("data/generator"):
        return
    net, batch = _training(setup)
    size = setup.effort.size or setup.budget.size  # whole samples, also where a step sees a patch of each
    generator = Generator(find_sources(None, "train"), size, device=setup.device)
    works = {
        "step": partial(_step, net, batch, setup.budget.precision),
        "generator": partial(generator.batch, range(MADE), noise=True),
    }
    times = setup.in_turns(works, setup.effort.data)
    used_s, made_s = times["step"] / len(batch.a), times["generator"] / MADE
    note = f"{1 / made_s.median():.1f} samples/s made, {1 / used_s.median():.1f} used"
    yield row("data/generator", "made / used", used_s, made_s, least=1, note=note)


GROUPS: tuple[Callable[[Setup], Rows], ...] = (steps, blends, looks, costs, data)
