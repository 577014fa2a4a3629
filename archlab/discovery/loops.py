"""Loops: a line of code that is passed several times is one site where each turn does the same, else one a turn.

Over time (``for t in range(x.shape[1])``) each turn does the same with the same weights: one site, at every occurrence,
as a longer input has more turns. Over layers (``for layer in self.layers``) each turn has weights of its own, and so a
site. Neither is written in the code; it is read off what fed each turn.
"""

from collections import Counter
from dataclasses import replace

from ..capture.dataflow import Flow
from ..capture.record import Capture, Execution, ModuleCall, Op
from ..rewrite.target import issued
from .kinds import Kind
from .occurrence import Found
from .site import Skipped


def by_line(found: list[Found], flow: Flow) -> dict[tuple, list[Found]]:
    """What was found, by container, entry, location, dropped operand, head and child, in the order it ran.

    A location without an occurrence stands for every one. The kind is that of the first run, and so is the operand of a
    join: what is a branch in one run can be a join in another, and of a join another operand can be the lighter one.
    """
    issuers = _issuers(flow.record)
    lines: dict[tuple, list[Found]] = {}
    for f in found:
        execution, location, _ = f.issued(flow)
        lines.setdefault((execution.module, execution.entry, location.every), []).append(f)
    groups: dict[tuple, list[Found]] = {}
    for (path, entry, every), line in lines.items():
        turns = list({f.source: f for f in line}.values())
        alike = len(issuers[path, entry, every]) == 1 and _turns_are_alike(turns, flow)
        joined: dict[tuple, tuple[int, ...]] = {}  # which operand of a join goes; by part and child
        for f in line:
            _, location, module = f.issued(flow)
            dropped = joined.setdefault((f.part, module), f.dropped) if alike and f.kind is Kind.JOIN else f.dropped
            key = path, entry, every if alike else location, dropped, f.part, module
            groups.setdefault(key, []).append(f)
    return dict(sorted(groups.items(), key=lambda item: item[1][0].order))


def in_every_run(groups: list[tuple[tuple, list[Found]]], flow: Flow) -> list[tuple[tuple, list[Found]]]:
    """The groups of `by_line`, each with the runs of its line in which no site was seen: there it is rewritten as well.

    What is no skip in the first turn, as no layer made the state so far, is one in the others.
    """
    runs: dict[tuple, list[Op | ModuleCall]] = {}
    for source in (*flow.record.ops, *(call for call in flow.record.calls if call.execution is not None)):
        for execution, location, module in {issued(source, flow), issued(source, flow, inside=True)}:
            for here in (location, location.every):
                runs.setdefault((execution.module, execution.entry, here, module, _what(source)), []).append(source)
    completed = []
    for key, group in groups:
        first = group[0]
        if first.reader is None and first.part is None:
            seen = {f.source for f in group}
            path, entry, location, _, _, module = key
            for source in runs[path, entry, location, module, _what(first.source)]:
                if source not in seen:
                    group = [*group, replace(first, source=source)]
        # A join gives up the operand that its first run does.
        same = {"kept": first.kept, "dropped": first.dropped, "damped": first.damped}
        completed.append((key, [f if f.dropped == first.dropped else replace(f, **same) for f in group]))
    return completed


def _what(source: Op | ModuleCall) -> str:
    """What runs: a function, with how many tensors, or a module."""
    return f"{source.name} {len(source.inputs)}" if isinstance(source, Op) else f"({source.module})"


def without_last_operands(found: list[Found], flow: Flow) -> tuple[list[Found], list[Skipped]]:
    """What was found, but for operands of a concatenation where its runs together would leave nothing of it, and why.

    In a loop each turn sees what the one before it made: which way round is the shorter can change from turn to turn.
    """
    kept, skipped = [], []
    left: dict[tuple, set[int]] = {}  # operands that no site so far removes, by the line of the concatenation
    for f in found:
        if f.kind is Kind.CONCAT:
            execution, location, _ = f.issued(flow)
            every = execution.module, execution.entry, location.every, len(f.source.inputs)
            rest = left.setdefault(every, set(range(len(f.source.inputs))))
            if rest == set(f.dropped):
                reason = "the other operands are the shorter way round in another run of this line"
                skipped.append(Skipped(execution.module, f.op, Kind.CONCAT, reason))
                continue
            rest.difference_update(f.dropped)
        kept.append(f)
    return kept, skipped


def _issuers(record: Capture) -> dict[tuple, set[str]]:
    """For each line of each container's code, the functions, with how many tensors, and the modules that it called."""
    found: dict[tuple, set[str]] = {}
    for source in (*record.ops, *record.calls):
        execution, location = source.execution, source.location
        if execution is not None and location is not None:
            found.setdefault((execution.module, execution.entry, location.every), set()).add(_what(source))
    return found


def _turns_are_alike(line: list[Found], flow: Flow) -> bool:
    """Whether every turn is fed by the same weights, in every execution of the container.

    The first turn may be fed from outside the loop instead, and the others by what ends a turn: that then runs in each.
    """
    executions: dict[Execution, list[Found]] = {}
    for f in line:
        executions.setdefault(f.issued(flow)[0], []).append(f)
    for execution, turns in executions.items():
        first, *others = (_weights_before(f, execution, flow) for f in turns)
        if others and any(each != others[0] for each in others):
            return False
        new = others[0] - first if others else frozenset()
        used = _uses(execution, flow.record) if new else Counter()
        if any(used[name] < len(turns) for name in new):
            return False
    return True


def _weights_before(f: Found, execution: Execution, flow: Flow) -> frozenset[str]:
    """The parameters and the modules that are nearest before what was found, on each way back."""
    nearest, seen, open_ = set(), set(), list(f.source.inputs)
    while open_:
        op = flow.record.producer.get(open_.pop())
        if op is None or op in seen:
            continue
        seen.add(op)
        names = _names(op, execution)
        nearest |= names
        open_ += () if names else op.inputs
    return frozenset(nearest)


def _names(op: Op, execution: Execution) -> set[str]:
    """The parameters that an op reads, and the module below the container that it is in."""
    inside = op.call is not None and op.call.module != execution.module
    return {*op.params, *([f"({op.call.module})"] if inside and op.call is not None else [])}


def _uses(execution: Execution, record: Capture) -> Counter[str]:
    """How often each parameter was read, and each module called, while a container ran."""
    spans = [(call.first, call.last) for call in record.calls if call.execution is execution]
    spans += [(op.index, op.index + 1) for op in record.ops if op.execution is execution]
    first, last = min(a for a, _ in spans), max(b for _, b in spans)
    read = Counter(name for op in record.ops[first:last] for name in op.params)
    return read + Counter(f"({call.module})" for call in record.calls if first <= call.first and call.last <= last)
