"""Upsampling folded: nearest upsampling and the convolution behind it as one convolution on the coarse grid."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import nn

from ...capture.record import Capture, Op
from ...capture.recorder import capture
from ...names import Where, chosen
from ...rewrite.module_tree import with_modules
from ...rewrite.rewrite import Rewritten, rewrite
from ...rewrite.target import Edit, target_of
from ..checks import EXACT, compared, equal_within, finish, in_double, observe
from ..recipe import Equality
from ..switch_state import refuse_switched
from .chains import Chains, Link, by_location, find_chains
from .fixed import numbers_given
from .linear import NotExact
from .modules import layer_of, merged_tolerance, module_of, trained_as_
from .phases import PhaseConv, phases

_ARGUMENTS = ("input", "size", "scale_factor", "mode")  # of F.interpolate, in its order
_UPSAMPLING = (nn.Upsample, nn.UpsamplingNearest2d)


def fold_upsampling(model: nn.Module, example: Any, *, where: Where = None) -> nn.Module:
    """A copy of `model` in which nearest upsampling and the convolution behind it are one convolution of the coarse
    map, with fewer multiply-adds; equal to `model`.

    Behind a nearest upsampling by 2, a 3 x 3 convolution reads each coarse value up to four times: each of the four
    phases of its output is a 2 x 2 convolution of the coarse map (4/9 of the multiply-adds). All phases are made by one
    layer, `PhaseConv.conv`, and shuffled into place. Kernels, dilations and groups of any kind, whole factors, one to
    three dimensions; a stride is not. At the border, zero, circular and replicating padding stay exact, and mirroring
    where it is by less than the factor. Checked before it returns: equal within 1e-10 in float64, gradients too (in its
    own dtype where the model does not run in float64).

    Factors are taken for fixed: run the example as the model will be run. One that the call itself gives is skipped,
    and so is an upsampling to a size. The new layer has its own weights for each phase: trained on, it is no longer an
    upsampling and a convolution. The idea is the sub-pixel convolution of Shi et al. (2016), read backwards.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        where: only convolutions whose address (module path) matches: a glob, a list of globs, or a function of an
            address.

    Returns:
        The new model. Which convolutions and upsamplings were skipped, and why, is on its recipe's step.

    Raises:
        ValueError: where there is nothing to fold.
        CannotRewrite: where the code around an upsampling cannot be changed.

    >>> net = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3, padding=1))
    >>> import torch
    >>> fold_upsampling(net, torch.zeros(1, 4, 8, 8))
    Sequential(
      (0): Identity()
      (1): PhaseConv(
        factor=2, cut=((1, 1), (1, 1))
        (conv): Conv2d(4, 8, kernel_size=(2, 2), stride=(1, 1), padding=(1, 1))
      )
    )
    """
    refuse_switched(model)
    record = capture(model, example)
    chains = find_chains(model, record, example=example)
    found = _find(chains, model, example)
    paths = list(found.convolutions)
    wanted = chosen(paths, where, names=lambda path: [path], what="convolution behind a nearest upsampling")
    taken = _together(found, wanted)
    skipped = {**found.skipped, **{path: found.why(path, taken) for path in wanted if path not in taken}}
    if not taken:
        why = "; ".join(f"{address}: {reason}" for address, reason in list(skipped.items())[:6])
        raise ValueError(f"no upsampling to fold. {why or 'The example runs no nearest upsampling'}")
    return _folded(model, example, record, chains, found, taken, skipped)


def apply_fold_upsampling(model: nn.Module, example: Any, *, layers: list[str]) -> nn.Module:
    """The step ``fold_upsampling`` of a recipe: these convolutions with the upsamplings that they read. Raises
    ValueError for one that this model does not have, or that cannot be folded."""
    refuse_switched(model)
    if not isinstance(layers, list) or not layers:
        raise ValueError(f"fold_upsampling: layers must be a list of one path at least, got {layers!r:.80}")
    record = capture(model, example)
    chains = find_chains(model, record, example=example)
    found = _find(chains, model, example)
    taken = _together(found, [path for path in layers if path in found.convolutions])
    for path in layers:
        if path not in taken:
            known = path in found.convolutions or path in found.skipped
            why = found.why(path, taken) if known else "this model has no convolution behind an upsampling there"
            raise ValueError(f"fold_upsampling: the recipe folds {path!r:.80}, but {why}")
    return _folded(model, example, record, chains, found, taken, {})


# --- finding ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Upsampling:
    """The calls of a nearest upsampling at one place of the code, and the convolutions that alone read what they
    make."""

    address: str
    ops: tuple[Op, ...]
    factor: int
    readers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Found:
    """Upsamplings that could go, and the convolutions that read nothing else (path -> what they read); `skipped` says
    why others of both cannot."""

    upsamplings: tuple[_Upsampling, ...]
    convolutions: Mapping[str, tuple[_Upsampling, ...]]
    skipped: Mapping[str, str]

    def why(self, path: str, taken: Collection[str]) -> str:
        """Why a convolution is not among those `taken`."""
        if path in self.skipped:
            return self.skipped[path]
        others = {reader for up in self.convolutions[path] for reader in up.readers if reader not in taken}
        return f"{', '.join(sorted(others - {path}))}, which reads the same map, is not folded"


def _find(chains: Chains, model: nn.Module, example: Any) -> _Found:
    """What could be folded of a recorded run, each convolution judged by itself."""
    record, owner = chains.flow.record, {link.address: link for link in chains.links.values() if link.is_module}
    given = numbers_given(model, example)
    upsamplings: list[_Upsampling] = []
    skipped: dict[str, str] = {}
    for ops in by_location(op for op in record.ops if op.func is F.interpolate):
        address = next(address for address, same in chains.ops.items() if ops[0] in same)
        try:
            factor = _factor(ops, given)
            upsamplings.append(_Upsampling(address, ops, factor, _readers(ops, chains, owner)))
        except NotExact as error:
            skipped[address] = str(error)
    read = {value: up for up in upsamplings for op in up.ops for value in op.outputs}
    convolutions: dict[str, tuple[_Upsampling, ...]] = {}
    for path in dict.fromkeys(path for up in upsamplings for path in up.readers):
        link = owner[path]
        ups = list(dict.fromkeys(read.get(value) for value in link.inputs))
        try:
            if None in ups:
                raise NotExact("it also reads a map that is not upsampled")
            known = [up for up in ups if up is not None]
            if len({up.factor for up in known}) > 1:
                raise NotExact("it reads maps upsampled by different factors")
            phases(link.layer, known[0].factor)
            convolutions[path] = tuple(known)
        except NotExact as error:
            skipped[path] = str(error)
    return _Found(tuple(upsamplings), convolutions, skipped)


def _factor(ops: Sequence[Op], given: Collection[float]) -> int:
    """The one factor by which all of `ops` upsample each axis. `given`: the numbers of the model's call."""
    factors = set()
    for op in ops:
        said = dict(zip(_ARGUMENTS, op.positional, strict=False)) | op.options
        mode, size, scale = said.get("mode", "nearest"), said.get("size"), said.get("scale_factor")
        if mode not in ("nearest", "nearest-exact"):
            raise NotExact(f"it interpolates ({mode})")
        if size is not None or scale is None:
            raise NotExact("it upsamples to a size, which may be another one for another input")
        factors |= set(scale) if isinstance(scale, tuple | list) else {scale}
    factor = factors.pop()
    if factors:
        raise NotExact(f"it upsamples by {', '.join(map(str, sorted({factor, *factors})))}, not by one factor")
    if factor != round(factor) or factor < 2:
        raise NotExact(f"it upsamples by {factor}, which is no whole number above 1")
    if factor in given:
        raise NotExact(f"the call gives its factor, {factor:g}, and may give another")
    return round(factor)


def _readers(ops: Sequence[Op], chains: Chains, owner: Mapping[str, Link]) -> tuple[str, ...]:
    """The paths of the convolutions that alone read what `ops` make."""
    flow, found = chains.flow, dict[str, None]()
    for op in ops:
        (value,) = op.outputs
        if value in flow.record.outputs or value in chains.seen or op.scripted:
            raise NotExact("its output is looked at by more than a convolution")
        if flow.changed_later(value) or flow.changed_later(op.inputs[0]):
            raise NotExact("what it reads or makes is changed in place")
        for reader in flow.consumers.get(value, ()):
            path = reader.call.module if reader.call is not None else ""
            if path in chains.skipped:
                raise NotExact(f"{path}, which reads it, is none that can be merged: {chains.skipped[path]}")
            if path not in owner or owner[path].layer.form != "conv" or not owner[path].layer.dims:
                raise NotExact(f"{reader.name}, which is no plain convolution, reads its output")
            found[path] = None
    if not found:
        raise NotExact("nothing reads its output")
    return tuple(found)


def _together(found: _Found, wanted: Collection[str]) -> list[str]:
    """Those of `wanted` that can be folded: an upsampling goes only with all that read it."""
    taken = [path for path in wanted if path in found.convolutions]
    while True:
        left = [p for p in taken if all(r in taken for up in found.convolutions[p] for r in up.readers)]
        if left == taken:
            return left
        taken = left


# --- folding ------------------------------------------------------------------------------------


def _folded(
    model: nn.Module,
    example: Any,
    record: Capture,
    chains: Chains,
    found: _Found,
    taken: list[str],
    skipped: Mapping[str, str],
) -> nn.Module:
    ups = list(dict.fromkeys(up for path in taken for up in found.convolutions[path]))
    made = _without(model, example, chains, found, taken, ups, lambda net: capture(net, example))
    doubled = in_double(model, example)
    what = "with upsamplings folded"
    if doubled is None:
        allowed = merged_tolerance(model)
        within = compared(
            observe(model, example), observe(made.model, example), allowed=allowed, what=what, changed=taken
        )
        checked = equal_within(within, " (relative)")
    else:
        double, varied, ran = doubled
        other = _without(double, varied, chains, found, taken, ups, lambda net: observe(net, varied))
        within = compared(ran, other.ran, allowed=EXACT, what=what, changed=taken)
        checked = equal_within(within, " (relative) in float64")
    return finish(
        made.model, model, name="fold_upsampling", options={"layers": taken}, before=record, after=made.ran,
        equality=Equality.EXACT, checked=checked, found=dict.fromkeys((*found.convolutions, *found.skipped)),
        taken=taken, skipped=skipped, how=made.how,
    )  # fmt: skip


def _without(
    model: nn.Module,
    example: Any,
    chains: Chains,
    found: _Found,
    taken: Collection[str],
    ups: Collection[_Upsampling],
    run: Callable[[nn.Module], Any],
) -> Rewritten:
    """A copy of `model` with the convolutions `taken` on the coarse grid and without their upsamplings, and what `run`
    gave of it."""
    new: dict[str, nn.Module] = {}
    for path in taken:
        old: Any = model.get_submodule(path)
        factor = found.convolutions[path][0].factor
        layer, cut = phases(layer_of(old), factor)
        made = module_of(layer, old.weight)
        trained_as_(made, old)
        new[path] = PhaseConv(made, factor, cut).train(old.training)
    edits = []
    for up in ups:
        paths = {op.call.module if op.call is not None else "" for op in up.ops}
        if all(type(model.get_submodule(path)) in _UPSAMPLING for path in paths):
            new |= {path: nn.Identity() for path in paths}
        else:
            edits.append(Edit(target_of(up.address, up.ops, chains.flow)))
    return rewrite(with_modules(model, new), example, edits, record=chains.flow.record, run=run)
