"""Motion that is not shown and colours that are off are found, whatever SSIM says."""

import pytest
import torch

from studies.motion.data.generator import Batch
from studies.motion.data.sources import find_sources
from studies.motion.evaluate.beside_ssim import LUMA, colour_error, motion_shown
from studies.motion.evaluate.quality import copy_b


def test_a_copy_shows_next_to_none_of_the_motion():
    shown = motion_shown(copy_b, find_sources(None, "val"), 48)
    assert shown == pytest.approx((1 / 5 + 1 / 20) / 2, abs=0.02)  # frame B has 1 / factor of it


def test_grey_is_off_by_the_colour_of_the_target_and_brightness_is_no_colour():
    frame = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    batch = Batch(frame, frame, frame, frame, torch.ones(2))
    luma = (frame * torch.tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    assert colour_error(copy_b, [batch]) == 0
    assert colour_error(lambda a, b, factor: b + 0.3, [batch]) == pytest.approx(0, abs=1e-6)
    wanted = float((frame - luma).abs().mean()) / 2  # frames are in [-1, 1], the error in [0, 1]
    grey = luma.expand(-1, 3, -1, -1)
    assert colour_error(lambda a, b, factor: grey, [batch]) == pytest.approx(wanted)
