"""What removed heads of attentions take along: their rows of the layers before, their columns of the one behind.

They are found as an axis of archlab's record of widths (`width`), which says what else has to follow; of torch's own
attention they are known. Where they cannot be cut, the head is multiplied with zero.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ...capture.recorder import capture
from ...discovery.kinds import Kind
from ...discovery.site import Site
from ..width.axes import Axis, Expr, Product, leaves, resolved
from ..width.choose import resizing_for
from ..width.fit import Fit
from ..width.flow import Flow, Trace
from ..width.resize import Resizing, get_number
from ..width.rules import RULES

# What code calls the number of heads of queries, and of keys and values, for itself.
_COUNTS = (
    "num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead", "num_key_value_heads", "num_kv_heads",
    "n_kv_heads", "n_local_heads",
)  # fmt: skip

Cut = tuple[Resizing, dict[str, str]]


def heads_cut(
    model: nn.Module, example: Any, removed: Iterable[Site], found: Iterable[Site], frozen: Collection[str]
) -> Cut:
    """The tensors without the `removed` heads, and by site why others stay, multiplied with zero.

    `found` are all sites of the model, `frozen` ids of those that are blended for good.
    """
    flow = Flow(RULES)  # not closed: what a cache holds for each head follows
    capture(model, example, flow)
    attentions = _by_attention(site for site in found if site.kind is Kind.HEAD)
    gone = _by_attention(site for site in removed if site.kind is Kind.HEAD)
    axes = {key: _axis(flow, sites[0]) for key, sites in attentions.items()}
    together = {axis for expr, _ in flow.uniform for axis in leaves(expr)}  # what a norm or a mean sees as a whole
    resizing, reasons = Resizing({}), dict[str, str]()
    kept: dict[Axis, list[int]] = {}
    for key, sites in gone.items():
        others, axis = attentions[key], axes[key]
        names = {site.id for site in sites}
        blended = [site.id for site in others if site.id in frozen]
        same = [of[0].path for other, of in attentions.items() if other != key and axes[other] is axis]
        if blended:
            reason = f"{blended[0]} of the same attention is frozen"
        elif isinstance(axis, Axis) and same:
            reason = f"its layers are coupled with the heads of {same[0] or 'the model itself'}"
        elif isinstance(axis, str):
            reason = axis
        elif axis in together:
            reason = "a norm or a mean sees its heads together"
        else:
            stays = [n for n, site in enumerate(others) if site.id not in names]
            if not stays:
                stays, reasons[others[0].id] = [0], "of its heads one must stay"
            if axis is not None:
                kept[axis] = stays
            else:
                whole = _of_torch(model, others[0], stays)
                reason = whole if isinstance(whole, str) else ""
                resizing = resizing if isinstance(whole, str) else _merged(resizing, whole)
                reasons |= dict.fromkeys(names, reason) if reason else {}
            continue
        reasons |= dict.fromkeys(names, reason)
    by_axis = {axis: gone[key] for key, axis in axes.items() if key in gone and isinstance(axis, Axis) and axis in kept}
    fitted, more = _fitted(model, example, flow, kept, by_axis)
    counts = [(by_axis[axis][0], axis.size, len(kept[axis])) for axis in by_axis if by_axis[axis][0].id not in more]
    return _counted(model, _merged(resizing, fitted), counts), reasons | more


def _by_attention(sites: Iterable[Site]) -> dict[tuple, list[Site]]:
    found: dict[tuple, list[Site]] = {}
    for site in sites:
        found.setdefault(site.target.key, []).append(site)
    return found


def _axis(flow: Flow, site: Site) -> Axis | str | None:
    """The axis that the heads of an attention are positions of, or why there is none; None where torch computes it."""
    assert site.target.part is not None
    dim, start, stop = site.target.part
    traces = [trace for trace in flow.traces if _is_at(trace, site)]
    if any(trace.name.strip("_") == "multi_head_attention_forward" for trace in traces):
        return None
    found = {_outermost(trace.given[site.target.dropped[0]][dim], stop - start) for trace in traces}
    axis = found.pop() if len(found) == 1 else None
    if axis is None:
        return "its heads are no dimension that layers make"
    return f"its number of heads {axis.why}" if axis.why else axis


def _is_at(trace: Trace, site: Site) -> bool:
    op, target = trace.op, site.target
    same = (op.execution.module, op.execution.entry) == (target.container, target.entry)
    return same and target.location in (op.location, op.location.every)


def _outermost(expr: Expr, times: int) -> Axis | None:
    """The axis whose positions are `times` positions of `expr` each."""
    expr = resolved(expr)
    if times > 1 and isinstance(expr, Product):
        expr = expr.factors[0] if expr.size == expr.factors[0].size * times else expr
    return expr if isinstance(expr, Axis) else None


def _fitted(
    model: nn.Module, example: Any, flow: Flow, kept: Mapping[Axis, list[int]], by_axis: Mapping[Axis, list[Site]]
) -> Cut:
    """The tensors with these positions and the numbers that the code needs, all together, or attention by attention."""
    if not kept:
        return Resizing({}), {}
    fit = Fit(model, example, flow)

    def tried(chosen: Mapping[Axis, list[int]]) -> Any:
        sizes = {axis: len(index) for axis, index in chosen.items()}
        return fit.fitted(resizing_for(model, flow, chosen), sizes)

    whole = tried(kept)
    if isinstance(whole, Resizing):
        return whole, {}
    chosen: dict[Axis, list[int]] = {}
    made, reasons = Resizing({}), {}
    for axis, index in kept.items():
        more = tried(chosen | {axis: index})
        if isinstance(more, Resizing):
            made, chosen[axis] = more, index
        else:
            reasons |= {site.id: f"without it the model's code fails: {more}" for site in by_axis[axis]}
    return made, reasons


def _of_torch(model: nn.Module, site: Site, stays: list[int]) -> Resizing | str:
    """The tensors of an ``nn.MultiheadAttention`` with these heads, or why it keeps all."""
    path = site.path
    module = model.get_submodule(path)
    if type(module) is not nn.MultiheadAttention or hasattr(module, "parametrizations"):
        return "it is of a class of its own, which computes with torch's function"
    size, width = module.head_dim, module.embed_dim
    rows = [head * size + n for head in stays for n in range(size)]
    packed = [part * width + row for part in range(3) for row in rows]
    prefix = f"{path}." if path else ""
    tensors = {}
    for name, _ in module.named_parameters():
        if name in ("in_proj_weight", "in_proj_bias"):
            tensors[prefix + name] = {"0": packed}
        elif name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            tensors[prefix + name] = {"0": rows}
        elif name in ("bias_k", "bias_v"):
            tensors[prefix + name] = {"2": rows}
        elif name == "out_proj.weight":
            tensors[prefix + name] = {"1": rows}
    numbers = {path: {"num_heads": len(stays)}, f"{prefix}out_proj": {"in_features": len(rows)}}
    return Resizing(tensors, {}, numbers)


def _merged(a: Resizing, b: Resizing) -> Resizing:
    return Resizing(a.tensors | b.tensors, a.read | b.read, a.numbers | b.numbers)


def _counted(model: nn.Module, resizing: Resizing, counts: Iterable[tuple[Site, int, int]]) -> Resizing:
    """With what the modules themselves say of their number of heads: `counts` are (a site, old, new)."""
    numbers = dict(resizing.numbers)
    for site, old, new in counts:
        module, own = model.get_submodule(site.path), numbers.get(site.path, {})
        shared = (site.target.part[2] - site.target.part[1]) if site.target.part else 1
        for name in _COUNTS:
            value = get_number(module, name)
            each = value // old if isinstance(value, int) and value in (old, old * shared) else 0
            if each and name not in own:
                own = own | {name: new * each}
        if own:
            numbers[site.path] = own
    return replace(resizing, numbers=numbers)
