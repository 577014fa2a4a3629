"""Bad calls of what measures images, draws, prints and runs studies."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torchmetrics.functional.image  # noqa: F401  # takes long, the first time

import archlab as al

from .rows import INF, NAN, bad, good

STUDY = "tests.bad_calls.study"
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BYTES = (IMAGES * 255).round()
FRAME = pd.DataFrame({"row": ["a", "b"], "v": [1.0, 2.0], "w": [2.0, 1.0]})
HISTORY = pd.DataFrame({"step": [0, 1], "site": ["a", "a"], "omega": [0.0, 1.0]})
EMPTY = FRAME.iloc[:0]


def tradeoff(frame=FRAME, **options):
    try:
        return al.plot.tradeoff(frame, **{"x": "v", "y": "w", "label": "row"} | options)
    finally:
        plt.close("all")


def drawn(name, *args, **options):
    try:
        return getattr(al.plot, name)(*args, **options)
    finally:
        plt.close("all")


SENSED = pd.DataFrame({"site": ["a", "b"], "kind": "skip", "delta_q": [0.1, 0.2]})
RANGES = [(0, "0"), (-1, "-1"), (NAN, "nan"), (INF, "inf"), ("1", "without quotes"), (None, "None"), (True, "True")]
PAIRS = {
    "bytes": (IMAGES.mul(255).byte(), IMAGES.mul(255).byte(), "images", "uint8", "/ 255"),
    "0 to 255": (BYTES, BYTES, "targets", "data_range=1", "255"),
    "0 to 255 and 0 to 1": (BYTES, IMAGES, "images", "data_range=1", "255"),
    "targets from -1 to 1": (IMAGES, IMAGES * 2 - 1, "targets", "data_range=1"),
    "NaN": (IMAGES, IMAGES * NAN, "targets", "NaN"),
    "infinite": (IMAGES, IMAGES / 0, "targets", "inf"),
    "arrays": (IMAGES.numpy(), IMAGES.numpy(), "images", "torch.from_numpy"),
    "an array": (IMAGES, IMAGES.numpy(), "targets", "torch.from_numpy"),
    "None": (None, IMAGES, "images", "None"),
    "no images": (IMAGES[:0], IMAGES[:0], "images", "one image or more"),
    "two shapes": (IMAGES, IMAGES[:1], "one shape", "(1, 3, 32, 32)"),
    "three dimensions": (IMAGES[0], IMAGES[0], "N x C x H x W", "(3, 32, 32)"),
    "whole numbers": (IMAGES.long(), IMAGES.long(), "images", "int64"),
}

CALLS = [
    *(
        bad(f"{name}: {told}", lambda f=f, a=a, b=b: f(a, b), *words)
        for name, f in {
            "ssim": al.ssim,
            "psnr": al.psnr,
            "lpips": lambda a, b: al.lpips(a, b, backbone="no.pth"),
        }.items()
        for told, (a, b, *words) in PAIRS.items()
    ),
    *(
        bad(f"{name}: data_range={told}", lambda f=f, v=value: f(IMAGES, IMAGES, data_range=v), "data_range", told)
        for name, f in {"ssim": al.ssim, "psnr": al.psnr}.items()
        for value, told in RANGES
    ),
    *(
        bad(
            f"{name}: reduction={value!r}",
            lambda f=f, v=value: f(IMAGES, IMAGES, reduction=v),
            "reduction",
            "'mean', 'none'",
            repr(value),
        )
        for name, f in {"ssim": al.ssim, "psnr": al.psnr}.items()
        for value in ("sum", None, 3)
    ),
    *(
        bad(f"ssim: crop={told}", lambda v=value: al.ssim(IMAGES, IMAGES, crop=v), "crop", told)
        for value, told in [(-1, "-1"), (1.5, "1.5"), ("2", "without quotes"), (None, "None"), (100, "200 pixels")]
    ),
    bad("ssim: too small", lambda: al.ssim(IMAGES[..., :8, :8], IMAGES[..., :8, :8]), "pixels a side", "(2, 3, 8, 8)"),
    bad("lpips: one channel", lambda: al.lpips(IMAGES[:, :1], IMAGES[:, :1]), "images", "N x 3 x H x W", "three times"),
    bad("lpips: net='squeeze'", lambda: al.lpips(IMAGES, IMAGES, net="squeeze"), "net", "'alex', 'vgg'", "'squeeze'"),
    bad("lpips: no such backbone", lambda: al.lpips(IMAGES, IMAGES, backbone="no.pth"), "no.pth", "no such file"),
    bad("lpips: a folder as backbone", lambda: al.lpips(IMAGES, IMAGES, backbone="/tmp"), "/tmp", "no such file"),
    bad("lpips_network: net=None", lambda: al.lpips_network(None, "no.pth"), "net", "None"),
    bad("lpips_network: no such backbone", lambda: al.lpips_network("alex", "no.pth"), "no.pth", "no such file"),
    # tables
    *(
        bad(f"table: {told} as frame", lambda v=value: al.table(v), "frame must be a pandas.DataFrame", told)
        for value, told in [
            (None, "None"),
            ({"a": [1]}, "{'a': [1]}"),
            ([[1]], "[[1]]"),
            (np.ones((2, 2)), "numpy"),
            (FRAME["v"], "pandas"),
        ]
    ),
    *(
        bad(f"table: {told}", lambda o=options: al.table(FRAME, **o), *words)
        for told, options, *words in [
            ("base=5", {"base": 5}, "base", "0 to 1", "5"),
            ("base=-1", {"base": -1}, "base", "-1"),
            ("base='a'", {"base": "a"}, "base", "'a'"),
            ("base=True", {"base": True}, "base", "True"),
            ("base=0.0", {"base": 0.0}, "base", "0.0"),
            ("deltas='v'", {"deltas": "v", "base": 0}, "deltas", "a list", "'v'"),
            ("deltas of text", {"deltas": ["row"], "base": 0}, "'row'", "of numbers"),
            ("deltas of no column", {"deltas": ["zz"], "base": 0}, "'zz'", "row, v"),
            ("deltas without a base", {"deltas": ["v"]}, "base row"),
            ("better={'v': 'up'}", {"better": {"v": "up"}}, "better['v']", "'higher', 'lower'", "'up'"),
            ("better={'v': None}", {"better": {"v": None}}, "None"),
            ("better of text", {"better": {"row": "higher"}}, "'row'", "of numbers"),
            ("better='v'", {"better": "v"}, "better", "a dict"),
            ("digits -2", {"digits": {"v": -2}}, "digits['v']", "-2"),
            ("digits 1.5", {"digits": {"v": 1.5}}, "digits['v']", "1.5"),
            ("digits '2'", {"digits": {"v": "2"}}, "digits['v']", "without quotes"),
            ("digits of text", {"digits": {"row": 2}}, "'row'", "of numbers"),
            ("digits=2", {"digits": 2}, "digits", "a dict"),
            ("digits 10**9", {"digits": {"v": 10**9}}, "digits['v']", "at most"),
            ("missing=None", {"missing": None}, "missing", "None"),
            ("columns of strings", {"columns": ["v"]}, "columns", "Column", "'v'"),
            ("columns of no column", {"columns": [al.Column("zz", "z")]}, "'zz'", "row, v"),
            ("over no column", {"over": "seed"}, "'seed'", "row, v"),
            ("over a list", {"over": ["row"]}, "over", "['row']"),
            ("method of no interval", {"method": "wilcoxon"}, "method", "'t', 'bootstrap'", "'wilcoxon'"),
            ("base beyond the lines", {"over": "w", "base": 2}, "base", "0 to 1", "2"),
        ]
    ),
    *(
        bad(f"interval: {told}", lambda a=a, o=options: al.interval(*a, **o), "interval", *words)
        for told, a, options, *words in [
            ("a number", (0.5,), {}, "values", "0.5"),
            ("words", ("abc",), {}, "values", "'abc'"),
            ("None", (None,), {}, "values", "None"),
            ("one pair less", ([1, 2], [1]), {}, "the same runs", "2 and 1"),
            ("other runs", (FRAME["v"], FRAME["v"].set_axis([7, 8])), {}, "the same runs", "0 of them"),
            ("a run twice", (FRAME["v"].set_axis([7, 7]),), {}, "there once", "7"),
            ("method='sd'", ([1, 2],), {"method": "sd"}, "method", "'t', 'bootstrap'"),
            ("confidence=95", ([1, 2],), {"confidence": 95}, "confidence", "95"),
            ("confidence=1", ([1, 2],), {"confidence": 1}, "confidence", "below 1"),
        ]
    ),
    *(
        bad(f"Column: {told}", lambda a=a, o=o: al.Column(*a, **o), *words)
        for told, a, o, *words in [
            ("a number as name", (3, "t"), {}, "Column: name", "3"),
            ("None as title", ("v", None), {}, "Column: title", "None"),
            ("digits -1", ("v", "t"), {"digits": -1}, "Column: digits", "-1"),
            ("digits '1'", ("v", "t"), {"digits": "1"}, "Column: digits", "quotes"),
            ("better='up'", ("v", "t"), {"better": "up"}, "Column: better", "'up'"),
            ("change='no'", ("v", "t"), {"change": "no"}, "Column: change", "'no'"),
            ("unit=None", ("v", "t"), {"unit": None}, "Column: unit", "None"),
        ]
    ),
    # figures
    *(
        bad(f"plot.tradeoff: {told}", lambda o=options: tradeoff(**o), *words)
        for told, options, *words in [
            ("no column", {"x": "zz"}, "'zz'", "row, v"),
            ("no rows", {"frame": EMPTY}, "rows to draw"),
            ("a dict", {"frame": {}}, "pandas.DataFrame"),
            ("strings", {"x": "row"}, "'row'", "of numbers"),
            ("better={'v': 'up'}", {"better": {"v": "up"}}, "better['v']", "'up'"),
            ("better of another", {"better": {"zz": "lower"}}, "better", "'zz'"),
            ("log of 0", {"frame": FRAME.assign(v=[0, 1]), "log": ["v"]}, "'v'", "above 0"),
            ("log of negative", {"frame": FRAME.assign(v=[-1, 1]), "log": ["v"]}, "'v'", "-1.0"),
            ("log='v'", {"log": "v"}, "log", "'v'"),
            ("log of another", {"log": ["row"]}, "log", "'row'"),
            ("all NaN", {"frame": FRAME.assign(v=NAN)}, "rows to draw"),
            ("zone NaN", {"zone": {"v": NAN}}, "zone['v']", "nan"),
            ("zone of another", {"zone": {"zz": 1}}, "zone", "'zz'"),
            ("no such group", {"group": "zz"}, "'zz'"),
            ("no such error", {"error": ("zz", "v")}, "'zz'"),
            ("over no column", {"over": "seed"}, "'seed'", "row, v"),
            ("over a list", {"over": ["row"]}, "over", "['row']"),
            ("base without over", {"base": "a"}, "base='a'", "over="),
            ("base of no label", {"over": "w", "base": "z"}, "base='z'", "there are a, b"),
            ("method='sd'", {"method": "sd"}, "method", "'t', 'bootstrap'"),
            ("error and over", {"over": "w", "error": ("v", "v")}, "error and over"),
        ]
    ),
    *(
        bad(f"plot.{name}: {told}", lambda n=name, a=a, o=o: drawn(n, *a, **o), *words)
        for name, told, a, o, *words in [
            ("omegas", "no rows", (HISTORY.iloc[:0],), {"tau": 0.5}, "rows to draw"),
            ("omegas", "other columns", (FRAME,), {"tau": 0.5}, "'site'", "row, v"),
            ("omegas", "tau=nan", (HISTORY,), {"tau": NAN}, "tau", "nan"),
            ("omegas", "tau=2", (HISTORY,), {"tau": 2}, "tau", "2"),
            ("omegas", "tau=None", (HISTORY,), {"tau": None}, "tau", "None"),
            ("sensitivity", "most=1", (SENSED,), {"quality": "q", "most": 1}, "most", "1"),
            ("sensitivity", "most=0", (SENSED,), {"quality": "q", "most": 0}, "most", "0"),
            ("sensitivity", "another quality", (SENSED,), {"quality": "r"}, "delta_r"),
            ("sensitivity", "no rows", (SENSED.iloc[:0],), {"quality": "q"}, "rows to draw"),
            ("sensitivity", "None", (None,), {"quality": "q"}, "DataFrame"),
            ("breakdown", "negative", (FRAME.assign(v=[-1, 2]),), {"value": "v", "label": "row"}, "'v'", "-1"),
            ("breakdown", "no rows", (EMPTY,), {"value": "v", "label": "row"}, "rows to draw"),
            ("breakdown", "text", (FRAME,), {"value": "row", "label": "row"}, "'row'", "of numbers"),
            ("breakdown", "most=0", (FRAME,), {"value": "v", "label": "row", "most": 0}, "most", "0"),
            ("curve", "no column", (FRAME,), {"x": "v", "y": "zz"}, "'zz'"),
            ("curve", "no rows", (EMPTY,), {"x": "v", "y": "w"}, "rows to draw"),
            ("save", "None", (None, "x.png"), {}, "ax", "None"),
            ("save", "no path", (plt.Axes(plt.Figure(), (0, 0, 1, 1)), None), {}, "path", "None"),
            ("save", "another ending", (plt.Axes(plt.Figure(), (0, 0, 1, 1)), "x.exe"), {}, "path", ".png", "x.exe"),
        ]
    ),
    *(
        bad(f"{name}: {told}", lambda name=name, a=a: getattr(al, name)(FRAME, *a), *words)
        for name, told, a, *words in [
            ("pareto", "another word", ({"v": "up"},), "better['v']", "'up'"),
            ("pareto", "no column", ({"zz": "lower"},), "'zz'"),
            ("hypervolume", "another word", ({"v": "up"}, {"v": 0}), "better['v']", "'up'"),
            ("hypervolume", "no column", ({"zz": "lower"}, {"zz": 0}), "'zz'"),
            ("hypervolume", "text", ({"row": "lower"}, {"row": 0}), "'row'", "of numbers"),
            ("hypervolume", "a number", ({"v": "lower"}, 3), "reference", "a dict", "3"),
            ("hypervolume", "another column", ({"v": "lower"}, {"w": 3}), "reference", "'v'", "'w'"),
            ("hypervolume", "nan", ({"v": "lower"}, {"v": NAN}), "reference['v']", "nan"),
        ]
    ),
    # studies
    *(
        bad(f"run: {told}", lambda a=a, o=o: al.run(a, **{"preset": "smoke"} | o), *words)
        for told, a, o, *words in [
            ("no such module", "nope", {}, "study", "'nope'"),
            ("a module that is none", "os", {}, "ROWS", "os"),
            ("None", None, {}, "study", "None"),
            ("a number", 3, {}, "study", "3"),
            ("an empty name", "", {}, "study", "''"),
            ("a path", "studies/bench.py", {}, "study", "bench.py"),
            ("another preset", STUDY, {"preset": "huge"}, "preset", "'huge'"),
            ("preset=None", STUDY, {"preset": None}, "preset", "None"),
            ("seeds=0", STUDY, {"seeds": 0}, "seeds", "0"),
            ("seeds='2'", STUDY, {"seeds": "2"}, "seeds", "without quotes"),
            ("seeds=1.5", STUDY, {"seeds": 1.5}, "seeds", "1.5"),
            ("seeds=10**9", STUDY, {"seeds": 10**9}, "seeds", "at most"),
            ("workers=-1", STUDY, {"workers": -1}, "workers", "-1"),
            ("workers=1.5", STUDY, {"workers": 1.5}, "workers", "1.5"),
            ("workers='2'", STUDY, {"workers": "2"}, "workers", "quotes"),
            ("stale='x'", STUDY, {"stale": "x"}, "stale", "'keep', 'rerun'"),
            ("data='nope'", STUDY, {"data": "nope"}, "data", "'nope'"),
            ("data=3", STUDY, {"data": 3}, "data", "3"),
            ("only=3", STUDY, {"only": 3}, "only", "3"),
            ("executor='slurm'", STUDY, {"executor": "slurm"}, "executor", "'slurm'"),
            ("executor=3", STUDY, {"executor": 3}, "executor", "3"),
            ("scheduler=3", STUDY, {"scheduler": 3}, "scheduler", "3", "tcp://"),
            ("scheduler=''", STUDY, {"scheduler": ""}, "scheduler", "''", "Dask"),
            ("executor='dask'", STUDY, {"executor": "dask"}, "scheduler", "None", "Dask"),
            ("out=3", STUDY, {"out": 3}, "out", "3"),
            ("out is a file", STUDY, {"out": __file__}, "out", "is a file"),
            ("scratch=None", STUDY, {"scratch": None}, "scratch", "None"),
            ("partial='yes'", STUDY, {"partial": "yes"}, "partial", "'yes'"),
            ("time_limit_s=-1", STUDY, {"time_limit_s": -1}, "time_limit_s", "-1"),
            ("time_limit_s=nan", STUDY, {"time_limit_s": NAN}, "time_limit_s", "nan"),
            ("time_limit_s='60'", STUDY, {"time_limit_s": "60"}, "time_limit_s", "quotes"),
        ]
    ),
    bad("run: no preset", lambda: al.run(STUDY), "preset"),
    good("ssim: two channels", lambda: al.ssim(IMAGES[:, :2], IMAGES[:, :2])),
    good("ssim: images that went astray", lambda: al.ssim(IMAGES * 1e6, IMAGES)),
    good("ssim: images of NaN are NaN", lambda: al.ssim(IMAGES * NAN, IMAGES)),
    good("psnr: 0 to 255 with its range", lambda: al.psnr(BYTES, BYTES, data_range=255)),
    good("table: no columns", lambda: al.table(pd.DataFrame())),
    good("table: no rows", lambda: al.table(EMPTY).markdown()),
    good("table: all NaN", lambda: al.table(FRAME.assign(v=NAN), better={"v": "higher"}).markdown()),
    good("table: columns twice", lambda: al.table(pd.concat([FRAME, FRAME], axis=1)).markdown()),
    good("table: columns that are numbers", lambda: al.table(pd.DataFrame([[1, 2]])).markdown()),
    good("table: cells that are lists", lambda: al.table(pd.DataFrame({"a": [[1, 2]]})).markdown()),
    good("plot.tradeoff: one NaN", lambda: tradeoff(FRAME.assign(v=[NAN, 1.0]))),
]
