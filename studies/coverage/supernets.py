"""Which of the sweep's families can be searched: a supernet of each family for every kind of choice.

``python -m studies.coverage.supernets [--only 'timm.*'] [--time-limit MINUTES]``

A row a family, by kind of choice: a supernet that equals the model at the original architecture, and a plain network
that equals the supernet at another one and costs what the space says; or the reason why not. The families are those of
`study`, each in a process of its own. Output: ``reports/supernets/cpu/``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

import archlab as al
from archlab.capture.example import run_example, tensors_in
from archlab.experiments import Scratch, command
from archlab.report import table, write_report

from .families import families
from .isolation import isolated
from .reshaping import NoSpan, Try, outcomes
from .study import LIMIT_S, fingerprint

__all__ = ["PRESETS", "ROWS", "cell", "depends", "fingerprint", "report"]

PRESETS = ("cpu",)
ROWS = [{"name": one.id, "variant": one.variant} for one in families()]
AT_ONCE = 4  # modules of a family that are chosen at; one by one where they do not go together
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU)
OUTCOMES = ("ok", "none", "refused", "failed")
ABOUT = (
    f"Choices at up to {AT_ONCE} modules of a family, spread over it; where they do not go together, at one of these. "
    "*ok*: the supernet equals the model bit for bit at the original architecture, with gradients; with another option "
    "at every position `al.choose` gives a plain network that equals it there, with as many multiply-adds as the space "
    "says. *none*: there is no such module. *refused*: by archlab, with the reason. *failed*: anything else."
)


def depends(row: dict[str, Any]) -> list[str]:
    """What is checked is how models are read and rewritten, too."""
    return ["archlab.capture", "archlab.rewrite", "archlab.discovery", "archlab.passes", "archlab.architectures"]


def cell(row: dict[str, Any], preset: str, seed: int, scratch: Scratch) -> dict[str, Any]:
    """What was found of one family; where its process crashed or hung, the reason stands in "error"."""
    return isolated(searched, row["name"], LIMIT_S)


def searched(name: str) -> dict[str, Any]:
    """By kind of choice, what came of a supernet of the family of that id."""
    return outcomes(name, CHOICES)


def _optional(model: nn.Module, example: Any) -> nn.Module:
    blocks = [site.module for site in al.sites(model, example) if site.kind == "block" and site.module]
    return _chosen(model, example, dict.fromkeys(blocks, al.optional()), "it has no block")


def _kernel(model: nn.Module, example: Any) -> nn.Module:
    kernels = {
        path: module.kernel_size
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and len(set(module.kernel_size)) == 1
    }
    choices = {path: al.kernel(size[0], size[0] + 2) for path, size in kernels.items() if size[0] > 1}
    return _chosen(model, example, choices, "it has no convolution of a square kernel")


def _width(model: nn.Module, example: Any) -> nn.Module:
    widths = {
        path: int(getattr(module, "out_features", 0) or getattr(module, "out_channels", 0))
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
    choices = {path: al.width(count, count // 2) for path, count in widths.items() if count > 1}
    return _chosen(model, example, choices, "it has no layer of several channels")


def _either(model: nn.Module, example: Any) -> nn.Module:
    paths = [path for path, module in model.named_modules() if isinstance(module, ACTIVATIONS)]
    return _chosen(model, example, dict.fromkeys(paths, al.either(tanh)), "it has no activation that is a module")


def tanh(module: nn.Module) -> nn.Module:
    """What else may stand where an activation does."""
    return nn.Tanh()


CHOICES: dict[str, Try] = {"optional": _optional, "kernel": _kernel, "width": _width, "either": _either}


def _chosen(model: nn.Module, example: Any, choices: Mapping[str, Any], nothing: str) -> nn.Module:
    """The plain network of another architecture, of the first supernet that is not refused.

    Raises NoSpan where there is nothing to choose at; the last refusal where all are.
    """
    paths = list(choices)
    spread = dict.fromkeys(paths[round(i * (len(paths) - 1) / (AT_ONCE - 1))] for i in range(AT_ONCE) if paths)
    refusal: ValueError = NoSpan(nothing)
    for some in [list(spread), *([path] for path in spread if len(spread) > 1)] if spread else []:
        try:
            net = al.supernet(model, example, choices={path: choices[path] for path in some})
        except ValueError as error:
            refusal = error
        else:
            return _checked(model, net, example)
    raise refusal


def _checked(model: nn.Module, net: nn.Module, example: Any) -> nn.Module:
    """The plain network of another option everywhere. Raises AssertionError where it, or the supernet, is not equal."""
    _assert_equal(model, net, example, "the supernet at the original architecture")
    space = al.space(net)
    other = {p.name: next(o for o in reversed(p.options) if o != p.original) for p in space.positions}
    plain = al.choose(net, other)
    al.set_architecture_(net, other)
    _assert_equal(net, plain, example, "the plain network of another architecture")
    if (macs := al.cost(plain, example).macs) != space.macs(other):
        raise AssertionError(f"the space says {space.macs(other):,} MACs, and it costs {macs:,}")
    return plain


def _assert_equal(one: nn.Module, other: nn.Module, example: Any, what: str) -> None:
    outputs = []
    for model in (one, other):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append([t.nan_to_num() for t in tensors_in(run_example(model, example)) if t.is_floating_point()])
    wanted, made = outputs
    if len(wanted) != len(made) or not all(map(torch.equal, wanted, made)):
        raise AssertionError(f"{what} gives another output")


def report(rows: pd.DataFrame, folder: Path) -> None:
    """Write table.md and report.md: by kind of choice how many, and each that failed or was refused."""
    found = rows.astype(object).where(rows.notna(), None).to_dict("records")
    told = {(row["row"], kind): row["error"] or row[kind] or "failed" for row in found for kind in CHOICES}
    begins = {key: text.partition(":")[0] for key, text in told.items()}
    # What lies inside a block that is skipped has no other option: a network of part of the positions is whole.
    begins = {key: {"partly": "ok"}.get(begin, begin) for key, begin in begins.items()}
    begins = {key: begin if begin in OUTCOMES else "failed" for key, begin in begins.items()}
    counts = table(
        pd.DataFrame(
            {"choice": kind, **{o: sum(b == o for (_, k), b in begins.items() if k == kind) for o in OUTCOMES}}
            for kind in CHOICES
        )
    )
    some = [name for name in rows["row"] if any(begins[name, kind] == "ok" for kind in CHOICES)]
    failed, refused = (
        [f"**{name}**, {kind}: {told[name, kind]}" for (name, kind), begin in begins.items() if begin == wanted]
        for wanted in ("failed", "refused")
    )
    write_report(
        rows, folder, "Coverage: which networks can be searched", ABOUT,
        f"Of {len(rows)} families {len(some)} have a supernet of at least one kind.", counts,
        f"## Failed ({len(failed)})", failed or ["nothing"], f"## Refused ({len(refused)})", refused or ["nothing"],
        command=f"python -m {__name__}", tables={"table": counts},
    )  # fmt: skip


if __name__ == "__main__":
    command()
