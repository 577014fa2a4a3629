"""Training, learned removal and sensitivity: what studies and users' scripts import from here."""

from .checkpoint import BadCheckpoint, CheckpointMismatch
from .fit import Fit, fit
from .history import TrainingFailed
from .optimization import constant, cosine
from .progress import bar
from .removal import Removal, learn_to_remove
from .sensitivity import sensitivity
from .task import Task

__all__ = [
    "BadCheckpoint", "CheckpointMismatch", "Fit", "Removal", "Task", "TrainingFailed", "bar", "constant", "cosine",
    "fit", "learn_to_remove", "sensitivity",
]  # fmt: skip
