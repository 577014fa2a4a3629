"""Whether a model computes with its new widths what was followed: every op makes what it should, in shapes.

Where it does not, a number that the code keeps says the old width (heads, sizes of a split): it is found and set, or
what depends on it is frozen, with the place as the reason.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ...capture.copies import structural_copy
from ...capture.example import tensors_in
from ...capture.record import Op, Stopped
from ...capture.recorder import capture, capture_meta
from .axes import Axis, Expr, Product, Sum, freeze, leaves, resolved, size_with
from .flow import Flow, Trace, function_name
from .resize import Resizing, get_number, numbers_of, resize_

TRIES = 8  # numbers that are tried for one op


class Mismatch(Stopped):
    """An op did not make what it was to make with the new widths."""

    def __init__(self, index: int, detail: str):
        super().__init__(detail)
        self.index = index


class Expected:
    """Compares a run with what was followed, as `capture`'s watcher. `index`: of the next op."""

    def __init__(self, flow: Flow, sizes: Mapping[Axis, int], *, exact: bool):
        self.flow, self.sizes, self.exact = flow, sizes, exact
        self.index, self.diverged = 0, False

    def __call__(self, op: Op, args: tuple, kwargs: dict, result: Any) -> None:
        if self.diverged or op.index >= len(self.flow.traces):
            return
        trace = self.flow.traces[op.index]
        self.index = op.index + 1
        if function_name(op) != trace.name:
            self.diverged = True  # the code went another way, as what it computes decides
            return
        made = tensors_in(result)
        if len(made) != len(trace.made) or any(len(t.shape) != len(d) for t, d in zip(made, trace.made, strict=True)):
            raise Mismatch(op.index, f"{trace.name} makes {[tuple(t.shape) for t in made]}")
        for tensor, dims in zip(made, trace.made, strict=True):
            for size, expr in zip(tensor.shape, dims, strict=True):
                expected = size_with(expr, self.sizes)
                if size != expected and (self.exact or expected != expr.size):
                    wanted = tuple(size_with(e, self.sizes) for e in dims)
                    raise Mismatch(op.index, f"{trace.name} makes {tuple(tensor.shape)} in place of {wanted}")
        for number, before in trace.starts:
            if (start := _start(args, kwargs, number)) is not None and start != size_with(before, self.sizes):
                raise Mismatch(op.index, f"{trace.name} begins at {start} in place of {size_with(before, self.sizes)}")


def _start(args: tuple, kwargs: dict, number: int) -> int | None:
    """Where a slice begins; None where it counts from the end."""
    if number < 0:
        return args[2] if len(args) > 2 else kwargs.get("start")
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    start = index[number].start
    return int(start) if start is not None and start >= 0 else None


class Fit:
    """Tries widths on a model without values where it runs so, else on the model itself."""

    def __init__(self, model: nn.Module, example: Any, flow: Flow):
        self.model, self.example, self.flow = model, example, flow
        self.meta: bool | None = None  # whether the model runs there as it does otherwise; None: not known yet

    def mismatch(self, resizing: Resizing, sizes: Mapping[Axis, int]) -> Mismatch | None:
        """The first op that does not make what it should; None where all do."""
        if self.meta is not False:
            wrong, whole = self._run(resizing, sizes, meta=True)
            if self.meta is None:
                self.meta = whole or self._run(Resizing({}), {}, meta=True) == (None, True)
            if self.meta:
                return wrong
        return self._run(resizing, sizes, meta=False)[0]

    def _run(self, resizing: Resizing, sizes: Mapping[Axis, int], *, meta: bool) -> tuple[Mismatch | None, bool]:
        """The first op that does not make what it should, and whether all ops were met, in the order as followed."""
        expected = Expected(self.flow, sizes, exact=meta)
        try:
            net = resize_(structural_copy(self.model, "meta" if meta else None), resizing, "prune")
            (capture_meta if meta else capture)(net, self.example, expected)
        except Mismatch as error:
            return error, False
        except Exception as error:
            told = str(error).splitlines()[0] if str(error) else ""
            return Mismatch(expected.index, f"{type(error).__name__}: {told}"), False
        return None, not expected.diverged and expected.index == len(self.flow.traces)

    def fitted(self, resizing: Resizing, sizes: Mapping[Axis, int]) -> Resizing | Mismatch:
        """`resizing` with the numbers that the code needs as well, or the first op that cannot be made right."""
        wrong = self.mismatch(resizing, sizes)
        while wrong is not None:
            found = self._repaired(resizing, sizes, wrong)
            if found is None:
                return wrong
            resizing, wrong = found
        return resizing

    def _repaired(
        self, resizing: Resizing, sizes: Mapping[Axis, int], wrong: Mismatch
    ) -> tuple[Resizing, Mismatch | None] | None:
        """With another number by which the run gets further, and where it goes wrong then; None where there is none."""
        single = list(self._candidates(wrong.index, resizing, sizes))[:TRIES]
        together = [[c for c in single if c[0] == path] for path in dict.fromkeys(c[0] for c in single)]
        for candidates in [*([c] for c in single), *(several for several in together if len(several) > 1)]:
            tried = resizing
            for path, name, value in candidates:
                tried = _with_number(tried, path, name, value)
            after = self.mismatch(tried, sizes)
            if after is None or after.index > wrong.index:
                alone = tried
                for path, name, _ in candidates:
                    for other, same in self._siblings(wrong.index, path, name, sizes):
                        tried = _with_number(tried, other, name, same)
                return (tried, after) if tried == alone else (tried, self.mismatch(tried, sizes))
        return None

    def _candidates(self, index: int, resizing: Resizing, sizes: Mapping[Axis, int]) -> Iterator[tuple[str, str, int]]:
        """Numbers of the modules around an op that say the old size of what changes there: (module, name, new)."""
        if index >= len(self.flow.traces):
            return
        trace = self.flow.traces[index]
        changes = dict(_changes(trace, sizes))
        for path in _around(trace.op):
            for name, old in numbers_of(self.model.get_submodule(path)):
                if old in changes and resizing.numbers.get(path, {}).get(name, old) != changes[old]:
                    yield path, name, changes[old]

    def _siblings(self, index: int, path: str, name: str, sizes: Mapping[Axis, int]) -> Iterator[tuple[str, int]]:
        """Other modules of the same class in which the same line of code needs the same kind of number."""
        for trace in same_place(self.flow, index):
            own = next(
                (
                    p
                    for p in _around(trace.op)
                    if type(self.model.get_submodule(p)) is type(self.model.get_submodule(path))
                ),
                None,
            )
            if own is not None and own != path:
                old, changes = get_number(self.model.get_submodule(own), name), dict(_changes(trace, sizes))
                if old in changes:
                    yield own, changes[old]

    def freeze(self, wrong: Mismatch, sizes: Mapping[Axis, int]) -> list[Axis]:
        """Freeze what depends on an op that cannot be made right, here and wherever the same line of code runs."""
        traces = self.flow.traces
        trace = traces[min(wrong.index, len(traces) - 1)]
        path = trace.op.execution.module
        why = f"is given by a number in the code of {path or 'the model itself'} that cannot be changed ({wrong})"
        near = [[t] for t in [trace, *same_place(self.flow, wrong.index)]]
        for scope in (
            near,
            [[t for t in traces if t.op.execution.module == path]],
            [[t for t in traces if t.op.execution.module.startswith(_parent(path))]],
            [traces],
        ):
            found = {axis for group in scope for t in group for axis in _changing(t, sizes)}
            if found:
                for axis in found:
                    freeze(axis, why)
                return list(found)
        return []


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _around(op: Op) -> list[str]:
    """The module that an op runs in, and those around it, innermost first."""
    found = [op.execution.module]
    call = op.call
    while call is not None:
        found.append(call.module)
        call = call.parent
    return list(dict.fromkeys(found))


def same_place(flow: Flow, index: int) -> Iterator[Trace]:
    """The ops that the same line of code made in other modules."""
    if index < len(flow.traces):
        here = flow.traces[index]
        for trace in flow.traces:
            if trace is not here and trace.name == here.name and trace.op.location.stack == here.op.location.stack:
                yield trace


def _changing(trace: Trace, sizes: Mapping[Axis, int]) -> Iterator[Axis]:
    for dims in [*trace.given, *trace.made]:
        for expr in dims:
            yield from (axis for axis in leaves(expr) if axis in sizes)


def _changes(trace: Trace, sizes: Mapping[Axis, int]) -> Iterator[tuple[int, int]]:
    """The sizes in an op that change, of whole dimensions and of parts of these: (old, new), one for each old."""
    found: dict[int, int] = {}
    for dims in [*trace.made, *trace.given]:
        for expr in dims:
            for part in _parts(expr):
                new = size_with(part, sizes)
                if new != part.size:
                    found.setdefault(part.size, new)
    yield from found.items()


def _parts(expr: Expr) -> Iterator[Expr]:
    expr = resolved(expr)
    yield expr
    if isinstance(expr, Sum):
        for part in expr.parts:
            yield from _parts(part)
    elif isinstance(expr, Product):
        for factor in expr.factors:
            yield from _parts(factor)
        for n in range(1, len(expr.factors) - 1):
            yield Product(expr.factors[n:])


def _with_number(resizing: Resizing, path: str, name: str, value: int) -> Resizing:
    return replace(resizing, numbers=resizing.numbers | {path: resizing.numbers.get(path, {}) | {name: value}})
