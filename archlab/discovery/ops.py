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
    softmax=[F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax],
    softmin=[F.softmin],
    log_softmax=[F.log_softmax, torch.log_softmax, torch.special.log_softmax, Tensor.log_softmax],
)
# Off by default as well: nothing holds the size of what follows any more.
NORMS: dict[Callable, str] = _names(
    batch_norm=[F.batch_norm, torch.batch_norm],
    instance_norm=[F.instance_norm, torch.instance_norm],
    layer_norm=[F.layer_norm, torch.layer_norm],
    group_norm=[F.group_norm, torch.group_norm],
    rms_norm=[F.rms_norm, torch.rms_norm],
    local_response_norm=[F.local_response_norm],
)
# Functions of one tensor, value by value, and of several of one shape: an activation may be spelled with them. They are
# named as torch's functions are, without the underscores of what is in place or behind an operator.
NONLINEAR = frozenset(
    "pow rpow float_power square sqrt rsqrt exp exp2 expm1 log log2 log10 log1p abs absolute erf erfc sin cos tan sinc "
    "asin arcsin acos arccos atan arctan sinh cosh asinh arcsinh acosh arccosh atanh arctanh clamp clip clamp_min "
    "clamp_max reciprocal rtruediv rdiv logaddexp minimum maximum fmin fmax heaviside xlogy".split()
)
LINEAR = frozenset(
    "add radd iadd sub isub rsub mul rmul imul multiply div divide truediv itruediv true_divide neg negative positive "
    "to type_as float double half bfloat16 clone contiguous gt lt ge le eq ne greater less logical_not logical_and "
    "logical_or".split()
)
POINTWISE = NONLINEAR | LINEAR
# What may close the two ways round an activation: ``x * sigmoid(x)``, ``where(x > 0, x, 0.1 * x)``.
CLOSING = frozenset(
    "mul rmul imul multiply div divide truediv itruediv true_divide rtruediv where masked_fill minimum maximum min max "
    "fmin fmax pow logaddexp xlogy".split()
)
# What hands a value on as it is, so that a residual's shortcut may pass it.
HANDING_ON = frozenset("clone contiguous to type_as float double half bfloat16 positive alias".split())
# What takes no more than the shape of a tensor.
FILLED = frozenset("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty".split())
REDUCTIONS = frozenset(
    "sum mean norm vector_norm linalg_vector_norm var std var_mean std_mean amax amin max min logsumexp prod cumsum "
    "nansum nanmean".split()
)


def plain_name(func: Callable) -> str:
    """The name of a function of torch without underscores: ``pow`` for ``pow_``, ``__pow__`` and ``torch.pow``."""
    return getattr(func, "__name__", str(func)).strip("_")


def _of_all(*names: str) -> set[Callable]:
    """torch's functions and methods of these names, also in place."""
    homes = (torch, Tensor)
    found = (getattr(home, f"{name}{end}", None) for home in homes for name in names for end in ("", "_"))
    return {function for function in found if function is not None}


# Functions that add two terms: under which name `rewrite.blend.SUMS` knows what is left without one of them.
SUM_NAMES: dict[Callable, str] = {
    **dict.fromkeys(_of_all("add") | {Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}, "add"),
    **dict.fromkeys(_of_all("sub", "subtract") | {Tensor.__sub__, Tensor.__isub__}, "sub"),
    **dict.fromkeys(_of_all("rsub") | {Tensor.__rsub__}, "rsub"),
    **{function: name for name in ("addcmul", "addcdiv", "lerp", "addmm", "baddbmm") for function in _of_all(name)},
}
ADDS = frozenset(function for function, name in SUM_NAMES.items() if name == "add")
MULS = frozenset({torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, torch.multiply})
STACKS = frozenset({torch.stack})
CONCATENATIONS = frozenset({torch.cat, torch.concat, torch.concatenate, torch.hstack, torch.vstack})
