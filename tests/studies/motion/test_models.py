from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from studies.motion.network import models
from studies.motion.network.models import (
    EIGHTH,
    LINEAR,
    QUARTER,
    MagnificationNet,
    baseline,
    lightweight,
    proposed,
    scaled,
)
from studies.motion.train.given import given


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    "config, expected",
    [
        (QUARTER, 1_040_835),
        (EIGHTH, 1_114_691),
        (scaled(LINEAR["A"]), 731_715),
        (scaled(LINEAR["B"]), 730_547),
        (scaled(LINEAR["C"]), 730_739),
    ],
)
def test_parameters_of_the_later_rows(config, expected):
    assert parameters(MagnificationNet(config)) == expected


@pytest.mark.parametrize(
    "width, expected",
    [
        (32, 966_979),
        (28, 741_331),
        (24, 545_619),
        (20, 379_843),
        (16, 244_003),
        (12, 138_099),
        (8, 62_131),
        (4, 16_099),
    ],
)
def test_parameters_of_the_baseline_at_each_width(width, expected):
    assert parameters(baseline(width=width)) == expected


@pytest.mark.parametrize(
    "config, gmacs",
    [
        (None, 41.196),
        (QUARTER, 24.513),
        (LINEAR["B"], 20.415),
        (scaled(LINEAR["A"]), 9.7856),
        (scaled(LINEAR["C"]), 9.7736),
    ],
)
def test_multiply_adds_of_one_streamed_frame_at_384(config, gmacs):
    net = MagnificationNet(config).to("meta")
    frame = torch.empty(1, 3, 384, 384, device="meta")
    shape = torch.empty(1, net.config.width, 192, 192, device="meta")
    with FlopCounterMode(display=False) as flops:
        net.stream(frame, shape, 10.0)
    assert flops.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.06)


def test_stream_equals_forward_and_a_tensor_of_factors_equals_numbers():
    net = baseline(width=8)
    a, b = torch.rand(2, 2, 3, 32, 48) * 2 - 1
    whole = net(a, b, 5.0)
    assert whole.shape == a.shape
    image, shape = net.stream(b, net.encode(a)[1], 5.0)
    torch.testing.assert_close(image, whole)
    torch.testing.assert_close(shape, net.encode(b)[1])
    each = net(a, b, torch.tensor([5.0, 20.0]))
    torch.testing.assert_close(each[:1], whole[:1])
    torch.testing.assert_close(each[1:], net(a[1:], b[1:], 20.0))


@pytest.mark.parametrize("config", [None, QUARTER, EIGHTH, *LINEAR.values()])
def test_every_configuration_gives_an_image_and_a_gradient(config):
    net = MagnificationNet(config)
    a, b = torch.rand(2, 1, 3, 32, 32)
    net(a, b, 3.0).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_trained_baseline_is_small_and_of_one_width():
    assert models.PRETRAINED.stat().st_size < 2.5e6
    found = given(models.PRETRAINED.parent, "baseline")
    assert found is not None and found.facts["steps"] > 10_000
    net = baseline(pretrained=True)
    assert parameters(net) == 966_979 and not torch.equal(net.decoder.conv2.weight, baseline().decoder.conv2.weight)
    with pytest.raises(ValueError, match="of width 32, got width=16"):
        baseline(width=16, pretrained=True)


def test_what_stands_for_singh_is_a_trained_baseline_of_about_their_size():
    net = lightweight(pretrained=True)
    assert parameters(net) == 138_099 and net.config == replace(baseline().config, width=12)
    assert not torch.equal(net.decoder.conv2.weight, lightweight().decoder.conv2.weight)
    found = given(models.WEIGHTS, "lightweight")
    assert found is not None and found.facts["steps"] == 2500 and "Singh" in found.facts["network"]


def test_the_trained_proposed_network_is_in_the_repository():
    net = proposed(pretrained=True)
    assert sum(p.numel() for p in net.parameters()) == 731_715
    with pytest.raises(ValueError, match="the trained weights are of reading A"):
        proposed(reading="B", pretrained=True)
