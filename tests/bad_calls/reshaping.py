"""Bad calls of what reshapes a model, and of recipes and files."""

import torch
from torch import nn

import archlab as al

from .rows import INF, NAN, NET, Net, X, bad, good, soft

UP = nn.Sequential(nn.Conv2d(X.shape[1], 2, 1), nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 3))


def width(**options):
    return al.scale_width(NET, X, **options)


def depth(**options):
    return al.scale_depth(NET, X, **{"span": "blocks", "count": 3} | options)


def grid(**options):
    return al.scale_resolution(NET, X, **{"span": "blocks"} | options)


def scores(value):
    return lambda group: torch.full((4,), value)


SWITCHED = {
    "remove": lambda m: al.remove(m, X, kinds="skip"),
    "fold": lambda m: al.fold(m, X),
    "replace": lambda m: al.replace(m, "head", nn.Identity),
    "scale_width": lambda m: al.scale_width(m, X, ratio=0.5),
    "share": lambda m: al.share(m, X, keep="head", drop="tail"),
    "scale_depth": lambda m: al.scale_depth(m, X, span="blocks", count=3),
    "hoist_padding": lambda m: al.hoist_padding(m, X),
    "fold_upsampling": lambda m: al.fold_upsampling(m, X),
    "scale_resolution": lambda m: al.scale_resolution(m, X, span="blocks"),
    "switch": lambda m: al.switch(m, X, kinds="skip"),
}
NUMBERS = [(0, "0"), (-1, "-1"), (NAN, "nan"), ("3", "'3'"), (None, "None"), (True, "True"), (1.5, "1.5"), ([3], "[3]")]

CALLS = [
    *(
        bad(f"{name}: a model with switches", lambda f=f: f(soft()), "has switches", "discard")
        for name, f in SWITCHED.items()
    ),
    bad("scale_width: neither ratio nor widths", lambda: width(), "give a ratio or widths"),
    bad("scale_width: both ratio and widths", lambda: width(ratio=0.5, widths={"head": 2}), "give a ratio or widths"),
    *(
        bad(f"scale_width: ratio={told}", lambda v=value: width(ratio=v), "ratio", told)
        for value, told in [
            (0, "0"),
            (-1, "-1"),
            (NAN, "nan"),
            (INF, "inf"),
            (1e9, "1000000000.0"),
            (1000.0, "1000.0"),
            ("0.5", "without quotes"),
            (True, "True"),
            ({"*": "a"}, "'a'"),
            ({"*": None}, "None"),
            ([0.5], "[0.5]"),
            ({}, "{}"),
            ({1: 0.5}, "a glob"),
            (torch.ones(()), ".item()"),
        ]
    ),
    *(
        bad(f"scale_width: a width of {told}", lambda v=value: width(widths={"head": v}), "head", told)
        for value, told in [
            (0, "0"),
            (-4, "-4"),
            (2.5, "2.5"),
            ("8", "without quotes"),
            (10**12, "at most"),
            (None, "None"),
            (True, "True"),
        ]
    ),
    bad("scale_width: no widths", lambda: width(widths={}), "widths", "{}"),
    bad("scale_width: widths that are no dict", lambda: width(widths=[4]), "widths", "[4]"),
    bad("scale_width: a glob of no layer", lambda: width(ratio={"nope": 0.5}), "'nope'", "head"),
    bad("scale_width: a width of no layer", lambda: width(widths={"nope": 3}), "'nope'", "head"),
    bad("scale_width: a ratio of 1", lambda: width(ratio=1), "scale_width", "head has 4 channels"),
    bad("scale_width: where of no layer", lambda: width(ratio=0.5, where="nope"), "'nope'", "head"),
    bad("scale_width: init='x'", lambda: width(ratio=0.5, init="x"), "init", "'fresh', 'prune', 'preserve'", "'x'"),
    bad("scale_width: init=None", lambda: width(ratio=0.5, init=None), "init", "None"),
    bad("scale_width: importance='l3'", lambda: width(ratio=0.5, init="prune", importance="l3"), "importance", "'l3'"),
    bad(
        "scale_width: importance=3",
        lambda: width(ratio=0.5, init="prune", importance=3),
        "importance",
        "a function of the weights of a group",
        "3",
    ),
    *(
        bad(f"scale_width: round_to={told}", lambda v=value: width(ratio=0.5, round_to=v), "round_to", told)
        for value, told in [*NUMBERS, (10**9, "at most")]
    ),
    *(
        bad(f"scale_depth: count={told}", lambda v=value: depth(count=v), "count", told)
        for value, told in [*NUMBERS, (10**9, "at most"), (2, "another than 2"), (2.0, "2.0")]
    ),
    *(
        bad(f"scale_depth: span={told}", lambda v=value: depth(span=v), "span", told)
        for value, told in [
            ("nope", "'nope'"),
            (None, "None"),
            (["blocks"], "['blocks']"),
            (3, "3"),
            ("head", "Conv2d"),
        ]
    ),
    bad("scale_depth: init='copy'", lambda: depth(init="copy"), "init", "'fresh', 'preserve'", "'copy'"),
    *(
        bad(f"scale_resolution: factor={told}", lambda v=value: grid(factor=v), "factor", "0.125", told)
        for value, told in [
            (0, "0"),
            (1, "1"),
            (-2, "-2"),
            (3, "3"),
            (NAN, "nan"),
            (INF, "inf"),
            ("2", "'2'"),
            (None, "None"),
            (1e9, "1000000000.0"),
            (16, "16"),
            (0.3, "0.3"),
            (True, "True"),
            ([2], "[2]"),
        ]
    ),
    *(
        bad(f"scale_resolution: kernel={told}", lambda v=value: grid(kernel=v), "kernel", told)
        for value, told in [*NUMBERS, (2, "odd"), (10001, "at most")]
    ),
    *(
        bad(f"scale_resolution: span={told}", lambda v=value: grid(span=v), told)
        for value, told in [
            ("nope", "'nope'"),
            (("blocks.1", "blocks.0"), "runs before"),
            (("head", "blocks.0"), "one container"),
            (("a", "b", "c"), "('a', 'b', 'c')"),
            (3, "got 3"),
            ("", "''"),
            (None, "None"),
            ((1, 2), "(1, 2)"),
        ]
    ),
    bad("scale_resolution: down='maxpool'", lambda: grid(down="maxpool"), "down", "'average'", "'maxpool'"),
    bad("scale_resolution: up='x'", lambda: grid(up="x"), "up", "'bilinear'", "'x'"),
    bad("scale_resolution: init='preserve'", lambda: grid(init="preserve"), "init", "'resample'", "'preserve'"),
    bad("scale_resolution: up=None", lambda: grid(up=None), "up", "None"),
    *(
        bad(f"scale_resolution: activation={told}", lambda v=value: grid(activation=v), "activation", told)
        for value, told in [
            ("ReLU", "'ReLU'"),
            (nn.ReLU(), "ReLU()"),
            (nn.Linear, "in_features"),
            (3, "3"),
            (torch.relu, "relu"),
        ]
    ),
    *(
        bad(
            f"sweep_resolution: factors={told}",
            lambda v=value: al.sweep_resolution(NET, X, span="blocks", factors=v),
            "factor",
            told,
        )
        for value, told in [([], "[]"), (2, "2"), ("2", "'2'"), ([3], "3"), (None, "None"), (["4"], "'4'")]
    ),
    *(
        bad(f"sweep_width: ratios={told}", lambda v=value: al.sweep_width(NET, X, ratios=v), "ratio", told)
        for value, told in [([], "[]"), (2, "2"), ("2", "'2'"), ([-1], "-1"), (None, "None"), (["4"], "'4'")]
    ),
    bad("fold: nothing to fold", lambda: al.fold(NET, X), "nothing to fold"),
    bad("fold: cost='time'", lambda: al.fold(NET, X, cost="time"), "cost", "'macs', 'latency'", "'time'"),
    bad("fold: cost=None", lambda: al.fold(NET, X, cost=None), "cost", "None"),
    bad("fold: cost=3", lambda: al.fold(NET, X, cost=3), "cost", "3"),
    bad("fold: a cost of nothing", lambda: al.fold(NET, X, cost=lambda: 1), "cost", "a module and its input shape"),
    bad(
        "fold: a cost that is NaN",
        lambda: al.fold(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)), X, cost=lambda m, s: NAN),
        "cost",
        "finite",
        "nan",
    ),
    bad(
        "fold: a cost that is a string",
        lambda: al.fold(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)), X, cost=lambda m, s: "1"),
        "cost",
        "'1'",
    ),
    bad("fold: where='nope'", lambda: al.fold(NET, X, where="nope"), "'nope'", "head"),
    bad("fold: where=3", lambda: al.fold(NET, X, where=3), "where", "3"),
    bad("hoist_padding: where='nope'", lambda: al.hoist_padding(NET, X, where="nope"), "'nope'", "head"),
    bad("hoist_padding: nothing to hoist", lambda: al.hoist_padding(NET, X), "no padding"),
    bad("fold_upsampling: nothing to fold", lambda: al.fold_upsampling(NET, X), "no nearest upsampling"),
    bad("fold_upsampling: where='nope'", lambda: al.fold_upsampling(UP, X, where="nope"), "'nope'", "there is 2"),
    bad("fold_upsampling: where=3", lambda: al.fold_upsampling(UP, X, where=3), "where", "3"),
    bad("hoist_padding: cost='time'", lambda: al.hoist_padding(NET, X, cost="time"), "cost", "'time'"),
    *(
        bad(f"share: keep={keep!r}, drop={drop!r}", lambda k=keep, d=drop: al.share(NET, X, keep=k, drop=d), *words)
        for keep, drop, *words in [
            ("head", "head", "'head'"),
            ("nope", "head", "keep='nope'"),
            ("head", "nope", "drop='nope'"),
            ("tail", "head", "channels"),
            ("blocks.1", "blocks.0", "computed from"),
            (None, "head", "keep", "None"),
            ("head", 3, "drop", "3"),
            (["head"], "tail", "keep", "['head']"),
        ]
    ),
    bad("replace: an unknown path", lambda: al.replace(NET, "nope", nn.ReLU), "'nope'", "head"),
    bad("replace: the model itself", lambda: al.replace(NET, "", nn.ReLU), "''", "head"),
    bad("replace: None as path", lambda: al.replace(NET, None, nn.ReLU), "path", "None"),
    bad("replace: a module as factory", lambda: al.replace(NET, "head", nn.ReLU()), "factory", "ReLU()"),
    bad("replace: a lambda as factory", lambda: al.replace(NET, "head", lambda: nn.ReLU()), "factory", "name"),
    bad("replace: None as factory", lambda: al.replace(NET, "head", None), "factory", "None"),
    bad("replace: a string as factory", lambda: al.replace(NET, "head", "ReLU"), "factory", "'ReLU'"),
    bad("replace: a factory of something else", lambda: al.replace(NET, "head", dict), "dict", "torch.nn.Module"),
    bad(
        "replace: arguments that do not fit",
        lambda: al.replace(NET, "head", nn.Conv2d, in_channels=3),
        "out_channels",
        "raised by Conv2d",
    ),
    bad(
        "replace: arguments that JSON has not",
        lambda: al.replace(NET, "head", nn.Identity, device=torch.device("cpu")),
        "JSON",
        "Identity",
    ),
    bad("recipe: a string", lambda: al.recipe("x"), "model", "'x'"),
    *(
        bad(
            f"apply: {told} as the recipe",
            lambda r=r: al.apply(r, NET, X),
            "recipe must be a Recipe",
            "from_json",
            told,
        )
        for r, told in [(None, "None"), ({}, "{}"), ("{}", "'{}'"), ([], "[]")]
    ),
    bad("apply: None as the model", lambda: al.apply(al.recipe(NET), None, X), "model must be", "None"),
    bad("apply: another class", lambda: al.apply(al.recipe(NET), nn.ReLU(), X), "for a Net", "ReLU"),
    bad("apply: a list of modules", lambda: al.apply(al.recipe(NET), NET, X, [nn.ReLU]), "modules", "a dict"),
    *(
        bad(f"Recipe: from_json of {told}", lambda t=t: al.Recipe.from_json(t), *words)
        for t, told, *words in [
            (None, "None", "text", "None"),
            (3, "3", "text", "3"),
            ({}, "{}", "text", "{}"),
            ("", "nothing", "not a recipe"),
            ("[1]", "a list", "not a recipe"),
        ]
    ),
    *(
        bad(f"save: {told} as path", lambda p=p: al.save(NET, p), "save: path", told)
        for p, told in [
            (None, "None"),
            (3, "3"),
            ("", "''"),
            ("/tmp", "is a folder"),
            (["a"], "['a']"),
            ("a\0b", "the path of a file"),
        ]
    ),
    *(
        bad(f"load: {told} as path", lambda p=p: al.load(p, Net, X), "load: path", told)
        for p, told in [(None, "None"), (3, "3"), ("", "''"), ("/tmp", "is a folder")]
    ),
    bad("load: no file", lambda: al.load("never.safetensors", Net, X), "never.safetensors"),
    bad("load: a model as factory", lambda: al.load("x", NET, X), "factory", "lambda: model"),
    bad("load: None as factory", lambda: al.load("x", None, X), "factory", "None"),
    bad("load: a list as modules", lambda: al.load("x", Net, X, [nn.ReLU]), "modules", "a dict"),
    good("replace: a tuple becomes a list", lambda: al.replace(NET, "blocks.0.act", nn.LeakyReLU, negative_slope=0.1)),
    good("recipe: a model that no pass has made", lambda: al.recipe(NET)),
    good("scale_depth: fewer blocks", lambda: depth(count=1)),
]
