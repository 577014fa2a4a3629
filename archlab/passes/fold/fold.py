"""Folding: chains of linear layers merged into one where that is cheaper, exactly."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.record import Capture, Op
from ...capture.recorder import capture
from ...discovery.find import site_of
from ...discovery.site import Site
from ...rewrite.graph_edits import Edit
from ...rewrite.module_tree import drop_unreached, with_modules
from ...rewrite.rewrite import CannotRewrite, rewrite
from ..checks import CLOSE, EXACT, checked_equal, compare, costs, in_double
from ..recipe import Step, recipe, with_step
from ..switch import refuse_switched
from .chains import Chains, Link, by_place, find_chains, link_at, real_layer
from .cost_model import Cost, pricing
from .linear import NotExact, identity, module_of, plus, then
from .plan import Addresses, LayerCost, Segment, keep_matching, plan_chains, plan_sums, sum_of

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
    price = pricing(model, cost)
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
        keep_matching(chains, where)
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
    """As much of a round as can be done: the model, its double and what was done; and what cannot (address of a layer
    that is not merged with what follows, or not in a sum -> why).

    Every part is tried on `model` itself, whose addresses it has, and what holds is then done in one go.
    """
    try:
        return (*_attempted(model, doubled, example, decided), decided), {}
    except _Unfit as error:
        parts = [(kind, one) for kind, some in decided.items() for one in some]
        if len(parts) == 1:
            ((kind, addresses),) = parts
            stays = addresses[:-1] if kind == "chains" else addresses[1:2]
            return None, dict.fromkeys(stays, f"not merged: {error}")
    failed: dict[str, str] = {}
    holding: list[tuple[nn.Module, Doubled, Round]] = []
    for half in (parts[: len(parts) // 2], parts[len(parts) // 2 :]):
        some: Round = {kind: [one for of, one in half if of == kind] for kind in decided}
        made, more = _as_many(model, doubled, example, some)
        failed |= more
        holding += [made] if made is not None else []
    if len(holding) < 2:
        return (holding[0] if holding else None), failed
    together: Round = {kind: holding[0][2][kind] + holding[1][2][kind] for kind in decided}
    try:
        return (*_attempted(model, doubled, example, together), together), failed
    except _Unfit:  # each by itself holds: the rest has its turn in the next round
        return holding[0], failed


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


def _nothing(found: Iterable[str], left: Mapping[str, str], where: Any) -> str:
    why = "; ".join(f"{address}: {reason}" for address, reason in list(left.items())[:6])
    matching = "" if where is None else f" that match where={where!r}"
    return (
        f"nothing to fold among {len(list(found))} linear layers{matching}: "
        f"{why or 'no two of them follow each other with nothing else reading what lies between'}"
    )


# --- merging ------------------------------------------------------------------------------------


def _merged(model: nn.Module, example: Any, record: Capture, chains: Chains, decided: Mapping[str, Any]) -> nn.Module:
    """A copy of `model` with the chains and sums of one round merged."""
    new: dict[str, nn.Module] = {}
    gone: list[Edit] = []
    for addresses in decided["chains"]:
        links = [link_at(chains, address) for address in addresses]
        layer = real_layer(links[0], model, chains)
        for link in links[1:]:
            layer = then(layer, real_layer(link, model, chains))
        holder = Segment(tuple(links), layer).holder
        new[holder.address] = module_of(layer, _weight(model, holder))
        for link in links:
            if link is not holder and link.is_module:
                new[link.address] = nn.Identity()
            elif link is not holder:
                gone += [Edit(_scale_site(ops, chains)) for ops in by_place(link.ops)]
    for address, *summands in decided["sums"]:
        links = [link_at(chains, summand) for summand in summands]
        if address not in chains.ops:
            raise ValueError(f"the recipe merges at {address}, which this model does not run")
        made = sum_of(address, chains.ops[address], (links[0], links[1] if len(links) > 1 else None))
        first, *others = (real_layer(link, model, chains) for link in links)
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
