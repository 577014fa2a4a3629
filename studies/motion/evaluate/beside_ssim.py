"""What SSIM hides of a magnifier: how much of the motion it shows, and how far its colours are off."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..data.generator import Batch
from ..data.sources import Sources
from .quality import Magnifier, displacements, line, unit

FACTORS = (5.0, 20.0)
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)


def beside_ssim(magnify: Magnifier, samples: Iterable[Batch], sources: Sources, size: int) -> dict[str, float]:
    """What a cell keeps of `motion_shown` and `colour_error`, under these names."""
    return {"motion_shown": motion_shown(magnify, sources, size), "colour_error": colour_error(magnify, samples)}


def motion_shown(magnify: Magnifier, sources: Sources, size: int) -> float:
    """The share of the wanted displacement that is shown, over six photos of `size` pixels and two factors: the slope
    of the line through the origin (`displacements`). 1 is right, and 0 shows frame A."""
    return line(displacements(magnify, sources, size, factors=FACTORS), "measured")[0]


@torch.inference_mode()
def colour_error(magnify: Magnifier, samples: Iterable[Batch]) -> float:
    """The mean L1 distance, in [0, 1], from the target of what is left of an image once its luma is taken away."""
    errors = [
        (_colour(unit(magnify(batch.a, batch.b, batch.factor))) - _colour(unit(batch.target))).abs().mean(dim=(1, 2, 3))
        for batch in samples
    ]
    return float(torch.cat(errors).mean())


def _colour(image: Tensor) -> Tensor:
    luma = image * torch.tensor(LUMA, device=image.device)[:, None, None]
    return image - luma.sum(dim=1, keepdim=True)
