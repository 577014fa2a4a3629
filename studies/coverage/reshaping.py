"""What of one family can be reshaped: one row of the sweep, each pass tried on a new copy of the model.

A result says "ok", "partly" (some of what it looked at stayed, each with its reason on the step), "none" (there is
nothing that the pass is for), "refused" with the reason, or "failed": an error that is none of archlab's own, or a
model that is as it was without a word.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

import archlab as al

from .families import Made, family, seeded
from .refusal import is_refusal

SPANS = 4  # of so many spans, one has to be reshaped

Try = Callable[[nn.Module, Any], nn.Module]


class NoSpan(ValueError):
    """The family has nothing that this pass is for."""


def _folded(model: nn.Module, example: Any) -> nn.Module:
    """Folded after all activations went that can."""
    usable = {s.id for s in al.sites(model, example) if s.kind == "activation" and s.how in ("local", "module")}
    thin = al.remove(model, example, kinds="activation", where=lambda site: site.id in usable) if usable else model
    return al.fold(thin, example)


def _of_one_span(spans: list[str], reshaped: Callable[[str], nn.Module], no_span: str) -> nn.Module:
    """What the first span gives that is not refused; the last refusal where all are."""
    refusal: ValueError = NoSpan(no_span)
    for span in spans[:SPANS]:
        try:
            return reshaped(span)
        except ValueError as error:
            refusal = error
    raise refusal


def _stacks(model: nn.Module) -> list[str]:
    """Paths of the containers of blocks, those of most blocks first."""
    stacks = {
        path: len(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len(module) > 1
        and all(list(block.children()) for block in module)
    }
    return sorted(stacks, key=lambda path: -stacks[path])


def _deeper(model: nn.Module, example: Any) -> nn.Module:
    def reshaped(span: str) -> nn.Module:
        count = len(model.get_submodule(span))  # type: ignore[arg-type]
        return al.scale_depth(model, example, span=span, count=count + 2, init="fresh")

    return _of_one_span(_stacks(model), reshaped, "it has no stack of blocks")


def _shallower(model: nn.Module, example: Any) -> nn.Module:
    def reshaped(span: str) -> nn.Module:
        return al.scale_depth(model, example, span=span, count=1)

    return _of_one_span(_stacks(model), reshaped, "it has no stack of blocks")


def _coarser(model: nn.Module, example: Any) -> nn.Module:
    """One block on a grid of half the resolution."""
    blocks = [s for s in al.sites(model, example) if s.kind == "block" and len(s.shape) == 4 and min(s.shape[2:]) >= 4]
    spans = [site.module for site in blocks if site.module]
    return _of_one_span(
        spans, lambda span: al.scale_resolution(model, example, span=span, factor=2), "it has no block on a 2-D grid"
    )


PASSES: dict[str, Try] = {
    "fold": _folded,
    "deeper": _deeper,
    "shallower": _shallower,
    "half the width": lambda model, example: al.scale_width(model, example, ratio=0.5),
    "1.5 of the width": lambda model, example: al.scale_width(model, example, ratio=1.5),
    "pruned": lambda model, example: al.scale_width(model, example, ratio=0.5, init="prune"),
    "wider, preserved": lambda model, example: al.scale_width(model, example, ratio=1.5, init="preserve"),
    "coarser": _coarser,
}


def reshaped(name: str) -> dict[str, Any]:
    """The row of the family of that id: by pass, what came of it."""
    return outcomes(name, PASSES)


def outcomes(name: str, tries: Mapping[str, Try]) -> dict[str, Any]:
    """What came of each of `tries` on the family of that id, and how long all took."""
    row: dict[str, Any] = {**dict.fromkeys(tries), "cpu_s": None, "error": None}
    started = time.process_time()
    made = seeded(family(name))
    for title, tried in tries.items():
        row[title] = outcome(made, tried)
    row["cpu_s"] = round(time.process_time() - started, 2)
    return row


def outcome(made: Made, tried: Try) -> str:
    """What came of one pass on a model and its example: ok, partly, none, refused or failed, with the reason."""
    model, example = made
    torch.manual_seed(0)
    try:
        result = tried(model, example)
    except NoSpan as error:
        return f"none: {error}"
    except Exception as error:
        return f"{'refused' if is_refusal(error) else 'failed'}: {_short(error)}"
    try:
        same = _same(model, result)
    except Exception as error:  # raised by the __repr__ of a module that shows a parameter which is gone
        return f"failed: the result cannot be printed: {_short(error)}"
    if same:
        return "failed: the model is as it was, without a word"
    step = al.recipe(result).steps[-1]
    taken, found = len(step.taken), len(step.found)
    return f"partly: {taken} of {found}" if taken < found else "ok"


def _same(model: nn.Module, result: nn.Module) -> bool:
    """Whether both have the same modules with the same weights."""
    before, after = model.state_dict(), result.state_dict()
    return (
        repr(model) == repr(result)
        and before.keys() == after.keys()
        and all(a.shape == b.shape and torch.equal(a, b) for a, b in _pairs(before, after))
    )


def _pairs(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return ((a, after[name]) for name, a in before.items() if isinstance(a, torch.Tensor))


def _short(error: Exception) -> str:
    """The first sentence of an error, or where it was cut."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {re.split(r'(?<=[.;]) ', text)[0]}"[:200]
