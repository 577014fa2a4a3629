"""The measures against magnifiers whose quality is known: a perfect one, one that does nothing."""

import pytest
import torch

from studies.motion.data.sources import find_sources
from studies.motion.evaluate.quality import HeldOut, copy_b, displacements, evaluate, line, unit


@pytest.fixture(scope="module")
def sources():
    return find_sources(None, "val")


def test_a_perfect_magnifier_has_ssim_one(sources):
    samples = list(HeldOut(sources, 48, 3))
    targets = torch.cat([batch.target for batch in samples])
    frame = evaluate(lambda a, b, factor: targets, samples, perceptual=False)
    assert frame["ssim"].tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert list(frame) == ["factor", "ssim", "ssim_crop8", "lpips"] and frame["lpips"].isna().all()


def test_held_out_samples_are_the_same_each_time_and_have_the_factor_asked_for(sources):
    once, again = (torch.cat([b.target for b in HeldOut(sources, 48, 10, 20.0)]) for _ in range(2))
    assert torch.equal(once, again) and len(once) == 10
    assert {f for b in HeldOut(sources, 48, 10, 20.0) for f in b.factor.tolist()} == {20.0}


def test_displacement_of_a_magnifier_that_copies_b_is_the_input_motion(sources):
    frame = displacements(copy_b, sources, 96, factors=(2.0,), photos=2, steps=3)
    assert len(frame) == 6 and frame["wanted"].max() == pytest.approx(2.5)
    slope, r2 = line(frame, "measured")
    assert slope == pytest.approx(1 / 2, abs=0.03) and r2 > 0.98
    assert line(frame, "on_target")[0] == pytest.approx(1, abs=0.03)


def test_unit_maps_and_clamps():
    assert unit(torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 0.5, 1, 1]


def test_the_public_network_beats_copying_b(shared_data):
    from studies.motion.network.reference import reference

    net = reference(shared_data)
    assert net is not None and sum(p.numel() for p in net.parameters()) == 879_843
    samples = list(HeldOut(find_sources(shared_data, "val"), 96, 8, 20.0))
    ours, copied = (evaluate(magnify, samples, perceptual=False)["ssim"].mean() for magnify in (net, copy_b))
    assert ours > copied + 0.05
