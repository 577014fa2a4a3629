"""All that a training needs to go on bit for bit after a crash, in one file that is whole or not there.

Where and when it is written is one group of `fit`'s options.
"""

import math
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import folder, number, whole, wrong
from ..files import sweep_abandoned, whole_file

FILE = "checkpoint.pt"
PARTS = {
    "identity": dict, "start": dict, "model": dict, "optimizer": dict, "random": dict, "rows": list, "step": int,
    "seconds": float,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Where a training is saved, how often, and when it stops for another call. `fit` describes each option."""

    folder: str | Path | None
    time_limit_s: float | None
    save_every: int | None = None  # updates
    save_every_s: float = 60.0
    settings: Mapping[str, Any] | None = None

    def __post_init__(self):
        folder("folder", self.folder, optional=True)
        number("time_limit_s", self.time_limit_s, low=0, optional=True, finite=False)
        whole("save_every", self.save_every, least=1, optional=True)
        number("save_every_s", self.save_every_s, low=0, finite=False)
        if self.settings is not None and not isinstance(self.settings, Mapping):
            raise TypeError(wrong("settings", "a dict of facts about the task", self.settings))

    def is_due(self, steps_done: int, seconds_since: float) -> bool:
        """Whether a checkpoint is to be written after so many updates, so long after the last one."""
        by_steps = self.save_every is not None and steps_done % self.save_every == 0
        return self.folder is not None and (by_steps or seconds_since >= self.save_every_s)

    def is_late(self, seconds: float) -> bool:
        """Whether the time limit has come."""
        return self.time_limit_s is not None and seconds >= self.time_limit_s


class BadCheckpoint(ValueError):
    """A checkpoint that a training cannot go on from.

    Attributes:
        path: The file.
        what: What is wrong with it.
    """

    def __init__(self, path: Path, what: str):
        super().__init__(f"{path}: not a readable checkpoint ({what}); delete it to start again")
        self.path, self.what = path, what


class CheckpointMismatch(BadCheckpoint):
    """A checkpoint that was not written by this training.

    Attributes:
        path: The checkpoint.
        what: What differs, with both values.
    """

    def __init__(self, path: Path, what: str):
        ValueError.__init__(
            self,
            f"{path}: this checkpoint belongs to another training: {what}. "
            "Use another folder, or delete this one to start again.",
        )
        self.path, self.what = path, what


def save_checkpoint(folder: str | Path, content: Mapping[str, Any]) -> Path:
    """Write `content` (tensors, numbers, strings, lists, dicts) as the one checkpoint of `folder`."""
    path = Path(folder) / FILE
    with whole_file(path) as file:
        try:
            torch.save(dict(content), file)  # tensor by tensor: never all of it in memory once more
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # of a full disk torch says where in the file it was
                raise error.__context__ from None
            raise
    sweep_abandoned(path)
    return path


def load_checkpoint(folder: str | Path) -> dict[str, Any] | None:
    """Return what `save_checkpoint` wrote, on the CPU, or None where there is none yet.

    It is read with ``weights_only=True``: a checkpoint from elsewhere cannot run code.

    Raises:
        BadCheckpoint: naming the file, where it is none.
        OSError: it cannot be read.
    """
    path = Path(folder) / FILE
    if not os.path.lexists(path):
        return None
    if not path.is_file():  # reading a pipe would wait for ever
        raise BadCheckpoint(path, "it is no regular file")
    with open(path, "rb") as file:
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise BadCheckpoint(path, str(error).strip().partition("\n")[0] or type(error).__name__) from error
    if not isinstance(saved, dict):
        raise BadCheckpoint(path, f"it holds a {type(saved).__name__}")
    return saved


def check_complete(path: Path, saved: Mapping[str, Any], trained: Iterable[str]) -> None:
    """Check that a checkpoint has all that a training of the parameters `trained` goes on from.

    Raises:
        BadCheckpoint: naming what is missing or cannot be.
    """
    for name, kind in PARTS.items():
        if not isinstance(saved.get(name), kind):
            raise BadCheckpoint(path, f"its {name!r} is {type(saved[name]).__name__ if name in saved else 'absent'}")
    step, seconds, steps = saved["step"], saved["seconds"], saved["identity"].get("steps")
    if not isinstance(steps, int) or not 0 <= step <= steps or len(saved["rows"]) != step:
        raise BadCheckpoint(path, f"it is of step {step} of {steps}, with a history of {len(saved['rows'])}")
    if not (math.isfinite(seconds) and seconds >= 0):
        raise BadCheckpoint(path, f"it took {seconds} seconds")
    for name in trained:
        value = saved["model"].get(name)
        if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value).all()):
            raise BadCheckpoint(path, f"{name} is not finite")


def unsaved_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers of a model that are in no state dict, which a training may move as well."""
    saved = model.state_dict().keys()
    return {name: value for name, value in model.named_buffers(remove_duplicate=False) if name not in saved}


def put_buffers_(model: nn.Module, buffers: Mapping[str, torch.Tensor]) -> None:
    """Give a model the buffers that `unsaved_buffers` found."""
    for name, value in buffers.items():
        path, _, own = name.rpartition(".")
        setattr(model.get_submodule(path), own, value.to(model.get_buffer(name).device))


def copy_state_(model: nn.Module, source: nn.Module) -> None:
    """Give a model what `source` has under the same names: parameters and buffers, those in no state dict as well."""
    there, own = source.state_dict(), unsaved_buffers(model)
    model.load_state_dict({name: there.get(name, value) for name, value in model.state_dict().items()})
    put_buffers_(model, {name: value.clone() for name, value in unsaved_buffers(source).items() if name in own})


def put_precision_back_(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Give numbers that an optimizer remembers the precision that they were saved in: ``load_state_dict`` casts them to
    that of the weights, and with it master weights in float32."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, remembered in saved["state"].items():
        own = optimizer.state[parameters[place]]
        for name, value in remembered.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and own[name].dtype != value.dtype:
                own[name] = value.to(own[name].device, copy=True)


def random_states() -> dict[str, Any]:
    """Every random generator that a training may draw from: Python's, NumPy's, torch's on CPU and each GPU."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states_(states: Mapping[str, Any]) -> None:
    """Put every generator back to where `random_states` found it (GPUs: as many as there are now)."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    for index, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, index)
