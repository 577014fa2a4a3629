"""Recurrent layers and cells: one op each, however torch runs them.

A CPU and a GPU have a kernel for the whole sequence; elsewhere torch goes through it step by step. What a layer costs
is the same, and is counted from its weights. On the meta device, where nothing is computed and each of a step's twenty
ops takes a millisecond of Python, only the shapes are made.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

_LAYERS: tuple[Callable, ...] = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_CELLS: tuple[Callable, ...] = (torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell)
RECURRENT = frozenset(_LAYERS + _CELLS)


def recurrent_macs(function: Callable, args: tuple) -> int:
    """Multiply-adds of the call of a recurrent function: each vector of the input meets every weight matrix once."""
    _, weights = _state_and_weights(function, args)
    vectors = args[0].numel() // max(args[0].shape[-1], 1)
    return vectors * sum(w.numel() for w in weights if w.dim() == 2)


def on_meta(function: Callable, args: tuple) -> Callable[..., Any] | None:
    """What makes the results of the call of a recurrent function on the meta device; None where it is to be run.

    It is where the widths do not fit, as torch says so best.
    """
    if function not in RECURRENT or not args[0].is_meta:
        return None
    states, weights = _state_and_weights(function, args)
    if args[0].dim() < 2 or args[0].shape[-1] != weights[0].shape[-1]:
        return None
    if function in _CELLS:
        return partial(_cell_results, states)
    layers = args[_place_of_weights(args) + 2]  # between them: whether there are biases
    width = states[0].shape[0] // layers * states[0].shape[-1]  # of both directions, where there are two
    return partial(_layer_results, states, width)


def _place_of_weights(args: tuple) -> int:
    """Among the arguments of a layer: before the state of a packed sequence stand its batch sizes."""
    return 3 if isinstance(args[3], list | tuple) else 2


def _state_and_weights(function: Callable, args: tuple) -> tuple[list[Tensor], list[Tensor]]:
    if function in _CELLS:
        state, *weights = args[1:]
    else:
        place = _place_of_weights(args)
        state, weights = args[place - 1], args[place]
    states = [state] if isinstance(state, Tensor) else list(state)
    return states, [w for w in weights if isinstance(w, Tensor)]


def _layer_results(states: list[Tensor], width: int, data: Tensor, *_: Any, **__: Any) -> tuple[Tensor, ...]:
    return data.new_empty((*data.shape[:-1], width)), *map(torch.empty_like, states)


def _cell_results(states: list[Tensor], *_: Any, **__: Any) -> Tensor | tuple[Tensor, ...]:
    made = tuple(map(torch.empty_like, states))
    return made[0] if len(made) == 1 else made
