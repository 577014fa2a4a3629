"""Models of one task side by side, and quality against cost over budgets, methods and seeds.

Each run of a trade-off is kept as it ends and goes on in the middle, so that a call that was killed continues. What
every method gets is the same: the sites, the budgets, and so many steps of training in all.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from ..arguments import choice, number, whole, wrong
from ..discovery.select import Where
from ..measure.costs import cost
from ..measure.speed import speed
from ..report.tables import Table, table
from ..training.fit import GROUPS
from ..training.identity import fingerprint
from ..training.kept import Kept
from ..training.options import check_names, names_of
from ..training.phases import Phases
from ..training.progress import bar
from ..training.task import Task, check_task, qualities_of
from .budget import check_budget
from .candidates import candidates
from .greedy import remove_at_random, remove_greedily
from .learn import learn_to_remove
from .pressure import loss_unit
from .settings import CALIBRATION, RemovalSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRIDE = 1_000_003  # batches between the first of one seed and that of the next
CONTROL, ORIGINAL = "control", "original"  # beside the methods
COMPARED = ("model", "params", "macs", "ms")  # columns of `compare` beside the qualities
COLUMNS = ("method", "budget", "seed", "sites", "params", "macs")
CONFIDENCE = 0.95
# Options of `learn_to_remove` that it must not have here: what goes is said by `budgets` and `seeds`, and all methods
# divide the loss by the same unit.
FIXED = ("lam", "lam_unit", "calibration", "budget", "at_most_loss", "seed")


def compare(
    models: Mapping[Any, nn.Module],
    task: Task,
    *,
    steps: int = 0,
    seconds: float = 0.5,
    folder: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Measure each model's qualities and costs on one task; the models are left untouched.

    Args:
        models: By name, as ``{"whole": net, "thin": thin}``; or what `sweep_width` and `sweep_resolution` return.
        task: Its `example` is what is counted and timed, its `quality` what is evaluated.
        steps: Each model is trained on so many updates before, all with the same batches (0).
        seconds: How long each is timed, interleaved with the others; 0: not at all.
        folder: Where the trainings' checkpoints lie, a folder a model.
        progress: Show a bar a training.
        **options: Those of `archlab.training.fit`.

    Returns:
        One row a model: model, params, macs, ms (median of a run of the example; where it was timed), each quality.

    Raises:
        TypeError, ValueError: for what is no dict of models, and for options out of range.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    >>> task = Task(torch.ones(1, 4), lambda step: None, lambda net, batch: 0, lambda net: {"score": 1.0})
    >>> compare({"both": net, "one": net[0]}, task, seconds=0)
      model  params  macs  score
    0  both      20    16    1.0
    1   one      20    16    1.0
    """
    check_task(task)
    whole("compare: steps", steps, least=0)
    number("compare: seconds", seconds, low=0)
    if not isinstance(models, Mapping) or not all(isinstance(model, nn.Module) for model in models.values()):
        raise TypeError(wrong("compare: models", "a dict of models by name", models))
    if not models:
        raise ValueError(wrong("compare: models", "a dict of one model or more", models))
    tuned = {}
    for name, model in models.items():
        tuned[name] = copy.deepcopy(model)
        if steps:
            place = None if folder is None else Path(folder) / str(name)
            Phases(task, place, None, {}, {**options, "progress": progress}).train_(str(name), tuned[name], steps)
    rows = [
        {"model": name, "params": (found := cost(model, task.example)).params, "macs": found.macs}
        | qualities_of(task, model, columns=COMPARED, untouched=False)
        for name, model in tuned.items()
    ]
    frame = pd.DataFrame(rows)
    if seconds:
        times = speed({str(name): model for name, model in tuned.items()}, task.example, seconds=seconds).frame()
        frame.insert(3, "ms", times.set_index("model")["median_ms"].loc[[str(name) for name in tuned]].to_numpy())
    return frame


@dataclass(frozen=True, eq=False)
class TradeOff:
    """What `trade_off` measured.

    Attributes:
        frame: Tidy, a row a method, budget and seed: method, budget (the share that may stay; 1 of the control), seed,
            sites (removed), params, macs, each quality. The original, not trained on, is method "original".
        measure: What the budgets are of.
        better: By quality, which way it is better.
    """

    frame: pd.DataFrame
    measure: str
    better: Mapping[str, str]

    @property
    def qualities(self) -> list[str]:
        """The names of the qualities."""
        return [str(name) for name in self.frame if name not in COLUMNS]

    def summary(self, quality: str | None = None) -> pd.DataFrame:
        """One row a method and budget: mean and sd over the seeds, and the change from the control of the same seed.

        Args:
            quality: which; None: the first.

        Returns:
            method, budget, seeds, sites, macs, mean, sd, change, low, high: the change from the control trained as long
            with the same batches, and its 95 % interval over the seeds (Student's t, paired; NaN with one seed).
        """
        quality = self.qualities[0] if quality is None else quality
        choice("quality", quality, self.qualities)
        control = self.frame[self.frame["method"] == CONTROL].set_index("seed")[quality]
        rows = []
        for (method, budget), part in self.frame.groupby(["method", "budget"], sort=False):
            values = part.set_index("seed")[quality]
            row = {"method": method, "budget": budget, "seeds": len(part), "sites": part["sites"].mean()}
            row |= {"macs": part["macs"].mean(), "mean": values.mean(), "sd": values.std()}
            apart = (values - control).dropna()
            rows.append(row | (_interval(apart) if method not in (CONTROL, ORIGINAL) else {}))
        return pd.DataFrame(rows)

    def table(self, quality: str | None = None) -> Table:
        """`summary` as a table to print: `.markdown()`, `.latex()`, `.html()`, `.save(folder)`."""
        quality = self.qualities[0] if quality is None else quality
        found = self.summary(quality)
        shown = pd.DataFrame(
            {
                "method": found["method"],
                f"{self.measure} left": found["budget"],
                "sites gone": found["sites"],
                "MACs [M]": found["macs"] / 1e6,
                quality: [_with_sd(mean, sd) for mean, sd in zip(found["mean"], found["sd"], strict=True)],
                "against the control": [
                    _with_interval(*row) for row in found[["change", "low", "high"]].itertuples(index=False)
                ],
            }
        )
        return table(shown, digits={"MACs [M]": 2, f"{self.measure} left": 2, "sites gone": 1})

    def plot(self, quality: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """The curve of each method: means over the seeds, with their standard deviations.

        Args:
            quality: which; None: the first.
            ax: where to draw; default: a new figure of one paper column.
        """
        from ..report import plots  # at first use, as matplotlib takes long to import

        quality = self.qualities[0] if quality is None else quality
        choice("quality", quality, self.qualities)
        frame = self.frame.assign(**{"MACs [M]": self.frame["macs"] / 1e6})
        frame["point"] = [
            method if method in (CONTROL, ORIGINAL) else f"{method} {share:g}"
            for method, share in zip(frame["method"], frame["budget"], strict=True)
        ]
        better = {"MACs [M]": "lower", quality: self.better.get(quality, "higher")}
        return plots.tradeoff(
            frame, x="MACs [M]", y=quality, label="point", group="method", over="seed", better=better, ax=ax
        )


def trade_off(
    model: nn.Module,
    task: Task,
    *,
    kinds: str | Iterable[str],
    where: Where = None,
    budgets: Sequence[float] = (0.8, 0.6, 0.4),
    measure: str = "macs",
    methods: Sequence[str] = ("learned", "greedy", "random"),
    seeds: int = 3,
    folder: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> TradeOff:
    """Remove sites of `model` to each budget by each method, train all equally long, and measure; `model` is left.

    Args:
        model: Any module; it is copied.
        task: Seed s sees the batches from step s · 1,000,003 on, so that seeds differ.
        kinds: The kinds of site, as for `learn_to_remove`.
        where: Which of these.
        budgets: The shares of `measure` that may stay, each above 0 and below 1.
        measure: "macs", "params", "activations", "latency_ms" or "sites", as for `learn_to_remove`.
        methods: Of "learned" (`learn_to_remove`), "greedy" (`remove_greedily`), "one shot" (the same, scored once) and
            "random" (`remove_at_random`).
        seeds: How many runs of each.
        folder: Where each run is kept; the same call goes on from there.
        progress: Show a bar.
        **options: Those of `learn_to_remove`, but for λ and its unit. The other methods tune for as many steps as it
            trains in all.

    Returns:
        The frame, with a table and a plot; beside the methods the original, and for each seed a control: the original
        trained as long on the same batches.

    Raises:
        ValueError: for an option out of range, and a budget that cannot be met.
        TypeError: for an option that it has not.
        CheckpointMismatch: for a folder of another trade-off.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> def batches(step):
    ...     return torch.linspace(-1, 1, 9)[:, None]
    >>> def loss(net, x):
    ...     return (net(x) - 2 * x).square().mean()
    >>> task = Task(batches(0)[:1], batches, loss, lambda net: {"mse": loss(net, batches(0)).item()}, {"mse": "lower"})
    >>> found = trade_off(net, task, kinds="activation", budgets=[0.5], measure="sites", methods=["random"], seeds=2,
    ...                   soft_steps=600, progress=False)
    >>> found.frame[["method", "budget", "seed", "sites"]]
         method  budget  seed  sites
    0  original     1.0     0      0
    1   control     1.0     0      0
    2    random     0.5     0      1
    3   control     1.0     1      0
    4    random     0.5     1      1
    """
    check_task(task)
    for share in budgets:
        check_budget({measure: share})
    for method in methods:
        choice("methods", method, METHODS)
    whole("seeds", seeds, least=1)
    for name in FIXED:
        if name in options:
            raise TypeError(
                f"trade_off has no option {name!r}, which is the same or stated for all methods; leave it out"
            )
    check_names("trade_off", options, RemovalSettings, *GROUPS)
    candidates(model, task.example, kinds=kinds, where=where)  # what is wrong with them is told before any training
    own = {name: value for name, value in options.items() if name in names_of(RemovalSettings)}
    settings = RemovalSettings(**{"lam": None, **own})
    asked = Asked(kinds, where, options, settings)
    told = {"kinds": kinds, "where": where, **options}
    facts = {name: fingerprint(value) if callable(value) else value for name, value in told.items()}
    kept = Kept(None if folder is None else Path(folder) / "trade_off.json", model, task, facts)
    runs = [(CONTROL, 1.0, seed) for seed in range(seeds)]
    runs += [(method, share, seed) for seed in range(seeds) for method in methods for share in budgets]
    runs.sort(key=lambda run: run[2])
    rows = [{"method": ORIGINAL, "budget": 1.0, "seed": 0, **_measured(model, task, 0)}]
    with bar("trade-off", len(runs), wanted=progress) as show:
        for done, (method, share, seed) in enumerate(runs, 1):
            key = f"{method}-{measure}-{share:g}-{seed}"
            row = kept.get(key)
            if row is None:
                of_seed = replace(task, batches=lambda step, first=seed * STRIDE: task.batches(first + step))
                place = None if folder is None else Path(folder) / key
                made, sites = METHODS[method](model, of_seed, {measure: share}, seed, place, asked)
                row = kept.keep_(key, {"method": method, "budget": share, "seed": seed, **_measured(made, task, sites)})
            rows.append(row)
            show(done, lambda key=key: key)
    return TradeOff(pd.DataFrame(rows), measure, dict(task.measures))


@dataclass(frozen=True)
class Asked:
    """What all runs of one `trade_off` have in common."""

    kinds: str | Iterable[str]
    where: Where
    options: Mapping[str, Any]
    settings: RemovalSettings

    @property
    def steps(self) -> int:
        """Of training, in all."""
        return self.settings.soft_steps + self.settings.push_steps + self.settings.tune_steps

    @property
    def schedule(self) -> Callable[[int], float]:
        """Of a training in one piece, as `learn_to_remove` has it in phases."""
        chosen, before = self.settings, self.settings.soft_steps + self.settings.push_steps
        tuned = (chosen.lr if chosen.lr_tune is None else chosen.lr_tune) / chosen.lr
        return lambda step: (
            tuned * chosen.tune_schedule(step - before)
            if step >= before
            else chosen.schedule(min(step, chosen.soft_steps - 1))
        )

    @property
    def of_fit(self) -> dict[str, Any]:
        """The options of the training alone."""
        return {name: value for name, value in self.options.items() if name not in names_of(RemovalSettings)}


Run = Callable[[nn.Module, Task, Mapping[str, float], int, Path | None, Asked], tuple[nn.Module, int]]


def _control(
    model: nn.Module, task: Task, budget: Mapping[str, float], seed: int, folder: Path | None, asked: Asked
) -> tuple[nn.Module, int]:
    net = copy.deepcopy(model)
    unit = loss_unit(model, task, CALIBRATION, freeze_norm=asked.of_fit.get("freeze_norm", False))
    training = Phases(task, folder, None, {}, {**asked.of_fit, "progress": False, "loss_unit": unit})
    training.train_("control", net, asked.steps, lr=asked.settings.lr, schedule=asked.schedule)
    return net, 0


def _learned(
    model: nn.Module, task: Task, budget: Mapping[str, float], seed: int, folder: Path | None, asked: Asked
) -> tuple[nn.Module, int]:
    found = learn_to_remove(
        model, task, kinds=asked.kinds, where=asked.where, budget=budget, folder=folder, progress=False,
        **{**asked.options, "seed": seed},
    )  # fmt: skip
    return found.model, int(found.decisions["removed"].sum())


def _greedy(
    model: nn.Module, task: Task, budget: Mapping[str, float], seed: int, folder: Path | None, asked: Asked,
    rescore: bool = True,
) -> tuple[nn.Module, int]:  # fmt: skip
    found = remove_greedily(
        model, task, kinds=asked.kinds, where=asked.where, budget=budget, rescore=rescore, folder=folder,
        tune_steps=asked.steps, lr=asked.settings.lr, schedule=asked.schedule, progress=False, **asked.of_fit,
    )  # fmt: skip
    return found.model, int(found.decisions["removed"].sum())


def _one_shot(*args: Any) -> tuple[nn.Module, int]:
    return _greedy(*args, rescore=False)


def _random(
    model: nn.Module, task: Task, budget: Mapping[str, float], seed: int, folder: Path | None, asked: Asked
) -> tuple[nn.Module, int]:
    found = remove_at_random(
        model, task, kinds=asked.kinds, where=asked.where, budget=budget, seed=seed, folder=folder,
        tune_steps=asked.steps, lr=asked.settings.lr, schedule=asked.schedule, progress=False, **asked.of_fit,
    )  # fmt: skip
    return found.model, int(found.decisions["removed"].sum())


METHODS: dict[str, Run] = {
    CONTROL: _control, "learned": _learned, "greedy": _greedy, "one shot": _one_shot, "random": _random,
}  # fmt: skip


def _measured(model: nn.Module, task: Task, sites: int) -> dict[str, Any]:
    """What is told of a model: its size, and its qualities."""
    found = cost(model, task.example)
    values = qualities_of(task, model, columns=COLUMNS, untouched=False)
    return {"sites": sites, "params": found.params, "macs": found.macs, **values}


def _interval(apart: pd.Series) -> dict[str, float]:
    """Mean of paired differences, and its interval."""
    from scipy import stats  # at first use, as it takes long to import

    n, mean = len(apart), float(apart.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * apart.std() / math.sqrt(n)) if n > 1 else math.nan
    return {"change": mean, "low": mean - half, "high": mean + half}


def _with_sd(mean: float, sd: float) -> str:
    return f"{mean:.4g}" if math.isnan(sd) else f"{mean:.4g} ± {sd:.2g}"


def _with_interval(change: float, low: float, high: float) -> str:
    if math.isnan(change):
        return ""
    return f"{change:+.3g}" + ("" if math.isnan(low) else f" ({low:+.2g} to {high:+.2g})")
