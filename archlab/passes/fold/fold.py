"""Folding: chains of linear layers merged into one where that is cheaper, exactly.

A fold goes in rounds. Each plans on the recorded run of the model so far, does what it can of the plan, and checks it
against the original in float64; where part of a plan does not hold, it is found by halving and skipped with the reason.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...capture.record import Capture, Op
from ...capture.recorder import capture
from ...names import Where
from ...rewrite.module_tree import drop_unreached, with_modules
from ...rewrite.rewrite import CannotRewrite, attempt, trace_other_modes
from ...rewrite.target import Edit, How, target_of
from ..checks import EXACT, Observed, compared, difference, equal_within, finish, in_double, observe
from ..recipe import Equality
from ..switch_state import refuse_switched
from .chains import Chains, Link, by_location, find_chains, link_at, real_layer
from .cost_model import CostModel, pricing
from .linear import NotExact, identity, plus, then
from .modules import merged_tolerance, module_of, trained_as_
from .plan import LayerCost, Segment, keep_matching, plan_chains, plan_sums, sum_of

Round = dict[str, list[list[str]]]  # "chains" and "sums", as a recipe keeps them
_MOST_ROUNDS = 32


def fold(model: nn.Module, example: Any, *, where: Where = None, cost: CostModel = "macs") -> nn.Module:
    """A copy of `model` in which chains of linear layers are one layer each where that is cheaper; equal to `model`.

    Convolutions (strided, dilated, grouped, transposed), linear layers, batch norms in evaluation mode, scales and
    shifts of channels, and adds of two such layers of one input (a skip is the identity), found in the data flow:
    across containers, and behind a layer that several others read. Which of them to merge is decided by dynamic
    programming over each chain; merging wins where both ways cost the same. Checked before it returns: equal to `model`
    within 1e-10 in float64 (within 1e-5 in its own dtype where it does not run in float64).

    A merged layer gives no intermediate value any more: run the example as the model will be run. A model that reads or
    returns what lies between two layers in another call only (a flag, a loop of another length) would get another
    value. Numbers and keys that a call may give are not folded, nor what is drawn; a number that is an attribute is
    folded as it is now. Fused kernels for conv and batch norm do the first case of this; RepVGG (Ding et al. 2021) the
    adds; Layer Folding (Dror et al. 2021) and DepthShrinker (Fu et al. 2022) chains.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        where: only layers whose address (module path) matches: a glob, a list of globs, or a function of an address.
        cost: "macs" (multiply-adds on `example`), "latency" (seconds, measured on the model's device), or a function
            of (layer as a module, input shape) to a number.

    Returns:
        The folded model. What is linear and was skipped, and why, is on its recipe's step.

    Raises:
        ValueError: where nothing is merged.

    >>> import torch
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
    reference = _reference(model, example)
    state, rounds = reference.start, list[Round]()
    found: list[str] = []
    refused: dict[str, str] = {}
    while True:
        chains = find_chains(state.model, state.record, apart=refused, example=example)
        keep_matching(chains, where)
        found = found or list(chains.links)
        decided, skipped = _decide(chains, price, refused)
        skipped = chains.skipped | skipped
        if not (decided["chains"] or decided["sums"]) or len(rounds) == _MOST_ROUNDS:
            break
        made, failed = _as_many(state, reference, decided)
        refused |= failed
        if made is not None:
            state, done = made
            rounds.append(done)
    skipped |= refused
    if not rounds:
        raise ValueError(_nothing(found, skipped, where))
    return _finished(reference, state, rounds, found, skipped)


def apply_fold(model: nn.Module, example: Any, *, rounds: list[Round]) -> nn.Module:
    """The step ``fold`` of a recipe: these merges, whatever they cost. Raises ValueError for one that is not exact."""
    refuse_switched(model)
    if not isinstance(rounds, list) or not rounds:
        raise ValueError(f"fold: rounds must be a list of one at least, got {rounds!r:.80}")
    reference = _reference(model, example)
    state = reference.start
    found = list(find_chains(model, state.record, example=example).links)
    for decided in rounds:
        if not isinstance(decided, Mapping) or not {"chains", "sums"} <= decided.keys():
            raise ValueError(f"a round of a fold has chains and sums; the recipe has {decided!r}")
        try:
            state = _attempted(state, reference, decided)
        except _Unfit as error:
            raise ValueError(f"the recipe's fold does not hold for this model: {error}") from error
    return _finished(reference, state, rounds, found, {})


@dataclass(frozen=True, eq=False)
class _State:
    """A model between two rounds: with its recorded run, what it did, and the same of its copy in float64."""

    model: nn.Module
    record: Capture
    ran: Observed
    double: nn.Module | None
    double_ran: Observed | None


@dataclass(frozen=True, eq=False)
class _Reference:
    """The original, with which every round is compared; `varied` is the example for float64, nowhere constant."""

    start: _State
    example: Any
    varied: Any


def _reference(model: nn.Module, example: Any) -> _Reference:
    record, ran = capture(model, example), observe(model, example)
    doubled = in_double(model, example)
    if doubled is None:
        return _Reference(_State(model, record, ran, None, None), example, None)
    double, varied, double_ran = doubled
    return _Reference(_State(model, record, ran, double, double_ran), example, varied)


# --- deciding -----------------------------------------------------------------------------------


def _decide(chains: Chains, price: LayerCost, refused: Mapping[str, str]) -> tuple[Round, dict[str, str]]:
    """What the next round merges, as JSON can write it: chains and, where there is none, sums; and why not the rest."""
    segments, skipped = plan_chains(chains, price)
    decided: Round = {"chains": [[link.address for link in s.links] for s in segments], "sums": []}
    if not segments:
        sums, more = plan_sums(chains, price, refused=refused)
        skipped |= more
        decided["sums"] = [[s.address, *(link.address for link in s.links)] for s in sums]
    return decided, skipped


class _Unfit(Exception):
    """What was planned cannot be done to this model, or is not exact; the message says why."""


def _as_many(
    state: _State, reference: _Reference, decided: Round
) -> tuple[tuple[_State, Round] | None, dict[str, str]]:
    """As much of a round as can be done: the state after it and what was done; and what cannot (address of a layer that
    is not merged with what follows, or not in a sum -> why).

    Every part is tried on the model of `state` itself, whose addresses it has; what holds is then done in one go.
    """
    try:
        return (_attempted(state, reference, decided), decided), {}
    except _Unfit as error:
        parts = [(kind, one) for kind, some in decided.items() for one in some]
        if len(parts) == 1:
            ((kind, addresses),) = parts
            stays = addresses[:-1] if kind == "chains" else addresses[1:2]
            return None, dict.fromkeys(stays, f"not merged: {error}")
    failed: dict[str, str] = {}
    holding: list[tuple[_State, Round]] = []
    for half in (parts[: len(parts) // 2], parts[len(parts) // 2 :]):
        some: Round = {kind: [one for of, one in half if of == kind] for kind in decided}
        made, more = _as_many(state, reference, some)
        failed |= more
        holding += [made] if made is not None else []
    if len(holding) < 2:
        return (holding[0] if holding else None), failed
    together: Round = {kind: holding[0][1][kind] + holding[1][1][kind] for kind in decided}
    try:
        return (_attempted(state, reference, together), together), failed
    except _Unfit:  # each by itself holds: the rest has its turn in the next round
        return holding[0], failed


def _attempted(state: _State, reference: _Reference, decided: Round) -> _State:
    """The state after one round, checked against the original. Raises _Unfit."""
    try:
        # 1. The model itself: merged, recorded, and what nothing reaches any more taken out.
        chains = find_chains(state.model, state.record, example=reference.example)
        new, record = _merged(
            state.model, reference.example, state.record, chains, decided, lambda net: capture(net, reference.example)
        )
        called = record.reached()[0]
        missed = [path for path in _replaced(chains, decided) if path not in called]
        if missed:
            raise _Unfit(f"{missed[0]} is called in another way than by its name in the model")
        ran = drop_unreached(new, state.record, record, lambda net: observe(net, reference.example))
        # 2. Its copy in float64, with the same chains: they depend on shapes and names only.
        double, double_ran = None, None
        if state.double is not None:
            double, double_ran = _merged(
                state.double,
                reference.varied,
                state.record,
                chains,
                decided,
                lambda net: observe(net, reference.varied),
            )
        made = _State(new, record, ran, double, double_ran)
        # 3. Both against the original.
        _checked(reference, made, _changed([decided]))
    except (NotExact, CannotRewrite, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise _Unfit(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    except AssertionError as error:
        raise _Unfit(str(error)) from error
    if not difference(reference.start.ran.output, ran.output) < float("inf"):
        raise _Unfit("merged, the output is not finite in the model's own precision")
    return made


def _checked(reference: _Reference, state: _State, changed: Collection[str]) -> str:
    """How equal the model is to the original, in words. Raises AssertionError where it is not."""
    start = reference.start
    if start.double_ran is None or state.double_ran is None:
        within = compared(start.ran, state.ran, allowed=merged_tolerance(start.model), what="merged", changed=changed)
        return equal_within(within, " (relative)")
    within = compared(start.double_ran, state.double_ran, allowed=EXACT, what="merged", changed=changed)
    return equal_within(within, " (relative) in float64")


def _nothing(found: Collection[str], skipped: Mapping[str, str], where: Any) -> str:
    why = "; ".join(f"{address}: {reason}" for address, reason in list(skipped.items())[:6])
    matching = "" if where is None else f" that match where={where!r}"
    return (
        f"nothing to fold among {len(found)} linear layers{matching}: "
        f"{why or 'no two of them follow each other with nothing else reading what lies between'}"
    )


# --- merging ------------------------------------------------------------------------------------


def _merged(
    model: nn.Module, example: Any, record: Capture, chains: Chains, decided: Mapping[str, Any], run: Any
) -> tuple[nn.Module, Any]:
    """A copy of `model` with the chains and sums of one round merged, and what `run` gave of it."""
    new: dict[str, nn.Module] = {}
    gone: list[Edit] = []
    for addresses in decided["chains"]:
        links = [link_at(chains, address) for address in addresses]
        layer = real_layer(links[0], model, chains)
        for link in links[1:]:
            layer = then(layer, real_layer(link, model, chains))
        holder = Segment(tuple(links), layer).holder
        new[holder.address] = _module_for(layer, holder, links, model)
        for link in links:
            if link is not holder and link.is_module:
                new[link.address] = nn.Identity()
            elif link is not holder:
                gone += [_scale_gone(link, number, ops, chains) for number, ops in enumerate(by_location(link.ops))]
    for address, *summands in decided["sums"]:
        links = [link_at(chains, summand) for summand in summands]
        if address not in chains.ops:
            raise ValueError(f"the recipe merges at {address}, which this model does not run")
        made = sum_of(address, chains.ops[address], (links[0], links[1] if len(links) > 1 else None))
        first, *others = (real_layer(link, model, chains) for link in links)
        layer = plus(first, others[0] if others else identity(first.inputs, first.dims, device=first.weight.device))
        new[links[0].address] = _module_for(layer, links[0], links, model)
        drop = 1 - made.ops[0].inputs.index(links[0].outputs[0])
        gone.append(Edit(target_of(address, made.ops, chains.flow, kept=1 - drop, dropped=(drop,))))
    rewritten = attempt(with_modules(model, new), example, _distinct(gone), record=record, run=run)
    for name, how in rewritten.how.items():
        if how in (How.REFUSED, How.INTERCEPTED):
            raise _Unfit(f"the code around {name} cannot be traced: {rewritten.reasons[name]}")
    trace_other_modes(rewritten.model, example)
    return rewritten.model, rewritten.ran


def _module_for(layer: Any, holder: Link, links: Collection[Link], model: nn.Module) -> nn.Module:
    """The module that `links` become; it is trained where any of them is."""
    made = module_of(layer, _weight(model, holder))
    trained_as_(made, *(model.get_submodule(link.address) for link in links if link.is_module))
    return made


def _scale_gone(link: Link, number: int, ops: tuple[Op, ...], chains: Chains) -> Edit:
    """The edit that removes an op that scales or shifts: what it does that by goes, the data stays."""
    data = next(at for at, value in enumerate(ops[0].inputs) if value in link.inputs)
    dropped = tuple(at for at in range(len(ops[0].inputs)) if at != data)
    return Edit(target_of(f"{link.address}, line {number}", ops, chains.flow, kept=data, dropped=dropped))


def _distinct(edits: Iterable[Edit]) -> list[Edit]:
    """Each target once: a layer that several chains begin with goes once."""
    return list({edit.target.key: edit for edit in edits}.values())


def _replaced(chains: Chains, decided: Mapping[str, Any]) -> list[str]:
    """The paths of the modules that a round replaces."""
    links = [link_at(chains, address) for addresses in decided["chains"] for address in addresses]
    return [link.address for link in links if link.is_module] + [first for _, first, *_ in decided["sums"]]


def _changed(rounds: Iterable[Mapping[str, Any]]) -> list[str]:
    """The addresses of the layers that were merged: their parameters are others now."""
    merged = [address for decided in rounds for chain in decided["chains"] for address in chain]
    return merged + [address for decided in rounds for _, *links in decided["sums"] for address in links]


def _weight(model: nn.Module, link: Link) -> Tensor:
    return model.get_submodule(link.address).weight  # type: ignore[return-value]


def _finished(
    reference: _Reference, state: _State, rounds: list[Round], found: list[str], skipped: Mapping[str, str]
) -> nn.Module:
    merged = list(dict.fromkeys(_changed(rounds)))
    return finish(
        state.model, reference.start.model, name="fold", options={"rounds": rounds}, before=reference.start.record,
        after=state.record, equality=Equality.EXACT, checked=_checked(reference, state, merged),
        found=dict.fromkeys((*found, *merged)), taken=merged,
        skipped={address: why for address, why in skipped.items() if address not in merged},
    )  # fmt: skip
