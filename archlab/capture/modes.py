"""Modes that models run under, and where in a model an error was raised."""

import random
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from .copies import devices_of
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


def uncompiled() -> AbstractContextManager:
    """While open, what torch.compile made of modules and functions runs as it is written. Not in code that is itself
    being compiled."""
    if torch.compiler.is_compiling() or "torch._dynamo" not in sys.modules:  # nothing was compiled; importing is slow
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def no_fused_layers() -> Iterator[None]:
    """Without what hides the ops of a layer and rounds otherwise: the fused kernel of transformer layers, and code that
    torch.compile made of a module inside the model."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with uncompiled():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def random_states_kept(gpus: Sequence[int], *, seed: int | None = None) -> Iterator[None]:
    """While open, whatever draws random numbers may do so: the global generators are as before afterwards, torch's on
    the CPU and those `gpus`, NumPy's and Python's. `seed` sets all of them first."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=gpus):
            if seed is not None:
                seed_all(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """While open, `model` is evaluated: in evaluation mode, without gradients, with the random numbers of seed 0.

    Afterwards its modes, its buffers and the global generators are as before, whatever ran inside.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modes
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    with torch.no_grad(), random_states_kept(devices_of(model), seed=0):
        try:
            model.eval()
            yield
        finally:
            for module, training in modes.items():
                module.training = training
            for module, name, buffer, values in buffers:
                setattr(module, name, buffer.copy_(values))


def seed_all(seed: int) -> None:
    """Set every global generator: torch's, NumPy's and Python's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
