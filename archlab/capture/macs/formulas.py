"""Multiply-adds of single ops: a table of formulas.

Counted are products that are summed up: convolutions, linear layers, matrix and vector products, attention, recurrent
layers. Here is what `torch.utils.flop_counter` has no formula for. A complex multiply-add counts as one, an entry of a
sparse matrix where it is stored.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# A formula takes the result of an op and its arguments.


def _product(_out: Any, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int | None:
    """Matrices and vectors of which the rows, or the entries of a sparse one, each meet the columns of the other."""
    columns = 1 if b.dim() == 1 else b.shape[-1]
    if b.layout is torch.strided:
        return _entries(a) * columns
    return None if a.layout is not torch.strided else _entries(b) * (1 if a.dim() == 1 else a.shape[-2])


def _entries(matrix: Tensor) -> int:
    if matrix.layout is torch.strided:
        return matrix.numel()
    return (matrix._values() if matrix.layout is torch.sparse_coo else matrix.values()).numel()


def _added_product(out: Any, _added: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int | None:
    return _product(out, a, b)


def _grouped_product(_out: Any, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """Groups of rows (or columns) of one matrix, each times a matrix of its own."""
    return a.numel() * b.shape[-1] // (a.shape[0] if a.dim() == 3 and b.dim() == 2 else 1)


def _linear(out: Tensor, data: Tensor, *_: Any, **__: Any) -> int:
    """Every output is a sum over the last dimension of the input, however the weights are packed."""
    return out.numel() * data.shape[-1]


def _convolution(out: Tensor, _data: Tensor, weight: Any, *_: Any, **__: Any) -> int:
    """Every output is a sum over a kernel; quantized weights are packed."""
    kernel = weight if isinstance(weight, Tensor) else weight.unpack()[0]
    return out.numel() * kernel[0].numel()


def _transposed_convolution(_out: Tensor, data: Tensor, weight: Any, *_: Any, **__: Any) -> int:
    """Every input meets a kernel."""
    kernel = weight if isinstance(weight, Tensor) else weight.unpack()[0]
    return data.numel() * kernel[0].numel()


def _temporal_convolution(out: Tensor, _data: Tensor, weight: Tensor, *_: Any) -> int:
    return out.numel() * weight[..., 0].numel()


def _bilinear(_out: Tensor, a: Tensor, weight: Tensor, _b: Tensor, *_: Any) -> int:
    """Each pair of vectors: the first times a matrix for each output, then times the second."""
    outputs, width_a, width_b = weight.shape[-3:]
    return a.numel() // width_a * outputs * (width_a * width_b + width_b)


def _attention(_out: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Each query times each key, and with the weights of these each value, heads and batch apart."""
    return query.numel() // query.shape[-1] * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _transformer_layer(_out: Any, data: Tensor, *others: Any, **_: Any) -> int:
    """A fused layer, or its attention alone: each token meets every weight, and every token twice."""
    weights = {id(w): w for w in others if isinstance(w, Tensor) and w.dim() == 2 and w is not data}
    batch, tokens, width = data.shape
    return batch * tokens * (sum(w.numel() for w in weights.values()) + 2 * tokens * width)


def _distances(out: Tensor, a: Tensor, *_: Any, **__: Any) -> int:
    """Each pair of vectors: a squared difference for each coordinate."""
    return out.numel() * a.shape[-1]


def elements(out: Tensor, *_: Any, **__: Any) -> int:
    """One multiply-add an element that is made."""
    return out.numel()


def _rnn_layer(_out: Any, data: Tensor, *others: Any, **_: Any) -> int:
    """The kernels of a CPU, a layer and direction each, and of a GPU, of which the first has a list of weights."""
    weights = others[0] if isinstance(others[0], list | tuple) else others[:2]
    return data.numel() // max(data.shape[-1], 1) * sum(w.numel() for w in weights if w.dim() == 2)


def _named(formula: Callable, names: str, space: str = "aten") -> dict[str, Callable]:
    return {f"{space}::{name}": formula for name in names.split()}


# By the name of the op, without the "_" of one that works in place. Extended by assignment, or for a custom op by
# torch.utils.flop_counter.register_flop_formula.
FORMULAS: dict[str, Callable[..., int | None]] = {
    **_named(_product, "mm bmm mv dot vdot _int_mm _scaled_mm _scaled_mm_v2 _sparse_mm smm hspmm"),
    **_named(_added_product, "addmm baddbmm addbmm addmv _addmm_activation _sparse_addmm sspaddmm"),
    **_named(elements, "addr"),
    **_named(_grouped_product, "_grouped_mm _scaled_grouped_mm _scaled_grouped_mm_v2"),
    **_named(
        _linear,
        "mkldnn_linear _mixed_dtypes_linear _weight_int8pack_mm _weight_int4pack_mm _weight_int4pack_mm_for_cpu "
        "_dyn_quant_matmul_4bit fbgemm_linear_fp16_weight fbgemm_linear_int8_weight "
        "fbgemm_linear_fp16_weight_fp32_activation fbgemm_linear_int8_weight_fp32_activation "
        "_sparse_semi_structured_linear",
    ),
    **_named(_linear, "_linear_pointwise", "mkldnn"),
    **_named(_linear, "_mkl_linear", "mkl"),
    **_named(
        _linear,
        "linear linear_relu linear_leaky_relu linear_tanh linear_dynamic linear_relu_dynamic linear_dynamic_fp16 "
        "linear_relu_dynamic_fp16",
        "quantized",
    ),
    **_named(
        _convolution,
        "mkldnn_convolution cudnn_convolution_relu cudnn_convolution_add_relu miopen_convolution "
        "miopen_convolution_relu miopen_convolution_add_relu miopen_depthwise_convolution _conv_depthwise2d "
        "conv_depthwise3d slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d _nnpack_spatial_convolution",
    ),
    **_named(_convolution, "_convolution_pointwise", "mkldnn"),
    **_named(
        _convolution,
        "conv1d conv2d conv3d conv1d_relu conv2d_relu conv3d_relu conv2d_add conv2d_add_relu conv1d_dynamic "
        "conv2d_dynamic conv3d_dynamic",
        "quantized",
    ),
    **_named(
        _transposed_convolution,
        "cudnn_convolution_transpose miopen_convolution_transpose slow_conv_transpose2d slow_conv_transpose3d",
    ),
    **_named(_transposed_convolution, "_convolution_transpose_pointwise", "mkldnn"),
    **_named(
        _transposed_convolution,
        "conv_transpose1d conv_transpose2d conv_transpose3d conv_transpose1d_dynamic conv_transpose2d_dynamic "
        "conv_transpose3d_dynamic",
        "quantized",
    ),
    **_named(_temporal_convolution, "conv_tbc"),
    **_named(_convolution, "deform_conv2d", "torchvision"),
    **_named(_bilinear, "_trilinear"),
    **_named(
        _attention, "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_fused_attention_overrideable"
    ),
    **_named(_transformer_layer, "_transformer_encoder_layer_fwd _native_multi_head_attention"),
    **_named(_distances, "_cdist_forward _euclidean_dist"),
    **_named(_rnn_layer, "mkldnn_rnn_layer _cudnn_rnn miopen_rnn"),
}
