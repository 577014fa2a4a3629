"""Both ways in which a trap is laid: sites switched off, and sites removed."""

from torch import Tensor, nn

import archlab as al


def switched(model: nn.Module, example, kinds="activation", omega: float = 1.0, where=None) -> nn.Module:
    soft = al.switch(model, example, kinds=kinds, where=where)
    al.set_omegas_(soft, omega)
    return soft


def both(model: nn.Module, example, kinds="activation", where=None) -> tuple[nn.Module, nn.Module]:
    """The model with its sites switched off, and with its sites removed: every trap is laid for both."""
    return switched(model, example, kinds, where=where), al.remove(model, example, kinds=kinds, where=where)


def assert_near(actual: Tensor, wanted: Tensor, relative: float = 1e-5) -> None:
    assert actual.shape == wanted.shape
    difference, scale = (actual - wanted).abs().max().item(), wanted.abs().max().item()
    assert difference <= relative * scale, f"off by {difference:.3g} at {scale:.3g}"
