"""Modes that models run under, and where in a model an error was raised."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.fx
from torch import Tensor

from .frames import MODULE_CALL


def under_autocast(tensor: Tensor) -> bool:
    """Whether autocast is on where `tensor` is; on the meta device, of which torch refuses to say, it is not."""
    return tensor.device.type != "meta" and torch.is_autocast_enabled(tensor.device.type)


def failed_in(error: BaseException) -> str:
    """The innermost module whose code was running when `error` was raised, as ``layer1.0.conv1 (Conv2d)``."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code is MODULE_CALL]
    running = [frame.f_locals["self"] for frame in frames]
    if not running:
        return "no module"
    paths = {id(module): path for path, module in running[0].named_modules()}
    module = [module for module in running if id(module) in paths][-1]
    return f"{paths[id(module)] or 'the model itself'} ({type(module).__name__})"


@contextmanager
def no_fused_layers() -> Iterator[None]:
    """Without the fused kernel of transformer layers, which hides the layer's ops and rounds otherwise."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
