"""How fast models run, and where in them the time goes.

What is easily got wrong is done here once: a copy is measured, in eval and inference mode, on inputs that are on the
device already; after warming up, when compilers and autotuners are done; several models interleaved; with every setting
that changes the work set, put back and written down.
"""

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from ..arguments import choice, number, text, whole, wrong
from ..capture.copies import refuse_wrappers
from ..capture.example import tensors_given
from ..markup import notebook_table
from ..names import printable
from .clocks import Clock, clock_on, timed
from .environment import DTYPES, conditions_on, fixed_settings
from .executable import HALF, Executable, make_executable
from .module_timer import COLUMNS, ModuleTimer

MOST_SECONDS = 86_400.0  # a day
MODES = ("eager", "compile", "graph")
LEAST_TURNS = 3
STEADY = 0.1  # warm: three runs in a row differ by no more than this part

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
Mode = Literal["eager", "compile", "graph"]


@dataclass(frozen=True, eq=False)
class Speed:
    """How fast one or more models ran. Prints as a table.

    Attributes:
        times: Every run: model, turn, ms.
        batch: By model, the number of items in one run.
        precision, mode, memory_format: As asked for.
        conditions: What the times depend on: device, versions, clocks, settings.
        modules: What `by_module` returns; None where it was not measured.
    """

    times: pd.DataFrame
    batch: dict[str, int]
    precision: str
    mode: str
    memory_format: str | None
    conditions: dict[str, Any]
    modules: pd.DataFrame | None

    def frame(self) -> pd.DataFrame:
        """One row a model: model, median_ms, p10_ms, p90_ms, fps, runs, batch, device, precision, mode, memory_format.

        `fps` is items per second at the median. Where it was measured by module, `apart_ms` is what a run took then.
        """
        rows = []
        for name, batch in self.batch.items():
            ms = self.times.loc[self.times["model"] == name, "ms"]
            median, p10, p90 = (float(ms.quantile(q)) for q in (0.5, 0.1, 0.9))
            row = {"model": name, "median_ms": median, "p10_ms": p10, "p90_ms": p90, "fps": 1e3 * batch / median}
            row |= {"runs": len(ms), "batch": batch, "device": self.conditions["measured_on"]}
            row |= {"precision": self.precision, "mode": self.mode, "memory_format": self.memory_format}
            if self.modules is not None:
                whole = (self.modules["model"] == name) & (self.modules["module"] == "")
                row["apart_ms"] = float(self.modules.loc[whole, "total_ms"].iloc[0])
            rows.append(row)
        return pd.DataFrame(rows)

    def by_module(self) -> pd.DataFrame:
        """One row a module: model, module, type, calls, self_ms, self_share, total_ms, total_share.

        `self_ms` is without the modules below that have rows of their own; it adds up to the `total_ms` of the first
        row of the model, a mean over the middle half of the runs that were timed by module. Marking the calls costs
        time itself: compare that with the median of the plain runs between them.

        Raises:
            ValueError: where it was not measured.
        """
        if self.modules is None:
            raise ValueError("not measured by module: ask for it with speed(..., by_module=depth)")
        return self.modules.copy()

    @property
    def median_ms(self) -> float:
        """Of the only model. Raises ValueError where there are several, as do `p10_ms`, `p90_ms` and `fps`."""
        return self._only("median_ms")

    @property
    def p10_ms(self) -> float:
        return self._only("p10_ms")

    @property
    def p90_ms(self) -> float:
        return self._only("p90_ms")

    @property
    def fps(self) -> float:
        return self._only("fps")

    def _only(self, column: str) -> float:
        if len(self.batch) != 1:
            raise ValueError(f"{len(self.batch)} models were measured, {', '.join(self.batch)}: see .frame()")
        return float(self.frame()[column].iloc[0])

    def __repr__(self) -> str:
        shown = self._shown()
        shown["model"] = shown["model"].map(printable)
        width = max(map(len, shown["model"]))
        shown["model"] = shown["model"].str.ljust(width)
        shown = shown.rename(columns={"model": "model".ljust(width)})
        return f"{shown.to_string(index=False)}\n{printable(self._told())}"

    def _repr_html_(self) -> str:
        shown = self._shown()
        right = range(1, shown.shape[1])
        return notebook_table(list(shown), shown.to_numpy().tolist(), right=right, notes=[self._told()])

    def _shown(self) -> pd.DataFrame:
        """The times as they are printed."""
        frame = self.frame()
        shown = frame[["model"]].copy()
        for name, title in _TITLES.items():
            if name in frame:
                shown[title] = frame[name].map(four_digits)
        return shown.assign(runs=frame["runs"])

    def _told(self) -> str:
        """What they depend on first of all."""
        on = self.conditions
        batches = " or ".join(map(str, dict.fromkeys(self.batch.values())))
        told = [f"on {on['device']}", f"torch {on['torch']}", self.precision, self.mode]
        told += [self.memory_format] if self.memory_format else []
        told += [f"batch {batches}"]
        if on["measured_on"] == "cpu":
            told.append("1 thread" if on["threads"] == 1 else f"{on['threads']} threads")
        return ", ".join(told)


_TITLES = {"median_ms": "median [ms]", "p10_ms": "p10", "p90_ms": "p90", "fps": "FPS", "apart_ms": "apart [ms]"}


def speed(
    model: nn.Module | Mapping[str, nn.Module],
    example: Any,
    *,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    mode: Mode = "eager",
    memory_format: Literal["channels_last"] | None = None,
    seconds: float = 2.0,
    batch: int | None = None,
    by_module: int | None = None,
) -> Speed:
    """Return how long one run of a model takes, in inference: median, 10th and 90th percentile.

    Copies are measured, in eval mode; models, examples, settings and random state are left as they are.

    Args:
        model: One model, or several, ``{name: model}``. These are run interleaved, A B A B, so that a drift of the
            machine meets all of them, and only then does a ratio of two stand.
        example: One for all, or a dict with the same names.
        device: A CPU or CUDA device; default: where the (first) model is.
        precision: ``"fp32"``; ``"tf32"``, the same with TF32 allowed in products and convolutions, on GPUs that have
            it; ``"fp16"`` and ``"bf16"`` cast model and inputs as a whole, as for deployment, and use no autocast.
            Integer and complex tensors are not cast.
        mode: ``"eager"``; ``"compile"``, torch.compile for fixed shapes, of all that the example runs, also where
            that is not ``forward``; it begins by ``torch.compiler.reset()``, after which code that you compiled is
            compiled again; ``"graph"``, a CUDA graph that is replayed.
        memory_format: ``"channels_last"`` for 4-dimensional parameters and inputs; None leaves them as they are.
        seconds: How long each model is measured, but at least three runs; before, it is warmed up for at most as long.
        batch: Items in one run, for `fps`; default: the first size of the example's first tensor.
        by_module: So many levels of modules are timed as well (eager only), in further runs between the others.

    Returns:
        Times in milliseconds and frames per second, every single run, and what they depend on.

    Raises:
        ValueError: for what the device cannot do, for an unknown choice, and where the model fails in half precision,
            torch.compile or a CUDA graph.

    >>> nets = {"narrow": nn.Linear(64, 64), "wide": nn.Linear(64, 4096)}
    >>> found = speed(nets, torch.zeros(8, 64), seconds=0.05)
    >>> found.frame()[["model", "batch", "device", "precision", "mode"]]
        model  batch device precision   mode
    0  narrow      8    cpu      fp32  eager
    1    wide      8    cpu      fp32  eager
    """
    models = dict(model) if isinstance(model, Mapping) else {type(model).__name__: model}
    if not models:
        raise ValueError(wrong("model", "a torch.nn.Module or a dict of some by name", model))
    for name, each in models.items():
        text("a name in model", name)
        refuse_wrappers(each)
    own = isinstance(model, Mapping) and isinstance(example, Mapping) and set(example) == set(models)
    examples = {name: example[name] if own else example for name in models}
    for name, each in models.items():
        if any(t.is_meta for t in (*each.parameters(), *each.buffers(), *tensors_given(examples[name]))):
            raise ValueError(
                f"model and example must hold values, got tensors on the meta device ({name}), where nothing is "
                "computed; model.to_empty(device='cpu') gives it some"
            )
    where = _device(device, next(iter(models.values())), next(iter(examples.values())))
    _check(where, precision, mode, memory_format, seconds, batch, by_module)
    clock = clock_on(where)
    with fixed_settings(where, tf32=precision == "tf32"):
        if mode == "compile":
            torch.compiler.reset()
        options = {"device": where, "precision": precision, "mode": mode, "memory_format": memory_format}
        # Make each model ready, warm it up until its times are steady, then run them all interleaved.
        ready = {name: make_executable(name, models[name], examples[name], **options) for name in models}
        timers = {}
        if by_module is not None:
            timers = {name: ModuleTimer(each.net, clock, depth=by_module) for name, each in ready.items()}
        measures = {name: _measure(clock, ready[name], timers.get(name)) for name in models}
        warmup_runs = {name: warm_up(measure, seconds) for name, measure in measures.items()}
        for timer in timers.values():
            timer.runs.clear()
        gc.collect()  # the garbage so far is no part of the first runs
        times = interleaved(measures, seconds * (1 if by_module is None else 2))
        conditions = conditions_on(where, next(iter(measures.values())))
    conditions |= {"clock": clock.name, "seconds": seconds, "warmup_runs": warmup_runs}
    if precision in HALF:
        conditions["cast"] = "model and inputs as a whole, no autocast"
    if mode == "compile":
        conditions["compiler"] = "inductor in its default mode, for fixed shapes"
        conditions["graphs"] = {name: each.graphs for name, each in ready.items()}
    modules = [timer.frame().assign(model=name) for name, timer in timers.items()]
    return Speed(
        times=times,
        batch={name: batch or each.batch for name, each in ready.items()},
        precision=precision,
        mode=mode,
        memory_format=memory_format,
        conditions=conditions,
        modules=pd.concat(modules, ignore_index=True)[["model", *COLUMNS]] if modules else None,
    )


def interleaved(measures: Mapping[str, Callable[[], float]], seconds: float) -> pd.DataFrame:
    """Return what each of `measures` gives, called one after the other, again and again: a frame of model, turn, ms.

    At least three times, then until `seconds` for each have passed.
    """
    begun, rows, turn = perf_counter(), [], 0
    while turn < LEAST_TURNS or perf_counter() - begun < seconds * len(measures):
        rows += [(name, turn, measure()) for name, measure in measures.items()]
        turn += 1
    return pd.DataFrame(rows, columns=["model", "turn", "ms"])


def warm_up(measure: Callable[[], float], seconds: float) -> int:
    """Run until three runs in a row take about as long, or `seconds` have passed. Returns how many runs it took."""
    begun, times = perf_counter(), []
    while not times or perf_counter() - begun < seconds:
        times.append(measure())
        if len(times) >= 3 and max(times[-3:]) <= (1 + STEADY) * min(times[-3:]):
            break
    return len(times)


def four_digits(value: float) -> str:
    """`value` in plain decimals, with four digits that count.

    >>> four_digits(0.0123456), four_digits(81.2345), four_digits(12345.6)
    ('0.01235', '81.23', '12,346')
    """
    rounded = float(f"{value:.4g}")
    decimals = 3 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:,.{max(0, decimals)}f}"


def _measure(clock: Clock, ready: Executable, timer: ModuleTimer | None) -> Callable[[], float]:
    """A function that gives the milliseconds of one run; with a `timer`, one that is timed by module follows."""

    def measure() -> float:
        ms = timed(clock, ready.work)
        if timer is not None:
            timer.timed(ready.work)
        return ms

    return measure


def _device(device: torch.device | str | None, model: nn.Module, example: Any) -> torch.device:
    if device is None:
        tensors: list[Tensor] = [*model.parameters(), *model.buffers(), *tensors_given(example)]
        device = tensors[0].device if tensors else "cpu"
    if not isinstance(device, str | torch.device):
        raise TypeError(wrong("device", "a cpu or cuda device", device, "name it as 'cuda:0'"))
    try:
        where = torch.device(device)
    except RuntimeError:
        where = None
    if where is None or where.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be a cpu or cuda device, got {str(device)!r}")
    if where.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device={str(where)!r}: torch finds no CUDA device here")
        where = torch.device("cuda", torch.cuda.current_device() if where.index is None else where.index)
        if where.index >= torch.cuda.device_count():
            raise ValueError(f"device={str(where)!r}: there are {torch.cuda.device_count()} CUDA devices, from 0")
    return where


def _check(
    where: torch.device,
    precision: str,
    mode: str,
    memory_format: str | None,
    seconds: float,
    batch: int | None,
    by_module: int | None,
) -> None:
    choice("precision", precision, DTYPES)
    choice("mode", mode, MODES)
    choice("memory_format", memory_format, (None, "channels_last"))
    if precision == "tf32" and (where.type != "cuda" or torch.cuda.get_device_capability(where) < (8, 0)):
        raise ValueError(f"precision='tf32' is of NVIDIA GPUs of compute capability 8.0 and later, not of {where}")
    if mode == "graph" and where.type != "cuda":
        raise ValueError(f"mode='graph' is a CUDA graph, and the device is {where}: use 'eager' or 'compile'")
    number("seconds", seconds, above=0, high=MOST_SECONDS)
    whole("batch", batch, least=1, optional=True)
    whole("by_module", by_module, least=1, optional=True)
    if by_module is not None and mode != "eager":
        raise ValueError(f"by_module={by_module} is for mode='eager': with {mode!r} modules do not run one by one")
