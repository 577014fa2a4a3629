"""Where studies run."""

import torch


def device() -> torch.device:
    """The first GPU, where there is one; else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
