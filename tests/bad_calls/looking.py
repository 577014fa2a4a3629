"""Bad calls of what looks at a model: sites, cost, fvcore_cost, speed, Call, and models and examples of every call."""

import copy

import numpy as np
import torch
import torch._dynamo  # takes seconds, the first time
from torch import nn

import archlab as al

from .rows import INF, NAN, NET, X, bad, good, task

MODELS = [
    (None, "None"),
    ("net", "'net'"),
    (3, "3"),
    (nn.ReLU, "make one of the class"),
    ([NET], "list"),
    ({}, "{}"),
    (X, "torch.Tensor"),
    (lambda x: x, "<lambda>"),
]
ON_META = copy.deepcopy(NET).to("meta")
TAKE_MODELS = {
    "sites": lambda m: al.sites(m, X),
    "cost": lambda m: al.cost(m, X),
    "fvcore_cost": lambda m: al.fvcore_cost(m, X),
    "switch": lambda m: al.switch(m, X, kinds="skip"),
    "remove": lambda m: al.remove(m, X, kinds="skip"),
    "fold": lambda m: al.fold(m, X),
    "hoist_padding": lambda m: al.hoist_padding(m, X),
    "share": lambda m: al.share(m, X, keep="a", drop="b"),
    "replace": lambda m: al.replace(m, "head", nn.Identity),
    "scale_width": lambda m: al.scale_width(m, X, ratio=0.5),
    "scale_depth": lambda m: al.scale_depth(m, X, span="blocks", count=3),
    "scale_resolution": lambda m: al.scale_resolution(m, X, span="blocks"),
    "sensitivity": lambda m: al.sensitivity(m, task(), progress=False),
    "learn_to_remove": lambda m: al.learn_to_remove(m, task(), kinds="skip", lr_omega=1.0, progress=False),
    "recipe": lambda m: al.recipe(m),
    "save": lambda m: al.save(m, "never.safetensors"),
}
SWITCHED = {
    "discard": al.discard,
    "omegas": al.omegas,
    "penalty": al.penalty,
    "project_": al.project_,
    "omega_parameters": al.omega_parameters,
    "set_omegas_": lambda m: al.set_omegas_(m, 0.5),
}
EXAMPLES = [
    ([X], "got a list", "tuple"),
    (X.numpy(), "numpy", "torch.from_numpy"),
    ((X.numpy(),), "numpy", "torch.from_numpy"),
    (X.double(), "torch.float64", ".to(torch.float32)"),
    (X.long(), "torch.int64", ".to(torch.float32)"),
    ("image", "'image'", "a tensor, a tuple"),
    (None, "None", "a tensor, a tuple"),
    (3.5, "3.5", "a tensor, a tuple"),
    (X[:, :2], "head (Conv2d)", "(1, 2, 8, 8)"),
    ({"y": X}, "the model itself", "'y'"),
    ((), "missing", "holds no tensor"),
    ((X, X), "the model itself", "takes 2 positional"),
    (torch.rand(4), "head (Conv2d)", "(4,)"),
]
TAKE_EXAMPLES = {
    "sites": lambda x: al.sites(NET, x),
    "cost": lambda x: al.cost(NET, x),
    "switch": lambda x: al.switch(NET, x, kinds="skip"),
    "remove": lambda x: al.remove(NET, x, kinds="skip"),
    "speed": lambda x: al.speed(NET, x, seconds=0.01),
    "fold": lambda x: al.fold(NET, x),
    "scale_depth": lambda x: al.scale_depth(NET, x, span="blocks", count=3),
    "sensitivity": lambda x: al.sensitivity(NET, task(), X if x is None else x, progress=False),
}


class Ends(nn.Module):
    def forward(self, x):
        raise SystemExit(3)


CALLS = [
    *(
        bad(f"{name}: {told} as the model", lambda f=f, m=m: f(m), "model must be a torch.nn.Module", told)
        for name, f in TAKE_MODELS.items()
        for m, told in MODELS
    ),
    *(
        bad(f"{name}: {told} as the model", lambda f=f, m=m: f(m), "soft must be a model with switches", "switch(")
        for name, f in SWITCHED.items()
        for m, told in MODELS[:4]
    ),
    *(
        bad(f"{name}: a model without switches", lambda f=f: f(NET), "Net has no switches", "switch(")
        for name, f in SWITCHED.items()
    ),
    *(
        bad(f"{name}: {words[0]} as the example, {i}", lambda f=f, x=x: f(x), *words)
        for name, f in TAKE_EXAMPLES.items()
        for i, (x, *words) in enumerate(EXAMPLES)
        if not (name == "speed" and words[0].startswith("torch.")) and not (name == "sensitivity" and x is None)
    ),
    bad("fvcore_cost: None as the example", lambda: al.fvcore_cost(NET, None), "a tensor, a tuple", "None"),
    bad("fvcore_cost: a list as the example", lambda: al.fvcore_cost(NET, [X]), "got a list", "tuple"),
    bad("sites: no example", lambda: al.sites(NET), "missing 1 required", "example"),
    bad("sites: compiled", lambda: al.sites(torch.compile(NET), X), "compiled", "_orig_mod"),
    bad("sites: wrapped", lambda: al.sites(nn.DataParallel(NET), X), "DataParallel", ".module"),
    bad("sites: no forward", lambda: al.sites(nn.ModuleList([NET]), X), "forward", "the model itself (ModuleList)"),
    bad("sites: a model that ends the program", lambda: al.sites(Ends(), X), "ends the program", "SystemExit(3)"),
    bad("sites: an unknown kind", lambda: al.sites(NET, X, kinds="blok"), "'blok'", "block"),
    bad(
        "sites: two kinds in a string", lambda: al.sites(NET, X, kinds="activation,skip"), "'activation,skip'", "choose"
    ),
    bad("sites: no kind", lambda: al.sites(NET, X, kinds=[]), "kinds names nothing", "choose"),
    bad("sites: a number as kinds", lambda: al.sites(NET, X, kinds=3), "kinds must be", "activation", "got 3"),
    bad("sites: a class as a kind", lambda: al.sites(NET, X, kinds=[nn.ReLU]), "ReLU", "choose"),
    bad("sites: where that matches nothing", lambda: al.sites(NET, X, where="nope*"), "'nope*'", "blocks.0/skip.0"),
    bad("sites: an empty where", lambda: al.sites(NET, X, where=""), "where=''", "blocks.0/skip.0"),
    bad("sites: a number as where", lambda: al.sites(NET, X, where=0), "where must be a glob", "got 0"),
    bad("sites: a class as where", lambda: al.sites(NET, X, where=nn.ReLU), "where must be a glob", "ReLU"),
    bad("sites: where that raises", lambda: al.sites(NET, X, where=lambda s: 1 / 0), "raised by where", "<lambda>"),
    bad("sites: where of two arguments", lambda: al.sites(NET, X, where=lambda a, b: True), "raised by where"),
    bad("remove: kinds by position", lambda: al.remove(NET, X, "block"), "takes 2 positional"),
    bad("remove: no kinds", lambda: al.remove(NET, X), "kinds"),
    bad(
        "remove: a kind that the model has not",
        lambda: al.remove(NET, X, kinds="gate"),
        "no site of kind gate",
        "2 skip",
    ),
    bad(
        "remove: a site of another kind",
        lambda: al.remove(NET, X, kinds="block", where="head"),
        "'head'",
        "blocks/block.0",
    ),
    bad("switch: None as kinds", lambda: al.switch(NET, X, kinds=None), "kinds names nothing", "None"),
    bad("switch: no where", lambda: al.switch(NET, X, kinds="activation", where=[]), "where=[]", "activation.0"),
    *(
        bad(f"switch: granularity={told}", lambda v=value: al.switch(NET, X, kinds="activation", granularity=v), told)
        for value, told in [
            ("row", "'site', 'channel', got 'row'"),
            ("head", "choose kinds='head'"),
            (None, "None"),
            (["channel"], "['channel']"),
        ]
    ),
    bad(
        "switch: channels of blocks",
        lambda: al.switch(NET, X, kinds="block", granularity="channel"),
        "kinds='activation' alone",
        "'block'",
    ),
    bad(
        "switch: both operands",
        lambda: al.switch(NET, X, kinds=["skip", "branch"]),
        "operands of one sum",
        "choose one",
    ),
    bad(
        "cost: an unknown convention",
        lambda: al.cost(NET, X, convention="flops"),
        "convention",
        "'macs', 'paper'",
        "'flops'",
    ),
    bad("cost: None as convention", lambda: al.cost(NET, X, convention=None), "convention", "None"),
    bad("cost: a list as convention", lambda: al.cost(NET, X, convention=["macs"]), "convention", "['macs']"),
    *(
        bad(
            f"cost: by_module({depth!r})",
            lambda d=depth: al.cost(NET, X).by_module(d),
            "depth must be a whole number",
            told,
        )
        for depth, told in [(-1, "-1"), (0, "0"), ("1", "'1'"), (1.5, "1.5"), (True, "True")]
    ),
    *(
        bad(
            f"speed: seconds={value!r}",
            lambda v=value: al.speed(NET, X, seconds=v),
            "seconds must be a finite number",
            told,
        )
        for value, told in [
            (0, "0"),
            (-1, "-1"),
            (NAN, "nan"),
            (INF, "inf"),
            ("2", "without quotes"),
            (None, "None"),
            (True, "True"),
        ]
    ),
    *(
        bad(f"speed: {name}={value!r}", lambda n=name, v=value: al.speed(NET, X, **{n: v}), name, told)
        for name, value, told in [
            ("mode", "jit", "'eager'"),
            ("mode", None, "None"),
            ("precision", "fp8", "'bf16'"),
            ("precision", 16, "16"),
            ("device", "gpu", "cpu or cuda"),
            ("device", 0, "'cuda:0'"),
            ("device", ["cpu"], "['cpu']"),
            ("memory_format", "nchw", "'channels_last'"),
            ("batch", 0, "at least 1"),
            ("batch", -3, "-3"),
            ("batch", 1.5, "1.5"),
            ("batch", "4", "without quotes"),
            ("by_module", 0, "at least 1"),
            ("by_module", "2", "without quotes"),
            ("by_module", True, "True"),
            ("by_module", 1.5, "1.5"),
        ]
    ),
    bad("speed: mode='graph' on a CPU", lambda: al.speed(NET, X, mode="graph", device="cpu"), "mode='graph'", "cpu"),
    bad("speed: no model", lambda: al.speed({}, X), "a dict of some by name", "{}"),
    bad("speed: a list of models", lambda: al.speed([NET], X), "torch.nn.Module", "list"),
    bad("speed: a dict of no models", lambda: al.speed({"a": 3}, X), "torch.nn.Module", "3"),
    bad("speed: a name that is a number", lambda: al.speed({1: NET}, X), "a name in model", "got 1"),
    bad("speed: examples of other names", lambda: al.speed({"a": NET}, {"b": X}), "the model itself", "'b'"),
    bad("Call: None as the function", lambda: al.Call(None, X), "Call: fn", "None"),
    bad("Call: a string as the function", lambda: al.Call("forward", X), "Call: fn", "'forward'"),
    bad(
        "Call: a function of nothing", lambda: al.sites(NET, al.Call(lambda: 1, X)), "takes 0 positional", "archlab ran"
    ),
    bad(
        "Call: an array",
        lambda: al.sites(NET, al.Call(lambda net, x: net(x), np.ones((1, 3, 8, 8)))),
        "torch.from_numpy",
    ),
    good("sites: an empty batch", lambda: al.sites(NET, X[:0])),
    good("sites: NaN in the example", lambda: al.sites(NET, X * NAN)),
    good("sites: an unbatched image", lambda: al.sites(NET, X[0])),
    good("sites: one pixel", lambda: al.sites(NET, X[..., :1, :1])),
    bad("sites: a model on meta, an example that is not", lambda: al.sites(ON_META, X), ".to('meta')"),
    bad("fold: an example on meta", lambda: al.fold(NET, X.to("meta")), "holds values"),
    bad("speed: a model on meta", lambda: al.speed(ON_META, X.to("meta"), device="cpu"), "hold values"),
    good("cost: an example on meta", lambda: al.cost(NET, X.to("meta"))),
    good("sites: a model without layers", lambda: al.sites(nn.Sequential(), X)),
    good("cost: a whole number as a numpy number", lambda: al.cost(NET, X).by_module(np.int64(1))),
]
