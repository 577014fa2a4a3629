"""Brightness and colour: the classical methods read motion in brightness.

YIQ in floats. Ports that go through an 8-bit LAB lose the sub-level changes that are to be magnified, and shift colours
where they take its scale for that of the float one.
"""

import numpy as np
import torch
from torch import Tensor

YIQ = (  # NTSC
    (0.299, 0.587, 0.114),
    (0.595716, -0.274453, -0.321263),
    (0.211456, -0.522591, 0.311135),
)
RGB = np.linalg.inv(YIQ).tolist()


def to_yiq(rgb: Tensor) -> Tensor:
    """RGB to YIQ, N x 3 x H x W.

    >>> grey = torch.full((1, 3, 1, 1), 0.5)
    >>> to_yiq(grey).flatten().round(decimals=4).abs().tolist()
    [0.5, 0.0, 0.0]
    """
    return torch.einsum("ij,njhw->nihw", rgb.new_tensor(YIQ), rgb)


def to_rgb(yiq: Tensor) -> Tensor:
    """YIQ to RGB, N x 3 x H x W."""
    return torch.einsum("ij,njhw->nihw", yiq.new_tensor(RGB), yiq)
