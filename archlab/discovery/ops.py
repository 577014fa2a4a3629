"""Which of torch's functions count as activations, adds and the like: tables in plain sight, extended by assignment."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _names(**ops: Sequence[Callable]) -> dict[Callable, str]:
    return {op: name for name, group in ops.items() for op in group}


# Pointwise functions that can stand as an activation. Extend by assignment: ACTIVATIONS[my_op] = "name".
ACTIVATIONS: dict[Callable, str] = _names(
    relu=[F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_],
    relu6=[F.relu6],
    leaky_relu=[F.leaky_relu, F.leaky_relu_],
    prelu=[F.prelu, torch.prelu, Tensor.prelu],
    rrelu=[F.rrelu, F.rrelu_],
    elu=[F.elu, F.elu_],
    selu=[F.selu, F.selu_, torch.selu, torch.selu_],
    celu=[F.celu, F.celu_, torch.celu, torch.celu_],
    gelu=[F.gelu],
    silu=[F.silu],
    mish=[F.mish],
    softplus=[F.softplus],
    softsign=[F.softsign],
    logsigmoid=[F.logsigmoid],
    hardtanh=[F.hardtanh, F.hardtanh_],
    hardswish=[F.hardswish],
    hardsigmoid=[F.hardsigmoid],
    hardshrink=[F.hardshrink, torch.hardshrink, Tensor.hardshrink],
    softshrink=[F.softshrink],
    tanhshrink=[F.tanhshrink],
    threshold=[F.threshold, F.threshold_, torch.threshold, torch.threshold_],  # type: ignore[attr-defined]
    sigmoid=[F.sigmoid, torch.sigmoid, torch.special.expit, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_],
    tanh=[F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_],
)
# Off by default, as are activations whose output multiplies a map: without them values are no longer shares.
SOFTMAX: dict[Callable, str] = _names(
    softmax=[F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax], softmin=[F.softmin]
)
# A module call made of these alone, at least one of them non-linear, is one composed activation.
POINTWISE_NAMES = frozenset(
    "add add_ sub sub_ rsub mul mul_ div div_ pow pow_ square exp sqrt clamp clamp_ clamp_min neg erf tanh sigmoid "
    "abs minimum maximum true_divide __pow__ __rpow__ __rsub__ __rdiv__ __rtruediv__ sin cos type_as to float".split()
)
NONLINEAR_NAMES = frozenset("pow pow_ square exp sqrt clamp clamp_ clamp_min erf abs minimum maximum sin cos".split())
ADDS = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__})
MULS = frozenset({torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, torch.multiply})
CONCATENATIONS = frozenset({torch.cat, torch.concat, torch.concatenate, torch.stack, torch.hstack, torch.vstack})
