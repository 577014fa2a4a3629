"""Bad calls of supernets, their choices and searches, and of curves over λ."""

from functools import lru_cache

from torch import nn

import archlab as al

from .learning import FAST
from .rows import NET, X, bad, task


@lru_cache
def net() -> nn.Module:
    return al.supernet(NET, X, choices={"blocks.*": al.optional()})


def path(**options):
    return al.lambda_path(NET, task(), **FAST | {"lams": [0.1], "seeds": 1} | options)


def search(**options):
    given = {"net": net(), "task": task(), "objectives": {"q": "higher"}, "trials": 2, "progress": False} | options
    return al.search(given.pop("net"), given.pop("task"), **given)


CALLS = [
    bad("supernet: choices={}", lambda: al.supernet(NET, X, choices={}), "supernet: choices", "{}"),
    bad("supernet: no such module", lambda: al.supernet(NET, X, choices={"block": al.optional()}), "'block'", "blocks"),
    bad("supernet: a choice that is none", lambda: al.supernet(NET, X, choices={"blocks.*": 3}), "'blocks.*'", "3"),
    bad(
        "supernet: a kernel of a ReLU", lambda: al.supernet(NET, X, choices={"blocks.0.act": al.kernel(3, 5)}),
        "blocks.0.act",
    ),
    bad("kernel: size 0", lambda: al.kernel(0), "kernel", "0"),
    bad("kernel: size '3'", lambda: al.kernel("3"), "kernel", "'3'"),
    bad("kernel: weights='both'", lambda: al.kernel(3, weights="both"), "weights", "'both'", "'own'"),
    bad("optional: an argument", lambda: al.optional(3), "optional"),
    bad("width: ratio 0", lambda: al.width(0), "width", "0"),
    bad("width: ratio 'half'", lambda: al.width("half"), "width", "'half'"),
    bad("either: no function", lambda: al.either(3), "either", "3"),
    *(
        bad(f"{name}: no supernet", lambda c=call: c(), "no supernet")
        for name, call in [
            ("space", lambda: al.space(NET)),
            ("set_architecture_", lambda: al.set_architecture_(NET, {})),
            ("sample_", lambda: al.sample_(NET, 0, 0)),
            ("choose", lambda: al.choose(NET, {})),
        ]
    ),
    bad("set_architecture_: no such position", lambda: al.set_architecture_(net(), {"block.0": "skip"}), "'block.0'"),
    bad("set_architecture_: no such option", lambda: al.set_architecture_(net(), {"blocks.0": "gone"}), "'gone'"),
    bad("sample_: seed='a'", lambda: al.sample_(net(), "a", 0), "seed", "'a'"),
    bad("estimate_norms_: no task", lambda: al.estimate_norms_(net(), None), "task", "None"),
    bad("one_path: seed=-1", lambda: al.one_path(task(), seed=-1), "seed", "-1"),
    bad("one_path: no task", lambda: al.one_path(None, seed=0), "task", "None"),
    bad("lambda_path: lams=[-1]", lambda: path(lams=[-1]), "lam", "-1"),
    bad("lambda_path: granularity='row'", lambda: path(granularity="row"), "granularity", "'channel'", "'row'"),
    bad("lambda_path: seeds=0", lambda: path(seeds=0), "seeds", "0"),
    bad("lambda_path: kinds='blok'", lambda: path(kinds="blok"), "kind 'blok'"),
    bad("search: trials=0", lambda: search(trials=0), "trials", "0"),
    bad("search: workers=-1", lambda: search(workers=-1), "workers", "-1"),
    bad("search: workers='2'", lambda: search(workers="2"), "workers", "'2'"),
    bad("search: scheduler=3", lambda: search(scheduler=3), "scheduler", "3", "tcp://"),
    bad("search: scheduler=''", lambda: search(scheduler=""), "scheduler", "''", "tcp://"),
    bad("search: resources without a cluster", lambda: search(resources={"GPU": 1}), "resources", "scheduler", "GPU"),
    bad("search: resources=3", lambda: search(scheduler="tcp://h:1", resources=3), "resources", "3", "{'GPU': 1}"),
    bad("search: sampler='best'", lambda: search(sampler="best"), "sampler", "'best'", "evolution"),
    bad("search: within={'mac': 3}", lambda: search(within={"mac": 3}), "mac"),
    bad("search: no supernet", lambda: search(net=NET), "supernet"),
]  # fmt: skip
