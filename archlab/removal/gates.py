"""Ways from a free number θ, one a switch, to its ω while that is learned.

Each way is a `Gate`: how θ begins, the ω of a step, dω/dθ, and the share of the site that counts as removed (which the
penalty sees). All work on one tensor of all θ; `Gates` writes the ω into the switched model before a step, and brings
their gradients back to θ after it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..passes.switch_state import omega_parameters

Fraction = float  # of the phase that is over, 0 to 1


@dataclass(frozen=True)
class Gate:
    """One way from θ to ω. `opened` maps (θ, uniform noise, fraction) to ω and dω/dθ; `removed` maps (θ, fraction)."""

    start: float
    bounds: tuple[float, float]  # θ is kept within
    opened: Callable[[Tensor, Tensor, Fraction], tuple[Tensor, Tensor]]
    removed: Callable[[Tensor, Fraction], Tensor]
    polarizes: bool = False


def _as_it_is(theta: Tensor, noise: Tensor, fraction: Fraction) -> tuple[Tensor, Tensor]:
    return theta, torch.ones_like(theta)


def _rounded(theta: Tensor, noise: Tensor, fraction: Fraction) -> tuple[Tensor, Tensor]:
    """Bengio et al. 2013 (arXiv:1308.3432): 0 or 1 forwards, the gradient as if it were θ."""
    return (theta > 0.5).to(theta.dtype), torch.ones_like(theta)


# Hard concrete, with the temperature and the stretch of Louizos et al. 2018 (arXiv:1712.01312).
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1


def _hard_concrete(theta: Tensor, noise: Tensor, fraction: Fraction) -> tuple[Tensor, Tensor]:
    u = noise.clamp(1e-6, 1 - 1e-6)
    s = torch.sigmoid((u.log() - (1 - u).log() + theta) / TEMPERATURE)
    stretched = s * (HIGH - LOW) + LOW
    inside = ((stretched > 0) & (stretched < 1)).to(theta.dtype)
    return stretched.clamp(0, 1), inside * (HIGH - LOW) * s * (1 - s) / TEMPERATURE


def _removed_hard_concrete(theta: Tensor, fraction: Fraction) -> Tensor:
    """1 - P(the site is at least in part there): what is kept, 1 - ω, is the gate of the paper."""
    return 1 - torch.sigmoid(-theta - TEMPERATURE * math.log(-LOW / HIGH))


def _temperature(fraction: Fraction) -> float:
    """From 1 to 0.05, evenly in its logarithm."""
    return 0.05**fraction


def _annealed(theta: Tensor, noise: Tensor, fraction: Fraction) -> tuple[Tensor, Tensor]:
    omega = torch.sigmoid(theta / _temperature(fraction))
    return omega, omega * (1 - omega) / _temperature(fraction)


GATES: dict[str, Gate] = {
    "blend": Gate(0.0, (0.0, 1.0), _as_it_is, lambda theta, fraction: theta),
    "polarized": Gate(0.0, (0.0, 1.0), _as_it_is, lambda theta, fraction: theta, polarizes=True),
    "straight-through": Gate(0.0, (0.0, 1.0), _rounded, lambda theta, fraction: theta),
    "hard-concrete": Gate(-3.0, (-6.0, 6.0), _hard_concrete, _removed_hard_concrete),
    "annealed": Gate(
        -4.0, (-6.0, 6.0), _annealed, lambda theta, fraction: torch.sigmoid(theta / _temperature(fraction))
    ),
}


class Gates:
    """The θ of one switched model, in the order of its sites and, within one, of its channels.

    `theta` is what the optimizer moves. It, and the noise that is drawn from a generator of its own, are kept in
    checkpoints by ``state_dict`` and ``load_state_dict``.
    """

    def __init__(self, soft: nn.Module, way: str, *, floor: float, seed: int):
        self.gate = GATES[way]
        self.omegas = omega_parameters(soft)
        start = max(self.gate.start, floor) if self.gate.bounds[0] == 0 else self.gate.start
        self.floor = max(self.gate.bounds[0], floor) if self.gate.bounds[0] == 0 else self.gate.bounds[0]
        self.sizes = [omega.numel() for omega in self.omegas]
        self.theta = nn.Parameter(torch.full((sum(self.sizes),), start, device=self.omegas[0].device))
        self.generator = torch.Generator().manual_seed(seed)
        self.slope = torch.ones_like(self.theta)
        self.fraction = 0.0

    @torch.no_grad()
    def open_(self, fraction: Fraction) -> None:
        """Write the ω of the coming step, `fraction` of the phase being over."""
        self.fraction = fraction
        noise = torch.rand(len(self.theta), generator=self.generator).to(self.theta)
        omega, self.slope = self.gate.opened(self.theta, noise, fraction)
        self._write_(omega)

    @torch.no_grad()
    def collect_(self, *_: Any) -> None:
        """Bring the gradients of ω to θ, once they are there."""
        gradients = [torch.zeros_like(omega) if omega.grad is None else omega.grad for omega in self.omegas]
        gradient = torch.cat([each.reshape(-1) for each in gradients]).to(self.theta.device) * self.slope
        self.theta.grad = gradient if self.theta.grad is None else self.theta.grad + gradient
        for omega in self.omegas:
            omega.grad = None

    @torch.no_grad()
    def settle_(self) -> None:
        """Put θ back within its bounds, and write by switch the share that counts as removed."""
        self.theta.clamp_(self.floor, self.gate.bounds[1])
        self._write_(self.removed().clamp(0, 1))

    @torch.no_grad()
    def write_(self) -> None:
        """Write the ω that the network learns with, without noise: 0 or 1 where a gate rounds."""
        omega, _ = self.gate.opened(self.theta, torch.full_like(self.theta, 0.5), self.fraction)
        self._write_(omega)

    def removed(self) -> Tensor:
        """By switch the share that counts as removed, differentiable in θ."""
        return self.gate.removed(self.theta, self.fraction)

    def _write_(self, omega: Tensor) -> None:
        own: list[Tensor] = [*self.omegas]
        parts = [part.view_as(each) for part, each in zip(omega.split(self.sizes), own, strict=True)]
        torch._foreach_copy_(own, parts)  # type: ignore[attr-defined]  # torch lists it nowhere

    def state_dict(self) -> dict[str, Any]:
        """All that it needs to go on."""
        theta, noise = self.theta.detach().clone(), self.generator.get_state()
        return {"theta": theta, "generator": noise, "fraction": self.fraction}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        with torch.no_grad():
            self.theta.copy_(state["theta"])
        self.generator.set_state(state["generator"])
        self.fraction = float(state["fraction"])
