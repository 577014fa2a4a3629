"""What came of one situation: done right, refused by name, or wrong."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..refusal import is_refusal

Check = Callable[[], str]  # what was found, in words; raises AssertionError for a wrong result


def judged(check: Check) -> dict[str, str]:
    """One row: outcome ("right", "refused" or "wrong"), and what was found or said.

    An error counts as a refusal where archlab itself raised it, with words of its own.
    """
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of what it will give up
            return {"outcome": "right", "found": check()}
    except AssertionError as error:
        return {"outcome": "wrong", "found": str(error)}
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return {"outcome": "refused" if is_refusal(error) else "wrong", "found": text[:300]}


def equal(made: Tensor, wanted: Tensor, what: str, tolerance: float = 1e-5) -> str:
    """Say that both are equal; raises AssertionError where they differ by more than `tolerance`."""
    gap = (made - wanted).abs().max().item()
    assert gap <= tolerance, f"{what}: off by {gap:.2g}"
    return f"{what}: equal"


class Calls(nn.Module):
    """A model from its children and a function of itself and its inputs."""

    def __init__(self, forward: Callable[..., Any], **children: Any):
        super().__init__()
        self.own = forward
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, *inputs: Any) -> Any:
        return self.own(self, *inputs)


def shaken(net: nn.Module) -> nn.Module:
    """In evaluation mode, with running statistics that are not those of a fresh network."""
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return net.eval()
