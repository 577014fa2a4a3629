"""Which function an op is: what aten calls otherwise than torch does, and custom autograd functions.

Graphs of `torch.export` and of `make_fx` call aten's ops (``torch.ops.aten.relu.default``). A record knows each by the
function that a model's code would have called (``torch.nn.functional.relu``), so that no table elsewhere needs both.

What runs inside a custom autograd function, whose backward is its own, is nobody's site. A subclass of
``torch.autograd.Function`` is one op for archlab: seen as a whole in a recorded run, a leaf of a trace. Looked into,
its forward would be differentiated in place of its backward. Torch's own are left as they are, as checkpointing is one
of them, whose forward runs a part of the model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd import Function

Apply = Callable[..., Any]


@contextmanager
def applied_by(call: Callable[[Apply, tuple, dict], Any]) -> Iterator[None]:
    """While open, ``call(apply, args, kwargs)`` is asked in place of the ``apply`` of every custom function."""
    original = vars(Function)["apply"]

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        if cls.__module__.partition(".")[0] == "torch":
            return original.__get__(None, cls)(*args, **kwargs)
        return call(_named(cls, _ORIGINAL), args, kwargs)

    Function.apply = classmethod(apply)  # type: ignore[assignment]
    try:
        yield
    finally:
        Function.apply = original


_ORIGINAL = vars(Function)["apply"]


@cache
def _named(cls: type[Function], original: Any) -> Apply:
    """``cls.apply`` as a plain function with the name of the class."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        return original.__get__(None, cls)(*args, **kwargs)

    apply.__name__ = apply.__qualname__ = cls.__name__ if cls.__name__.isidentifier() else "Function"
    apply.is_autograd_function = True  # type: ignore[attr-defined]
    return apply


def is_custom_function(func: Any) -> bool:
    """Whether `func`, of a recorded op, is the apply of a custom autograd function."""
    return getattr(func, "is_autograd_function", False)


# --- ops of aten --------------------------------------------------------------------------------


def _under(function: Callable, names: str) -> dict[str, Callable]:
    return dict.fromkeys(names.split(), function)


# The functions of ops that aten calls otherwise, an op that is done in place as the one that is not.
ATEN: dict[str, Callable] = {
    **_under(F.relu6, "relu6_"),
    **_under(F.gelu, "gelu_"),
    **_under(F.silu, "silu_"),
    **_under(F.mish, "mish_"),
    **_under(F.hardswish, "hardswish_"),
    **_under(F.hardsigmoid, "hardsigmoid_"),
    **_under(F.logsigmoid, "log_sigmoid log_sigmoid_forward"),
    **_under(F.prelu, "_prelu_kernel"),
    **_under(F.rrelu, "rrelu_with_noise rrelu_with_noise_functional"),
    **_under(F.softmax, "_softmax _safe_softmax"),
    **_under(F.log_softmax, "_log_softmax"),
    **_under(F.dropout, "native_dropout"),
    **_under(
        F.batch_norm,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "_native_batch_norm_legit_functional _batch_norm_with_update _batch_norm_with_update_functional "
        "_batch_norm_no_update cudnn_batch_norm miopen_batch_norm",
    ),
    **_under(F.layer_norm, "native_layer_norm"),
    **_under(F.group_norm, "native_group_norm"),
    **_under(torch.rms_norm, "_fused_rms_norm"),
    **_under(torch.convolution, "_convolution convolution_overrideable"),
    **_under(F.max_pool2d, "max_pool2d_with_indices"),
    **_under(F.max_pool3d, "max_pool3d_with_indices"),
    **_under(F.adaptive_avg_pool2d, "_adaptive_avg_pool2d"),
    **_under(F.adaptive_avg_pool3d, "_adaptive_avg_pool3d"),
    **_under(
        F.pad,
        "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
        "replication_pad3d _pad_circular",
    ),
    **_under(
        F.interpolate,
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
        "upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    ),
    **_under(
        F.scaled_dot_product_attention,
        "_scaled_dot_product_attention_math _scaled_dot_product_flash_attention "
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
        "_scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable",
    ),
    **_under(F.grid_sample, "grid_sampler grid_sampler_2d grid_sampler_3d _grid_sampler_2d_cpu_fallback"),
    **_under(Tensor.view, "_unsafe_view _reshape_alias"),
    **_under(Tensor.to, "_to_copy"),
}
# Where a function of aten's own name is looked for, in this order; and what comes before its name there.
_HOMES = ((F, ""), (torch, ""), (Tensor, ""), (torch.special, "special_"), (torch.linalg, "linalg_"))


def function_of(called: Callable) -> Callable:
    """The function that a model's code would call for an op of aten; for what is no op of aten, `called` itself.

    An op that no function stands for is known without its overload, as ``torch.ops.aten.slice``.

    >>> function_of(torch.ops.aten.add_.Tensor), function_of(torch.ops.aten._softmax.default).__name__
    (<method 'add_' of 'torch._C.TensorBase' objects>, 'softmax')
    """
    op = called.overloadpacket if isinstance(called, OpOverload) else called
    return _function_of(op) if isinstance(op, OpOverloadPacket) else called


@cache
def _function_of(op: OpOverloadPacket) -> Callable:
    namespace, _, name = str(op).rpartition(".")
    if namespace not in ("aten", "prims"):
        return op
    if name in ATEN:
        return ATEN[name]
    found = (getattr(home, name.removeprefix(prefix), None) for home, prefix in _HOMES if name.startswith(prefix))
    return next(filter(callable, found), op)
