"""All that a training needs to go on bit for bit after a crash, in one file that is whole or not there.

Where and when it is written is one group of `fit`'s options.
"""

import io
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..files import write_whole

FILE = "checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Where a training is saved, how often, and when it stops for another call. `fit` describes each option."""

    folder: str | Path | None
    time_limit_s: float | None
    save_every: int | None = None  # updates
    save_every_s: float = 60.0
    settings: Mapping[str, Any] | None = None

    def is_due(self, steps_done: int, seconds_since: float) -> bool:
        """Whether a checkpoint is to be written after so many updates, so long after the last one."""
        by_steps = self.save_every is not None and steps_done % self.save_every == 0
        return self.folder is not None and (by_steps or seconds_since >= self.save_every_s)

    def is_late(self, seconds: float) -> bool:
        """Whether the time limit has come."""
        return self.time_limit_s is not None and seconds >= self.time_limit_s

    def identity(self) -> dict[str, str]:
        """What `settings` add to a training's identity."""
        return {f"settings[{key!r}]": repr(value) for key, value in (self.settings or {}).items()}


class CheckpointMismatch(ValueError):
    """A checkpoint that was not written by this model with these settings.

    Attributes:
        path: The checkpoint.
        what: What differs, with both values.
    """

    def __init__(self, path: Path, what: str):
        super().__init__(
            f"{path}: this checkpoint belongs to another training: {what}. "
            "Use another folder, or delete this one to start again."
        )
        self.path, self.what = path, what


def save_checkpoint(folder: str | Path, content: Mapping[str, Any]) -> Path:
    """Write `content` (tensors, numbers, strings, lists, dicts) as the one checkpoint of `folder`."""
    path = Path(folder) / FILE
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_whole(path, buffer.getvalue())
    for part in path.parent.glob(f".{FILE}.*.part"):  # of a writer that was killed
        part.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: str | Path) -> dict[str, Any] | None:
    """Return what `save_checkpoint` wrote, on the CPU, or None where there is none yet.

    It is read with ``weights_only=True``: a checkpoint from elsewhere cannot run code.

    Raises:
        ValueError: naming the file, where it cannot be read.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error}); delete it to start again") from error


def check_same(path: Path, saved: Mapping[str, Any], model: nn.Module, identity: Mapping[str, Any]) -> None:
    """Check that a checkpoint is of this model and of a training with this identity.

    Raises:
        CheckpointMismatch: naming the first difference.
    """
    for key, current in (("signature", signature(model)), ("identity", identity)):
        difference = first_difference(saved[key], current)
        if difference:
            raise CheckpointMismatch(path, difference)


def signature(model: nn.Module) -> dict[str, str]:
    """What makes two models take the same weights: the name, dtype and shape of every tensor of the state."""
    return {
        name: f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


def first_difference(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str | None:
    """Name the first key whose values differ, with both values; None where there is none."""
    for key in [*saved, *(key for key in current if key not in saved)]:
        before, now = saved.get(key, "absent"), current.get(key, "absent")
        if before != now:
            return f"{key} is {before} in the checkpoint and {now} here"
    return None


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
