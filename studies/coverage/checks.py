"""What is checked of one family: one row of the sweep."""

import copy
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

import archlab as al
from archlab.capture.example import run_example, tensors_in
from archlab.passes.depth.outputs import left_of

from .families import Family, family, seeded
from .witness import overlooked, witness

# Kinds that are switched together. A branch shares the add of a skip; sites inside a removed block have nothing left
# to compare. Gates are only listed: without its softmax, masked attention has infinite values whatever archlab does.
GROUPS = (("activation", "skip"), ("branch", "join"), ("block",), ("concat",), ("norm",), ("head",))
TOLERANCE = 1e-5
COLUMNS = (
    "params", "activation", "skip", "branch", "block", "join", "gate", "concat", "norm", "head", "skipped",
    "refused", "complete", "overlooked", "equal_at_zero", "equal_at_one", "difference_at_one", "omegas",
    "omegas_without_gradient", "local", "module", "intercepted", "physical", "bypassed", "cpu_s", "error",
)  # fmt: skip


def check(name: str) -> dict[str, Any]:
    """The row of the family of that id; whatever goes wrong stands in its ``error``, what was reached so far stays."""
    return checked(family(name))


def checked(swept: Family) -> dict[str, Any]:
    """The row of one family, as `check`."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    started = time.process_time()
    try:
        _fill(row, swept)
    except Exception as error:
        text = " ".join(str(error).split())
        row["error"] = f"{type(error).__name__}: {text}"[:400]
    row["cpu_s"] = round(time.process_time() - started, 2)
    return row


def _fill(row: dict[str, Any], swept: Family) -> None:
    model, example = seeded(swept)
    row["params"] = sum(p.numel() for p in model.parameters())
    found = al.sites(model, example, kinds=al.KINDS)
    kinds = Counter(site.kind.value for site in found)
    row |= {kind: kinds[kind] for kind in al.KINDS if kind in COLUMNS}
    usable = {site.id for site in found if site.how in ("local", "module", "intercepted")}
    row |= {"skipped": sum(skipped.calls for skipped in found.skipped), "refused": len(found) - len(usable)}
    missed = overlooked(witness(copy.deepcopy(model), example), found)
    row |= {"complete": not missed, "overlooked": ", ".join(f"{n} {op}" for op, n in sorted(missed.items()))}
    reachable = {site.id for site in found if site.grad}
    row |= dict.fromkeys(("omegas", "omegas_without_gradient", "local", "module", "intercepted"), 0)
    row |= {"physical": 0, "bypassed": 0}
    row |= {"equal_at_zero": True, "equal_at_one": True, "difference_at_one": 0.0}
    for chosen in GROUPS:
        if not any(site.id in usable for site in found if site.kind in chosen):
            continue
        soft = al.switch(model, example, kinds=chosen, where=lambda site: site.id in usable)
        _zero(row, model, soft, example, reachable)
        _one(row, soft, example, cached="head" in chosen)
        how = Counter(al.recipe(soft).steps[-1].how.values())
        row |= {way: row[way] + how[way] for way in ("local", "module", "intercepted")}
        del soft


def _zero(row: dict[str, Any], model: nn.Module, soft: nn.Module, example: Any, reachable: set[str]) -> None:
    """At omega = 0: the output is the original's bit for bit, and a gradient reaches every omega that it can reach."""
    wanted = [t.detach() for t in _outputs(model, example)]  # in the same mode: attention has another kernel without
    made = _outputs(soft, example)
    same = len(wanted) == len(made) and all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(wanted, made, strict=True)
    )
    row["equal_at_zero"] &= same
    torch.autograd.backward([t.float().sum() for t in made if t.requires_grad])
    switches = dict(zip(al.omegas(soft)["site"], al.omega_parameters(soft), strict=True))
    row["omegas"] += len(switches)
    row["omegas_without_gradient"] += sum(
        site in reachable and (omega.grad is None or not omega.grad.isfinite().item())
        for site, omega in switches.items()
    )
    soft.zero_grad()


def _one(row: dict[str, Any], soft: nn.Module, example: Any, *, cached: bool) -> None:
    """At omega = 1: the output is that of the model with the sites physically removed.

    A cache of keys and values has none of what went: outputs of it are missing, or with heads (`cached`) of another
    shape, and not compared; the first output is.
    """
    al.set_omegas_(soft, 1.0)
    thin = al.discard(soft)
    how = al.recipe(thin).steps[-1].how.values()
    row["bypassed"] += (bypassed := sum(way == "bypassed" for way in how))
    row["physical"] += len(how) - bypassed
    with torch.no_grad():
        made, wanted = _output(soft, example), _output(thin, example)
    here, there = tensors_in(made), tensors_in(wanted)
    both = [(here[a], there[b]) for a, b in zip(*left_of(made, wanted), strict=True)]
    compared = [(a, b) for n, (a, b) in enumerate(both) if not cached or n == 0 or a.shape == b.shape]
    difference = max((_relative(a, b) for a, b in compared if a.is_floating_point()), default=0.0)
    row["difference_at_one"] = max(row["difference_at_one"], difference)
    row["equal_at_one"] &= difference <= TOLERANCE


def _outputs(model: nn.Module, example: Any) -> list[Tensor]:
    return [t for t in tensors_in(_output(model, example)) if t.is_floating_point()]


def _output(model: nn.Module, example: Any) -> Any:
    torch.manual_seed(0)
    return run_example(model, example)


def _relative(made: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest finite value; infinite where shapes or finite places differ."""
    finite = wanted.isfinite()
    if made.shape != wanted.shape or not torch.equal(finite, made.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    difference = (made.double() - wanted.double())[finite].abs().max().item()
    return difference / max(wanted.double()[finite].abs().max().item(), 1e-30)
