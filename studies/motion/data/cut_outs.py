"""Cut-outs as the generator draws them: colours times alpha, made small; kept, for they are drawn again and again."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

KEPT_BYTES = 1 << 30  # of small cut-outs in memory; those that come later are made each time


class CutOuts:
    """`pictures` (4 x H x W in [0, 1], the last is alpha) averaged over squares of whole pixels."""

    def __init__(self, pictures: Sequence[Tensor]):
        self._pictures = pictures
        self._sides: dict[int, tuple[int, int]] = {}
        self._kept: dict[tuple[int, int, str], Tensor] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pictures)

    def sides(self, index: int) -> tuple[int, int]:
        """Height and width of the whole picture."""
        if index not in self._sides:
            _, height, width = self._pictures[index].shape
            self._sides[index] = height, width
        return self._sides[index]

    def reduced(self, index: int, by: int, device: torch.device | str = "cpu") -> Tensor:
        """Colours times alpha, and alpha: the mean of each square of `by` pixels."""
        key = index, by, str(device)
        if (found := self._kept.get(key)) is not None:
            return found
        picture = self._pictures[index].to(device)
        picture = torch.cat([picture[:3] * picture[3:], picture[3:]])
        picture = F.avg_pool2d(picture, by) if by > 1 else picture
        if self._bytes + picture.nbytes <= KEPT_BYTES:
            self._kept[key] = picture
            self._bytes += picture.nbytes
        return picture
