"""Passes: functions from a model to a new model. One idea a file."""

from .removing import discard, remove, replay_discard, replay_switch
from .switching import omega_parameters, omegas, penalty, project_, set_omegas_, switch

# What a recipe's steps may call, by name.
PASSES = {"switch": replay_switch, "discard": replay_discard}

__all__ = [
    "PASSES", "discard", "omega_parameters", "omegas", "penalty", "project_", "remove", "set_omegas_", "switch",
]  # fmt: skip
