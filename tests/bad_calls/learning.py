"""Bad calls of what learns: switches, learn_to_remove, sensitivity, fit, and the task that they are given."""

import torch
from torch import nn

import archlab as al
from archlab.training import constant, cosine, fit

from .rows import INF, NAN, NET, Net, X, bad, good, soft, switched, task

FAST = {"kinds": "activation", "soft_steps": 2, "push_steps": 1, "tune_steps": 1, "lr_omega": 2.0, "progress": False}
CHAIN = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
OTHER = nn.Parameter(torch.ones(()))


def learn(given=None, **options):
    return al.learn_to_remove(NET, task() if given is None else given, **FAST | options)


def train(given=None, **options):
    return fit(Net(), task() if given is None else given, **{"steps": 2, "progress": False} | options)


def sense(**given):
    return al.sensitivity(NET, task(**given), kinds="activation", progress=False)


def trade(**options):
    return al.trade_off(NET, task(), **FAST | {"budgets": [0.9], "methods": ["random"], "seeds": 1} | options)


def greedy(call, **options):
    given = {"task": task(), "kinds": "activation", "budget": {"sites": 0.9}, "tune_steps": 1, "progress": False}
    return call(NET, **given | options)


def merge(**options):
    given = {"task": task(), "budget": {"macs": 0.9}, "tune_steps": 1, "progress": False}
    return al.remove_to_merge(CHAIN, **given | options)


def count_up():
    numbers = iter(range(9))
    return lambda net: {f"q{next(numbers)}": 1.0}


LEARN = {
    "lam": [
        (-1, "-1"),
        (NAN, "nan"),
        (INF, "inf"),
        ("0.1", "without quotes"),
        (True, "True"),
        ([0.1], "[0.1]"),
    ],
    "p": [(0, "above 0"), (-2, "-2"), (NAN, "nan"), (INF, "inf"), ("1", "without quotes"), (None, "None")],
    "tau": [
        (2, "from 0 to 1"),
        (-0.1, "-0.1"),
        (NAN, "nan"),
        (None, "None"),
        ("0.5", "without quotes"),
        (True, "True"),
    ],
    "keep": [("drop", "'restore', 'freeze'"), (None, "None"), (True, "True")],
    "granularity": [("layer", "'site', 'channel'"), (None, "None"), (1, "got 1")],
    "soft_steps": [
        (0, "at least 1"),
        (2.5, "2.5"),
        (2.0, "2.0"),
        ("3", "without quotes"),
        (True, "True"),
        (None, "None"),
        (10**12, "at most"),
    ],
    "push_steps": [(-1, "at least 0"), (1.0, "1.0"), ("3", "without quotes"), (None, "None")],
    "tune_steps": [(-1, "at least 0"), (NAN, "nan"), ("3", "without quotes"), (None, "None")],
    "lr": [(-1, "-1"), (NAN, "nan"), (0, "freeze the weights"), ("1e-3", "'1e-3'"), (None, "None"), (INF, "inf")],
    "lr_omega": [(-1, "-1"), (NAN, "nan"), (0, "no site"), ("1", "'1'"), (None, "None")],
    "lr_tune": [(-1, "-1"), (NAN, "nan"), (0, "above 0"), ("1", "'1'")],
    "schedule": [
        (0.5, "a function of the step"),
        (lambda step: NAN, "schedule(0)"),
        (lambda step: None, "None"),
        (lambda: 1.0, "the step"),
        (lambda step: -1.0, "-1.0"),
        ("cosine", "'cosine'"),
    ],
    "tune_schedule": [(0.5, "a function of the step"), (lambda step: NAN, "schedule(0)"), (lambda: 1, "the step")],
    "precision": [("fp16", "'fp32', 'bf16'"), (None, "None"), (16, "16")],
    "optimizer": [
        ("Adam", "torch.optim.Adam"),
        (None, "None"),
        (torch.optim.LBFGS, "LBFGS"),
        (lambda: 1, "parameter groups"),
        (torch.optim.Adam([OTHER]), "a function of parameter groups"),
    ],
    "clip_norm": [(-1, "-1"), (NAN, "nan"), (0, "above 0"), ("1", "without quotes")],
    "save_every": [(0, "at least 1"), (1.5, "1.5"), (-1, "-1"), ("1", "without quotes")],
    "save_every_s": [(-1, "-1"), (NAN, "nan"), ("1", "without quotes")],
    "time_limit_s": [(-1, "-1"), (NAN, "nan"), ("60", "without quotes")],
    "folder": [(3, "the path of a folder"), ("", "''"), (["a"], "['a']"), (__file__, "is a file")],
    "divergence": [(0, "above 0"), (NAN, "nan"), (-1, "-1"), ("1", "without quotes")],
    "prefetch": [(-1, "at least 0"), (1.5, "1.5"), ("1", "without quotes"), (10**9, "at most")],
    "settings": [([1], "a dict of facts"), ("a", "'a'")],
    "progress": [("no", "True or False"), (None, "None")],
    "evaluate": [("no", "True or False"), (1, "1")],
    "nonsense": [(1, "no option 'nonsense'")],
    "penalty": [(lambda net: 1, "phases set themselves")],
    "steps": [(5, "phases set themselves")],
    "kinds": [(None, "kinds names nothing"), ("relu", "'relu'"), (3, "got 3")],
    "where": [("nope", "'nope'"), (3, "got 3")],
}
LOSSES = {
    "a vector": (lambda net, x: net(x).flatten(), "scalar", "shape (192,)", "mean"),
    "a float": (lambda net, x: 1.0, "scalar tensor", "1.0"),
    "detached": (lambda net, x: net(x).mean().detach(), "gradient", ".detach()"),
    "an item": (lambda net, x: net(x).mean().item(), "scalar tensor", ".item()"),
    "None": (lambda net, x: None, "scalar tensor", "None"),
    "NaN": (lambda net, x: net(x).mean() * NAN, "the loss is nan"),
    "of another model": (lambda net, x: OTHER.square(), "computed with the model"),
    "of whole numbers": (lambda net, x: net(x).mean().long(), "gradient", "int64"),
    "without gradients": (lambda net, x: torch.no_grad()(lambda: net(x).mean())(), "gradient"),
    "a tuple": (lambda net, x: (net(x).mean(), {}), "scalar tensor", "(tensor("),
    "of a method that is not there": (lambda net, x: net.nope(x), "raised by task.loss", "nope"),
}
QUALITIES = {
    "a float": (lambda net: 0.5, "a dict of numbers", "0.5"),
    "None": (lambda net: None, "a dict of numbers", "None"),
    "{}": (lambda net: {}, "nothing to compare"),
    "a vector": (lambda net: {"q": torch.ones(3)}, "'q'", "a number", "(3,)"),
    "a string": (lambda net: {"q": "good"}, "'q'", "a number", "'good'"),
    "NaN": (lambda net: {"q": NAN}, "'q'", "NaN for the untouched model"),
    "None by name": (lambda net: {"q": None}, "'q'", "a number", "None"),
    "a bool": (lambda net: {"q": True}, "'q'", "a number", "True"),
    "named by a number": (lambda net: {1: 0.5}, "a name that task.quality returns", "1"),
    "that raises": (lambda net: 1 / 0, "raised by task.quality"),
}
TASKS = [(None, "None"), ({"example": X}, "dict"), ("task", "'task'"), (3, "3")]


class Wide(nn.Module):
    def forward(self, x):
        return x


CALLS = [
    *(
        bad(
            f"learn_to_remove: {name}={told}",
            lambda n=name, v=value: learn(**{n: v}),
            *((name,) if name not in ("kinds", "where") else ()),
            told,
        )
        for name, values in LEARN.items()
        for value, told in values
    ),
    *(
        bad(
            f"learn_to_remove: {told} as the task",
            lambda t=t: al.learn_to_remove(NET, t, **FAST),
            "task must be an al.Task",
            "Task(",
        )
        for t, told in TASKS
    ),
    *(
        bad(f"sensitivity: {told} as the task", lambda t=t: al.sensitivity(NET, t), "task must be an al.Task", "Task(")
        for t, told in TASKS
    ),
    *(
        bad(f"fit: {told} as the task", lambda t=t: fit(Net(), t, steps=1), "task must be an al.Task", "Task(")
        for t, told in TASKS
    ),
    *(
        bad(f"learn_to_remove: a loss that is {told}", lambda f=f: learn(task(loss=f)), *words)
        for told, (f, *words) in LOSSES.items()
    ),
    *(
        bad(f"fit: a loss that is {told}", lambda f=f: train(task(loss=f)), *words)
        for told, (f, *words) in LOSSES.items()
    ),
    *(
        bad(
            f"learn_to_remove: a quality that is {told}",
            lambda f=f: learn(task(quality=f), evaluate=True),
            "task.quality",
            *words,
        )
        for told, (f, *words) in QUALITIES.items()
    ),
    *(
        bad(f"sensitivity: a quality that is {told}", lambda f=f: sense(quality=f), "task.quality", *words)
        for told, (f, *words) in QUALITIES.items()
    ),
    bad("sensitivity: a quality named site", lambda: sense(quality=lambda net: {"site": 1.0}), "'site'", "rename"),
    bad(
        "learn_to_remove: a quality named phase",
        lambda: learn(task(quality=lambda net: {"phase": 1.0}), evaluate=True),
        "'phase'",
        "rename",
    ),
    bad("sensitivity: other qualities each time", lambda: sense(quality=count_up()), "same qualities", "q0", "q1"),
    *(
        bad(f"compare: models={told}", lambda v=value: al.compare(v, task()), "compare: models", told)
        for value, told in [([NET], "a list of 1"), ({}, "{}"), ({"a": 3}, "{'a': 3}"), (None, "None")]
    ),
    bad("compare: seconds=-1", lambda: al.compare({"a": NET}, task(), seconds=-1), "compare: seconds", "-1"),
    bad("compare: steps='2'", lambda: al.compare({"a": NET}, task(), steps="2"), "compare: steps", "'2'"),
    *(
        bad(f"trade_off: {name}={value}", lambda n=name, v=value: trade(**{n: v}), *words)
        for name, value, *words in [
            ("budgets", [1.5], "budget['macs']", "1.5"),
            ("budgets", ["a"], "budget['macs']", "'a'"),
            ("measure", "time", "a measure", "'macs'", "'time'"),
            ("methods", ["best"], "methods", "'greedy'", "'best'"),
            ("granularity", "row", "granularity", "'channel'", "'row'"),
            ("granularity", "head", "kinds='head'"),
            ("granularity", "channel", "'random'", "methods=['learned']"),
            ("seeds", 0, "seeds", "0"),
            ("seeds", "3", "seeds", "'3'"),
            ("lam", 0.1, "'lam'", "leave it out"),
            ("time_limit_s", 9.0, "no option 'time_limit_s'", "with a folder the next call goes on"),
            ("title", "mine", "no option 'title'", "which its phases set themselves"),
            ("kinds", "blok", "kind 'blok'", "activation"),
            ("soft_step", 3, "no option 'soft_step'", "soft_steps"),
        ]
    ),
    *(
        bad(f"{call.__name__}: {name}={value}", lambda c=call, n=name, v=value: greedy(c, **{n: v}), *words)
        for call in (al.remove_greedily, al.remove_at_random)
        for name, value, *words in [
            ("budget", {"macs": 2}, "budget['macs']", "2"),
            ("budget", {}, "budget", "{}"),
            ("budget", 0.5, "budget", "0.5"),
            ("tune_steps", -1, "tune_steps", "-1"),
            ("lr", "0.1", "lr", "without quotes"),
            ("kinds", 3, "kinds", "3"),
            ("epochs", 3, "no option 'epochs'"),
            ("task", None, "task must be an al.Task", "None"),
        ]
    ),
    bad(
        "remove_greedily: score='best'", lambda: greedy(al.remove_greedily, score="best"), "score", "'taylor'", "'best'"
    ),
    bad("remove_greedily: rescore=1", lambda: greedy(al.remove_greedily, rescore=1), "rescore", "True or False", "1"),
    *(
        bad(f"remove_to_merge: {name}={value}", lambda n=name, v=value: merge(**{n: v}), *words)
        for name, value, *words in [
            ("budget", {"sites": 0.5}, "remove_to_merge: the measure in budget", "'macs'", "'sites'"),
            ("budget", {"macs": 0.5, "params": 0.5}, "of one measure", "'params'"),
            ("budget", {"macs": 2}, "budget['macs']", "2"),
            ("budget", None, "either budget or at_most_loss", "neither"),
            ("measure", "sites", "remove_to_merge: measure", "'macs'", "'sites'"),
            ("score", "influence", "score", "'taylor'", "'influence'"),
            ("calibration", 0, "remove_to_merge: calibration", "0"),
            ("tune_steps", -1, "tune_steps", "-1"),
            ("where", "nope", "nope"),
            ("kinds", "block", "no option 'kinds'"),
            ("task", None, "task must be an al.Task", "None"),
        ]
    ),
    bad(
        "remove_to_merge: nothing that would be cheaper",
        lambda: al.remove_to_merge(NET, task(), budget={"macs": 0.9}, progress=False),
        "cannot be met",
        "budget['macs']",
    ),
    bad("remove_at_random: seed=-1", lambda: greedy(al.remove_at_random, seed=-1), "seed", "-1"),
    *(
        bad(f"scores: {name}={value}", lambda n=name, v=value: al.scores(NET, task(), progress=False, **{n: v}), *words)
        for name, value, *words in [
            ("batches", 0, "batches", "0"),
            ("batches", "8", "batches", "without quotes"),
            ("latency", 1, "latency", "1"),
            ("kinds", "blok", "kind 'blok'", "activation"),
            ("kinds", 3, "kinds", "3"),
            ("where", "nope", "nope"),
        ]
    ),
    bad("scores: None as the task", lambda: al.scores(NET, None), "task must be an al.Task", "None"),
    bad("sensitivity: progress='no'", lambda: al.sensitivity(NET, task(), progress="no"), "progress", "True or False"),
    bad("sensitivity: kinds=3", lambda: al.sensitivity(NET, task(), kinds=3, progress=False), "kinds", "3"),
    # the task itself
    *(
        bad(f"Task: {told} as {name}", lambda n=name, v=value: task(**{n: v}), f"Task: {name} must be", told)
        for name in ("batches", "loss", "quality")
        for value, told in [(None, "None"), (0.5, "0.5"), ("x", "'x'"), ([X], "list")]
    ),
    bad(
        "Task: a DataLoader as batches",
        lambda: task(batches=torch.utils.data.DataLoader(X)),
        "Task: batches",
        "DataLoader",
        "step",
    ),
    bad(
        "Task: batches without a step",
        lambda: task(batches=lambda: X),
        "Task: batches",
        "the step",
        "too many positional",
    ),
    bad("Task: a loss of one argument", lambda: task(loss=lambda net: 1), "Task: loss", "the model and a batch"),
    bad(
        "Task: a criterion as the loss",
        lambda: task(loss=nn.MSELoss()),
        "Task: loss",
        "MSELoss()(model(batch[0]), batch[1])",
    ),
    bad("Task: a quality of two arguments", lambda: task(quality=lambda net, x: {}), "Task: quality", "the model"),
    bad("Task: a string as measures", lambda: task(measures="SSIM"), "Task: measures", "'SSIM'"),
    bad("Task: a list as settings", lambda: task(settings=[1]), "Task: settings", "[1]"),
    bad("Task: nothing", lambda: al.Task(), "missing"),
    bad("learn_to_remove: no example", lambda: learn(task(example=None)), "a tensor, a tuple", "None"),
    bad(
        "learn_to_remove: batches of None",
        lambda: learn(task(batches=lambda step: None)),
        "raised by task.loss",
        "None",
        "task.batches",
    ),
    bad(
        "learn_to_remove: batches that end",
        lambda: learn(task(batches=lambda step: next(iter(())))),
        "task.batches",
        "at every step",
        "modulo",
    ),
    bad(
        "learn_to_remove: batches that raise",
        lambda: learn(task(batches=lambda step: [][step])),
        "raised by task.batches(0)",
    ),
    bad(
        "learn_to_remove: a model with switches",
        lambda: al.learn_to_remove(switched(), task(), **FAST),
        "switches already",
        "discard",
    ),
    # fit
    *(
        bad(f"fit: {name}={told}", lambda n=name, v=value: train(**{n: v}), name, told)
        for name, value, told in [
            ("steps", 0, "at least 1"),
            ("steps", NAN, "nan"),
            ("steps", 1.5, "1.5"),
            ("steps", "3", "without quotes"),
            ("steps", None, "None"),
            ("steps", True, "True"),
            ("lr", -1, "-1"),
            ("lr", NAN, "nan"),
            ("lr", 0, "0"),
            ("lr", "0.1", "without quotes"),
            ("lr", torch.ones(()), ".item()"),
            ("clip_norm", -1, "-1"),
            ("clip_norm", NAN, "nan"),
            ("clip_norm", 0, "0"),
            ("divergence", NAN, "nan"),
            ("divergence", 0, "0"),
            ("optimizer", "SGD", "torch.optim.Adam"),
            ("groups", [1], "a function of the model"),
            ("penalty", 0.5, "a function of the model"),
            ("penalty_weight", NAN, "nan"),
            ("after_step", 3, "a function of the model and the step"),
            ("describe", "loss", "a function of the model"),
            ("title", 3, "3"),
            ("progress", "no", "True or False"),
            ("nonsense", 1, "no option 'nonsense'"),
            ("groups", lambda net: net.parameters(), "what groups(model) returns"),
            ("groups", lambda net: [{"params": net.parameters(), "lr": NAN}], "the lr of a parameter group"),
            ("optimizer", lambda groups: 3, "torch.optim.Optimizer"),
            ("after_step", lambda net, step: 3, "what after_step returns"),
            ("after_step", lambda net, step: {"loss": 3}, "'loss'"),
            ("schedule", "cosine", "archlab.training.cosine"),
        ]
    ),
    bad("fit: None as the model", lambda: fit(None, task(), steps=1), "model must be a torch.nn.Module", "None"),
    bad(
        "fit: nothing to train",
        lambda: fit(Wide(), task(), steps=1, progress=False),
        "no parameter",
        "nothing to train",
    ),
    *(
        bad(f"cosine: {a} {o}", lambda a=a, o=o: cosine(*a, **o), told)
        for a, o, told in [
            ((0,), {}, "steps"),
            ((2.5,), {}, "steps"),
            (("5",), {}, "without quotes"),
            ((5,), {"warmup": 5}, "warmup"),
            ((5,), {"warmup": -1}, "warmup"),
            ((5,), {"warmup": 1.5}, "1.5"),
            ((5,), {"final": NAN}, "final"),
            ((5,), {"final": -1}, "final must be"),
            ((5,), {"final": "0"}, "'0'"),
        ]
    ),
    bad("constant: no step", lambda: constant(), "step"),
    bad(
        "learn_to_remove: channels of skips",
        lambda: learn(kinds="skip", granularity="channel"),
        "learn_to_remove: granularity='channel'",
        "kinds='activation'",
        "'skip'",
    ),
    # switches
    *(
        bad(f"set_omegas_: to {told}", lambda v=value: al.set_omegas_(soft(), v), *words, told)
        for value, told, *words in [
            (1.5, "1.5", "from 0 to 1"),
            (-0.1, "-0.1", "from 0 to 1"),
            (NAN, "nan", "from 0 to 1"),
            (7, "7", "from 0 to 1"),
            ("x", "'x'", "omega of"),
            ("0.5", "without quotes", "omega of"),
            (None, "None", "omega of"),
            (torch.ones(2), "(2,)", "omega of"),
            ([0.5], "[0.5]", "omega of"),
            ({"blocks.0/activation.0": "0.5"}, "'0.5'", "blocks.0/activation.0"),
            ({0: 0.5}, "0 has no switch", "blocks.0"),
            ({"*": 1}, "'*' has no switch", "blocks.0/activation.0"),
            ({"blocks.0/activation.0": None}, "got None", "omega of"),
            (True, "True", "omega of"),
        ]
    ),
    *(
        bad(f"penalty: p={told}", lambda v=value: al.penalty(soft(), p=v), "penalty: p", told)
        for value, told in [
            (-1, "-1"),
            (NAN, "nan"),
            (0, "0"),
            (INF, "inf"),
            ("1", "without quotes"),
            (None, "None"),
            (True, "True"),
        ]
    ),
    *(
        bad(
            f"discard: omegas {omegas}",
            lambda o=omegas: al.discard(soft(*o)),
            "omega of blocks",
            "from 0 to 1",
            "project_",
        )
        for omegas in [(NAN, 0.9), (7.0, 0.9), (-0.5, 0.9), (INF, 0.9)]
    ),
    *(
        bad(f"discard: tau={told}", lambda v=value: al.discard(soft(0.9), v), "tau", told)
        for value, told in [
            (2, "2"),
            (-1, "-1"),
            (NAN, "nan"),
            ("0.5", "without quotes"),
            (None, "None"),
            (True, "True"),
            ([0.5], "[0.5]"),
        ]
    ),
    bad("discard: nothing is above tau", lambda: al.discard(soft(1.0, 1.0), 1.0), "tau=1.0", "choose a smaller tau"),
    bad("discard: keep=None", lambda: al.discard(soft(0.9), keep=None), "keep", "'restore', 'freeze'", "None"),
    bad("discard: keep=True", lambda: al.discard(soft(0.9), keep=True), "keep", "True"),
    good("set_omegas_: nothing", lambda: al.set_omegas_(soft(), {})),
    good("set_omegas_: a number in a tensor", lambda: al.set_omegas_(soft(), torch.tensor(0.5))),
    good("project_: NaN stays one, which discard refuses", lambda: al.project_(soft(NAN))),
    good("fit: no limit to divergence", lambda: train(divergence=INF)),
    good("fit: a time limit of 0", lambda: train(time_limit_s=0)),
    good("fit: a task without an example", lambda: train(task(example=None))),
    good(
        "learn_to_remove: frozen weights",
        lambda: al.learn_to_remove(Net().requires_grad_(False), task(), **FAST | {"tune_steps": 0, "push_steps": 0}),
    ),
    good("learn_to_remove: a huge lam", lambda: learn(lam=1e30)),
]
