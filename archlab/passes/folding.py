"""Folding: chains of linear layers merged into one where that is cheaper, exactly; and the padding in their way."""

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..capture import Capture, Op, capture
from ..chains import (
    Chains,
    LayerCost,
    Link,
    Segment,
    affine_of,
    by_macs,
    by_place,
    find_chains,
    plan_chains,
    plan_sums,
    sum_of,
)
from ..comparing import CLOSE, EXACT, checked_equal, compare, costs, in_double, output_shapes
from ..editing import Edit
from ..finding import site_of
from ..linear import Layer, NotExact, identity, layer_of, module_of, plus, then
from ..listing import Site
from ..recipes import Step, recipe, with_step
from ..rewriting import CannotRewrite, drop_unreached, rewrite, with_modules
from .switching import refuse_switched

Cost = Literal["macs", "latency"] | Callable[[nn.Module, tuple[int, ...]], float]
Addresses = str | Iterable[str] | Callable[[str], bool] | None
Round = dict[str, list[list[str]]]  # "chains" and "sums", as a recipe keeps them
Doubled = tuple[nn.Module, Any] | None  # a model in float64 with its example, where it runs there
_MOST_ROUNDS = 32


def fold(model: nn.Module, example: Any, *, where: Addresses = None, cost: Cost = "macs") -> nn.Module:
    """A copy of `model` in which chains of linear layers are one layer each where that is cheaper; equal to `model`.

    Convolutions (strided, dilated, grouped, transposed), linear layers, batch norms in evaluation mode, scales and
    shifts of channels, and adds of two such layers of one input (a skip is the identity), found in the data flow:
    across containers, and behind a layer that several others read. Which of them to merge is decided by dynamic
    programming over each chain; merging wins where both ways cost the same.

    - `where`: globs on the addresses of layers (module paths), or a function of an address; only layers that match
      are merged.
    - `cost`: "macs" (multiply-adds on `example`), "latency" (measured on the model's device), or a function
      of (layer as a module, input shape) to a number.

    A merged layer gives no intermediate value any more: run the example as the model will be run. One that reads or
    returns what lies between two layers in another call only (a flag, another number of turns) would get another value.

    Checked before it returns: equal to `model` within 1e-10 in float64 (within 1e-5 in its own dtype where it does
    not run in float64). What is linear and was left, and why, is on the recipe's step. Raises ValueError where nothing
    is merged. Fused inference kernels for conv and batch norm do the first case of this; RepVGG (Ding et al. 2021)
    the adds; Layer Folding (Dror et al. 2021) and DepthShrinker (Fu et al. 2022) chains.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 3))
    >>> fold(net.eval(), torch.zeros(1, 3, 9, 9))
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
      (3): Identity()
      (4): Conv2d(8, 2, kernel_size=(3, 3), stride=(1, 1))
    )
    """
    refuse_switched(model)
    price = _pricing(model, cost)
    doubled = in_double(model, example)
    rounds: list[Round] = []
    left: dict[str, str] = {}
    found: list[str] = []
    refused: dict[str, str] = {}
    record, new = None, model
    while len(rounds) < _MOST_ROUNDS:
        after = capture(new, example)
        record = record or after
        chains = find_chains(new, after, apart=refused)
        _keep_matching(chains, where)
        found = found or list(chains.links)
        decided, reasons = _decide(chains, price, refused)
        left = chains.left | reasons
        if not decided["chains"] and not decided["sums"]:
            break
        made, failed = _as_many(new, doubled, example, decided)
        refused |= failed
        if made is not None:
            new, doubled, done = made
            rounds.append(done)
    assert record is not None
    left |= refused
    if not rounds:
        raise ValueError(_nothing(found, left, where))
    return _finished(model, new, example, record, rounds, found, left, doubled)


def hoist_padding(model: nn.Module, example: Any, *, where: Addresses = None, cost: Cost = "macs") -> nn.Module:
    """A copy of `model` in which all padding of a chain of convolutions is done by its first one, so that `fold` merges
    it exactly: only of chains that `fold` would find cheaper merged.

    The values near the border change, as later layers then see convolved padding instead of padding of their own: which
    ring of pixels of which layer's output is on the recipe's step (`left`), so train on before folding. The interior
    is checked before it returns. `where` and `cost` as in `fold`. Raises ValueError where no padding is in the way.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1))
    >>> hoist_padding(net, torch.zeros(1, 3, 9, 9), cost=lambda layer, shape: 1.0)
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(2, 2))
      (1): Conv2d(8, 2, kernel_size=(3, 3), stride=(1, 1))
    )
    """
    refuse_switched(model)
    record = capture(model, example)
    chains = find_chains(model, record)
    _keep_matching(chains, where)
    segments, left = plan_chains(chains, _pricing(model, cost), hoist=True)
    wanted: dict[str, dict[str, list[int]]] = {}  # first convolution -> the paddings of it and those behind it
    modes: dict[str, str] = {}
    for segment in segments:
        convolutions = [link for link in segment.links if link.layer.form == "conv"]
        if not convolutions:
            continue
        first, *later = convolutions
        paddings = {first.address: list(segment.layer.padding)} | {k.address: [0] * first.layer.dims for k in later}
        others = wanted.setdefault(first.address, {})
        if first is not segment.links[0] and not _is_exact(segment):
            left[segment.links[-1].address] = "what comes first is no convolution, and cannot pad"
            paddings = {first.address: [-1]}
        elif any(others.get(address, padding) != padding for address, padding in paddings.items()):
            left[segment.links[-1].address] = "its padding would have to be another one than that of its neighbour"
            paddings = {first.address: [-1]}  # nothing that begins with this one can be hoisted
        others |= paddings
        modes[first.address] = segment.layer.mode
    paddings = {}
    for group in wanted.values():
        changed = {a for a, padding in group.items() if padding != list(chains.links[a].layer.padding)}
        if [-1] not in group.values() and changed:
            paddings |= group
    modes = {address: mode for address, mode in modes.items() if address in paddings}
    if not paddings:
        why = "; ".join(f"{address}: {reason}" for address, reason in (chains.left | left).items())
        raise ValueError(f"no padding is in the way of a merge that would be cheaper. {why or 'No chain of layers'}")
    return replay_hoist_padding(model, example, paddings=paddings, modes=modes)


def replay_hoist_padding(
    model: nn.Module, example: Any, *, paddings: dict[str, list[int]], modes: dict[str, str]
) -> nn.Module:
    """The step ``hoist_padding`` of a recipe: these paddings, and the modes of those that pad."""
    record = capture(model, example)
    chains = find_chains(model, record)
    for address in paddings:
        _link(chains, address)
    padded = {a: _padded(model.get_submodule(a), padding, modes.get(a)) for a, padding in paddings.items()}
    rings = _checked_rings(model, padded, chains)
    try:
        new = with_modules(model, padded, example)
        after = capture(new, example)
    except RuntimeError as error:  # a mirrored border must be narrower than the picture
        raise ValueError(
            f"hoist_padding: {', '.join(paddings)} cannot be padded so on this example: {error}"
        ) from error
    if output_shapes(after) != output_shapes(record):
        raise ValueError(
            f"hoist_padding: with {paddings} the outputs would have the shapes {output_shapes(after)}, not "
            f"{output_shapes(record)}: other code looks at what is larger now"
        )
    how = {address: f"its output has changed in a ring of {ring} pixels" for address, ring in rings.items()}
    step = Step(
        "hoist_padding", {"paddings": paddings, "modes": modes}, tuple(chains.links), tuple(paddings), {}, how,
        costs(record), costs(after),
        f"equal in the interior, outside rings of up to {max(rings.values(), default=0)} pixels",
    )  # fmt: skip
    return with_step(new, recipe(model), step)


def replay_fold(model: nn.Module, example: Any, *, rounds: list[Round]) -> nn.Module:
    """The step ``fold`` of a recipe: these merges, whatever they cost. Raises ValueError for one that is not exact."""
    record, new, doubled = capture(model, example), model, in_double(model, example)
    found = list(find_chains(model, record).links)
    for decided in rounds:
        if not isinstance(decided, Mapping) or not {"chains", "sums"} <= decided.keys():
            raise ValueError(f"a round of a fold has chains and sums; the recipe has {decided!r}")
        try:
            new, doubled = _attempted(new, doubled, example, decided)
        except _Unfit as error:
            raise ValueError(f"the recipe's fold does not hold for this model: {error}") from error
    return _finished(model, new, example, record, rounds, found, {}, doubled)


# --- deciding -----------------------------------------------------------------------------------


def _decide(chains: Chains, price: LayerCost, refused: Mapping[str, str]) -> tuple[Round, dict[str, str]]:
    """What the next round merges, as JSON can write it: chains and, where there is none, sums."""
    segments, left = plan_chains(chains, price)
    decided: Round = {"chains": [[link.address for link in s.links] for s in segments], "sums": []}
    if not segments:
        sums, more = plan_sums(chains, price, refused=refused)
        left |= more
        decided["sums"] = [[s.address, *(link.address for link in s.links)] for s in sums]
    return decided, left


class _Unfit(Exception):
    """What was planned cannot be done to this model, or is not exact; the message says why."""


def _as_many(
    model: nn.Module, doubled: Doubled, example: Any, decided: Round
) -> tuple[tuple[nn.Module, Doubled, Round] | None, dict[str, str]]:
    """As much of a round as can be done: the model, its double and what was done; and what cannot (address of the
    layer that is not merged with what follows, or of the add -> why)."""
    try:
        return (*_attempted(model, doubled, example, decided), decided), {}
    except _Unfit as error:
        parts = [(kind, one) for kind, some in decided.items() for one in some]
        if len(parts) == 1:
            ((kind, addresses),) = parts
            stays = addresses[:-1] if kind == "chains" else addresses[:1]
            return None, dict.fromkeys(stays, f"not merged: {error}")
    failed: dict[str, str] = {}
    done: Round = {"chains": [], "sums": []}
    made = None
    for half in (parts[: len(parts) // 2], parts[len(parts) // 2 :]):
        some: Round = {"chains": [], "sums": []}
        for kind, addresses in half:
            some[kind].append(addresses)
        got, more = _as_many(model, doubled, example, some)
        failed |= more
        if got is not None:
            model, doubled, part = got
            done = {kind: done[kind] + part[kind] for kind in done}
            made = model, doubled, done
    return made, failed


def _attempted(model: nn.Module, doubled: Doubled, example: Any, decided: Round) -> tuple[nn.Module, Doubled]:
    """The model with one round merged, and its copy in float64, on which it is checked. Raises _Unfit."""
    try:
        record = capture(model, example)
        new = _merged(model, example, record, find_chains(model, record), decided)
        folded = None
        if doubled is not None:
            double, varied = doubled
            record = capture(double, varied)
            folded = _merged(double, varied, record, find_chains(double, record), decided), varied
        before, after, allowed = (double, folded[0], EXACT) if folded else (model, new, _own_tolerance(model))
        difference = compare(before, after, folded[1] if folded else example)
    except (NotExact, CannotRewrite, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise _Unfit(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not difference <= allowed:
        raise _Unfit(f"merged, the output differs by {difference:.3g}, over {allowed:.1g}")
    if not compare(model, new, example) < float("inf"):
        raise _Unfit("merged, the output is not finite in the model's own precision")
    return new, folded


def _own_tolerance(model: nn.Module) -> float:
    """What rounding may change where the model does not run in float64."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} or {torch.float32}
    return max(CLOSE, *(20 * torch.finfo(dtype).eps for dtype in dtypes))


def _keep_matching(chains: Chains, where: Addresses) -> None:
    """Drop the links that do not match `where`: what reads them is then no link either."""
    if where is None:
        return
    if callable(where):
        gone = {a for a in chains.links if not where(a)}
    else:
        globs = [where] if isinstance(where, str) else list(where)
        gone = {a for a in chains.links if not any(fnmatch.fnmatchcase(a, glob) for glob in globs)}
        if len(gone) == len(chains.links):
            raise ValueError(
                f"where={where!r} matches no linear layer; there are {', '.join(list(gone)[:12]) or 'none'}"
            )
    for address in gone:
        del chains.links[address]
    for link in chains.links.values():
        if link.readers and any(reader.address in gone for reader in link.readers):
            link.readers = None


def _nothing(found: Iterable[str], left: Mapping[str, str], where: Any) -> str:
    why = "; ".join(f"{address}: {reason}" for address, reason in list(left.items())[:6])
    matching = "" if where is None else f" that match where={where!r}"
    return (
        f"nothing to fold among {len(list(found))} linear layers{matching}: "
        f"{why or 'no two of them follow each other with nothing else reading what lies between'}"
    )


def _pricing(model: nn.Module, cost: Cost) -> LayerCost:
    """The cost as a function of a layer and its shapes; each layer is priced once."""
    if cost == "macs":
        return by_macs
    if not (cost == "latency" or callable(cost)):
        raise ValueError(f"cost must be 'macs', 'latency' or a function of (module, input shape), got {cost!r}")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    known: dict[tuple, float] = {}

    def price(layer: Layer, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> float:
        key = (repr(module_of(layer, like.detach().to("meta"))), in_shape)
        if key not in known:
            module = module_of(layer, like.detach())
            value = _latency(module, in_shape, like) if cost == "latency" else cost(module, in_shape)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"cost must give a finite number; for {module} on {in_shape} it gave {value!r}")
            known[key] = float(value)
        return known[key]

    return price


def _latency(module: nn.Module, shape: tuple[int, ...], like: Tensor) -> float:
    """The median time of one run, in seconds."""
    from torch.utils.benchmark import Timer  # here: it looks for compilers

    x = torch.randn(shape, device=like.device, dtype=like.dtype)
    with torch.inference_mode():
        timer = Timer("module(x)", globals={"module": module, "x": x}, num_threads=torch.get_num_threads())
        return timer.blocked_autorange(min_run_time=0.05).median


# --- merging ------------------------------------------------------------------------------------


def _merged(model: nn.Module, example: Any, record: Capture, chains: Chains, decided: Mapping[str, Any]) -> nn.Module:
    """A copy of `model` with the chains and sums of one round merged."""
    new: dict[str, nn.Module] = {}
    gone: list[Edit] = []
    for addresses in decided["chains"]:
        links = [_link(chains, address) for address in addresses]
        layer = _real(links[0], model, chains)
        for link in links[1:]:
            layer = then(layer, _real(link, model, chains))
        holder = Segment(tuple(links), layer).holder
        new[holder.address] = module_of(layer, _weight(model, holder))
        for link in links:
            if link is not holder and link.is_module:
                new[link.address] = nn.Identity()
            elif link is not holder:
                gone += [Edit(_scale_site(ops, chains)) for ops in by_place(link.ops)]
    for address, *summands in decided["sums"]:
        links = [_link(chains, summand) for summand in summands]
        if address not in chains.ops:
            raise ValueError(f"the recipe merges at {address}, which this model does not run")
        made = sum_of(address, chains.ops[address], (links[0], links[1] if len(links) > 1 else None))
        first, *others = (_real(link, model, chains) for link in links)
        layer = plus(first, others[0] if others else identity(first.inputs, first.dims, device=first.weight.device))
        new[links[0].address] = module_of(layer, _weight(model, links[0]))
        drop = 1 - made.ops[0].inputs.index(links[0].outputs[0])
        gone.append(Edit(site_of(made.ops, chains.flow, drop=drop)))
    rewritten = rewrite(model, example, _distinct(gone), record=record)
    if "intercepted" in rewritten.how.values():
        raise _Unfit(f"the code around it cannot be traced: {next(iter(rewritten.reasons.values()), '')}")
    result = with_modules(rewritten.model, new, example)
    called = capture(result, example).reached()[0]
    missed = [address for address in new if address not in called]
    if missed:
        raise _Unfit(f"{missed[0]} is called in another way than by its name in the model")
    drop_unreached(result, example, record, set())
    return result


def _scale_site(ops: tuple[Op, ...], chains: Chains) -> Site:
    """The site of an op that scales or shifts: the parameter goes, the data stays."""
    constant = next(i for i, value in enumerate(ops[0].inputs) if value in chains.flow.record.constants)
    return site_of(ops, chains.flow, drop=constant)


def _distinct(edits: Iterable[Edit]) -> list[Edit]:
    """Each site once: a layer that several chains begin with goes once."""
    return list({(e.site.path, e.site.entry, e.site.place): e for e in edits}.values())


def _link(chains: Chains, address: str) -> Link:
    if address not in chains.links:
        raise ValueError(f"the recipe merges {address}, which is no linear layer of this model")
    return chains.links[address]


def _real(link: Link, model: nn.Module, chains: Chains) -> Layer:
    """The layer of a link with its weights."""
    if link.is_module:
        return layer_of(model.get_submodule(link.address), dims=link.layer.dims)
    layer = affine_of(link.ops, model, chains, meta=False)
    assert layer is not None
    return layer


def _weight(model: nn.Module, link: Link) -> Tensor:
    return model.get_submodule(link.address).weight  # type: ignore[return-value]


def _finished(
    model: nn.Module, new: nn.Module, example: Any, record: Capture, rounds: list[Round], found: list[str],
    left: dict[str, str], doubled: Doubled,
) -> nn.Module:  # fmt: skip
    merged = [address for decided in rounds for chain in decided["chains"] for address in chain]
    merged += [address for decided in rounds for _, *links in decided["sums"] for address in links]
    original = in_double(model, example)
    if doubled is None or original is None:
        equality = f"equal within {checked_equal(model, new, example, 'folded', _own_tolerance(model))} (relative)"
    else:
        within = checked_equal(original[0], doubled[0], original[1], "folded", EXACT)
        equality = f"exact: equal within {within} (relative) in float64"
    step = Step(
        "fold", {"rounds": rounds}, tuple(found), tuple(dict.fromkeys(merged)),
        {address: why for address, why in left.items() if address not in merged}, {},
        costs(record), costs(capture(new, example)), equality,
    )  # fmt: skip
    return with_step(new, recipe(model), step)


# --- padding ------------------------------------------------------------------------------------


def _is_exact(segment: Segment) -> bool:
    """Whether the segment can be merged with every padding where it is."""
    layer = segment.links[0].layer
    try:
        for link in segment.links[1:]:
            layer = then(layer, link.layer)
    except NotExact:
        return False
    return True


def _padded(module: nn.Module, padding: list[int], mode: str | None) -> nn.Module:
    """`module`, a convolution, with another padding, its weights copied."""
    layer = replace(layer_of(module), padding=tuple(padding), mode=mode or module.padding_mode)  # type: ignore[arg-type]
    made = module_of(layer, module.weight)  # type: ignore[arg-type]
    made.load_state_dict(module.state_dict())
    return made.train(module.training)


def _checked_rings(model: nn.Module, padded: Mapping[str, nn.Module], chains: Chains) -> dict[str, int]:
    """How wide a ring of each padded layer's output changes; outside of it nothing does, which is checked on noise."""
    rings: dict[str, int] = {}

    def follow(link: Link, ring: int, before: Tensor, after: Tensor) -> None:
        for reader in link.readers or ():
            layer, grown = reader.layer, ring
            if layer.form == "affine":
                old, new = (_apply(_real(reader, model, chains), x) for x in (before, after))
            elif reader.address in padded:
                old = _apply(layer_of(model.get_submodule(reader.address)), before)
                new = _apply(layer_of(padded[reader.address]), after)
                grown = max(math.ceil((ring + p) / s) for p, s in zip(layer.padding, layer.stride, strict=True))
                if old.shape == new.shape:  # further up it is larger by the padding that is still to be used
                    rings[reader.address] = max(grown, rings.get(reader.address, 0))
                    inner = (..., *[slice(grown, side - grown) for side in old.shape[2:]])
                    same = torch.allclose(old[inner], new[inner], rtol=EXACT, atol=EXACT)
                    assert same, f"{reader.address} differs inside its ring"
            else:
                continue
            follow(reader, grown, old, new)

    for address in padded:
        link, pair = chains.links[address], (model.get_submodule(address), padded[address])
        if not any(link in (chains.links[other].readers or ()) for other in padded):
            device = next(pair[0].parameters()).device
            x = torch.randn(1, *link.in_shape[1:], dtype=torch.float64, device=device)
            follow(link, 0, *(_apply(layer_of(module), x) for module in pair))
    return rings


def _apply(layer: Layer, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module_of(layer, x)(x)
