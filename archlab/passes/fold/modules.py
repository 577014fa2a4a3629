"""Modules as linear layers, and back: which are ones, and why others are not."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..checks import CLOSE
from .linear import Layer, NotExact, as_convolution, swapped

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def why_not_linear(given: nn.Module) -> str | None:
    """None for a module that is a linear layer as it stands, "" for one that is of no such kind, else the reason."""
    module: Any = given
    plain = {nn.Linear: ("forward",), **dict.fromkeys(CONVOLUTIONS, ("forward", "_conv_forward"))}
    plain |= dict.fromkeys(TRANSPOSED, ("forward",)) | dict.fromkeys(NORMS, ("forward",))
    base = next((cls for cls in plain if isinstance(module, cls)), None)
    if base is None:
        return ""
    if any(getattr(type(module), name) is not getattr(base, name) for name in plain[base]):
        return f"{type(module).__name__} computes in its own way"
    if "forward" in vars(module):
        return "it has a forward of its own, set on the instance"
    if any(vars(module).get(f"_{name}_hooks") for name in ("forward", "forward_pre", "backward", "backward_pre")):
        return "it has hooks"
    if isinstance(module, NORMS) and module.running_mean is None:
        return "it keeps no statistics to normalise by"
    if isinstance(module, NORMS) and module.training:
        return "it normalises by the batch, not by fixed statistics: call .eval() first"
    if any(p.is_complex() for p in module.parameters()):
        return "its weights are complex"
    if getattr(module, "padding", 0) == "same" and _uneven(module):
        return "its padding is not the same on both sides"
    if any(name not in ("weight", "bias") for name, _ in module.named_parameters()):
        return "its weight is computed from other parameters"
    return None


def _uneven(module: Any) -> bool:
    """Whether a convolution that pads to the "same" size pads one side more than the other."""
    return any(d * (k - 1) % 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))


def shared_parameters(model: nn.Module) -> set[int]:
    """The ids of the parameters that several modules of `model` hold."""
    once: set[int] = set()
    held = [id(p) for module in model.modules() for p in module._parameters.values() if p is not None]
    return {number for number in held if number in once or once.add(number)}


def layer_of(module: Any, *, meta: bool = False, dims: int | None = None) -> Layer:
    """`module`, for which `why_not_linear` is None, as a Layer in float64, or on the meta device.

    What shapes it has never depends on what the weights hold. `dims`: the spatial dimensions of its input, which a norm
    does not know.
    """

    def read(tensor: Tensor | None) -> Any:
        if tensor is None:
            return None
        tensor = tensor.detach()
        return torch.empty_like(tensor, device="meta", dtype=torch.float64) if meta else tensor.double()

    if isinstance(module, NORMS):
        variance, mean, weight, bias = map(read, (module.running_var, module.running_mean, module.weight, module.bias))
        scale = (variance + module.eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        known = next((n for n, cls in ((2, nn.BatchNorm2d), (3, nn.BatchNorm3d)) if isinstance(module, cls)), 1)
        return Layer("affine", known if dims is None else dims, scale, shift)
    weight, bias = read(module.weight), read(module.bias)
    if isinstance(module, nn.Linear):
        return Layer("conv", 0, weight, bias)
    assert isinstance(module, nn.modules.conv._ConvNd)
    padding: Any = module.padding
    if isinstance(padding, str):
        both = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        padding = tuple(n // 2 if padding == "same" else 0 for n in both)
    transposed = isinstance(module, TRANSPOSED)
    if transposed:
        weight = swapped(weight, module.groups)
    return Layer(
        "transposed" if transposed else "conv", len(module.kernel_size), weight, bias, module.stride, padding,
        module.dilation, module.output_padding, module.padding_mode, module.groups,
    )  # fmt: skip


def module_of(layer: Layer, like: Tensor) -> nn.Module:
    """`layer` as a module with the dtype and device of the parameter `like`. An affine layer is a depthwise one."""
    given = {"device": like.device, "dtype": like.dtype, "bias": layer.bias is not None}
    made: Any
    if layer.form == "affine":
        layer = as_convolution(layer, layer.outputs)
    if layer.dims == 0:
        made = skip_init(nn.Linear, layer.inputs, layer.outputs, **given)  # draws no weights
    else:
        options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
        if layer.form == "transposed":
            options["output_padding"] = layer.output_padding
        kind: Any = (TRANSPOSED if layer.form == "transposed" else CONVOLUTIONS)[layer.dims - 1]
        made = skip_init(kind, layer.inputs, layer.outputs, layer.kernel, padding_mode=layer.mode, **options, **given)
    weight = swapped(layer.weight, layer.groups) if layer.form == "transposed" else layer.weight
    for parameter, value in ((made.weight, weight), (made.bias, layer.bias)):
        if parameter is not None:
            assert value is not None
            parameter.requires_grad_(like.requires_grad)
            if value.is_meta:  # only its shape is known: what it costs is asked, and odd numbers may cost more
                parameter.data.fill_(1.0)
            else:
                parameter.data.copy_(value)
                if value.isfinite().all() and not parameter.isfinite().all():
                    raise NotExact(f"the merged weights are too large for {like.dtype}")
    if like.dim() == made.weight.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        made = made.to(memory_format=torch.channels_last)
    return made


def trained_as_(made: nn.Module, *others: nn.Module) -> None:
    """Let each parameter of `made` be trained where the one of its name is in any of the `others`, or any of theirs
    where none has that name."""
    for name, parameter in made.named_parameters():
        same = [p for other in others if (p := getattr(other, name, None)) is not None]
        parameter.requires_grad_(any(p.requires_grad for p in same or [p for o in others for p in o.parameters()]))


def merged_tolerance(model: nn.Module) -> float:
    """What rounding may change, of weights that were merged too, where a model does not run in float64."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} or {torch.float32}
    return max(CLOSE, *(20 * torch.finfo(dtype).eps for dtype in dtypes))
