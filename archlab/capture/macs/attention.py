"""What happens inside `multi_head_attention_forward`, which is one call of torch: for all that is not multiply-adds."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


@dataclass(frozen=True)
class Inside:
    """What one call does beside making its outputs: elements that it writes, those to which its layers add a bias, and
    how many bytes its own values occupy at once."""

    elements: int
    biases: int
    bytes: int


def inside_of(function: Callable, args: tuple, kwargs: dict) -> Inside | None:
    """What goes on in a call of nn.MultiheadAttention's function; None for another one.

    Counted are the projections, what attends to the values, and, where the weights are asked for, the scaled query, the
    scores and their softmax; without them a kernel does that in pieces. Copies that only change the layout are not.
    """
    if function is not F.multi_head_attention_forward:
        return None
    given = _SIGNATURE.bind(*args, **kwargs)
    given.apply_defaults()
    of: Any = given.arguments
    query, key = (x if x.dim() == 3 else x[:, None] for x in (of["query"], of["key"]))
    (wanted, batch, width), stored = query.shape, key.shape[0]
    asking, asked = wanted * batch * width, stored * batch * width
    scores = batch * of["num_heads"] * wanted * (stored + (of["bias_k"] is not None) + of["add_zero_attn"])
    projected, attended = asking + 2 * asked, asking
    weights = asking + 2 * scores if of["need_weights"] else 0
    biases = projected * (of["in_proj_bias"] is not None) + asking * (of["out_proj_bias"] is not None)
    alive = max(2 * scores if of["need_weights"] else 0, projected + attended)
    return Inside(projected + attended + weights, biases, alive * query.element_size())
