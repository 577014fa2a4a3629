"""The methods that learned magnification is compared with, each from its equations, on any device, a batch at a time.

They differ in what they see of a frame, and in which of its motions they take: a method is a representation and a
temporal filter. What the authors published as programs was not used.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..video.magnifier import checked, working_device
from ..video.temporal import Filter, then_the_last_again
from .linear import Linear
from .phase_based import PhaseBased
from .riesz import riesz
from .steerable import steerable


class Method(Protocol):
    """`start` once with the first frame, then `step` with every frame, the first too; N x 3 x H x W, RGB in [0, 1].

    A step returns the frame that came `delay` steps before, magnified. It may leave [0, 1].
    """

    @property
    def delay(self) -> int: ...

    def start(self, first: Tensor) -> Any: ...

    def step(self, memory: Any, frame: Tensor) -> Tensor: ...


def phase(filter: Filter, factor: float, *, axis: float | None = None) -> PhaseBased:
    """Wadhwa et al. (2013) with 8 orientations and bands of half an octave; `axis` as of `PhaseBased`."""
    return PhaseBased(steerable, filter, factor, axis=axis)


def riesz_phase(filter: Filter, factor: float, *, axis: float | None = None) -> PhaseBased:
    """Wadhwa et al. (2014); `axis` as of `PhaseBased`."""
    return PhaseBased(riesz, filter, factor, axis=axis)


# Acceleration (Zhang et al. 2017) and jerk-aware magnification (Takeda et al. 2018) are `phase` with the filters of
# `acceleration.py`.
METHODS: dict[str, Callable[[Filter, float], Method]] = {"linear": Linear, "phase": phase, "riesz": riesz_phase}


@torch.no_grad()
def magnified(method: Method, frames: Iterable[Tensor]) -> Iterator[Tensor]:
    """The magnified frames, one for each of `frames` as they come, N x 3 x H x W in [0, 1]; N clips side by side.

    In constant memory, which with a delay holds as many frames, as bands, as that.

    >>> from studies.motion.video.temporal import STATIC
    >>> clip = torch.rand(3, 1, 3, 32, 32)  # without gain, the clip itself
    >>> all(torch.allclose(a, b, atol=1e-5) for a, b in zip(magnified(phase(STATIC, factor=1), clip), clip))
    True
    """
    memory = None
    for number, frame in enumerate(then_the_last_again(frames, method.delay)):
        memory = method.start(frame) if memory is None else memory
        image = method.step(memory, frame)
        if number >= method.delay:
            yield image


def magnified_video(
    method: Method, frames: Iterable[np.ndarray | Tensor], *, device: torch.device | str | None = None
) -> Iterator[np.ndarray]:
    """What `studies.motion.video.magnifier.magnify` does, by a classical method: frames are RGB, uint8 H x W x 3.

    Raises ValueError for a device that is not there, no frame, or a frame of another size than those before.

    >>> from studies.motion.video.temporal import STATIC
    >>> [frame.shape for frame in magnified_video(Linear(STATIC, factor=10), np.zeros((3, 18, 30, 3), np.uint8))]
    [(18, 30, 3), (18, 30, 3), (18, 30, 3)]
    """
    return _of_bytes(method, frames, working_device(device))


def _of_bytes(method: Method, frames: Iterable[np.ndarray | Tensor], device: torch.device) -> Iterator[np.ndarray]:
    images = (pixels.to(device).permute(2, 0, 1)[None] / 255 for pixels in checked(frames))
    for image in magnified(method, images):
        yield (image[0].permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
