"""Questions about the data flow of a recorded run: what was computed from what, who reads it, where gradients go."""

from collections.abc import Collection, Iterable

from .record import Capture, ModuleCall, Op

# Names of the functions that hand the elements of a tensor on in another shape, perhaps as a view.
RESHAPES = frozenset(
    "view reshape expand expand_as unsqueeze squeeze permute transpose flatten contiguous to type_as chunk split "
    "__getitem__ unbind".split()
)


class Flow:
    """The data flow of one record. Sets of ops are bits of an int, as there are many of them."""

    def __init__(self, record: Capture):
        self.record = record
        self.consumers = record.consumers()
        self._ancestors: list[int] = []  # a bit per op, an int per op
        for op in record.ops:
            bits = 1 << op.index
            for value in op.inputs:
                made = record.producer.get(value)
                if made is not None:
                    bits |= self._ancestors[made.index]
            self._ancestors.append(bits)
        self._descendants: list[int] = [0] * len(record.ops)  # likewise
        for op in reversed(record.ops):
            self._descendants[op.index] = self._read_by(op.outputs) | 1 << op.index
        self._changes = [(op.index, value) for op in record.ops for value in op.mutated]
        self.lifted = {op: call for call in record.calls if (op := self._only_op(call)) is not None}
        self.graded = self._graded()
        self.parametric = sum(1 << op.index for op in record.ops if op.params)  # likewise

    def _only_op(self, call: ModuleCall) -> Op | None:
        """The op that a call of a childless wrapper consists of, if it is one op from its input to its output."""
        if call.last - call.first != 1 or call.execution is None or not call.tensor_out or call.hooked:
            return None
        op = self.record.ops[call.first]
        passed_on = all(v in call.inputs or v in self.record.constants for v in op.inputs)
        return op if op.call is call and passed_on and call.outputs == op.outputs[:1] else None

    def ancestors(self, value: int) -> int:
        """The ops that a value was computed from, as bits."""
        made = self.record.producer.get(value)
        return 0 if made is None else self._ancestors[made.index]

    def descends(self, value: int, of: int) -> bool:
        """Whether `value` was computed from the value `of` (which may be an input of the model)."""
        if value == of:
            return True
        bits = self.ancestors(value)
        return any(bits >> op.index & 1 for op in self.consumers.get(of, ()))

    def ops_between(self, value: int, of: int) -> int:
        """The ops on the way from `of` to `value`, as bits."""
        return self._read_by((of,)) & self.ancestors(value)

    def _read_by(self, values: Iterable[int]) -> int:
        """The ops that read one of `values`, and all that is computed from them, as bits."""
        bits = 0
        for value in values:
            for op in self.consumers.get(value, ()):
                bits |= self._descendants[op.index]
        return bits

    def dead_without(self, uses: Collection[tuple[Op, int]], kept: Collection[int] = ()) -> set[Op]:
        """The ops whose work nothing needs but these uses: of each the op, and a value that it reads. The values `kept`
        are needed all the same."""
        dead: set[Op] = set()
        outputs = {*self.record.outputs, *kept}
        queue = [made for _, value in uses if (made := self.record.producer.get(value)) is not None]
        while queue:
            op = queue.pop()
            if op in dead or any(v in outputs for v in op.outputs):
                continue
            reads = [(c, v) for v in op.outputs for c in self.consumers.get(v, ()) if c is not op]
            if all(c in dead or (c, v) in uses for c, v in reads):
                dead.add(op)
                queue.extend(m for v in op.inputs if (m := self.record.producer.get(v)) is not None)
        return dead

    def idle_params(self) -> set[str]:
        """Names of the parameters that are read by ops on which no output of the model depends, and by no other."""
        needed, used = set(self.record.outputs), set()
        for op in reversed(self.record.ops):
            if any(v in needed for v in op.outputs):
                needed.update(op.inputs)
                used.update(op.params)
        return {name for op in self.record.ops for name in op.params if name in self.record.params} - used

    def changed_later(self, value: int) -> bool:
        """Whether an op changes it in place, itself or through a view of it."""
        storage, made = self.record.storage.get(value), self.record.producer.get(value)
        first = 0 if made is None else made.index + 1
        return any(i >= first and (v == value or self._lies_on(v, storage)) for i, v in self._changes)

    def _lies_on(self, value: int, storage: int | None) -> bool:
        return storage is not None and self.record.storage.get(value) == storage

    def _graded(self) -> set[int]:
        """Values from which a gradient flows to an output."""
        graded = set(self.record.outputs)
        for op in reversed(self.record.ops):
            if (
                op.grad
                and any(v in graded for v in op.outputs)
                and op.dtype is not None
                and (op.dtype.is_floating_point or op.dtype.is_complex)
            ):
                graded.update(op.inputs)
        return graded
