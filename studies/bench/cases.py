"""What is measured: a case a row, each a function of where and how much is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import archlab as al
from archlab.rewrite.blend import blend
from studies.motion.data.generator import Batch, Generator
from studies.motion.data.sources import find_sources
from studies.motion.network.models import MagnificationNet, ResidualBlock, baseline
from studies.motion.table1 import in_residual_blocks
from studies.motion.train import training

from .interleave import Work, extra_kernels, interleaved, spread

Values = dict[str, Any]  # of a row: ratio_of, median, p10, p90, base_ms, repeats, aim, met, note


@dataclass(frozen=True)
class Effort:
    """How many rounds, and how large: `size` pixels of a training crop (None: as trained), `frame` of a costed one."""

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
    """Where and how much is measured."""

    device: torch.device
    effort: Effort

    def interleaved(self, works: Mapping[str, Work], repeats: int) -> pd.DataFrame:
        """Seconds of each of `works` on this device, a row a round."""
        return interleaved(works, repeats=repeats, warmup=self.effort.warmup, device=self.device)

    @property
    def budget(self) -> training.Budget:
        """What the motion study trains on such a device."""
        return training.budget_for("gpu" if self.device.type == "cuda" else "cpu")

    @property
    def emulates_bf16(self) -> bool:
        """Whether this is a CPU without instructions for bf16, on which its steps take many times as long."""
        return self.device.type == "cpu" and self.budget.precision != "bf16"


def ratio(
    ratio_of: str, above_s: pd.Series, below_s: pd.Series, *, most: float | None = None, least: float | None = None,
    note: str = "",
) -> Values:  # fmt: skip
    """The ratio of two columns of times, the median of the lower, and whether the aim (if any) is met."""
    found = spread(above_s / below_s)
    made = {"ratio_of": ratio_of, **found, "base_ms": 1e3 * below_s.median(), "repeats": len(below_s)}
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


def switched_step(setup: Setup, *, precision: str, name: str) -> Values:
    """Forward and backward of the motion study's loss, without the optimizer's step: switched over plain."""
    slow = precision == "bf16" and setup.emulates_bf16
    net, batch = _training(setup, small=slow)
    soft = _switched(net, batch, *SWITCHED[name])
    works = {"plain": partial(_step, net, batch, precision), "switched": partial(_step, soft, batch, precision)}
    times = setup.interleaved(works, setup.effort.slow_steps if slow else setup.effort.steps)
    most = 1.35 if name.startswith("together") else 1.15
    made = ratio("switched / plain", times["switched"], times["plain"], most=most)
    if not made["met"]:
        made["note"] = "most of it: " + extra_kernels(works["plain"], works["switched"], device=setup.device)
    return made


def plain_step(setup: Setup) -> Values:
    """The same step without switches, in bf16 over fp32."""
    slow = setup.emulates_bf16
    net, batch = _training(setup, small=slow)
    works = {precision: partial(_step, net, batch, precision) for precision in ("bf16", "fp32")}
    times = setup.interleaved(works, setup.effort.slow_steps if slow else setup.effort.steps)
    emulated = (
        f"this machine emulates bf16: its steps were measured on one crop of {batch.a.shape[-1]} pixels, "
        "and say little of a machine that has it"
    )
    return ratio("bf16 / fp32", times["bf16"], times["fp32"], note=emulated if slow else "")


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


# ways to blend a ReLU with nothing: what archlab's blend was chosen from


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


def blended_block(setup: Setup, *, name: str) -> Values:
    """Forward and backward of one residual block of the decoder, its ReLU blended, over the plain block."""
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

    works = {"plain": partial(run_block, lambda x, omega: F.relu(x)), "blended": partial(run_block, BLENDS[name])}
    times = setup.interleaved(works, setup.effort.blends)
    return ratio("blended / plain block", times["blended"], times["plain"])


# looking at a model, over running it


def _pair() -> tuple[Any, ...]:
    return torch.rand(2, 3, 96, 96), torch.rand(2, 3, 96, 96), 10.0


def _photo() -> tuple[Any, ...]:
    return (torch.rand(1, 3, 224, 224),)


LOOKED_AT: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "baseline, 2 x 96 x 96": (baseline, _pair),
    "resnet18, 224 x 224": (torchvision.models.resnet18, _photo),
    "vit_b_16, 224 x 224": (torchvision.models.vit_b_16, _photo),
}


def look(setup: Setup, *, name: str) -> Values:
    """`al.sites` over one forward pass without gradients."""
    build, example = LOOKED_AT[name]
    model = build().eval().to(setup.device)
    given = tuple(x.to(setup.device) if isinstance(x, Tensor) else x for x in example())
    works = {"forward": partial(_forward, model, given), "sites": partial(al.sites, model, given)}
    times = setup.interleaved(works, setup.effort.sites)
    return ratio("sites / forward pass", times["sites"], times["forward"], most=5)


@torch.no_grad()
def _forward(model: nn.Module, given: tuple[Any, ...]) -> None:
    model(*given)


# counting a cost, over fvcore, which runs the model


def count(setup: Setup) -> Values:
    """fvcore's time over that of `al.cost` for one streamed frame, both on the CPU."""
    height, width = setup.effort.frame
    net = baseline().eval()
    for work in _counting(net, 32, 32).values():
        work()  # what they import is not measured
    works = _counting(net, height, width)
    times = interleaved(works, repeats=setup.effort.cost, warmup=0, device=torch.device("cpu"))
    return ratio("fvcore / cost", times["fvcore"], times["cost"], least=100, note=f"a frame of {width} x {height}")


def _counting(net: MagnificationNet, height: int, width: int) -> dict[str, Work]:
    frame, shape = torch.rand(1, 3, height, width), torch.rand(1, net.config.width, height // 2, width // 2)
    example = al.Call(lambda net, f, s: net.stream(f, s, 10.0), frame, shape)
    return {"cost": partial(al.cost, net, example), "fvcore": partial(al.fvcore_cost, net, example)}


# making samples, over training on them

MADE = 10  # samples a round: two of each part of the data set


def data(setup: Setup) -> Values:
    """What the generator makes, over what a training step takes in, in the same time."""
    net, batch = _training(setup)
    size = setup.effort.size or setup.budget.size  # whole samples, also where a step sees a patch of each
    generator = Generator(find_sources(None, "train"), size, device=setup.device)
    works = {
        "step": partial(_step, net, batch, setup.budget.precision),
        "generator": partial(generator.batch, range(MADE), noise=True),
    }
    times = setup.interleaved(works, setup.effort.data)
    used_s, made_s = times["step"] / len(batch.a), times["generator"] / MADE
    note = f"{1 / made_s.median():.1f} samples/s made, {1 / used_s.median():.1f} used"
    return ratio("made / used", used_s, made_s, least=1, note=note)


CASES: dict[str, Callable[[Setup], Values]] = {
    **{
        f"step/{precision}/{name}": partial(switched_step, precision=precision, name=name)
        for precision in ("fp32", "bf16")
        for name in SWITCHED
    },
    "step/bf16/plain": plain_step,
    **{f"blend/{name}": partial(blended_block, name=name) for name in BLENDS},
    **{f"sites/{name}": partial(look, name=name) for name in LOOKED_AT},
    "cost/stream": count,
    "data/generator": data,
}
