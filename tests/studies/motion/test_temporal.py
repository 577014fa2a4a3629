"""Temporal filters: what they pass, streamed and as a whole, and the faults that public ports have."""

import doctest
import math

import numpy as np
import pytest
import torch
from scipy import signal

from studies.motion.video import temporal
from studies.motion.video.temporal import (
    DYNAMIC,
    STATIC,
    Delay,
    Difference,
    Finite,
    Recursive,
    butter,
    difference_of_iir,
    filtered,
    fir,
    iir,
    temporal_filter,
)

BAND, RATE = (3.0, 6.0), 40.0
FILTERS = {
    "static": STATIC,
    "dynamic": DYNAMIC,
    "drifting": Difference(drift=0.1),
    "iir": iir(BAND, RATE),
    "butter": butter(BAND, RATE),
    "fir": fir(BAND, RATE),
}


@pytest.fixture(params=FILTERS.values(), ids=FILTERS.keys())
def filter(request):
    return request.param


def noise(count=70, dtype=torch.float64):
    return torch.randn(count, 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(1)) + 5


def streamed(filter, clip):
    """One by one, with the delay made good by the last sample."""
    state, motions = filter.start(clip[0]), []
    for x in [*clip, *[clip[-1]] * filter.delay]:
        motions.append(filter.step(state, x).clone())
    return torch.stack(motions[filter.delay :])


def gain(filter, hz, count=480):
    """Complex gain of a settled sinusoid, by the phase and size of what comes out."""
    turn, settled = 2 * np.pi * hz / RATE * np.arange(count), slice(count // 3, 2 * count // 3)
    motion = filtered(filter, torch.from_numpy(np.sin(turn))).numpy()
    return 2 * (motion * np.exp(-1j * turn))[settled].mean() * 1j


@pytest.mark.parametrize("count", [1, 2, 7, 70])
def test_streaming_and_batch_agree_and_drop_no_frame(filter, count):
    clip = noise(count)
    whole = filtered(filter, clip)
    assert whole.shape == clip.shape
    torch.testing.assert_close(whole, streamed(filter, clip), rtol=0, atol=1e-12)


def test_a_still_clip_has_no_motion_from_the_first_frame_on(filter):
    """States begin as after an endless first frame, so nothing rings."""
    assert not filtered(filter, torch.full((50, 3), 117.3)).any()


@pytest.mark.parametrize("name", ["iir", "butter"])
def test_recursive_filters_equal_scipys_started_at_rest_on_the_first_frame(name):
    clip, sections = noise(), np.array(FILTERS[name].sections)
    start = signal.sosfilt_zi(sections)[..., None, None] * clip[0].numpy()
    wanted, _ = signal.sosfilt(sections, clip.numpy(), axis=0, zi=start)
    np.testing.assert_allclose(filtered(FILTERS[name], clip), wanted, atol=1e-12)


def test_fir_equals_scipys_convolution_with_the_ends_repeated():
    clip, taps, wait = noise().numpy(), np.array(FILTERS["fir"].taps), FILTERS["fir"].delay
    padded = np.concatenate([np.repeat(clip[:1], wait, 0), clip, np.repeat(clip[-1:], wait, 0)])
    wanted = signal.convolve(padded - clip[0], taps[:, None, None], mode="valid")
    np.testing.assert_allclose(filtered(FILTERS["fir"], torch.from_numpy(clip)), wanted, atol=1e-12)


def test_iir_is_the_difference_of_two_low_passes():
    clip, low = noise(), {}
    for share in (0.04, 0.4):
        follower = [clip[0]]
        for x in clip[1:]:
            follower.append((1 - share) * follower[-1] + share * x)
        low[share] = torch.stack(follower)
    wanted = low[0.4] - low[0.04]
    torch.testing.assert_close(filtered(difference_of_iir(0.04, 0.4), clip), wanted, rtol=0, atol=1e-12)


def test_what_lies_in_the_band_passes_and_what_lies_outside_does_not():
    assert abs(gain(FILTERS["fir"], 4.5)) == pytest.approx(1, abs=0.01)
    assert np.angle(gain(FILTERS["fir"], 4.5)) == pytest.approx(0, abs=0.01)  # in step with what moves
    for edge in BAND:
        assert abs(gain(FILTERS["butter"], edge)) == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert abs(gain(FILTERS["butter"], math.sqrt(18))) == pytest.approx(1, abs=0.01)
    for hz in (0.25, 15.0):
        assert abs(gain(FILTERS["fir"], hz)) < 0.01 and abs(gain(FILTERS["butter"], hz)) < 0.05
        assert abs(gain(FILTERS["iir"], hz)) < 0.7 * abs(gain(FILTERS["iir"], 4.5))  # a soft filter
    assert abs(gain(FILTERS["iir"], 4.5)) == pytest.approx((6 - 3) / (6 + 3), abs=0.01)
    assert gain(STATIC, 4.5) == pytest.approx(1, abs=1e-2)


def test_sections_that_are_not_divided_by_a0_mean_the_same():
    twice = tuple(tuple(2 * value for value in section) for section in FILTERS["butter"].sections)
    torch.testing.assert_close(filtered(Recursive(twice), noise()), filtered(FILTERS["butter"], noise()))


def test_a_drifting_reference_forgets_and_passes_fast_motion_whole():
    step = torch.ones(400, 1)
    step[0] = 0
    motion = filtered(temporal_filter("static", rate=20, drift_s=1), step)
    assert motion[1] == 1
    assert motion[21].item() == pytest.approx(math.exp(-1), abs=1e-6)  # after a second
    assert motion[-1] < 1e-6 and filtered(STATIC, step)[-1] == 1


def test_half_precision_is_filtered_in_single():
    clip = noise(dtype=torch.float16)
    for filter in FILTERS.values():
        motion = filtered(filter, clip)
        assert motion.dtype == torch.float32
        torch.testing.assert_close(motion, filtered(filter, clip.double()).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_delay_gives_each_sample_later(count):
    wait, state = Delay(count), Delay(count).start(torch.tensor(0.0))
    assert [int(wait.step(state, torch.tensor(float(t)))) for t in range(8)] == [max(t - count, 0) for t in range(8)]


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: difference_of_iir(0.4, 1.0), "shares must satisfy 0 < slow < fast < 1, got 0.4 and 1.0"),
        (lambda: difference_of_iir(3.0, 0.4), "shares must satisfy 0 < slow < fast < 1, got 3.0 and 0.4"),
        (lambda: iir((0.4, 16), 30), r"0 < low < high < 15 Hz, half of 30 frames a second; got 0.4 to 16 Hz"),
        (lambda: butter((72, 92), 30), r"0 < low < high < 15 Hz, .* got 72 to 92 Hz. The rate is that of capture"),
        (lambda: fir((3, 0.4), 30), r"got 3 to 0.4 Hz"),
        (lambda: fir((0, 3), 30), r"got 0 to 3 Hz"),
        (lambda: iir((math.nan, 3), 30), r"got nan to 3 Hz"),
        (lambda: iir((0.4, 3), 0), "rate must be a positive number of frames a second, got 0"),
        (lambda: butter((0.4, 3), 30, order=0), "order must be at least 1, got 0"),
        (lambda: fir((0.4, 3), 30, taps=20), "taps must be an odd number of at least 3, got 20"),
        (lambda: Finite((1.0, 1.0)), "there must be an odd number of taps, as many before as after one, got 2"),
        (lambda: Recursive(((1, -1, 0, 1, -2, 1.01),)), "the filter is unstable: a pole of its section [1, -2, 1.01]"),
        (lambda: Recursive(((1, -1, 0, 0, 1, 0),)), "the filter is unstable"),
        (lambda: Recursive(((1, 0, 0, 1, -0.5, 0),)), "must stop what does not move, at 0 Hz, where its gain is 2"),
        (lambda: Difference(drift=1.5), "drift must lie between 0 and 1"),
        (lambda: temporal_filter("stat"), "mode must be one of static, dynamic, iir, butter, fir, got 'stat'"),
        (lambda: temporal_filter("fir", rate=30), "mode fir needs a band in Hz"),
        (lambda: temporal_filter("fir", band=BAND), "mode fir needs a band in Hz, .* and the rate of capture"),
        (lambda: temporal_filter("static", band=BAND, rate=30), "mode static has no band, got 3 to 6 Hz: use iir"),
        (lambda: temporal_filter("fir", band=BAND, rate=30, drift_s=3), "for static mode, got 3 in mode fir"),
        (lambda: temporal_filter("static", drift_s=3), "a drift in seconds needs the rate of capture"),
        (lambda: temporal_filter("static", drift_s=-3, rate=3), "a drift is a positive time in seconds"),
    ],
)
def test_what_is_no_filter_is_named(wrong, words):
    with pytest.raises(ValueError, match=words.replace("[1, -2", r"\[1, -2").replace("1.01]", r"1.01\]")):
        wrong()


def test_the_example():
    result = doctest.testmod(temporal)
    assert result.attempted and not result.failed
