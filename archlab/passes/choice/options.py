"""The options of each kind of choice: what stands where, for each, in a network that has chosen it.

A kind is a function in `KINDS`. It gets the model, the example, its recorded run, the path that is chosen at and the
option, and returns the modules that are others then, by path.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ...arguments import text, whole, wrong
from ...capture.copies import copied
from ...capture.record import Capture
from ...errors import add_note
from ...names import closest
from ..recipe import recipe
from ..width.scale import MOST_CHANNELS, scale_width
from .modules import Convolution, Skip, padding_for, resized

KEEP, SKIP, ORIGINAL = "keep", "skip", "original"
MOST_KERNEL = 99
Modules = dict[str, nn.Module]
Factories = Mapping[str, Callable[[nn.Module], nn.Module]]


def kernel_convolutions(model: nn.Module, path: str) -> dict[str, Convolution]:
    """The convolutions whose kernel is chosen at `path`, by path: that one, or those inside larger than 1.

    Raises:
        ValueError: where there is none, or their kernels are no squares of one size.
    """
    module = model.get_submodule(path)
    inside = {f"{path}.{name}" if name else path: m for name, m in module.named_modules()}
    convolutions = {p: m for p, m in inside.items() if isinstance(m, Convolution)}
    found = {p: m for p, m in convolutions.items() if p == path or set(m.kernel_size) != {1}}
    if not found:
        raise ValueError(wrong(f"kernel: {path}", "a convolution, or hold one", type(module)))
    sizes = {p: tuple(m.kernel_size) for p, m in found.items()}
    if len({size for kernel in sizes.values() for size in kernel}) != 1:
        told = ", ".join(f"{p} has {'x'.join(map(str, kernel))}" for p, kernel in list(sizes.items())[:4])
        raise ValueError(f"kernel: {path} must have square kernels of one size, and {told}; choose at each of them")
    for p, m in found.items():
        if m._parameters.get("weight") is None:
            raise ValueError(
                f"kernel: the weight of {p} is computed, by a parametrization or a hook; remove that first"
            )
    return found


def kernel_size(model: nn.Module, path: str) -> int:
    """The kernel size of the convolutions at `path`."""
    return next(iter(kernel_convolutions(model, path).values())).kernel_size[0]


def check_kernel(model: nn.Module, path: str, size: Any) -> None:
    """Check that the convolutions at `path` can have the kernel `size` with an output of the same shape.

    Raises:
        ValueError: naming the convolution.
    """
    whole(f"kernel: the size at {path}", size, most=MOST_KERNEL)
    for name, conv in kernel_convolutions(model, path).items():
        own = conv.kernel_size[0]
        parity = "odd" if own % 2 else "even"
        if (size - own) % 2:
            raise ValueError(wrong(f"kernel: the size at {name}", f"{parity}, as {own}, which it has", size))
        padding = padding_for(conv, size)
        if padding != "same" and min(padding) < 0:
            raise ValueError(
                f"kernel: {name} has the kernel {own} and the padding {conv.padding}; a kernel of {size} gives no "
                "output of the same shape; leave out the smaller sizes"
            )


def kernel(model: nn.Module, example: Any, record: Capture, path: str, option: Any, factories: Factories) -> Modules:
    """Convolutions of another kernel size, of new weights."""
    check_kernel(model, path, option)
    return {
        name: resized(conv, option)
        for name, conv in kernel_convolutions(model, path).items()
        if conv.kernel_size[0] != option
    }


def optional(model: nn.Module, example: Any, record: Capture, path: str, option: Any, factories: Factories) -> Modules:
    """Nothing, in place of a module whose output has the shape of its input."""
    if option not in (KEEP, SKIP):
        raise ValueError(wrong(f"optional: the option at {path}", f"{KEEP!r} or {SKIP!r}", option))
    for call in (call for call in record.calls if call.module == path):
        if not (call.direct and call.tensor_out and call.in_shapes):
            raise ValueError(f"optional: {path} must take a tensor and give one, or a network without it cannot run")
        if call.in_shapes[0] != call.out_shapes[0] or call.dtypes[0] != call.dtypes[1]:
            raise ValueError(
                f"optional: {path} must give the shape and dtype that it gets, or a network without it cannot run; it "
                f"gets {call.in_shapes[0]} and gives {call.out_shapes[0]}; leave it out by another pattern"
            )
    return {path: Skip()} if option == SKIP else {}


def width(model: nn.Module, example: Any, record: Capture, path: str, option: Any, factories: Factories) -> Modules:
    """The layer with other channels, and all that must follow, of new weights."""
    whole(f"width: the channels at {path}", option, most=MOST_CHANNELS)
    if option == channels(model, path):
        return {}
    wide = scale_width(model, example, widths={path: option})
    options = recipe(wide).steps[-1].options
    changed = {name.rpartition(".")[0] for name in options["tensors"]} | {*options["numbers"]}
    if "" in changed:
        raise ValueError(f"width: with other channels at {path}, what the whole model holds changes; choose elsewhere")
    outermost = [p for p in changed if not any(p.startswith(f"{other}.") for other in changed)]
    return {p: wide.get_submodule(p) for p in sorted(outermost)}


def channels(model: nn.Module, path: str) -> int:
    """How many channels the layer at `path` gives. Raises ValueError for what is no layer."""
    module = model.get_submodule(path)
    for name in ("out_channels", "out_features"):
        if isinstance(getattr(module, name, None), int):
            return getattr(module, name)
    raise ValueError(wrong(f"width: {path}", "a convolution or a linear layer", type(module)))


def either(model: nn.Module, example: Any, record: Capture, path: str, option: Any, factories: Factories) -> Modules:
    """What the factory of this name makes of the module, on its device and in its dtype."""
    text(f"either: the option at {path}", option)
    if option == ORIGINAL:
        return {}
    if option not in factories:
        told = closest(option, factories)
        raise ValueError(f"either: {path} is to be a {option!r}: give its factory in modules; {told}")
    old = model.get_submodule(path)
    try:
        new = factories[option](copied(old))
    except Exception as error:
        add_note(error, f"raised by {option}({type(old).__name__}), a factory of what archlab was to put at {path}")
        raise
    if not isinstance(new, nn.Module):
        raise TypeError(wrong(f"either: what {option} makes", "a torch.nn.Module", new))
    like = next((p for m in (old, model) for p in m.parameters() if p.is_floating_point()), None)
    new = copied(new).train(old.training)
    return {path: new if like is None else new.to(like.device, like.dtype)}


KINDS: dict[str, Callable[[nn.Module, Any, Capture, str, Any, Factories], Modules]] = {
    "kernel": kernel,
    "optional": optional,
    "width": width,
    "either": either,
}
