"""What does not depend on the input of a model: parameters, buffers, and what its code computes of these alone.

An op that scales or shifts by such a value is a linear layer, however it is written: a frozen norm, a batch norm as a
function, a learned or a plain number.
"""

import inspect
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...capture.example import Call
from ...capture.record import Capture, Op
from ...discovery.ops import ADDS, MULS

FUNCTIONS = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, torch.conv2d})
_SUBTRACTS, _DIVIDES = ("sub", "__sub__", "sub_", "__isub__"), ("div", "true_divide", "__truediv__", "div_")
_RANDOM = (
    "dropout", "bernoulli", "binomial", "cauchy", "exponential", "gumbel", "geometric", "multinomial", "normal",
    "poisson", "rand", "rrelu", "uniform",
)  # fmt: skip
_SELECTS = ("getitem", "select", "narrow", "split", "chunk", "unbind", "take", "gather", "roll")
_GROUPS = (nn.ParameterDict, nn.ParameterList)  # of which the call may name one

UNKNOWN = Call(lambda model: None)  # an example that may be anything


class Fixed:
    """The fixed values of one recorded run."""

    def __init__(self, model: nn.Module, record: Capture, example: Any):
        self.record = record
        # A number in the code, or an index, may come from the call or from the shape of something, and be another one
        # next time.
        given = gives_numbers(model, example)
        self.numbers_are_fixed = not record.asked and not given
        varied = () if self.numbers_are_fixed else _SELECTS
        changed = {record.constants[v] for op in record.ops for v in op.mutated if v in record.constants}
        if given:
            changed |= {
                f"{path}.{name}" if path else name
                for path, module in model.named_modules()
                if isinstance(module, _GROUPS)
                for name, _ in module.named_parameters()
            }
        self.values = {value for value, name in record.constants.items() if name not in changed}
        for op in record.ops:
            other = any(word in op.name for word in (*_RANDOM, *varied))
            if op.inputs and not (op.mutated or other) and all(value in self.values for value in op.inputs):
                self.values |= set(op.outputs)

    def __contains__(self, value: int) -> bool:
        return value in self.values

    def data(self, op: Op) -> int:
        """The one input of an affine op that is not fixed."""
        return next(value for value in op.inputs if value not in self.values)

    def is_affine(self, op: Op) -> bool:
        """Whether an op scales or shifts one value by fixed ones."""
        if sum(value not in self.values for value in op.inputs) != 1 or not op.out_shapes or op.options:
            return op.func is F.batch_norm and self._arguments(op) is not None
        if op.func is F.batch_norm:
            return self._arguments(op) is not None
        first = op.inputs[0] not in self.values
        known = op.func in MULS or op.func in ADDS or (first and op.name in (*_DIVIDES, *_SUBTRACTS))
        if not known:
            return False
        if len(op.inputs) == 2:
            return all(given is None for given in op.positional)
        numbers = [given for given in op.positional if given is not None]
        leads = bool(op.positional) and op.positional[0] is None  # number - x and number / x are no such layers
        plain = len(numbers) == 1 and type(numbers[0]) in (int, float) and len(op.positional) == 2
        return self.numbers_are_fixed and plain and leads and (numbers[0] != 0 or op.name not in _DIVIDES)

    def scale_and_shift(self, op: Op, model: nn.Module) -> tuple[Tensor | None, Tensor | None] | None:
        """By what an affine op scales and by what it shifts, in float64; None where that cannot be worked out."""
        held: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
        if op.func is F.batch_norm:
            given = self._arguments(op)
            assert given is not None
            mean, variance, weight, bias = (
                None if v is None else self._value(v, held)
                for v in (given[name] for name in ("running_mean", "running_var", "weight", "bias"))
            )
            if mean is None or variance is None:
                return None
            scale = (variance + given["eps"]).rsqrt() * (1.0 if weight is None else weight)
            return scale, -mean * scale if bias is None else bias - mean * scale
        if len(op.inputs) == 1:
            number = next(given for given in op.positional if given is not None)
            value: Tensor | None = torch.tensor(float(number), dtype=torch.float64)
        else:
            value = self._value(next(v for v in op.inputs if v in self.values), held)
        if value is None:
            return None
        value = value.double()
        if op.func in MULS:
            return value, None
        if op.name in _DIVIDES:
            return 1 / value, None
        return None, -value if op.name in _SUBTRACTS else value

    def _arguments(self, op: Op) -> dict[str, Any] | None:
        """The arguments of a batch norm that uses fixed statistics: values for its tensors, in their order."""
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given: dict[str, Any] = {"weight": None, "bias": None, "training": False, "eps": 1e-5}
        given |= dict(zip(names, op.positional, strict=False)) | op.options
        tensors = list(op.inputs)
        if given["training"] or len(tensors) not in (3, 5) or len(op.positional) < 3:
            return None
        given |= dict(zip(names, tensors, strict=False))
        fixed = all(value in self.values for value in tensors[1:])
        return given if fixed and tensors[0] not in self.values else None

    def _value(self, value: int, held: dict[str, Tensor]) -> Tensor | None:
        """A fixed value, computed as the model's code does; None where the record does not say how."""
        if value in self.record.constants:
            return _precise(held[self.record.constants[value]])
        op = self.record.producer[value]
        tensors = [self._value(v, held) for v in op.inputs]
        if any(tensor is None for tensor in tensors) or op.positional.count(None) != len(tensors):
            return None
        rest = iter(tensors)
        try:
            made = op.func(*(next(rest) if given is None else given for given in op.positional), **op.options)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
        made = made if isinstance(made, Tensor) else made[op.outputs.index(value)]
        return _precise(made)


def _precise(value: Tensor) -> Tensor:
    """In float64 if it holds numbers to compute with; indices and masks stay what they are."""
    return value.detach().double() if value.is_floating_point() else value.detach()


def gives_numbers(model: nn.Module, example: Any) -> bool:
    """Whether a call of the model may hand it a number, or a key to one: one that the example gives, the default of an
    argument, or an argument that is left out and not said to be a tensor or a flag."""
    return (
        isinstance(example, Call)
        or bool(_given(model, example, (int, float, str)))
        or any(argument.default is None and _may_be_a_number(argument.annotation) for argument in _arguments_of(model))
    )


def numbers_given(model: nn.Module, example: Any) -> list[float]:
    """The numbers that a call of the model hands it: those of the example, and defaults of arguments."""
    return _given(model, (example.args, example.kwargs) if isinstance(example, Call) else example, (int, float))


def _given(model: nn.Module, example: Any, kinds: tuple[type, ...]) -> list[Any]:
    given = (*(argument.default for argument in _arguments_of(model)), *tree_leaves(example))
    return [one for one in given if type(one) in kinds]


def _arguments_of(model: nn.Module) -> list[inspect.Parameter]:
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [a for a in inspect.signature(model.forward).parameters.values() if a.kind not in rest]


def _may_be_a_number(annotation: Any) -> bool:
    """Whether an argument whose default is None may be one, by what is written beside it."""
    if annotation in (inspect.Parameter.empty, Any):
        return True
    words = set(re.findall(r"\w+", annotation if isinstance(annotation, str) else repr(annotation)))
    return bool(words & {"int", "float", "str", "Any", "Number"})
