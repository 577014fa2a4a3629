"""Classical magnification: exact pyramids, and a moving wave against what the equations say of it."""

import doctest
import importlib
import math

import numpy as np
import pytest
import torch

from studies.motion.classical import colour, laplacian, riesz, steerable
from studies.motion.classical.acceleration import acceleration, jerk_aware
from studies.motion.classical.linear import Linear
from studies.motion.classical.methods import METHODS, magnified, magnified_video, phase
from studies.motion.classical.phase_based import PhaseBased
from studies.motion.video.temporal import STATIC, butter, filtered

SIDE, WAVES = 32, 12  # frames a period


def octave(like):
    return steerable.steerable(like, octaves=1.0)


METHODS_ = {**METHODS, "octave": lambda filter, factor: PhaseBased(octave, filter, factor)}
SIZES = [(32, 32), (37, 50), (16, 45)]


def moving(displacement, period, angle=0.0):
    """Frames T x 1 x 3 x H x W of a wave of `period` pixels, which moves by `displacement` pixels along its normal."""
    y, x = np.mgrid[:SIDE, :SIDE]
    along = x * math.cos(angle) + y * math.sin(angle)
    images = 0.5 + 0.3 * np.cos(2 * np.pi / period * (along - np.asarray(displacement)[:, None, None]))
    return torch.from_numpy(images)[:, None, None].repeat(1, 1, 3, 1, 1)


def displacements(clip, period):
    """Where the wave of each frame stands, in pixels, unwrapped from the first on."""
    x = torch.arange(clip.shape[-1], dtype=torch.float64)
    turn = (clip[:, 0, 1].mean(dim=1) * torch.exp(2j * torch.pi * x / period)).sum(dim=-1)
    return np.unwrap(torch.angle(turn / turn[0]).numpy()) * period / (2 * np.pi)


def run(method, clip):
    return torch.stack(list(magnified(method, clip)))


SWAY = np.sin(2 * np.pi * np.arange(WAVES) / WAVES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("octaves", [1.0, 0.5])
def test_a_steerable_pyramid_is_exact_and_its_bands_are_complex_and_oriented(size, octaves):
    images = torch.rand(2, *size, dtype=torch.float64)
    pyramid = steerable.steerable(images, octaves=octaves)
    levels, rest = pyramid.levels(images)
    torch.testing.assert_close(pyramid.image(levels, rest), images, rtol=0, atol=1e-12)
    assert all(level.is_complex() and level.shape[1] == 8 for level in levels)
    assert levels[-1].shape[-1] < images.shape[-1] or len(levels) == 1


def test_squares_of_all_filters_add_up_to_1():
    pyramid = steerable.steerable(torch.zeros(1, 32, 32, dtype=torch.float64))
    total = pyramid.rest.clone()
    for band in pyramid.bands:
        half = torch.zeros_like(total)
        half[band.rows, band.columns] = (band.filters**2).sum(dim=0)
        total += half
        total[1:, 1:] += half[1:, 1:].flip(0, 1)  # the half of the plane that was left out
    torch.testing.assert_close(total[1:, 1:], torch.ones_like(total[1:, 1:]))


def test_the_band_of_a_wave_is_that_of_its_direction_and_has_its_amplitude():
    for number in range(8):
        angle = number * math.pi / 8
        image = moving([0.0], 5.0, angle)[:, 0, 0]
        levels, _ = octave(image).levels(image)
        strength = torch.stack([level.abs().mean(dim=(0, 2, 3)) for level in levels]).sum(dim=0)
        assert int(strength.argmax()) == number
    wave = moving([0.0], 4.0)[:, 0, 0]  # at the lower edge of the finest octave, which passes it whole
    share = 2**7 * math.factorial(7) / math.sqrt(8 * math.factorial(14))  # of the orientation that it has
    amplitude = octave(wave).levels(wave)[0][0][0, 0].abs()
    torch.testing.assert_close(amplitude, torch.full_like(amplitude, 0.3 * share))


@pytest.mark.parametrize("orientations", [4, 8])
def test_octave_bands_are_those_of_plenoptic(orientations):
    """An independent program of the same pyramid; its bands are turned by a quarter, and weaker by two from each to the
    next. It keeps them at full size, where ours, of fewer pixels, have the middle of their spectrum."""
    plenoptic = pytest.importorskip("plenoptic", reason="plenoptic is not installed: it comes with the extra `test`")
    image = torch.rand(1, 48, 64, dtype=torch.float64)
    levels, _ = steerable.steerable(image, octaves=1.0, orientations=orientations).levels(image)
    other = plenoptic.process.SteerablePyramidFreq(
        (48, 64), height=len(levels), order=orientations - 1, is_complex=True, downsample=False
    ).double()
    bands = other(image[:, None])
    assert len(levels) == 2
    for scale, level in enumerate(levels):
        spectrum = torch.fft.fftshift(torch.fft.fft2(bands[scale][:, 0], norm="forward"), dim=(-2, -1))
        rows, columns = (
            slice(whole // 2 - side // 2, whole // 2 - side // 2 + side)
            for whole, side in zip((48, 64), level.shape[-2:], strict=True)
        )
        middle = torch.fft.ifftshift(spectrum[..., rows, columns], dim=(-2, -1))
        wanted = torch.fft.ifft2(middle, norm="forward") * -1j / 2**scale
        assert (level - wanted).abs().max() < 2e-5 * level.abs().max()


@pytest.mark.parametrize("size", SIZES)
def test_laplacian_and_riesz_pyramids_are_exact(size):
    images = torch.rand(2, *size, dtype=torch.float64)
    torch.testing.assert_close(laplacian.image_of(laplacian.pyramid(images[:, None], 3))[:, 0], images)
    pyramid = riesz.riesz(images)
    torch.testing.assert_close(pyramid.image(*pyramid.levels(images)), images)


def test_tiny_turns_are_not_lost():
    """An arc cosine gives 0 or NaN for them in single precision, whichever way its argument is clamped."""
    for turn in (1e-6, 1e-4, 1.0, 3.0):
        angle, direction = torch.linspace(0, 6, 50), torch.tensor(0.7)
        before, after = (
            torch.stack([torch.cos(a), torch.sin(a) * torch.cos(direction), torch.sin(a) * torch.sin(direction)])
            for a in (angle, angle + turn)
        )
        turned = riesz.Riesz.turned(after.reshape(1, 3, 1, 50), before.reshape(1, 3, 1, 50))
        along = turned[0, 0] * torch.cos(direction) + turned[0, 1] * torch.sin(direction)
        torch.testing.assert_close(along, torch.full_like(along, turn), rtol=1e-3, atol=3e-7)
    still = torch.rand(1, 3, 4, 4)
    assert not riesz.Riesz.turned(still, still).any() and not riesz.Riesz.turned(0 * still, 0 * still).any()


@pytest.mark.parametrize("name", METHODS_)
def test_without_gain_and_without_motion_the_clip_is_shown(name):
    """Colours too: floats, not an 8-bit LAB."""
    clip = torch.rand(3, 2, 3, 32, 24, dtype=torch.float64)
    torch.testing.assert_close(run(METHODS_[name](STATIC, 1.0), clip), clip, rtol=0, atol=1e-9)
    still = clip[:1].repeat(3, 1, 1, 1, 1)
    torch.testing.assert_close(run(METHODS_[name](STATIC, 50.0), still), still, rtol=0, atol=1e-9)
    back = colour.to_rgb(colour.to_yiq(clip[0].float()))
    torch.testing.assert_close(back, clip[0].float(), rtol=0, atol=1e-6)


# A wave of 8 pixels in 32. Of the phase, exact up to where it can be told from the wave before (half a period).
@pytest.mark.parametrize("name", ["phase", "octave"])
@pytest.mark.parametrize("motion, factor", [(0.01, 100), (0.1, 10), (0.1, 38), (0.3, -5)])
def test_phases_magnify_a_wave_exactly_whatever_the_factor(name, motion, factor):
    out = displacements(run(METHODS_[name](STATIC, factor), moving(motion * SWAY, 8.0)), 8.0)
    np.testing.assert_allclose(out, factor * motion * SWAY, atol=1e-6)


def test_a_phase_that_turns_by_more_than_half_a_circle_is_followed():
    out = displacements(run(phase(STATIC, 1.25), moving(6.0 * SWAY, 8.0)), 8.0)
    np.testing.assert_allclose(out, 7.5 * SWAY, atol=1e-6)


@pytest.mark.parametrize("factor, reached", [(3.0, 0.95), (10.0, 0.9), (40.0, 0.7), (80.0, 0.5)])
def test_linear_magnification_is_the_wave_plus_its_change(factor, reached):
    """Which falls behind the factor: at 80 the wave would move half of its length, and moves less than half as far."""
    motion, period = 0.1, 16.0
    clip = moving(motion * SWAY, period)
    method = Linear(STATIC, factor, wavelength=1.0)  # so short that all but the outer levels get all
    out = displacements(run(method, clip), period)
    levels = laplacian.pyramid(clip[0], laplacian.most_levels(SIDE, SIDE))
    levels[0], levels[-1] = levels[0] * 0, levels[-1] * 0
    wave = torch.exp(2j * torch.pi * torch.arange(SIDE) / period).to(torch.complex128)
    inner, whole = ((image[0, 1].mean(dim=0) * wave).sum() for image in (laplacian.image_of(levels), clip[0]))
    alpha = (factor - 1) * (inner / whole).numpy()
    turn = np.exp(2j * np.pi * motion * SWAY / period)
    wanted = np.angle(turn + alpha * (turn - 1)) * period / (2 * np.pi)
    np.testing.assert_allclose(out, wanted, atol=0.08 * np.abs(wanted).max())
    assert (reached - 0.2) * factor * motion < np.abs(out).max() < reached * factor * motion


def test_riesz_magnifies_a_wave_in_the_middle_of_its_band():
    for motion, factor in ((0.01, 50), (0.1, 10), (0.1, 15)):
        out = displacements(run(METHODS["riesz"](STATIC, factor), moving(motion * SWAY, 4.0)), 4.0)
        np.testing.assert_allclose(out, factor * motion * SWAY, atol=0.1 * factor * motion)


def blob(displacement):
    """A wave of 8 pixels that ends within two of them, moved: T x 1 x 3 x H x W."""
    y, x = np.mgrid[-32:32, -32:32]
    moved = x - np.asarray(displacement)[:, None, None]
    images = 0.5 + 0.3 * np.exp(-(moved**2 + y**2) / (2 * 3.0**2)) * np.cos(2 * np.pi / 8 * moved)
    return torch.from_numpy(images)[:, None, None].repeat(1, 1, 3, 1, 1)


def test_methods_are_good_within_their_bounds_and_not_beyond():
    """Difference to a true motion of 1 and of 8 pixels; narrow bands reach further (Wadhwa et al. 2013, 3.3)."""
    wrong = {}
    for wanted in (1.0, 8.0):
        clip, true = blob([0, wanted / 20]), blob([wanted])[0]
        for name, method in METHODS_.items():
            shown = run(Linear(STATIC, 20, wavelength=1.0) if name == "linear" else method(STATIC, 20.0), clip)[1]
            wrong[name, wanted] = float((shown - true).norm() / (true - 0.5).norm())
    ranking = ["phase", "octave", "riesz", "linear"]
    for wanted, most in ((1.0, (0.07, 0.11, 0.22, 0.55)), (8.0, (math.inf,) * 4)):
        errors = [wrong[name, wanted] for name in ranking]
        assert errors == sorted(errors) and all(a < b for a, b in zip(errors, most, strict=True))
    assert all(wrong[name, 8.0] > 0.4 for name in ranking)


def test_acceleration_leaves_a_constant_speed_alone():
    """On top of a pan of 0.2 pixels a frame, a sway is magnified by what the filter passes of it, the pan is not."""
    filter = acceleration(frequency=2.0, rate=24)
    n = 3  # ceil(24 / (4 * 2))
    assert len(filter.taps) == 4 * n + 1 and np.abs(filter.taps).sum() == pytest.approx(1)
    passed = sum(k * math.cos(2 * math.pi * j / WAVES) for j, k in enumerate(filter.taps, start=-filter.delay))
    assert 0.4 < passed < 0.7
    t = np.arange(3 * WAVES)
    sway, pan = 0.1 * np.sin(2 * np.pi * t / WAVES), 0.2 * t
    out = displacements(run(phase(filter, 10.0), moving(pan + sway, 8.0)), 8.0)
    inner = slice(filter.delay, len(t) - filter.delay)  # the pan begins and ends, which is an acceleration
    swayed = (out - pan)[inner]
    np.testing.assert_allclose(swayed - swayed.mean(), ((1 + 9 * passed) * sway)[inner], atol=1e-3)
    static = displacements(run(phase(STATIC, 10.0), moving(pan + sway, 8.0)), 8.0)
    assert np.ptp((static - pan)[inner]) > 5


def test_jerk_takes_away_what_is_quick():
    """Position 0 sways, position 1 jumps; each clip of the batch has a jerk of its own to be compared with."""
    t = np.arange(60)
    sway, jump = np.sin(2 * np.pi * t / 12), 20.0 * (t >= 30)
    clip = torch.from_numpy(np.stack([[sway, jump], [sway, sway]])).permute(2, 0, 1)
    filter, plain = jerk_aware(2.0, 24, beta=2.0), jerk_aware(2.0, 24, beta=0.0)
    weighted, whole = filtered(filter, clip), filtered(plain, clip)
    torch.testing.assert_close(whole, filtered(plain.acceleration, clip))
    jerk = filtered(filter.jerk, clip).abs()
    largest = jerk.amax(dim=2, keepdim=True).cummax(dim=0).values
    torch.testing.assert_close(weighted, whole * (1 - jerk / largest.clamp_min(1e-30)) ** 2)
    assert (weighted[:, 0, 1] ** 2).sum() < 0.3 * (whole[:, 0, 1] ** 2).sum()  # what jumps
    assert weighted[45:, 0, 0].abs().max() > 0.8 * whole[45:, 0, 0].abs().max()  # what sways beside it stays
    ramp = torch.arange(60, dtype=torch.float64)[:, None, None]
    reach = filter.delay
    assert filtered(filter, ramp)[reach:-reach].abs().max() < 1e-9


@pytest.mark.parametrize("name", METHODS_)
@pytest.mark.parametrize("filter", [butter((1, 4), 24), acceleration(2.0, 24)], ids=["butter", "acceleration"])
def test_clips_side_by_side_are_magnified_as_each_alone_and_none_of_their_frames_is_dropped(name, filter):
    clips = torch.rand(8, 2, 3, 20, 16, dtype=torch.float64)
    together, method = run(METHODS_[name](filter, 5.0), clips), METHODS_[name](filter, 5.0)
    assert together.shape == clips.shape
    torch.testing.assert_close(together[:, 1:], run(method, clips[:, 1:]), rtol=0, atol=1e-9)
    assert run(method, clips[:1]).shape == clips[:1].shape


def test_a_video_of_bytes_is_magnified():
    video = (moving(0.5 * SWAY, 8.0)[:, 0].permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    shown = list(magnified_video(phase(STATIC, 2.0), video.numpy(), device="cpu"))
    assert shown[0].dtype == np.uint8 and np.abs(shown[0].astype(int) - video[0].numpy()).max() <= 1
    back = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)[:, None].double()
    np.testing.assert_allclose(displacements(back, 8.0), SWAY, atol=0.05)
    with pytest.raises(ValueError, match="there is no frame to magnify: the video is empty"):
        list(magnified_video(phase(STATIC, 10.0), []))


@pytest.mark.parametrize(
    "wrong, words",
    [
        (
            lambda: acceleration(12.0, 24),
            "a frequency must lie between 0 and 12 Hz, half of 24 frames a second; got 12",
        ),
        (lambda: jerk_aware(0.0, 24), "a frequency must lie between 0 and 12 Hz"),
        (lambda: jerk_aware(2.0, 24, beta=-1), "beta must be at least 0, got -1"),
        (lambda: steerable.steerable(torch.zeros(1, 15, 40)), "at least 16 pixels a side, got 15 x 40"),
        (lambda: riesz.riesz(torch.zeros(1, 40, 15)), "at least 16 pixels a side, got 40 x 15"),
        (lambda: steerable.steerable(torch.zeros(1, 32, 32), octaves=2.0), "bands must be 1 or 0.5 octaves"),
    ],
)
def test_what_cannot_be_is_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


@pytest.mark.parametrize("name", ["acceleration", "colour", "laplacian", "linear", "methods", "riesz", "steerable"])
def test_the_examples(name):
    result = doctest.testmod(importlib.import_module(f"studies.motion.classical.{name}"))
    assert result.attempted and not result.failed
