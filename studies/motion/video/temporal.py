"""What counts as motion: temporal filters that give, of each frame's shape, what is to be magnified.

A filter sees a representation of the frames, one by one: the shape maps of a network, phases, the levels of a pyramid.
Of each it gives the part that moves in its band. All filters take what they see relative to the first frame, and start
at rest there: so a still video has no motion, and none begins with a jolt. `filtered` does the same to a whole clip.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, Protocol, TypeVar, get_args

import numpy as np
import torch
from scipy import signal
from torch import Tensor

Sample = TypeVar("Sample")
State = list[Tensor]
Band = tuple[float, float]  # Hz
Temporal = Literal["static", "dynamic", "iir", "butter", "fir"]


class Filter(Protocol):
    """`start` once with the first sample, then `step` with every sample, the first too.

    A step returns the motion of the sample that came `delay` steps before, and changes the state in place. States are
    in single precision where samples are in half.
    """

    @property
    def delay(self) -> int: ...

    def start(self, first: Tensor) -> State: ...

    def step(self, state: State, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Difference:
    """The difference to a reference that moves the share `drift` of the way to each sample, after it was compared.

    ``drift=0`` keeps the first sample (static mode), ``drift=1`` takes the one before (dynamic mode). Between them the
    reference follows what changes slowly, such as light or a camera that sinks: a static mode for long clips.
    """

    drift: float = 0.0

    delay = 0

    def __post_init__(self):
        if not 0 <= self.drift <= 1:
            raise ValueError(f"drift must lie between 0 and 1, the share of the way a frame, got {self.drift}")

    def start(self, first: Tensor) -> State:
        return [_wide(first).clone()]

    def step(self, state: State, x: Tensor) -> Tensor:
        (reference,) = state
        difference = x - reference
        if self.drift == 1:
            reference.copy_(x)
        elif self.drift:
            reference.add_(difference, alpha=self.drift)
        return difference


@dataclass(frozen=True)
class Recursive:
    """A recursive filter as a cascade of second-order sections, each (b0, b1, b2, a0, a1, a2), as scipy.signal has it.

    Raises ValueError where it is unstable, or passes what does not move.
    """

    sections: tuple[tuple[float, ...], ...]

    delay = 0

    def __post_init__(self):
        for *_, a0, a1, a2 in self.sections:
            far = max(abs(np.roots([a0, a1, a2])), default=0.0) if a0 else math.inf
            if not far < 1:
                raise ValueError(
                    f"the filter is unstable: a pole of its section [{a0:g}, {a1:g}, {a2:g}] lies at {far:.4g} from 0, "
                    "and all must lie within 1; make the band wider or the order lower"
                )
        passed = math.prod(sum(section[:3]) / sum(section[3:]) for section in self.sections)
        if not abs(passed) < 1e-6:
            raise ValueError(f"the filter must stop what does not move, at 0 Hz, where its gain is {passed:.3g}")

    def start(self, first: Tensor) -> State:
        first = _wide(first).clone()
        return [first, *(torch.zeros_like(first) for _ in range(2 * len(self.sections)))]

    def step(self, state: State, x: Tensor) -> Tensor:
        x = x - state[0]
        for number, section in enumerate(self.sections):  # direct form II, transposed
            s1, s2 = state[2 * number + 1 : 2 * number + 3]
            b0, b1, b2, a1, a2 = (value / section[3] for value in (*section[:3], *section[4:]))
            y = b0 * x + s1
            s1.copy_(b1 * x - a1 * y + s2)
            s2.copy_(b2 * x - a2 * y)
            x = y
        return x


@dataclass(frozen=True)
class Finite:
    """A filter with finitely many taps about the middle one: where they are symmetric nothing is shifted in time.

    It waits for half of its taps; before the first sample it sees the first. The state holds a sample for each tap.
    """

    taps: tuple[float, ...]

    def __post_init__(self):
        if len(self.taps) % 2 == 0:
            raise ValueError(f"there must be an odd number of taps, as many before as after one, got {len(self.taps)}")

    @property
    def delay(self) -> int:
        return len(self.taps) // 2

    def start(self, first: Tensor) -> State:
        wide = _wide(first).clone()
        taps = torch.tensor(self.taps, dtype=wide.dtype, device=wide.device)
        return [
            wide,
            taps,
            wide.new_zeros(len(taps), *wide.shape),
            torch.zeros(1, dtype=torch.long, device=wide.device),
        ]

    def step(self, state: State, x: Tensor) -> Tensor:
        first, taps, past, place = state
        past.index_copy_(0, place, (x - first)[None])
        ages = (place - torch.arange(len(taps), device=place.device)) % len(taps)
        place.copy_((place + 1) % len(taps))
        return torch.tensordot(taps[ages], past, dims=1)


@dataclass(frozen=True)
class Delay:
    """Each sample again, `delay` steps later: what goes with a motion that comes late. At first the first, repeated."""

    delay: int

    def start(self, first: Tensor) -> State:
        if self.delay == 0:
            return []
        past = first[None].repeat(self.delay, *[1] * first.ndim)
        return [past, torch.zeros(1, dtype=torch.long, device=first.device)]

    def step(self, state: State, x: Tensor) -> Tensor:
        if self.delay == 0:
            return x
        past, place = state
        before = past.index_select(0, place)[0]
        past.index_copy_(0, place, x[None])
        place.copy_((place + 1) % self.delay)
        return before


def filtered(filter: Filter, clip: Tensor) -> Tensor:
    """The motion of every sample of a whole clip, T x ..., in order and in step with it.

    As many as there are samples: behind the last a filter sees it again, as before the first. Finite taps are applied
    by FFT along time, others step by step.

    >>> still = torch.ones(9, 1, 4, 4)
    >>> [bool(filtered(design((2, 4), rate=20), still).any()) for design in (iir, butter, fir)]
    [False, False, False]
    """
    if isinstance(filter, Finite):
        return _by_fft(filter, clip)
    state = filter.start(clip[0])
    motions = [filter.step(state, x) for x in then_the_last_again(clip, filter.delay)]
    return torch.stack(motions[filter.delay :])


def then_the_last_again(samples: Iterable[Sample], times: int) -> Iterator[Sample]:
    """`samples`, and the last one so many times more: what a filter with a delay sees behind it.

    >>> list(then_the_last_again("abc", times=2))
    ['a', 'b', 'c', 'c', 'c']
    """
    last = []
    for sample in samples:
        yield sample
        last = [sample]
    for sample in last:
        yield from repeat(sample, times)


def _by_fft(filter: Finite, clip: Tensor) -> Tensor:
    moved = _wide(clip) - clip[0]
    length = len(clip) + 2 * filter.delay
    padded = torch.cat([moved, moved[-1:].expand(filter.delay, *moved.shape[1:])])
    taps = torch.tensor(filter.taps, dtype=moved.dtype, device=moved.device)
    spectrum = torch.fft.rfft(taps, n=length).reshape(-1, *[1] * (clip.ndim - 1))
    result = torch.fft.irfft(torch.fft.rfft(padded, n=length, dim=0) * spectrum, n=length, dim=0)
    return result[filter.delay : filter.delay + len(clip)]


def difference_of_iir(slow: float, fast: float) -> Recursive:
    """The difference of two one-pole low-passes, which move the shares `slow` and `fast` of the way to each sample.

    What published parameters give as such ("0.04 and 0.4"); see `iir` for a band in Hz.

    Raises:
        ValueError: not 0 < slow < fast < 1. A share of 1 or more is no low-pass: ports that divide Hz by the wrong rate
            get there.
    """
    if not 0 < slow < fast < 1:
        raise ValueError(f"shares must satisfy 0 < slow < fast < 1, got {slow} and {fast}; iir() takes a band in Hz")
    ahead = fast - slow
    return Recursive(((ahead, -ahead, 0.0, 1.0, slow + fast - 2, (1 - slow) * (1 - fast)),))


def iir(band: Band, rate: float) -> Recursive:
    """The difference of two one-pole low-passes whose corners are the edges of `band`: soft, and hardly rings.

    It passes at most the share (high - low) / (high + low) of a motion, so less is magnified than a factor says.

    Args:
        band: Hz, lower and upper edge.
        rate: frames a second at capture.
    """
    check_band(band, rate)
    slow, fast = (1 - math.exp(-2 * math.pi * edge / rate) for edge in band)
    return difference_of_iir(slow, fast)


def butter(band: Band, rate: float, *, order: int = 2) -> Recursive:
    """A Butterworth band-pass, flat within `band`; its edges pass 71 %. Arguments as of `iir`."""
    check_band(band, rate)
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    sections = np.asarray(signal.butter(order, band, btype="bandpass", fs=rate, output="sos"))
    return Recursive(tuple(map(tuple, sections.tolist())))


def fir(band: Band, rate: float, *, taps: int | None = None) -> Finite:
    """A band-pass by windowing (Hamming): no frequency is shifted in time. Arguments as of `iir`.

    Args:
        taps: how many, an odd number. Default: over two periods of the lower edge, the fewest that stop 0 Hz. Edges are
            as steep as these allow, about 3.3 rate / taps wide: a band that is narrow for its lower edge wants more.
    """
    check_band(band, rate)
    count = 2 * math.ceil(rate / band[0]) + 1 if taps is None else taps
    if count < 3 or count % 2 == 0:
        raise ValueError(f"taps must be an odd number of at least 3, got {count}")
    return Finite(tuple(np.asarray(signal.firwin(count, band, fs=rate, pass_zero=False)).tolist()))


STATIC, DYNAMIC = Difference(), Difference(drift=1.0)
DESIGNS = {"iir": iir, "butter": butter, "fir": fir}


def temporal_filter(
    mode: str, *, rate: float | None = None, band: Band | None = None, drift_s: float | None = None
) -> Filter:
    """The filter of a temporal mode by name.

    Args:
        mode: static (against the first frame), dynamic (against the one before), or iir, butter, fir (within a band).
        rate: frames a second at capture; what is given in Hz or seconds needs it.
        band: Hz, the lower and upper edge, of the latter three.
        drift_s: static mode only: in this many seconds the reference goes 63 % of the way to what is seen. Default: it
            stays the first frame.

    Raises:
        ValueError: the mode is unknown, its band or the rate is missing or impossible, or what was given has no meaning
            in it.

    >>> temporal_filter("static", rate=30, drift_s=10).drift < 1 / 300
    True
    """
    if mode not in get_args(Temporal):
        raise ValueError(f"mode must be one of {', '.join(get_args(Temporal))}, got {mode!r}")
    if drift_s is not None and (mode != "static" or not 0 < drift_s < math.inf):
        raise ValueError(f"a drift is a positive time in seconds and for static mode, got {drift_s:g} in mode {mode}")
    if mode in DESIGNS:
        if band is None or rate is None:
            raise ValueError(f"mode {mode} needs a band in Hz, its lower and upper edge, and the rate of capture")
        return DESIGNS[mode](band, rate)
    if band is not None:
        raise ValueError(f"mode {mode} has no band, got {band[0]:g} to {band[1]:g} Hz: use {', '.join(DESIGNS)}")
    if drift_s is None:
        return STATIC if mode == "static" else DYNAMIC
    if rate is None:
        raise ValueError("a drift in seconds needs the rate of capture")
    return Difference(drift=1 - math.exp(-1 / (drift_s * rate)))


def check_band(band: Band, rate: float) -> None:
    """Raise ValueError where `band` in Hz is none at `rate` frames a second."""
    low, high = band
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"rate must be a positive number of frames a second, got {rate}")
    if not 0 < low < high < rate / 2:
        raise ValueError(
            f"a band must satisfy 0 < low < high < {rate / 2:g} Hz, half of {rate:g} frames a second; got {low:g} to "
            f"{high:g} Hz. The rate is that of capture, which a slowed video does not play at"
        )


def _wide(x: Tensor) -> Tensor:
    """`x` in single precision at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
