"""One architecture of a supernet, as a plain network."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..capture.recorder import capture
from ..passes.choice.step import with_choose_step
from .compare import equal_as_computed
from .supernet import architecture_of, at_architecture, example_of, plain_copy, supernet_of


def choose(net: nn.Module, architecture: Mapping[str, Any] | None = None) -> nn.Module:
    """A plain network of one architecture of a supernet, with the weights that it has there.

    It computes bit for bit what the supernet does at this architecture; that is checked, with gradients, before it
    returns. Running statistics of norms are those of the supernet, from all paths together: `al.estimate_norms_`
    makes them anew.

    Args:
        net: a supernet; it is left untouched.
        architecture: by position the option; where it names none, the original one. None: what `net` computes now.

    Returns:
        The network. Its recipe has a step ``choose`` that `al.load` replays on the original model; the factories of
        `al.either` are to be given there in `modules`.

    Raises:
        ValueError: for another model, a position or an option that is not there.

    >>> import torch
    >>> from archlab import kernel, optional, supernet
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    >>> net = supernet(net, torch.zeros(1, 1, 8, 8), choices={"0": kernel(3, 5), "1": optional()})
    >>> choose(net, {"0": 5, "1": "skip"})
    Sequential(
      (0): Conv2d(1, 4, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
      (1): Skip()
    )
    """
    inner, state = supernet_of(net)
    space, example = state.space, example_of(inner, state)
    chosen = space.complete(architecture_of(inner) if architecture is None else architecture)
    with at_architecture(inner, space.original):
        original = plain_copy(inner)
    with at_architecture(inner, chosen):
        made = plain_copy(inner)
        checked = equal_as_computed(inner, made, example, what="as a plain network")
    others = {p.name: {p.kind: chosen[p.name]} for p in space.positions if chosen[p.name] != p.original}
    return with_choose_step(
        made, original, example, others, before=state.record, after=capture(made, example), found=list(space.options),
        checked=f"equal to the supernet at this architecture within {checked}",
    )  # fmt: skip
