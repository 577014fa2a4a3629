"""The command line: what it prints, in three forms, and the one line that says what was wrong."""

import json
import subprocess
import sys

import pandas as pd
import pytest

import archlab as al
from archlab.cli.main import main
from archlab.cli.parsing import Unusable, make_example, make_model, parse_input

IMAGE = ("--input", "1,3,8,8")
FRAME = ("--input", "1,3,64,64")


# --- sites ----------------------------------------------------------------------------------


def test_sites_prints_a_table_with_whole_ids(archlab):
    said = archlab("sites", "mynet:Net", *IMAGE)
    assert said.lines()[0] == ["site", "module", "kind", "op", "shape", "calls", "%", "params", "%", "MACs", "how"]
    assert ["body/activation.0", "body.1", "activation", "relu", "1x4x8x8", "1", "0.0", "0.0", "local"] in said.lines()
    assert "3 sites: 1 activation, 1 skip, 1 branch" in said.out


def test_sites_as_json_and_csv_equal_the_frame(archlab):
    net = make_model("mynet:Net").eval()
    expected = al.sites(net, make_example(["1,3,8,8"]))
    told = archlab("sites", "mynet:Net", *IMAGE, "--json").json()
    assert told["sites"] == json.loads(expected.frame().to_json(orient="records"))
    assert told["skipped"] == expected.skipped_frame().to_dict("records")
    read = archlab("sites", "mynet:Net", *IMAGE, "--csv").csv()
    read = read.astype({"module": object, "same_as": object}).fillna("")  # what is empty
    pd.testing.assert_frame_equal(read, expected.frame(), rtol=1e-12, check_dtype=False)


def test_sites_of_some_kinds_and_places(archlab):
    told = archlab("sites", "mynet:Net", *IMAGE, "--kinds", "skip, activation", "--where", "*skip*", "--json").json()
    assert [site["site"] for site in told["sites"]] == ["skip.0"]


def test_skipped_says_what_was_not_taken_and_why(archlab):
    words = ("sites", "torchvision.models:resnet18", "--input", "1,3,32,32")
    assert "it changes the shape, (1, 64, 8, 8) to (1, 128, 4, 4)" in archlab(*words, "--skipped").out
    skipped = archlab(*words, "--skipped", "--csv").csv()
    assert list(skipped["module"]) == ["layer2.0", "layer3.0", "layer4.0"]
    assert "3 skipped; --skipped says why" in archlab(*words).out


def test_left_the_former_word_for_skipped_still_works(archlab):
    words = ("sites", "torchvision.models:resnet18", "--input", "1,3,32,32", "--csv")
    former = archlab(*words, "--left")
    assert former.out == archlab(*words, "--skipped").out
    assert former.err.splitlines()[0] == "archlab: --left is --skipped now; the old word goes with the next release"
    told = archlab("sites", "mynet:Net", *IMAGE, "--json").json()
    assert told["left"] == told["skipped"]


def test_another_method_than_forward(archlab):
    told = archlab("sites", "mynet:Net", *IMAGE, "--call", "encode", "--json").json()
    assert [(site["site"], site["op"]) for site in told["sites"]] == [("activation.0", "tanh")]


def test_keyword_arguments_of_the_model_and_of_the_factory(archlab):
    words = ("--input", "x=1,3,8,8", "--input", "factor=2.0", "--args", "width=6", "--args", "act=gelu")
    told = archlab("sites", "mynet:Net", *words, "--json").json()
    assert {site["kind"] for site in told["sites"]} == {"activation", "skip", "branch"}  # the root is no block
    assert told["sites"][0]["shape"] == "1x6x8x8"


def test_token_ids_and_a_model_that_is_made_already(archlab):
    for factory in ("mynet:Tokens", "mynet:ready"):
        told = archlab("sites", factory, "--input", "2,5:int64", "--high", "9", "--json").json()
        assert [site["kind"] for site in told["sites"]] == ["activation"]


# --- cost -----------------------------------------------------------------------------------


def test_cost_prints_what_cost_says_and_a_table_by_module(archlab):
    said = archlab("cost", "mynet:Net", *IMAGE, "--depth", "1")
    assert ["parameters", "223"] in said.lines()
    assert ["body", "Sequential", "223", "13,824", "100.0", "704"] in said.lines()
    assert not any(line and line[0] == "body.0" for line in said.lines())


def test_cost_as_json(archlab):
    told = archlab("cost", "mynet:Net", *IMAGE, "--convention", "paper", "--depth", "2", "--json").json()
    assert told["params"] == 3 * 4 * 9 + 4 + 4 * 3 * 9 + 3
    assert told["macs"] == 2 * 3 * 4 * 9 * 64 + (4 + 4 + 3) * 64  # multiply-adds; bias, ReLU, bias
    assert (told["convention"], told["how"]) == ("paper", "meta")
    assert [row["module"] for row in told["modules"]] == ["", "body", "body.0", "body.1", "body.2", "drop"]


def test_cost_as_csv_is_one_row_or_one_a_module(archlab):
    row = archlab("cost", "mynet:Net", *IMAGE, "--csv").csv()
    assert (len(row), row["macs"][0]) == (1, 13824)
    modules = archlab("cost", "mynet:Net", *IMAGE, "--csv", "--depth", "1").csv()
    assert list(modules["type"]) == ["Net", "Sequential", "Dropout"]


def test_fvcore_as_a_second_opinion(archlab):
    told = archlab("cost", "mynet:Net", *IMAGE, "--fvcore", "--json").json()
    assert told["fvcore"]["macs"] == told["macs"] == 13824
    assert set(told["fvcore"]["uncounted"]) >= {"aten::mul", "aten::add"}
    assert archlab("cost", "mynet:Net", *IMAGE, "--fvcore", "--csv").csv()["fvcore_macs"][0] == 13824
    assert "it did not count: " in archlab("cost", "mynet:Net", *IMAGE, "--fvcore").out


def test_a_missing_extra_is_named_in_one_line(archlab, monkeypatch):
    monkeypatch.setitem(sys.modules, "fvcore", None)
    monkeypatch.delitem(sys.modules, "fvcore.nn", raising=False)
    said = archlab("cost", "mynet:Net", *IMAGE, "--fvcore", status=2).err
    assert said.splitlines()[-1].endswith(": pip install 'archlab[fvcore]'")


def test_cost_says_where_a_model_was_really_run(archlab):
    told = archlab("cost", "mynet:OnData", "--input", "2,4", "--json").json()
    assert told["how"].startswith("one real run: on meta it raises")


def test_what_only_looks_allocates_nothing_for_an_input_of_any_size(archlab):
    huge = ("--input", "1000000,1000000")  # 3.6 TiB
    assert archlab("cost", "torch.nn:ReLU", *huge, "--json").json()["activations"] == 10**12
    assert archlab("sites", "torch.nn:ReLU", *huge, "--json").json()["sites"][0]["shape"] == "1000000x1000000"
    said = archlab("cost", "torch.nn:ReLU", *huge, "--fvcore", status=2).err
    assert "--input '1000000,1000000': no tensor of 3,725.3 GiB can be made here" in said
    for command in ("cost", "sites"):
        said = archlab(command, "mynet:OnData", "--input", "1000000000000,4", status=2).err
        assert "no tensor of 14,901.2 GiB" in said and "Without data the model does not run: RuntimeError" in said
    for size in ("9999999999,99999999999", "9" * 40 + ","):  # more than 64 bits: of the elements, of one size
        assert f"--input {size!r}: no tensor" in archlab("cost", "torch.nn:ReLU", "--input", size, status=2).err


def test_sites_of_a_model_that_needs_data(archlab):
    assert archlab("sites", "mynet:OnData", "--input", "2,4", "--json").json()["sites"] == []


@pytest.mark.parametrize(
    "words, params",
    [
        (("torchvision.models:resnet18", "--input", "1,3,224,224"), 11_689_512),
        (("timm.models.resnet:resnet18", "--input", "1,3,224,224", "--args", "num_classes=10"), 11_181_642),
        (("studies.motion.network.models:baseline", *FRAME, *FRAME, "--input", "10.0"), 966_979),
    ],
)
def test_networks_of_others(archlab, words, params):
    assert archlab("cost", *words, "--json").json()["params"] == params


# --- speed and profile ------------------------------------------------------------------------

QUICK = ("--device", "cpu", "--seconds", "0.01")
STREAM = ("--call", "stream", "--input", "1,3,32,32", "--input", "1,32,16,16", "--input", "10.0")


def test_speed_prints_a_row_a_model_and_the_conditions(archlab):
    said = archlab("speed", "mynet:Net", "mynet:Wide", "mynet:Net", "--input", "2,3,8,8", *QUICK)
    assert said.lines()[0] == ["model", "median", "[ms]", "p10", "p90", "FPS", "runs"]
    assert [line[0] for line in said.lines()[1:4]] == ["mynet:Net", "mynet:Wide", "mynet:Net"]
    assert said.lines()[3][1] == "(2)"
    assert "fp32, eager, batch 2" in said.out and "clock: wall clock" in said.out.splitlines()


def test_speed_as_json_and_csv(archlab):
    words = ("speed", "mynet:Net", *IMAGE, *QUICK, "--precision", "bf16", "--channels-last")
    told = archlab(*words, "--json").json()
    model = told["models"][0]
    assert {name: model[name] for name in ("model", "device", "precision", "mode", "memory_format")} == {
        "model": "mynet:Net", "device": "cpu", "precision": "bf16", "mode": "eager", "memory_format": "channels_last"
    }  # fmt: skip
    assert model["p10_ms"] <= model["median_ms"] <= model["p90_ms"] and model["runs"] >= 3
    assert told["conditions"]["torch"] and told["conditions"]["seconds"] == 0.01
    assert list(archlab(*words, "--csv").csv()) == list(model)


def test_profile_is_one_table_that_adds_up(archlab):
    said = archlab("profile", "mynet:Net", *IMAGE, *QUICK)
    assert said.lines()[0] == ["module", "type", "params", "MACs", "%", "MACs", "time", "[ms]", "%", "time"]
    rows = {line[0]: line for line in said.lines() if line}
    assert rows["body.0"][1:5] == ["Conv2d", "112", "6,912", "50.0"]
    assert rows["body"][1:5] == ["Sequential", "0", "0", "0.0"], "what is in its parts is theirs"
    assert rows["sum"][1:4] == ["223", "13,824", "100.0"] and rows["sum"][5] == "100.0"
    assert max(line.count("█") for line in said.out.splitlines()) == 24
    assert "apart [ms]" in said.out


@pytest.mark.parametrize("depth", ["1", "2"])
def test_profile_adds_up_to_what_cost_and_speed_say(archlab, depth):
    words = ("studies.motion.network.models:baseline", *STREAM)
    told = archlab("profile", *words, *QUICK, "--depth", depth, "--json").json()
    cost = archlab("cost", *words, "--json").json()
    modules = pd.DataFrame(told["modules"])
    assert modules["params"].sum() == cost["params"] == told["sum"]["params"]
    assert modules["macs"].sum() == cost["macs"] == told["sum"]["macs"]
    assert modules["self_ms"].sum() == pytest.approx(told["whole"]["apart_ms"], rel=1e-9)
    assert modules["self_share"].sum() == pytest.approx(1) and modules["macs_share"].sum() == pytest.approx(1)
    assert modules["module"].str.count(r"\.").max() == int(depth) - 1
    assert (modules[["params", "macs", "self_ms"]] >= 0).all(axis=None)
    assert told["conditions"]["measured_on"] == "cpu"


def test_profile_of_modules_that_share_parameters(archlab):
    rows = archlab("profile", "mynet:Tied", "--input", "2,4", *QUICK, "--csv").csv().set_index("module")
    assert rows["params"].to_dict() == {"one": 16, "two": 4, "body": 3} | {rows.index[0]: 0}
    assert rows.loc["one", "calls"] == 2


@pytest.mark.parametrize(
    "ending, begin", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xm"), ("jpg", b"\xff\xd8\xff\xe0")]
)
def test_profile_draws_a_chart(archlab, here, ending, begin):
    archlab("profile", "mynet:Net", *IMAGE, *QUICK, "--chart", f"parts.{ending}")
    assert (here / f"parts.{ending}").read_bytes()[:4] == begin


def test_names_of_modules_neither_steer_a_terminal_nor_compute_in_a_spreadsheet(archlab, here):
    (here / "odd.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.add_module('=1+\x1b[2J', nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))\n"
        "    def forward(self, x): return self._modules['=1+\x1b[2J'](x)\n"
    )
    for command in (("sites",), ("cost", "--depth", "2"), ("profile", *QUICK)):
        said = archlab(*command[:1], "odd:Net", *IMAGE, *command[1:])
        assert r"=1+\x1b[2J" in said.out and "\x1b" not in said.out
        assert "'=1+" in archlab(*command[:1], "odd:Net", *IMAGE, *command[1:], "--csv").out
    said = archlab("sites", "odd:Net", *IMAGE, "--where", "nothing\x1b[2J", status=2)
    assert "\x1b" not in said.err


def test_speed_and_profile_of_another_method(archlab):
    for command, shown in (("speed", "FPS"), ("profile", "decoder")):
        said = archlab(command, "studies.motion.network.models:baseline", *STREAM, *QUICK)
        assert any(shown in line for line in said.lines())


@pytest.mark.parametrize(
    "words, reason",
    [
        (("speed", "--precision", "tf32"), "precision='tf32' is of NVIDIA GPUs"),
        (("speed", "--mode", "graph"), "mode='graph' is a CUDA graph, and the device is cpu"),
        (("speed", "--mode", "fast"), "'fast'"),
        (("speed", "--seconds", "0"), "seconds must be a finite number above 0"),
        (("speed", "--seconds", "inf"), "seconds must be a finite number above 0 up to 86400, got inf"),
        (("profile", "--seconds", "nan"), "seconds must be a finite number above 0 up to 86400, got nan"),
        (("profile", "--seconds", "1e300"), "seconds must be a finite number above 0 up to 86400, got 1e+300"),
        (("speed", "--high", "1" + 30 * "0"), "'--high'"),
        (("speed", "--device", "gpu"), "device must be a cpu or cuda device, got 'gpu'"),
        (("profile", "--depth", "0"), "'--depth'"),
        (("profile", "--chart", "parts.gif"), "--chart parts.gif: name a file that ends in .png, .pdf, .svg"),
        (("profile", "--chart", "nowhere/parts.png"), "--chart nowhere/parts.png: there is no folder nowhere"),
        (("profile", "--json", "--csv"), "--json and --csv: choose one"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(archlab, words, reason):
    command, *rest = words
    assert reason in archlab(command, "mynet:Net", *IMAGE, "--device", "cpu", *rest, status=2).err


def test_a_model_that_fails_while_it_is_measured_says_where(archlab):
    said = archlab("speed", "mynet:Net", "--input", "1,4,8,8", "--device", "cpu", status=2)
    assert "the model does not run on this input: RuntimeError" in said.err and "raised in body.0 (Conv2d)" in said.err
    said = archlab("speed", "mynet:Tokens", "--input", "2,5:int64", "--high", "10", "--device", "cpu", status=2)
    assert "raised in embed (Embedding)" in said.err


# --- models put in their mode; output kept clean -----------------------------------------------


def test_a_model_is_in_eval_mode_or_in_train_mode(archlab):
    assert "dropout" not in archlab("cost", "mynet:Net", *IMAGE, "--json").json()["uncounted"]
    assert "dropout" in archlab("cost", "mynet:Net", *IMAGE, "--json", "--train").json()["uncounted"]


def test_a_process_of_its_own_prints_the_answer_and_nothing_else_to_standard_output(here):
    words = [sys.executable, "-m", "archlab.cli", "cost", "mynet:Net", *IMAGE, "--json"]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)["params"] == 223
    assert said.stderr.splitlines() == ["importing", "running"]


def test_help_teaches_by_examples_that_run(archlab):
    assert "archlab cost torchvision.models:resnet18 --input 1,3,224,224 --depth 1" in archlab("--help").out
    for command, option in (("sites", "--skipped"), ("cost", "--fvcore"), ("speed", "--mode"), ("profile", "--chart")):
        said = archlab(command, "--help").out
        assert f"archlab {command} torchvision.models" in said and option in said
    assert archlab("--version").out == f"{al.__version__}\n"


# --- wrong usage --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, reason",
    [
        (("mynet", *IMAGE), "'mynet' names no factory: write package.module:factory"),
        (("mynett:Net", *IMAGE), "there is no module 'mynett'"),
        (("mynet.py:Net", *IMAGE), "name it as for import: mynet"),
        (("failing:Net", *IMAGE), "importing failing raises ModuleNotFoundError: No module named 'nowhere_to"),
        (("mynet:Nett", *IMAGE), "mynet has no 'Nett'; there are Net, "),
        (("mynet:number", *IMAGE), "mynet:number is of type int: name a function or a class"),
        (("mynet:broken", *IMAGE), "mynet:broken() raises RuntimeError: no weights here"),
        (("mynet:leaves", *IMAGE), "mynet:leaves() raises SystemExit: 3"),
        (("mynet:a_list", *IMAGE), "mynet:a_list() returns list, not a torch.nn.Module"),
        (("mynet:compiled", *IMAGE), "mynet:compiled(): this model is compiled: pass its ._orig_mod"),
        (("mynet:Net", *IMAGE, "--args", "widht=3"), "mynet:Net(widht=3) raises TypeError"),
        (("mynet:Net", *IMAGE, "--args", "width"), "--args 'width': write name=value"),
        (("mynet:Net", "--input", "1,3,x"), "--input '1,3,x': write a shape of sizes above 0"),
        (("mynet:Net", "--input", "1,3,8,8:int46"), "torch has no dtype 'int46'"),
        (("mynet:Net", *IMAGE, "--input", "2.0", "--input", "3"), "was given 3 inputs: too many positional arguments"),
        (("mynet:Net", *IMAGE, "--call", "encod"), "the model has no method Net.encod; there are encode, "),
        (("mynet:Net", "--input", "1,4,8,8"), "raised in body.0 (Conv2d)"),
        (("mynet:Net", *IMAGE, "--kinds", "skipp"), "kind 'skipp' is unknown: choose from activation, skip"),
        (("mynet:Net", *IMAGE, "--where", "nothing*"), "where='nothing*' matches no site"),
        (("mynet:Net", *IMAGE, "--csv", "--json"), "--json and --csv: choose one"),
        (("mynet:Net",), "Missing"),
        (("mynet:Net", *IMAGE, "--bogus"), "No such option: --bogus"),
    ],
)
def test_what_sites_cannot_do_is_said_in_one_line(archlab, words, reason):
    assert reason in archlab("sites", *words, status=2).err


@pytest.mark.parametrize(
    "words, reason",
    [
        (("--convention", "flops"), "'flops'"),
        (("--depth", "0"), "'--depth'"),
        (("--depth", "1", "--fvcore", "--csv"), "--csv writes one table"),
        (("--input", "0,3"), "--input '0,3'"),
    ],
)
def test_what_cost_cannot_do_is_said_in_one_line(archlab, words, reason):
    assert reason in archlab("cost", "mynet:Net", *IMAGE, *words, status=2).err


def test_traceback_shows_where_an_error_came_from(archlab, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["archlab", "sites", "mynet:broken", *IMAGE, "--traceback"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "in broken" in said and said.splitlines()[-1].startswith("archlab: mynet:broken() raises")


def test_a_defect_of_archlab_is_no_wrong_usage(archlab, monkeypatch):
    def defect(*given, **options):
        raise AssertionError("the output differs")

    monkeypatch.setattr("archlab.cli.inspect.sites", defect)
    assert "failed with AssertionError: the output differs" in archlab("sites", "mynet:Net", *IMAGE, status=1).err


# --- inputs in words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, shape, dtype",
    [
        ("1,3,224,224", (1, 3, 224, 224), "torch.float32"),
        ("5,", (5,), "torch.float32"),
        ("5:int32", (5,), "torch.int32"),
        (" 2, 12 : int64", (2, 12), "torch.int64"),
        ("2,3:bfloat16", (2, 3), "torch.bfloat16"),
        ("2,3:complex64", (2, 3), "torch.complex64"),
        ("2,3:bool", (2, 3), "torch.bool"),
    ],
)
def test_shapes_become_tensors_the_same_each_time(text, shape, dtype):
    value = parse_input(text)
    assert tuple(value.shape) == shape and str(value.dtype) == dtype
    assert value.equal(parse_input(text))


@pytest.mark.parametrize("text, value", [("10.0", 10.0), ("-3", -3), ("1e-3", 0.001), ("True", True), ("None", None)])
def test_numbers_stay_numbers(text, value):
    given = parse_input(text)
    assert given == value and type(given) is type(value)


def test_high_is_the_largest_value_of_integers():
    values = parse_input("1000:int64", high=6)
    assert (values.min(), values.max()) == (0, 6)


@pytest.mark.parametrize("text", ["", "1,,2", "1,-3", "x", "'text'", "1;2", "(1", "1,3:"])
def test_what_is_no_input_is_refused(text):
    with pytest.raises(Unusable, match="--input"):
        parse_input(text)


def test_page_makes_pages_of_reports_an_index_and_a_readme(archlab, here):
    for name in ("one", "two"):
        (here / "reports" / name / "cpu").mkdir(parents=True)
        (here / "reports" / name / "cpu" / "report.md").write_text(f"# Study {name}\n\nIt is so. And more.\n")
    pages = [f"reports/{name}/cpu/index.html" for name in ("one", "two")]
    assert archlab("page", "reports/one").out.splitlines() == pages[:1]
    said = archlab("page", "reports", "--readme")
    assert said.out.splitlines() == [*pages, "reports/index.html", "reports/README.md"]
    assert '<a href="two/cpu/index.html">' in (here / "reports" / "index.html").read_text()
    assert "## [Study one](one/cpu/report.md)" in (here / "reports" / "README.md").read_text()
    assert "no report.md there or below" in archlab("page", "nowhere", status=2).err
    assert "is the heading of no table" in archlab("page", "reports/one", "--x", "MACs", status=2).err
    (here / "reports" / "README.md").write_text("mine")
    assert "was not written by this command" in archlab("page", "reports", "--readme", status=2).err
