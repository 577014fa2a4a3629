"""Models of one task side by side, as they are or trained on equally."""

import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ...arguments import number, whole, wrong
from ...capture.copies import devices_of
from ...capture.modes import random_states_kept
from ...measure.costs import cost
from ...measure.speed import speed
from ...training.phases import Phases
from ...training.task import Task, check_task, qualities_of

COMPARED = ("model", "params", "macs", "ms")  # columns beside the qualities


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
        models: By name, as ``{"whole": net, "thin": thin}``; or what `sweep_width` and `sweep_resolution` return, with
            `steps` tuned.
        task: Its `example` is what is counted and timed, its `quality` what is evaluated.
        steps: Each model is trained on so many updates before, all with the same batches and random numbers (0).
        seconds: How long each is timed, interleaved with the others; 0: not at all.
        folder: Where the trainings' checkpoints lie, a folder a model.
        progress: Show a bar a training.
        **options: Those of `archlab.training.fit`.

    Returns:
        One row a model: model, params, macs, ms (median of a run of the example; where it was timed), each quality.

    Raises:
        TypeError, ValueError: for what is no dict of models, for options out of range, for two models of one name, and
            with a folder for a name that no folder can have.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    >>> task = Task(torch.ones(1, 4), lambda step: None, lambda net, batch: 0, lambda net: {"score": 1.0})
    >>> compare({"both": net, "one": net[0]}, task, seconds=0)
      model  params  macs  score
    0  both      20    16    1.0
    1   one      20    16    1.0
    """
    check_task(task)
    if given := sorted({"time_limit_s", "title"} & options.keys()):
        raise TypeError(f"compare has no option {given[0]!r}, which each of its trainings has by itself; leave it out")
    whole("compare: steps", steps, least=0)
    number("compare: seconds", seconds, low=0)
    if not isinstance(models, Mapping) or not all(isinstance(model, nn.Module) for model in models.values()):
        raise TypeError(wrong("compare: models", "a dict of models by name", models))
    if not models:
        raise ValueError(wrong("compare: models", "a dict of one model or more", models))
    if twice := [name for name, count in Counter(map(str, models)).items() if count > 1]:
        raise ValueError(f"compare: two models are called {twice[0]!r}; rename one")
    if folder is not None and (bad := [name for name in map(str, models) if Path(name).name != name]):
        raise ValueError(wrong("compare: a name of models", "that of a folder, as each has its own", bad[0]))
    tuned = {}
    for name, model in models.items():
        tuned[name] = copy.deepcopy(model)
        if steps:
            place = None if folder is None else Path(folder) / str(name)
            with random_states_kept(devices_of(model), seed=0):
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
