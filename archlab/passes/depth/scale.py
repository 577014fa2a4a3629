"""Depth: the blocks of a Sequential or ModuleList repeated or dropped, to a given count."""

import copy
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from ...arguments import choice, text, whole
from ...capture.copies import copied
from ...capture.example import varied
from ...capture.record import Capture
from ...capture.recorder import capture
from ...names import closest
from ...rewrite.module_tree import renew_methods_, with_modules
from ..checks import compared, equal_within, finish, observe, outputs_are_counted
from ..recipe import Equality
from ..switch_state import refuse_switched
from .layers import call_of, reset_, start_as_identity_
from .outputs import aligned, only, with_output
from .pattern import like
from .places import Stack, place_

MOST_BLOCKS = 10_000  # more cannot be meant: a copy, and a run, of each is made


def scale_depth(
    model: nn.Module, example: Any, *, span: str, count: int, init: Literal["fresh", "preserve"] = "fresh"
) -> nn.Module:
    """A copy of `model` with `count` blocks in the Sequential or ModuleList at `span`.

    Dropped blocks are the last ones. New ones follow the last, with weights of their own. They go on as the blocks did:
    a stack of several kinds in turn (shifted windows, local and global attention) keeps its turns. A layer without
    children behind the blocks of a Sequential, such as a norm, stays the last. What the model keeps of its depth goes
    along, where it is called so: counts and lists in a configuration, and the layers' places in a cache.

    Args:
        model: any module without switches; it is left untouched.
        example: what runs it once.
        span: path of the container; "" is the model itself.
        count: how many blocks it is to have, without layers behind them.
        init: "fresh", as the layers initialise themselves; "preserve", as identities, which leaves the output of the
            model bit for bit as it is: the last layer of each residual branch is zero (as in Fixup, Zhang et al. 2019,
            and Net2Net's deeper nets, Chen et al. 2016).

    Raises:
        ValueError: for a span that is no such container, a count that changes nothing or is below 1, blocks that the
            model does not call, and where blocks cannot start as identities.

    >>> import torch
    >>> scale_depth(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.zeros(1, 4), span="", count=3)
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): Linear(in_features=4, out_features=4, bias=True)
      (2): Linear(in_features=4, out_features=4, bias=True)
    )
    """
    refuse_switched(model)
    text("scale_depth: span", span, "the path of a Sequential or ModuleList")
    names = _blocks(model, span)
    have = len(names)
    whole("scale_depth: count", count, least=1, most=MOST_BLOCKS)
    if count == have:
        raise ValueError(f"scale_depth: count must be another than {have}, which {span!r} has; nothing would change")
    choice("scale_depth: init", init, ("fresh", "preserve"))
    outputs: list[Any] = []
    record = capture(model, with_output(example, lambda output: outputs.append(output) or output))
    made = copied(model)
    stack = Stack(made, span, have)
    children = made.get_submodule(span)._modules
    blocks = [children[name] or nn.Identity() for name in names]
    sources = _sources(blocks, count - have, stack.kinds(), record, span, names)
    behind = {name: children.pop(name) for name in list(children)[have:]}
    for name in names[count:]:
        del children[name]
    new, skipped = _names([*names, *behind], count - have), {}
    if new:
        prototypes, skipped = _prototypes(model, example, span, {n: names[n] for n in sources}, init)
        for place, (name, source) in enumerate(zip(new, sources, strict=True), have):
            block = children[name] = copy.deepcopy(prototypes[source])
            if init == "fresh":
                reset_(block, model)
            place_(block, source, place)
    children.update(behind)
    stack.resize_(count, sources)
    renew_methods_(made)
    try:
        made = with_modules(made, {})
        after = capture(made, with_output(example, lambda output: outputs.append(output) or output))
    except (RuntimeError, IndexError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"scale_depth: with {count} blocks in {span!r} the model does not run: {error}") from error
    prefix = f"{span}." if span else ""
    uncalled = [prefix + name for name in new if prefix + name not in after.reached()[0]]
    if uncalled:
        raise ValueError(
            f"scale_depth: {uncalled[0]} is not called: the code around {span!r} names the blocks it calls"
        )
    pairs = aligned(outputs[0], outputs[-1], have, count)
    changed, remedy = f"scale_depth: with {count} blocks", "what it returns for each block must be a list"
    if pairs is None:
        raise ValueError(
            f"{changed} the outputs would have the shapes {after.output_shapes}, not {record.output_shapes}: {remedy}"
        )
    alike = [replace(r, output_shapes=_shapes(r, at)) for r, at in zip((record, after), pairs, strict=True)]
    counted = outputs_are_counted(model, example, *alike, changed=changed, remedy=remedy)
    equality, checked = Equality.NONE, "blocks were dropped" if count < have else "the new blocks are fresh"
    if new and init == "preserve":
        # In evaluation mode: dropout of the new blocks would draw other numbers.
        old, deep = (
            observe(copied(net).eval(), with_output(varied(example), only(at)))
            for net, at in zip((model, made), pairs, strict=True)
        )
        equality, checked = Equality.EXACT, equal_within(compared(old, deep, allowed=0.0, what="deepened"))
    taken = [prefix + name for name in new or names[count:]]
    return finish(
        made, model, name="scale_depth", options={"span": span, "count": count, "init": init},
        before=alike[0], after=alike[1], counted=counted, equality=equality, checked=checked,
        found=[prefix + n for n in [*names, *new]], taken=taken, skipped=skipped,
    )  # fmt: skip


def _blocks(model: nn.Module, span: str) -> list[str]:
    """The names of the blocks at `span`: all of a ModuleList; of a Sequential, without the layers behind them."""
    container = dict(model.named_modules()).get(span)
    if not isinstance(container, nn.Sequential | nn.ModuleList):
        there = [p for p, m in model.named_modules() if isinstance(m, nn.Sequential | nn.ModuleList) and len(m)]
        what = "is no module of this model" if container is None else f"is a {type(container).__name__}"
        raise ValueError(
            f"scale_depth: span={span!r} {what}; it must be a Sequential or ModuleList of blocks: "
            + closest(span, [path or "'' (the model itself)" for path in there])
        )
    names = list(container._modules)
    if not names:
        raise ValueError(f"scale_depth: {span!r} holds no block to drop or to repeat")
    if isinstance(container, nn.Sequential):
        composed = [number for number, name in enumerate(names) if any(container._modules[name].children())]  # type: ignore[union-attr]
        names = names[: composed[-1] + 1] if composed else names
    return names


def _sources(
    blocks: list[nn.Module], more: int, kinds: list[Any], record: Capture, span: str, names: list[str]
) -> list[int]:
    """For each new block, the number of the one it is made like: of those at the end that keep the shape they get."""
    if more < 1:
        return []
    shapes = {call.module: (call.in_shapes[:1], call.out_shapes[:1]) for call in record.calls}
    ends = [shapes.get(f"{span}.{name}" if span else name, ((), ())) for name in names]
    changing = [number for number, (given, made) in enumerate(ends) if given and made and given != made]
    first = changing[-1] + 1 if changing and changing[-1] + 1 < len(blocks) else 0
    there = [n for n in range(first, len(blocks)) if not isinstance(blocks[n], nn.Identity)]  # that a removal left
    there = there or [len(blocks) - 1]
    return [there[n] for n in like([blocks[n] for n in there], more, [kinds[n] for n in there] if kinds else ())]


def _prototypes(
    model: nn.Module, example: Any, span: str, sources: dict[int, str], init: str
) -> tuple[dict[int, nn.Module], dict[str, str]]:
    """For each block that new ones are made like, one that they are copies of; and which parameters of it are copies of
    the old one's, with the reason."""
    made: dict[int, nn.Module] = {}
    skipped: dict[str, str] = {}
    for number, name in sources.items():
        path = f"{span}.{name}" if span else name
        made[number] = copied(model.get_submodule(path))
        same = reset_(made[number], model)
        if init == "preserve":
            skipped |= {f"{path}.{inner}": "new blocks begin with a copy of it" for inner in same}
            start_as_identity_(made[number], call_of(model, path, varied(example)), path)
        elif same:
            raise ValueError(
                f"scale_depth: {path}.{same[0]} would be a copy in the new blocks: its module has no "
                "reset_parameters(), and the model no _init_weights(); init='preserve' does not ask for one"
            )
    return made, skipped


def _names(names: list[str], more: int) -> list[str]:
    """Names for so many new blocks beside those of `names`."""
    if names[-1].isdigit():
        return [str(int(names[-1]) + 1 + i) for i in range(more)]
    return [f"{names[-1]}_{i}" for i in range(2, 2 + more)]


def _shapes(record: Capture, places: list[int]) -> tuple[tuple[int, ...], ...]:
    return tuple(record.output_shapes[place] for place in places)
