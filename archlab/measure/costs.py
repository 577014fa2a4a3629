"""What a model costs on one example: parameters, multiply-adds, activations, memory; without running it where possible.

Conventions. ``"macs"``: multiply-adds of convolutions, linear and recurrent layers, matrix and vector products and
attention, by the formulas of `archlab.capture.macs`; element-wise ops count nothing. ``"paper"`` (Ha et al., whose
"FLOPs" are these): multiply-adds, plus one for each output element of a layer that adds a bias, plus one for
each ReLU output; the biases of recurrent layers are not in it.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import pandas as pd
from torch import nn

from ..arguments import choice, whole
from ..capture.example import without_data
from ..capture.record import Capture, Op
from ..capture.recorder import capture, capture_meta
from ..markup import notebook_table
from ..names import printable

CONVENTIONS = ("macs", "paper")
# Layers that add a bias where they are given so many tensors.
_WITH_BIAS = dict.fromkeys(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear addmm".split(), 3
) | {"bilinear": 4}
_RELU = ("relu", "relu_")


@dataclass(frozen=True, eq=False)
class Cost:
    """The cost of one run. Prints as a table.

    Attributes:
        params: Numbers in parameters; shared ones count once.
        macs: Multiply-adds, by the `convention`.
        activations: Elements that ops wrote.
        peak_bytes: An estimate for inference: parameters, buffers, the example, and the most that values still to be
            read occupy at once, without what kernels use inside.
        convention: ``"macs"`` or ``"paper"``.
        how: ``"meta"`` (nothing was computed), or why the example was really run.
        uncounted: The ops that cost nothing by the convention, with how often they ran.
        unknown: What multiplies and has no formula, with how often it ran: `macs` lacks it. A custom op gets one by
            ``torch.utils.flop_counter.register_flop_formula``.
        modules: What `by_module` returns, of every depth.
    """

    params: int
    macs: int
    activations: int
    peak_bytes: int
    convention: str
    how: str
    uncounted: dict[str, int]
    unknown: dict[str, int]
    modules: pd.DataFrame

    def by_module(self, depth: int | None = None) -> pd.DataFrame:
        """Return one row a module, children included in their parents.

        Args:
            depth: 1 keeps the root and its children, and so on; None keeps all.

        Returns:
            module, type, params, macs, macs_share (of the whole), activations.
        """
        whole("depth", depth, least=1, optional=True)
        if depth is None:
            return self.modules.copy()
        shown = [not path or path.count(".") < depth for path in self.modules["module"]]
        return self.modules.loc[shown].reset_index(drop=True)

    def frame(self) -> pd.DataFrame:
        """One row: params, macs, activations, peak_bytes, convention, how, unknown (in words)."""
        names = ("params", "macs", "activations", "peak_bytes", "convention", "how")
        return pd.DataFrame([{name: getattr(self, name) for name in names} | {"unknown": in_words(self.unknown)}])

    def __repr__(self) -> str:
        lines = [f"{name:<13}{value:>15}" + (f"   ({note})" if note else "") for name, value, note in self._figures()]
        return "\n".join(printable(line) for line in [*lines, *(f"{name:<13}{told}" for name, told in self._told())])

    def _repr_html_(self) -> str:
        notes = [f"{name}: {told}" for name, told in self._told()]
        return notebook_table(["", "", ""], self._figures(), right=[1], notes=notes)

    def _figures(self) -> list[tuple[str, str, str]]:
        """What was counted: name, value, note."""
        unit = "multiply-adds" if self.convention == "macs" else "multiply-adds + bias adds + ReLU outputs"
        return [
            ("parameters", f"{self.params:,}", ""),
            ("MACs", f"{self.macs:,}", unit),
            ("activations", f"{self.activations:,}", ""),
            ("peak memory", _bytes(self.peak_bytes), "estimated, inference"),
        ]

    def _told(self) -> list[tuple[str, str]]:
        """What the figures lack, and how they were counted."""
        missing = [("not in it", f"{in_words(self.unknown)}: no formula")] if self.unknown else []
        free = in_words(dict(list(self.uncounted.items())[:8]))
        return [*missing, ("how", f"{self.how}; counted as nothing: {free or 'no op'}")]


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def in_words(counts: dict[str, int]) -> str:
    """Names with how often each is there, as ``relu x2, add x1``."""
    return ", ".join(f"{name} x{count}" for name, count in counts.items())


def cost(model: nn.Module, example: Any, convention: Literal["macs", "paper"] = "macs") -> Cost:
    """Return the cost of one run of `model` on `example`, on the meta device: no arithmetic, no memory, any resolution.

    A model that cannot run there (data-dependent control flow) is really run once; `.how` says so. The first call in a
    process takes some seconds more, in which torch loads what its meta device needs.

    Args:
        model: Left untouched.
        example: What it is run on: a tensor, a tuple, a dict of keywords, or a `Call`. Its tensors may be on the meta
            device, so that an input of any size takes no memory; a model that cannot run there then raises.
        convention: ``"macs"``, multiply-adds alone; ``"paper"``, these, bias adds and ReLU outputs.

    Returns:
        Parameters, multiply-adds, activations in elements, peak memory in bytes; as a whole and by module.

    Raises:
        ValueError: for an unknown convention.

    >>> import torch
    >>> cost(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10)).macs   # 100 pixels x 3 x 8 x 9
    21600
    """
    choice("convention", convention, CONVENTIONS)
    try:
        record, how = capture_meta(model, example), "meta"
    except Exception as error:  # whatever the model raises without data
        if without_data(example):
            raise
        reason = str(error).strip().split("\n")[0][:120]
        record, how = capture(model, example), f"one real run: on meta it raises {type(error).__name__}: {reason}"
    weight = {op: _weight(op, convention) for op in record.ops}
    counted = [op for op in record.ops if weight[op]]
    uncounted = Counter(op.name for op in record.ops if not (weight[op] or op.uncounted))
    return Cost(
        params=sum(record.params.values()),
        macs=sum(weight[op] for op in counted),
        activations=sum(_elements(op) for op in record.ops),
        peak_bytes=record.param_bytes + record.buffer_bytes + _peak(record),
        convention=convention,
        how=how,
        uncounted=dict(uncounted.most_common()),
        unknown=dict(Counter(name for op in record.ops for name in op.uncounted).most_common()),
        modules=_by_module(model, record, weight),
    )


def _elements(op: Op) -> int:
    return (0 if op.view else op.elements) + (op.inside.elements if op.inside else 0)


def _weight(op: Op, convention: str) -> int:
    if convention == "macs":
        return op.macs
    extra = op.inside.biases if op.inside is not None else 0
    if op.name in _RELU or _WITH_BIAS.get(op.name) == len(op.in_shapes):
        extra = op.elements
    return op.macs + extra


def _peak(record: Capture) -> int:
    """The most bytes that are alive at once: a storage lives from the op that makes it to the last that reads it.

    The example's own is alive throughout. Parameters and buffers are not counted here.
    """
    # Between which ops each storage lives.
    end = len(record.ops)
    first, last = {}, {}
    for op in record.ops:
        for value in (*op.inputs, *op.outputs):
            if (storage := record.storage.get(value)) is not None:
                first.setdefault(storage, op.index)
                last[storage] = op.index
    first |= {record.storage[v]: 0 for v in record.inputs if v in record.storage}
    last |= {record.storage[v]: end for v in (*record.inputs, *record.outputs) if v in record.storage}
    # How many bytes more, or fewer, are alive from each op on; their running sum is what is alive then.
    change = [0] * (end + 2)
    for storage in first.keys() - {record.storage.get(v) for v in record.constants}:
        change[first[storage]] += record.storage_bytes[storage]
        change[last[storage] + 1] -= record.storage_bytes[storage]
    for op in record.ops:
        if op.inside is not None:
            change[op.index] += op.inside.bytes
            change[op.index + 1] -= op.inside.bytes
    return max(accumulate(change))


def _by_module(model: nn.Module, record: Capture, weight: dict[Op, int]) -> pd.DataFrame:
    macs: Counter[str] = Counter()
    activations: Counter[str] = Counter()
    for op in record.ops:
        path = op.call.module if op.call is not None else op.execution.module
        while True:
            macs[path] += weight[op]
            activations[path] += _elements(op)
            if not path:
                break
            path = path.rpartition(".")[0]
    total = max(macs[""], 1)
    rows = [
        {
            "module": path,
            "type": type(module).__name__,
            "params": sum(p.numel() for p in module.parameters()),
            "macs": macs[path],
            "macs_share": macs[path] / total,
            "activations": activations[path],
        }
        for path, module in model.named_modules()
    ]
    return pd.DataFrame(rows, columns=["module", "type", "params", "macs", "macs_share", "activations"])
