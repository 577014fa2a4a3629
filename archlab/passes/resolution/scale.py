"""Resolution: a part of the network runs at a coarser or finer one than it did (paper, section 4.2)."""

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import nn

from ...arguments import choice, whole, wrong
from ...capture.copies import copied
from ...capture.dataflow import Flow
from ...capture.record import Capture, ModuleCall
from ...capture.recorder import capture
from ...names import closest
from ...rewrite.inject import free_name
from ...rewrite.module_tree import with_modules
from ...rewrite.rewrite import CannotRewrite, rewrite
from ...rewrite.target import Edit, How, Wrap, target_of
from ..checks import finish, outputs_are_counted, sizes_told
from ..recipe import Equality
from ..switch_state import refuse_switched
from .layers import DOWN, INIT, UP, Coarser, Down, DownStage, Finer, Init, Rescaled, Up, UpStage

MOST_KERNEL = 255  # a larger one cannot be meant
BEGIN = {"fresh": "are fresh", "resample": "begin as means and copies"}  # the new layers, by `init`
FACTORS = (1 / 8, 1 / 4, 1 / 2, 2, 4, 8)
# Activations that a recipe may name without the caller's help.
NAMED_ACTIVATIONS = {
    c.__name__: c for c in (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Hardswish)
}


def scale_resolution(
    model: nn.Module,
    example: Any,
    *,
    span: str | tuple[str, str],
    factor: float = 2,
    down: Down = "conv",
    up: Up = "nearest-conv",
    kernel: int = 3,
    activation: type[nn.Module] | None = nn.ReLU,
    init: Init = "fresh",
) -> nn.Module:
    """A copy of `model` in which a part of it runs at a resolution `factor` times coarser or finer.

    All layers but the new ones keep their weights: train on. A span of one module becomes a `Rescaled`, in which it is
    ``.span``. Paper, section 4.2: the decoder's blocks at a quarter instead of half of the resolution.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        span: path of a module, or those of the first and the last that one container calls. It must give the grid that
            it got; N x C x spatial, of one to three dimensions.
        factor: 2, 4, 8 coarser, 1/2, 1/4, 1/8 finer; 2 ** k is k stages within each other, each by two. Odd sizes come
            back exactly.
        down: "conv" (strided), "average", "pixel-unshuffle" (then a convolution).
        up: "nearest-conv" (then a convolution), "bilinear" (linear in 1-D, trilinear in 3-D), "pixel-shuffle" (a
            convolution before).
        kernel: side of the new convolutions, odd; they keep the channels and pad by half of it in the span's mode.
        activation: class of the module behind each new convolution; None for none.
        init: of the new convolutions. "fresh", as they initialise themselves; "resample", as the mean of each cell on
            the way down and its copy on the way up, so that a trained network goes on from what it has learned. The
            activation behind them still acts: a ReLU clips what is negative.

    Raises:
        ValueError: for an unknown span, one that changes its grid or reads other grids, and options out of range.

    >>> scale_resolution(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), torch.zeros(1, 4, 9, 9), span="0", factor=2)
    Sequential(
      (0): Rescaled(
        (before): Coarser(
          (0): DownStage(
            (conv): Conv2d(4, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
            (act): ReLU()
          )
        )
        (span): Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
        (after): Finer(
          (0): UpStage(
            (conv): Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
            (act): ReLU()
          )
        )
      )
    )
    """
    if activation is not None and not (isinstance(activation, type) and issubclass(activation, nn.Module)):
        raise TypeError(wrong("scale_resolution: activation", "a class of modules or None", activation))
    if activation is not None and NAMED_ACTIVATIONS.get(activation.__name__, activation) is not activation:
        raise ValueError(
            f"scale_resolution: an activation called {activation.__name__} is torch's own in a recipe: rename yours"
        )
    try:
        _ = None if activation is None else activation()
    except TypeError as error:
        rule = "a class of modules that needs no argument, or None"
        raise TypeError(wrong("scale_resolution: activation", rule, activation, str(error))) from error
    return apply_scale_resolution(
        model, example, span=span, factor=factor, down=down, up=up, kernel=kernel, init=init,
        activation=None if activation is None else activation.__name__,
        modules={} if activation is None else {activation.__name__: activation},
    )  # fmt: skip


def sweep_resolution(
    model: nn.Module, example: Any, *, span: str | tuple[str, str], factors: Iterable[float] = (2, 4, 8), **options: Any
) -> dict[float, nn.Module]:
    """`scale_resolution` at each of `factors`, by factor; 1 stands for a copy of `model` as it is.

    ``al.compare(networks, task, steps=1000)`` tunes each of them equally long, on the same batches, and tells quality,
    parameters, MACs and milliseconds of all in one table.

    >>> nets = sweep_resolution(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), torch.zeros(1, 4, 8, 8), span="0")
    >>> {factor: sum(p.numel() for p in net.parameters()) for factor, net in nets.items()}
    {2: 444, 4: 740, 8: 1036}
    """
    if isinstance(factors, str | Real) or not isinstance(factors, Iterable):
        raise TypeError(wrong("sweep_resolution: factors", "a list of factors", factors))
    factors = list(factors)
    if not factors:
        raise ValueError(wrong("sweep_resolution: factors", "a list of one factor or more", factors))
    return {
        factor: copied(model) if factor == 1 else scale_resolution(model, example, span=span, factor=factor, **options)
        for factor in factors
    }


def apply_scale_resolution(
    model: nn.Module,
    example: Any,
    *,
    span: str | tuple[str, str] | list[str],
    factor: float,
    down: Down,
    up: Up,
    kernel: int,
    activation: str | None,
    modules: Mapping[str, Callable[..., nn.Module]],
    init: Init = "fresh",
) -> nn.Module:
    """The step ``scale_resolution`` of a recipe; an activation that torch.nn has not must be in `modules`."""
    refuse_switched(model)
    options = (("factor", factor, FACTORS), ("down", down, DOWN), ("up", up, UP), ("init", init, INIT))
    for name, value, allowed in options:
        choice(f"scale_resolution: {name}", value, allowed)
    whole("scale_resolution: kernel", kernel, least=1, most=MOST_KERNEL)
    if not kernel % 2:
        raise ValueError(wrong("scale_resolution: kernel", "odd, so that it has a middle", kernel))
    known = NAMED_ACTIVATIONS | dict(modules)
    if activation is not None and activation not in known:
        raise ValueError(f"the recipe's activation {activation!r} must be given in modules")
    if not isinstance(span, str):
        rule = "the path of a module, or the two paths of the first and the last"
        if not isinstance(span, tuple | list) or not all(isinstance(end, str) for end in span):
            raise TypeError(wrong("scale_resolution: span", rule, span))
        if len(span) != 2:
            raise ValueError(wrong("scale_resolution: span", rule, span))
    first, last = (span, span) if isinstance(span, str) else span
    record = capture(model, example)
    entries, exits = _ends(record, model, first, last)
    _check_grid(record, entries, exits, first, last)
    shape, dims = entries[0].in_shapes[0], len(entries[0].in_shapes[0]) - 2
    parts = [model.get_submodule(path) for path in dict.fromkeys((first, last))]
    modes = [m.padding_mode for part in parts for m in part.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    like = next((p for part in [*parts, model] for p in part.parameters() if p.is_floating_point()), torch.zeros(()))

    def stages(kind: type[DownStage | UpStage], how: Any, channels: int, count: int) -> list[nn.Module]:
        act = None if activation is None else known[activation]
        made = [kind(how, channels, dims, kernel, (modes or ["zeros"])[0], act and act()) for _ in range(count)]
        if init == "resample":
            for stage in made:
                stage.resample_()
        return [stage.to(like.device, like.dtype) for stage in made]

    count = abs(round(math.log2(factor)))
    channels, channels_out = shape[1], exits[0].out_shapes[0][1]
    if factor > 1:
        before: nn.Module = Coarser(*stages(DownStage, down, channels, count))
        after: nn.Module = Finer(*stages(UpStage, up, channels_out, count))
    else:
        before, after = (
            Finer(*stages(UpStage, up, channels, count)),
            Coarser(*stages(DownStage, down, channels_out, count)),
        )
    try:
        new, how, changed = _put_around(model, example, record, first, last, before, after, entries, exits)
    except CannotRewrite:
        raise
    except (RuntimeError, TypeError, AttributeError, AssertionError, ValueError) as error:
        raise ValueError(f"scale_resolution: {span!r} does not run on another grid: {error}") from error
    inner = last if first != last else f"{last}.span"
    for call in changed.calls:
        if call.module == inner and first == last and call.in_shapes[0][2:] != call.out_shapes[0][2:]:
            raise ValueError(
                f"scale_resolution: on the other grid {span!r} makes {call.out_shapes[0][2:]} of "
                f"{call.in_shapes[0][2:]}: it has a size of its own"
            )
    counted = outputs_are_counted(
        model, example, record, changed, changed=f"scale_resolution: with {span!r} on another grid",
        remedy="what the model returns must not lie within the span",
    )  # fmt: skip
    told = {"span": span if isinstance(span, str) else list(span), "kernel": kernel, "activation": activation}
    return finish(
        new, model, name="scale_resolution", options=told | {name: value for name, value, _ in options},
        before=record, after=changed, equality=Equality.NONE,
        checked=f"the new layers {BEGIN[init]}; {sizes_told(counted)}", found=[first, last], taken=[first, last],
        how=how, counted=counted,
    )  # fmt: skip


def _ends(record: Capture, model: nn.Module, first: str, last: str) -> tuple[list[ModuleCall], list[ModuleCall]]:
    """The calls of the first and the last module of a span, which pair up."""
    paths = [path for path, _ in model.named_modules() if path]
    ends = []
    for path in (first, last):
        if path not in paths:
            raise ValueError(f"scale_resolution: {path!r} is no module of this model; {closest(path, paths)}")
        calls = [call for call in record.calls if call.module == path]
        if not calls or any(not (c.tensor_out and c.direct and c.inputs) for c in calls):
            raise ValueError(f"scale_resolution: {path!r} must be called with a tensor and give one")
        ends.append(calls)
    entries, exits = ends
    if first != last and any(b.last <= a.first for a, b in zip(entries, exits, strict=False)):
        raise ValueError(f"scale_resolution: {last!r} runs before {first!r}")
    if first != last and len({(c.execution, c.location) for c in entries}) != len(entries):
        raise ValueError(f"scale_resolution: {first!r} is called more than once in one run of its container")
    if first != last and len({c.location for c in entries}) > 1:
        raise ValueError(f"scale_resolution: {first!r} is called from several places of its container's code")
    if len(entries) != len(exits) or any(a.execution is not b.execution for a, b in zip(entries, exits, strict=True)):
        raise ValueError(f"scale_resolution: {first!r} and {last!r} are not called by one container, in turn")
    return entries, exits


def _check_grid(record: Capture, entries: list[ModuleCall], exits: list[ModuleCall], first: str, last: str) -> None:
    """Raise ValueError where a span changes its grid, or where values of the grid cross its border elsewhere."""
    for entry, end in zip(entries, exits, strict=True):
        given, made = entry.in_shapes[0], end.out_shapes[0]
        if not 3 <= len(given) <= 5 or (given[0], given[2:]) != (made[0], made[2:]):
            raise ValueError(
                f"scale_resolution: {first!r} to {last!r} makes {tuple(made)} of {tuple(given)}: a span must keep its "
                "grid, N x C x spatial of one to three dimensions"
            )
    if first == last:
        return
    flow = Flow(record)
    for entry, end in zip(entries, exits, strict=True):
        x, y = entry.inputs[0], end.outputs[0]
        inside = record.ops[entry.first : end.last]
        made_inside = {value for op in inside for value in op.outputs}
        for op in inside:
            for value, shape in zip(op.inputs, op.in_shapes, strict=False):
                foreign = value not in made_inside and value not in record.constants and len(shape) > 2
                if foreign and not (value == x and op.index < entry.last):
                    raise ValueError(f"scale_resolution: between {first!r} and {last!r} {op.name} reads another grid")
        for op in record.ops[end.last :]:
            if any(value in made_inside and value != y for value in op.inputs):
                raise ValueError(f"scale_resolution: {op.name} behind {last!r} reads what was made before its end")
        assert flow.descends(y, x) or not inside


def _put_around(
    model: nn.Module, example: Any, record: Capture, first: str, last: str, before: nn.Module, after: nn.Module,
    entries: list[ModuleCall], exits: list[ModuleCall],
) -> tuple[nn.Module, dict[str, How], Capture]:  # fmt: skip
    """A copy of `model` with `before` and `after` around the span, how, and its recorded run."""
    if first == last:
        inner = copied(model.get_submodule(first))
        wrapper = Rescaled(before.train(inner.training), inner, after.train(inner.training))
        new = with_modules(model, {first: wrapper})
        return new, {first: How.MODULE}, capture(new, example)
    parent, _, name = first.rpartition(".")
    container = model.get_submodule(parent)
    assert entries[0].execution is not None
    own = isinstance(container, nn.Sequential) and entries[0].execution.module == parent
    if own and last.rpartition(".")[0] == parent:
        new = copied(model)
        children = new.get_submodule(parent)._modules
        names = list(children)
        run = names[names.index(name) : names.index(last.rpartition(".")[2]) + 1]
        parts = nn.Sequential(*(children[n] for n in run))  # type: ignore[arg-type]
        children[name] = Rescaled(before.train(container.training), parts, after.train(container.training))
        children[name].training = parts.training = container.training  # type: ignore[union-attr]
        for other in run[1:]:
            del children[other]
        new = with_modules(new, {})
        return new, {first: How.MODULE}, capture(new, example)
    flow, source, end = Flow(record), entries[0].location, exits[0].location
    execution = entries[0].execution
    assert execution is not None and source is not None and end is not None
    prepared = copied(model)
    owner = prepared.get_submodule(execution.module)
    names = []
    for path, what, module in ((first, "before", before), (last, "after", after)):
        names.append(free_name(owner, f"{path.replace('.', '_')}_{what}"))
        owner.add_module(names[-1], module.train(owner.training))
    edits = [
        Edit(target_of(first, entries, flow), Wrap(before=names[0])),
        Edit(target_of(last, exits, flow), Wrap(after=names[1], source=source)),
    ]
    made = rewrite(prepared, example, edits, record=record, run=lambda net: capture(net, example))
    return made.model, made.how, made.ran
