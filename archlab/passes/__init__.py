"""Passes: functions from a model to a new model. One idea a file."""

from .depth import scale_depth
from .discard import discard, remove, replay_discard, replay_switch
from .fold.fold import fold, replay_fold
from .fold.hoist_padding import hoist_padding, replay_hoist_padding
from .replace import replace, replay_replace
from .resolution.scale import replay_scale_resolution, scale_resolution, sweep_resolution
from .share import share
from .switch import omega_parameters, omegas, penalty, project_, set_omegas_, switch
from .width.scale import replay_scale_width, scale_width

# What a recipe's steps may call, by name.
PASSES = {
    "switch": replay_switch,
    "discard": replay_discard,
    "fold": replay_fold,
    "hoist_padding": replay_hoist_padding,
    "share": share,
    "scale_resolution": replay_scale_resolution,
    "scale_width": replay_scale_width,
    "scale_depth": scale_depth,
    "replace": replay_replace,
}

__all__ = [
    "PASSES", "discard", "fold", "hoist_padding", "omega_parameters", "omegas", "penalty", "project_", "remove",
    "replace", "scale_depth", "scale_resolution", "scale_width", "set_omegas_", "share", "sweep_resolution", "switch",
]  # fmt: skip
