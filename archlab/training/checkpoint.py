"""What must outlive a crash: whole files only, and everything that a training needs to go on bit for bit.

torch and safetensors write into the final name; a kill in between leaves half a file there. So everything
archlab keeps goes through `write_whole`: a file under its final name is complete, whatever happened.
"""

import io
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..files import write_whole

FILE = "checkpoint.pt"


class CheckpointMismatch(ValueError):
    """A checkpoint that was not written by this model with these settings; `.path`, `.what` say which and why."""

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
    for left in path.parent.glob(f".{FILE}.*.part"):  # of a writer that was killed
        left.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: str | Path) -> dict[str, Any] | None:
    """Return what `save_checkpoint` wrote, on the CPU, or None where there is none yet.

    Read with `weights_only=True`: a checkpoint from elsewhere cannot run code. Raises ValueError naming the
    file where it cannot be read.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error}); delete it to start again") from error


def signature(model: nn.Module) -> dict[str, str]:
    """What makes two models take the same weights: the name, dtype and shape of every tensor of the state."""
    return {
        name: f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


def first_difference(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """Name the first key whose values differ, with both values; None where there is none."""
    for key in [*kept, *(key for key in asked if key not in kept)]:
        a, b = kept.get(key, "absent"), asked.get(key, "absent")
        if a != b:
            return f"{key} is {a} in the checkpoint and {b} here"
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
