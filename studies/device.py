"""Where studies run."""

from typing import Any

import torch


def device() -> torch.device:
    """The first GPU, where there is one; else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resources(row: Any, preset: str) -> dict[str, float]:
    """What a row takes of a worker of a cluster: a GPU, in the presets that are meant for one."""
    return {"GPU": 1} if preset in ("gpu", "paper") else {}
