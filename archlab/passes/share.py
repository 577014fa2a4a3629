"""Sharing: the consumers of one branch read another branch, and the first is gone (the paper's single branch)."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..arguments import text
from ..capture.copies import copied
from ..capture.dataflow import Flow
from ..capture.record import Capture, ModuleCall, Op
from ..capture.recorder import capture
from ..names import closest
from ..rewrite.inject import free_name
from ..rewrite.module_tree import drop_unreached
from ..rewrite.rewrite import rewrite
from ..rewrite.target import Edit, Rewire, target_of
from .checks import finish, observe, outputs_are_counted, sizes_told
from .recipe import Equality
from .resolution.layers import Resample
from .switch_state import refuse_switched

_RESAMPLING = frozenset({"interpolate", "upsample", "avg_pool1d", "avg_pool2d", "avg_pool3d"})


def share(model: nn.Module, example: Any, *, keep: str, drop: str) -> nn.Module:
    """A copy of `model` in which all that read the output of one module read that of another instead.

    What nothing reaches any more is gone. Where the grids of the two outputs differ, ops that only bring the dropped
    branch to the kept one's go as well; else the kept output is resampled (`Resample`: to inputs whose sides the ratio
    of the grids divides). Values change, so train on. Paper, section 4.4: a single branch in the encoder.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        keep: path of the module whose output is read from now on.
        drop: path of the module whose output was read. Both outputs are N x C x spatial, with the same N and C, and
            one container must see both, each as the output of a module that it calls.

    Raises:
        ValueError: for an unknown path, and for outputs that do not fit.
        CannotRewrite: where the container's code cannot be traced, or computes `keep` only after `drop` is read.

    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.texture, self.shape, self.mix = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(8, 3, 1)
    ...     def forward(self, x):
    ...         return self.mix(torch.cat([self.texture(x), self.shape(x)], dim=1))
    >>> import torch
    >>> share(Net(), torch.zeros(1, 3, 8, 8), keep="shape", drop="texture").texture
    Removed(texture)
    """
    refuse_switched(model)
    text("share: keep", keep, "the path of a module")
    text("share: drop", drop, "the path of a module")
    record = capture(model, example)
    flow = Flow(record)
    kept, dropped = _seen_together(record, model, keep, drop)
    have, want = kept[0].out_shapes[0], dropped[0].out_shapes[0]
    if have != want and (len(have) < 3 or have[:2] != want[:2]):
        raise ValueError(
            f"share: {keep} gives {'x'.join(map(str, have))}, {drop} {'x'.join(map(str, want))}: the batch and the "
            "channels must be the same"
        )
    if any(flow.descends(k.outputs[0], d.outputs[0]) for k, d in zip(kept, dropped, strict=True)):
        raise ValueError(f"share: {keep} is computed from {drop}, and cannot stand for it")
    resamplers = _resamplers(record, flow, dropped, have)
    through = None
    prepared = copied(model)
    if have != want and not resamplers:
        factor = _factor(have, want, keep, drop)
        path = kept[0].execution.module  # type: ignore[union-attr]
        container = prepared.get_submodule(path)
        through = free_name(container, f"{drop.rpartition('.')[2]}_from_{keep.rpartition('.')[2]}")
        container.add_module(through, Resample(factor))
    source = kept[0].location
    assert source is not None
    edits = [Edit(target_of(drop, dropped, flow), Rewire(source, through))]
    edits += [Edit(target_of(f"{drop}/{ops[0].name}.{i}", ops, flow)) for i, ops in enumerate(resamplers)]
    rewritten = rewrite(prepared, example, edits, record=record, run=lambda net: capture(net, example))
    new, after = rewritten.model, rewritten.ran
    drop_unreached(new, record, after, lambda net: observe(net, example))
    counted = outputs_are_counted(
        model, example, record, after, changed=f"share: with {keep} for {drop}",
        remedy="the output of neither may be what the model returns",
    )  # fmt: skip
    gone = sorted(record.reached()[0] - after.reached()[0])
    return finish(
        new, model, name="share", options={"keep": keep, "drop": drop}, before=record, after=after,
        equality=Equality.NONE, checked=f"values change; {sizes_told(counted)}",
        found=[keep, drop], taken=[drop], skipped=dict.fromkeys(gone, "reached no more"), how=rewritten.how,
        counted=counted,
    )  # fmt: skip


def _seen_together(
    record: Capture, model: nn.Module, keep: str, drop: str
) -> tuple[list[ModuleCall], list[ModuleCall]]:
    """For every execution of the innermost container that gets both outputs from its children: the calls that give
    them, which are those of `keep` and `drop` or of modules that only hand these on."""
    known = {path for path, _ in model.named_modules()}
    for name, path in (("keep", keep), ("drop", drop)):
        if path not in known:
            raise ValueError(
                f"share: {name}={path!r} is no module of this model; {closest(path, sorted(known - {''}))}"
            )
        if not any(call.module == path and call.tensor_out for call in record.calls):
            raise ValueError(f"share: {name}={path!r} is not called by the example, or its output is not one tensor")
    carriers = {}
    for path in (keep, drop):
        values = {call.outputs for call in record.calls if call.module == path}
        carriers[path] = [c for c in record.calls if c.tensor_out and c.outputs in values and c.execution is not None]
    pairs = [(k, d) for d in carriers[drop] for k in carriers[keep] if k.execution is d.execution and k is not d]
    if not pairs:
        raise ValueError(f"share: no module calls both {keep!r} and {drop!r}, or what contains them")
    first = max(pairs, key=lambda pair: (pair[0].module == keep) + (pair[1].module == drop))

    def lines(pair: tuple[ModuleCall, ModuleCall]) -> list[tuple]:
        return [(call.module, call.location) for call in pair]

    same = [pair for pair in pairs if lines(pair) == lines(first)]
    kept = [{k.outputs for k, other in pairs if other is dropped} for _, dropped in same]
    if (several := max(map(len, kept))) > 1:
        raise ValueError(
            f"share: {keep!r} is called {several} times beside one call of {drop!r}: which of its outputs is meant "
            "is not told"
        )
    wanted = sum(call.module == drop for call in record.calls)
    if len(same) != wanted:
        raise ValueError(
            f"share: {drop!r} is called {wanted} times, but beside {keep!r} {len(same)} times: each call needs its own"
        )
    return [k for k, _ in same], [d for _, d in same]


def _resamplers(
    record: Capture, flow: Flow, dropped: Sequence[ModuleCall], grid: tuple[int, ...]
) -> list[tuple[Op, ...]]:
    """The ops that bring the dropped values to `grid`, by location, where nothing else reads these; else none."""
    values = {call.outputs[0] for call in dropped}
    readers = [op for value in values for op in flow.consumers.get(value, ())]
    fit = all(op.name in _RESAMPLING and op.out_shapes[0] == grid for op in readers)
    if not readers or not fit or values & set(record.outputs) or dropped[0].out_shapes[0] == grid:
        return []
    locations: dict[tuple, list[Op]] = {(op.execution.module, op.execution.entry, op.location): [] for op in readers}
    for op in record.ops:
        if (key := (op.execution.module, op.execution.entry, op.location)) in locations:
            locations[key].append(op)
    if any(op not in readers for ops in locations.values() for op in ops):
        return []  # one of them resamples something else as well
    return [tuple(ops) for ops in locations.values()]


def _factor(have: tuple[int, ...], want: tuple[int, ...], keep: str, drop: str) -> float:
    """How many times finer the grid `want` is than `have`."""
    for factor in (2, 4, 8, 16):
        if want[2:] == tuple(side * factor for side in have[2:]):
            return float(factor)
        if want[2:] == tuple(-(-side // factor) for side in have[2:]):
            return 1 / factor
    raise ValueError(f"share: the grid of {drop}, {want[2:]}, is no power of two times that of {keep}, {have[2:]}")
