"""Files that anybody may have written: each is refused in bounded time, by name, saying what is wrong; nothing is
half-loaded."""

import json
import os
import struct
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import archlab as al

SECONDS = 5


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x):
        return torch.relu(self.b(self.blocks(torch.relu(self.a(x))))) * self.scale


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.b.weight = self.a.weight


EXAMPLE = torch.ones(2, 4)


@pytest.fixture(scope="module")
def thin() -> nn.Module:
    return al.remove(Net(), EXAMPLE, kinds="activation", where="activation.0")


def refused(call, *said: str) -> None:
    """`call` raises ValueError within `SECONDS`, and the message has every one of `said`."""
    begun = time.monotonic()
    with pytest.raises(ValueError) as caught:
        call()
    assert time.monotonic() - begun < SECONDS
    for words in said:
        assert words in str(caught.value), str(caught.value)


# --- recipes: text ----------------------------------------------------------------------------------

STEP = {"name": "discard", "options": {"removed": ["activation.0"], "frozen": {}}, "checked": "", "equality": "exact"}


def recipe(*steps, **more) -> str:
    return json.dumps({"model": "Net", "steps": list(steps), **more})


def step(**changed) -> str:
    return recipe(STEP | changed)


def named(name: str, **options) -> str:
    return step(name=name, options=options)


TEXTS = {
    "empty": ("", "it is empty"),
    "blank": (" \n", "it is empty"),
    "no json": ("hello", "not JSON"),
    "cut short": (recipe(STEP)[:-20], "not JSON"),
    "two values": (recipe(STEP) * 2, "not JSON"),
    "not UTF-8": (b"\xff\xfe" + recipe(STEP).encode(), "not UTF-8"),
    "a number": ("1", "it must be an object"),
    "a list": ("[]", "it must be an object"),
    "null": ("null", "it must be an object"),
    "nested 200,000 levels": ("[" * 200_000 + "]" * 200_000, "nested deeper"),
    "nested objects": ('{"model":' * 100_000 + "1" + "}" * 100_000, "nested deeper"),
    "nested 100 levels": (step(options={"removed": eval("[" * 90 + "]" * 90)}), "nested deeper"),
    "17 million characters": (" " * 2**24 + "{}", "16,777,216"),
    "no model": ('{"steps": []}', "it has no model"),
    "no steps": ('{"model": "Net"}', "it has no steps"),
    "a model that is a number": (recipe(STEP, model=3), "model must be the name of a class"),
    "steps that are an object": (recipe(steps={}), "steps must be a list"),
    "a million steps": ('{"model": "Net", "steps": [' + "{}," * 10**6 + "{}]}", "at most 1000 steps"),
    "a step that is a text": (recipe("discard"), "step 1 must be an object"),
    "a step of no name": (recipe({"options": {}}), "step 1 has no name"),
    "a step of no options": (recipe({"name": "discard"}), "step 1 has no options"),
    "a name that is a list": (step(name=["discard"]), "name of step 1 must be the name of a pass"),
    "options that are a list": (step(options=[]), "options of step 1 must be an object"),
    "an unknown field": (step(run="rm -rf"), "step 1 has a 'run'", "there are"),
    "a field beside": (recipe(STEP, code="x"), "it has a 'code'"),
    "taken that is a text": (step(taken="activation.0"), "taken of step 1 must be a list of names"),
    "found of numbers": (step(found=[1]), "found of step 1 must be a list of names"),
    "how of numbers": (step(how={"a": 1}), "how of step 1 must be an object of texts"),
    "costs that are texts": (step(before={"params": "1"}), "before of step 1 must be an object of whole numbers"),
    "an equality there is not": (step(equality="evil"), "equality of step 1 must be one of exact"),
    "a mode that is a number": (step(training=1), "training of step 1 must be true, false or null"),
    "NaN": (step(options={"frozen": {"activation.0": float("nan")}}), "NaN is no number"),
    "infinity": (step(options={"frozen": {"activation.0": float("inf")}}), "Infinity is no number"),
    "1e999": (step().replace('"frozen": {}', '"frozen": {"a": 1e999}'), "too large"),
    "an integer of 5,000 digits": (step().replace("{}", '{"a": ' + "9" * 5000 + "}", 1), "5,000 digits"),
    "a key twice": ('{"model": "Net", "model": "Net", "steps": []}', "'model' is there twice"),
    "an option twice": (step().replace('"removed":', '"removed": [], "removed":'), "'removed' is there twice"),
    "a count of 10^12": (named("scale_depth", span="blocks", count=10**12, init="fresh"), "count of step 1", "at most"),
    "a width of 10^9": (
        named("scale_width", tensors={}, read={}, numbers={"a": {"out_channels": 10**9}}, init="fresh"),
        "numbers of step 1",
        "at most",
    ),
    "a factor of -1e30": (named("scale_resolution", factor=-1e30), "factor of step 1", "at most"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_is_no_recipe(name):
    text, *said = TEXTS[name]
    refused(lambda: al.Recipe.from_json(text), "this is not a recipe", *said, "to_json")


# --- recipes: steps that fit no model ---------------------------------------------------------------

RESOLUTION = {"span": "a", "factor": 2, "down": "conv", "up": "nearest-conv", "kernel": 3, "activation": None}
STEPS = {
    "a pass there is not": (named("os.system"), "'os.system' is unknown"),
    "a class there is not": (json.dumps({"model": "Other", "steps": []}), "for a Other"),
    "an option there is not": (named("discard", path="x"), "does not take the options ['path']"),
    "a site there is not": (named("discard", removed=["activation.7"], frozen={}), "lacks 1: activation.7"),
    "sites that are a text": (named("discard", removed="activation.0", frozen={}), "a list of sites"),
    "sites that are numbers": (named("discard", removed=[1], frozen={}), "must name its sites in a list, got [1]"),
    "sites that are null": (named("switch", sites=None), "must name its sites in a list, got None"),
    "an omega of 7": (named("discard", removed=[], frozen={"activation.0": 7}), "a number from 0 to 1"),
    "an omega that is a text": (named("discard", removed=[], frozen={"activation.0": "x"}), "a number from 0 to 1"),
    "a depth of an evil init": (named("scale_depth", span="blocks", count=3, init="evil"), "'evil'"),
    "a depth of 100,000": (named("scale_depth", span="blocks", count=100_000, init="fresh"), "10000 at most"),
    "a depth of -3": (named("scale_depth", span="blocks", count=-3, init="fresh"), "at least 1"),
    "a depth of 2.5": (named("scale_depth", span="blocks", count=2.5, init="fresh"), "whole number"),
    "a depth of a list": (named("scale_depth", span=["blocks"], count=3, init="fresh"), "step 1"),
    "a width of an evil init": (
        named("scale_width", tensors={"a.weight": {"0": [0]}}, read={}, numbers={}, init="evil"),
        "step 1",
    ),
    "widths that are a list": (named("scale_width", tensors=["a"], read={}, numbers={}, init="fresh"), "step 1"),
    "widths that are a text": (
        named("scale_width", tensors={"a.weight": "wide"}, read={}, numbers={}, init="fresh"),
        "step 1",
    ),
    "a width of a layer there is not": (
        named("scale_width", tensors={"z.weight": {"0": [0]}}, read={}, numbers={}, init="fresh"),
        "step 1",
    ),
    "a resolution of factor 3": (named("scale_resolution", **RESOLUTION | {"factor": 3}), "factor"),
    "a resolution of evil layers": (named("scale_resolution", **RESOLUTION | {"down": "evil"}), "down"),
    "an activation to import": (named("scale_resolution", **RESOLUTION | {"activation": "os.system"}), "step 1"),
    "shares that are numbers": (named("share", keep=1, drop=2), "step 1"),
    "rounds that are a number": (named("fold", rounds=3), "step 1"),
    "rounds of texts": (named("fold", rounds=["a"]), "step 1"),
    "chains of numbers": (named("fold", rounds=[{"chains": [[1, 2]], "sums": []}]), "step 1"),
    "paddings of texts": (named("hoist_padding", paddings={"a": "x"}, modes={"a": "zeros"}), "step 1"),
    "no sites": (named("switch", sites=[]), "names no site"),
    "no rounds": (named("fold", rounds=[]), "step 1"),
    "no layers to fold": (named("fold_upsampling", layers=[]), "step 1"),
    "layers that are no paths": (named("fold_upsampling", layers=[1]), "step 1"),
    "layers behind no upsampling": (named("fold_upsampling", layers=["a"]), "no convolution behind an upsampling"),
    "no paddings": (named("hoist_padding", paddings={}, modes={}), "must name a layer"),
    "no widths": (named("scale_width", tensors={}, read={}, numbers={}, init="fresh"), "step 1"),
    "a site twice": (named("discard", removed=["activation.0"] * 2, frozen={}), "twice"),
    "a site removed and frozen": (named("discard", removed=["activation.0"], frozen={"activation.0": 0.5}), "twice"),
    "paddings that are a list": (named("hoist_padding", paddings=[], modes={}), "step 1"),
    "a factory there is not": (named("replace", path="a", factory="Evil", kwargs={}), "'Evil'", "modules"),
    "a factory to import": (named("replace", path="a", factory="os.system", kwargs={}), "'os.system'"),
    "arguments of 10^12": (named("replace", path="a", factory="Linear", kwargs={"in_features": 10**12}), "step 1"),
    "a million weights a side": (
        named("replace", path="a", factory="Linear", kwargs={"in_features": 10**8, "out_features": 10**8}),
        "step 1",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_fits_no_model(name, thin):  # `thin`: what is slow once has been done
    text, *said = STEPS[name]
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    made = al.Recipe.from_json(text)
    refused(lambda: al.apply(made, net, EXAMPLE, {"Linear": nn.Linear}), *said)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


# --- files ------------------------------------------------------------------------------------------


def weights(net: nn.Module, **changed) -> dict[str, torch.Tensor]:
    """What `save` would write, with some tensors changed; None takes one out."""
    state = {name: value.clone() for name, value in net.state_dict().items()} | changed
    return {name: value for name, value in state.items() if value is not None}


def described(net: nn.Module, **changed) -> dict[str, str]:
    """The metadata that `save` would write, with some entries changed; None takes one out."""
    metadata = {"archlab": "1", "recipe": al.recipe(net).to_json(), "ties": "{}"} | changed
    return {name: value for name, value in metadata.items() if value is not None}


NAN = torch.full((4, 4), float("nan"))
TENSORS = {
    "a key that is missing": ({"a.weight": None}, "no a.weight"),
    "a key too many": ({"evil": torch.ones(1)}, "evil, which the model has not"),
    "another shape": ({"a.weight": torch.ones(4, 5)}, "a.weight of shape (4, 5), in the model of shape (4, 4)"),
    "transposed": ({"a.bias": torch.ones(4, 1)}, "a.bias of shape (4, 1)"),
    "halves": ({"a.weight": torch.ones(4, 4).half()}, "a.weight in torch.float16, in the model in torch.float32"),
    "doubles": ({"scale": torch.ones(4).double()}, "scale in torch.float64"),
    "integers": ({"a.weight": torch.ones(4, 4, dtype=torch.int64)}, "a.weight in torch.int64"),
    "NaN": ({"a.weight": NAN}, "a.weight with values that are no numbers"),
    "infinity": ({"b.bias": torch.full((4,), float("inf"))}, "b.bias with values that are no numbers"),
    "NaN in a buffer": ({"scale": NAN[0]}, "scale with values that are no numbers"),
}
METADATA = {
    "no recipe": ({"recipe": None}, "has no recipe"),
    "no format": ({"archlab": None}, "format None"),
    "a later format": ({"archlab": "99"}, "format '99'", "the archlab that wrote it"),
    "ties that are no JSON": ({"ties": "{"}, "its ties are broken: it is not JSON"),
    "ties that are a list": ({"ties": "[]"}, "its ties are broken"),
    "ties to a number": ({"ties": '{"a.weight": 1}'}, "its ties are broken"),
    "ties to nothing": ({"ties": '{"x": "y"}'}, "'x' cannot be tied to 'y'"),
    "ties of what is there": ({"ties": '{"a.weight": "b.weight"}'}, "'a.weight' cannot be tied"),
    "nested ties": ({"ties": "[" * 200_000}, "its ties are broken: it is nested deeper"),
    "more that is no JSON": ({"extra": "x"}, "its extra are broken"),
    "more than the model has": ({"extra": '{"evil": 1}'}, "evil, which the model has not"),
    "an evil recipe": ({"recipe": "__import__('os')"}, "not a recipe", "not JSON"),
    "a recipe nested 200,000 levels": ({"recipe": "[" * 200_000}, "not a recipe", "nested deeper"),
    "a recipe of another class": ({"recipe": json.dumps({"model": "Other", "steps": []})}, "for a Other"),
}


@pytest.mark.parametrize("name", [*TENSORS, *METADATA])
def test_a_file_of_wrong_weights_or_metadata(name, thin, tmp_path):
    tensors, *said = TENSORS.get(name, ({}, *METADATA.get(name, ((),))[1:]))
    metadata = METADATA[name][0] if name in METADATA else {}
    file = tmp_path / "bad.safetensors"
    save_file(weights(thin, **tensors), file, described(thin, **metadata))
    refused(lambda: al.load(file, Net, EXAMPLE), str(file), *said)


def test_ties_that_the_model_has_not_and_ties_that_the_file_has_not(tmp_path):
    untied, tied = tmp_path / "untied", tmp_path / "tied"
    net = Net()
    net.__class__.__qualname__, before = "Net", Tied.__qualname__
    save_file(weights(net), untied, described(net, recipe=json.dumps({"model": before, "steps": []})))
    refused(lambda: al.load(untied, Tied, EXAMPLE), str(untied), "as two tensors, which are one in the model")
    save_file(weights(net, **{"b.weight": None}), tied, described(net, ties='{"b.weight": "a.weight"}'))
    refused(lambda: al.load(tied, Net, EXAMPLE), str(tied), "as one tensor, which are two", "in the factory")


def _header(length: int, text: bytes = b"{}") -> bytes:
    return struct.pack("<Q", length) + text


WHOLES = {
    "an empty file": (b"", "cannot be read"),
    "seven bytes": (b"\0" * 7, "cannot be read"),
    "zeros": (b"\0" * 4096, "cannot be read"),
    "a header of 2^63 bytes": (_header(2**63), "cannot be read"),
    "a header of 90 MB that is not there": (_header(90_000_000), "cannot be read"),
    "a header that is no JSON": (_header(4, b"evil"), "cannot be read"),
    "a header nested deep": (_header(100_000, b"[" * 100_000), "cannot be read"),
    "a header not UTF-8": (_header(4, b"\xff\xfe\xfd\xfc"), "cannot be read"),
    "a tensor beyond the end": (
        _header(72, b'{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,39999999996]}}'[:72]),
        "cannot be read",
    ),
    "a zip": (b"PK\x03\x04" + b"\0" * 64, "cannot be read"),
    "a pickle": (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "cannot be read"),
}


@pytest.mark.parametrize("name", WHOLES)
def test_a_file_that_is_none_of_ours(name, tmp_path):
    content, *said = WHOLES[name]
    file = tmp_path / "bad.safetensors"
    file.write_bytes(content)
    refused(lambda: al.load(file, Net, EXAMPLE), str(file), *said)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short(part, thin, tmp_path):
    file = tmp_path / "cut.safetensors"
    al.save(thin, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * part)])
    refused(lambda: al.load(file, Net, EXAMPLE), str(file), "cannot be read")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "loop", tmp_path / "absent", "/dev/zero"):
        refused(lambda path=path: al.load(path, Net, EXAMPLE), str(path))


# --- what a model has beside tensors ----------------------------------------------------------------


class Counting(nn.Module):
    """Keeps something else than tensors in its state dict."""

    def __init__(self, state: object = None):
        super().__init__()
        self.a, self.state = nn.Linear(4, 4), state

    def forward(self, x):
        return torch.relu(self.a(x))

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


def test_extra_state_that_json_can_write_comes_back(tmp_path):
    state = {"n": 3, "names": ["a", None], "rate": 0.1}
    thin = al.remove(nn.Sequential(Counting(state), Counting()), EXAMPLE, kinds="activation", where="0*")
    al.save(thin, tmp_path / "thin")
    again = al.load(tmp_path / "thin", lambda: nn.Sequential(Counting(), Counting()), EXAMPLE)
    assert again[0].state == state and again[1].state is None


@pytest.mark.parametrize(
    "state",
    [{1: 2}, (1, 2), {"x": float("nan")}, {"x": torch.ones(1)}, object()],
    ids=["number as key", "tuple", "nan", "tensor", "object"],
)
def test_extra_state_that_would_come_back_otherwise_is_refused(state, tmp_path):
    with pytest.raises(TypeError, match=r"save: 0\._extra_state in the state dict is a .* torch\.save"):
        al.save(nn.Sequential(Counting(state)), tmp_path / "thin")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantized_model_is_not_written(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    net = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(TypeError, match=r"save: 0\._packed_params\.dtype .* before it is quantized"):
        al.save(al.remove(net, EXAMPLE, kinds="activation"), tmp_path / "thin")


def test_a_dtype_that_safetensors_lacks_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"save: weight in the state dict is a torch\.complex128"):
        al.save(nn.Linear(2, 2, dtype=torch.complex128), tmp_path / "x.safetensors")
