"""Training: what studies and users' scripts import from here."""

from .checkpoint import BadCheckpoint, CheckpointMismatch
from .fit import Fit, fit
from .history import TrainingFailed
from .optimization import constant, cosine
from .progress import bar
from .task import Task

__all__ = [
    "BadCheckpoint", "CheckpointMismatch", "Fit", "Task", "TrainingFailed", "bar", "constant", "cosine", "fit",
]  # fmt: skip
