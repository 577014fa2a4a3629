"""What is asked wrongly is refused, with the offender, the rule, the value and what to do in the message."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import archlab as al
from tests.contracts.zoo import GPT, ZOO, Residual, Stack, conv, image


@pytest.fixture
def net() -> nn.Module:
    return ZOO["stack"].build()


@pytest.fixture
def thin(net) -> nn.Module:
    return al.remove(net, image(), kinds="skip")


def refuses(call, *said: str, kind: type[Exception] = ValueError) -> None:
    """`call` raises an error of `kind` whose message, with its notes, holds every one of `said`."""
    with pytest.raises(kind) as caught:
        call()
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    for words in said:
        assert words in told, told


# --- models and examples ----------------------------------------------------------------------------


def test_an_example_of_the_wrong_shape_is_the_models_own_error_and_says_where(net):
    for act in (al.sites, al.cost, lambda *given: al.switch(*given, kinds="skip")):
        refuses(lambda act=act: act(net, image(3)), "channels", "head (Conv2d)", "(2, 3, 8, 8)", kind=RuntimeError)
    refuses(lambda: al.sites(net, (image(), image())), "takes 2 positional", "the model itself", kind=TypeError)
    refuses(lambda: al.sites(net, None), "head (Conv2d)", "holds no tensor", kind=TypeError)


def test_something_else_than_a_module(net):
    refuses(lambda: al.sites("net", image()), "torch.nn.Module", "'net'", kind=TypeError)
    refuses(lambda: al.switch(nn.ReLU, image(), kinds="skip"), "torch.nn.Module", "ReLU", "make one", kind=TypeError)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_model_and_a_site_inside_a_scripted_module(net):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.tail = torch.jit.script(Residual()), conv()

        def forward(self, x):
            return self.tail(torch.relu(self.inner(x)))

    refuses(lambda: al.sites(torch.jit.script(Residual()), image()), "scripted", "Python module", kind=TypeError)
    found = al.sites(Outer(), image())
    assert [(s.id, s.how) for s in found] == [("activation.0", "local")], "only the ReLU outside can be removed"
    assert {(s.kind, s.path) for s in found.skipped if "scripted" in s.reason} >= {("activation", "inner")}
    for kind in ("activation", "block"):
        refuses(lambda kind=kind: al.remove(Outer(), image(), kinds=kind, where="inner*"), "inner", "scripted")


# --- kinds and where --------------------------------------------------------------------------------


def test_a_pattern_that_matches_nothing_names_the_sites_there_are(net):
    for where in ("blokcs.*", ["blocks.0*", "blokcs.*"]):
        refuses(lambda where=where: al.remove(net, image(), kinds="skip", where=where), "'blokcs.*'", "blocks.0/skip.0")
    refuses(lambda: al.sites(net, image(), where="blokcs.*"), "'blokcs.*'", "blocks.0/activation.0")
    refuses(lambda: al.remove(net, image(), kinds="skip", where=lambda site: False), "no site", "blocks.1/skip.0")
    refuses(lambda: al.remove(net, image(), kinds="skip", where=[]), "where=[]", "blocks.1/skip.0")
    refuses(lambda: al.remove(net, image(), kinds="gate"), "no site of kind gate", "2 activation")
    refuses(lambda: al.remove(net, image(), kinds="skip", where=3), "a glob", "got 3", kind=TypeError)


@pytest.mark.parametrize(
    ("kinds", "said"), [("relu", "'relu'"), ((), "()"), (None, "None"), (("skip", "add"), "'add'")]
)
def test_kinds_must_be_named(net, kinds, said):
    for act in (al.switch, al.remove):
        refuses(lambda act=act: act(net, image(), kinds=kinds), "activation, skip, branch", said)


def test_both_operands_of_one_add(net):
    refuses(
        lambda: al.switch(net, image(), kinds=("skip", "branch")), "blocks.0/skip.0", "blocks.0/branch.0", "choose one"
    )


def test_a_block_that_changes_the_shape():
    unet = ZOO["unet"].build()
    refuses(
        lambda: al.remove(unet, image(3), kinds="block", where="down"),
        "down (DoubleConv): it changes the shape, (2, 4, 4, 4) to (2, 8, 4, 4)",
        "block.0",
    )


def test_a_concatenation_skip():
    refuses(lambda: al.remove(ZOO["unet"].build(), image(3), kinds="skip"), "no such site", "2 concat")


# --- switches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [-0.1, 1.5, float("nan"), "0.5", None])
def test_tau_lies_between_0_and_1(net, tau):
    soft = al.switch(net, image(), kinds="skip")
    kind = ValueError if isinstance(tau, float) else TypeError
    refuses(lambda: al.discard(soft, tau), "tau", "from 0 to 1", repr(tau), kind=kind)


def test_nothing_to_discard_and_nothing_switched(net):
    soft = al.switch(net, image(), kinds="skip")
    refuses(lambda: al.discard(soft, 0.5), "tau=0.5", "largest is 0")
    refuses(lambda: al.discard(soft, 0.5, keep="all"), "'restore', 'freeze'", "'all'")
    for ask in (al.discard, al.omegas, al.penalty, al.project_, al.omega_parameters):
        refuses(lambda ask=ask: ask(net), "Stack has no switches", "switch(model, example, kinds=...)")
    refuses(lambda: al.switch(soft, image(), kinds="block"), "has switches already", "discard")


def test_an_omega_out_of_range_changes_nothing(net):
    soft = al.switch(net, image(), kinds="skip")
    for value in (-0.1, 1.1, float("nan")):
        refuses(lambda value=value: al.set_omegas_(soft, value), "blocks.0/skip.0", "from 0 to 1", str(value))
    for wrong, kind in (({"blocks.0/skip.0": 0.5, "blocks.1/skip.0": 2.0}, ValueError), ({"x": 0.5}, KeyError)):
        refuses(lambda wrong=wrong: al.set_omegas_(soft, wrong), list(wrong)[-1], kind=kind)
    assert list(al.omegas(soft)["omega"]) == [0.0, 0.0]
    refuses(lambda: al.penalty(soft, p=0), "p must be", "above 0", "got 0")


# --- recipes ----------------------------------------------------------------------------------------


def test_a_recipe_for_another_class_or_another_size(net, thin):
    made = al.recipe(thin)
    refuses(lambda: al.apply(made, GPT(), ZOO["gpt"].example()), "for a Stack", "is a GPT")
    refuses(lambda: al.apply(made, Stack(1), image()), "takes 2 sites", "lacks 1", "blocks.1/skip.0")
    refuses(lambda: al.apply(made, thin, image()), "has a recipe already")
    refuses(lambda: al.apply({"steps": []}, net, image()), "Recipe.from_json", "{'steps': []}", kind=TypeError)


@pytest.mark.parametrize("text", ["", "hello", "[1]", "{}", '{"model": "Stack", "steps": [{"name": "discard"}]}'])
def test_text_that_is_no_recipe(text):
    refuses(lambda: al.Recipe.from_json(text), "not a recipe")


def test_a_recipe_that_names_a_pass_or_an_option_there_is_not(net, thin):
    def changed(**step) -> al.Recipe:
        made = json.loads(al.recipe(thin).to_json())
        made["steps"][0] |= step
        return al.Recipe.from_json(json.dumps(made))

    refuses(lambda: al.apply(changed(name="os.system"), net, image()), "'os.system'", "discard")
    refuses(lambda: al.apply(changed(options={"path": "x"}), net, image()), "'discard'", "['path']")


# --- files ------------------------------------------------------------------------------------------


def test_a_file_that_is_no_thin_model(net, thin, tmp_path):
    (tmp_path / "garbage").write_bytes(b"no safetensors at all")
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    save_file({"a": image()}, tmp_path / "plain")
    for name, said in (("absent", "No such file"), ("garbage", "safetensors"), ("weights.pth", "safetensors")):
        refuses(lambda name=name: al.load(tmp_path / name, Stack, image()), str(tmp_path / name), said)
    refuses(lambda: al.load(tmp_path / "plain", Stack, image()), str(tmp_path / "plain"), "has no recipe", "save")


def test_a_file_cut_short(thin, tmp_path):
    al.save(thin, tmp_path / "thin")
    whole = (tmp_path / "thin").read_bytes()
    (tmp_path / "thin").write_bytes(whole[: len(whole) // 2])
    refuses(lambda: al.load(tmp_path / "thin", Stack, image()), str(tmp_path / "thin"), "cannot be read")


def test_a_checkpoint_of_another_model(thin, tmp_path):
    al.save(thin, tmp_path / "thin")
    file = str(tmp_path / "thin")

    class Wider(Stack):
        def __init__(self):
            super().__init__(2, norm=True)
            self.head = conv(kernel=5)

    Wider.__qualname__ = "Stack"
    refuses(lambda: al.load(file, GPT, ZOO["gpt"].example()), file, "for a Stack", "is a GPT")
    refuses(lambda: al.load(file, lambda: Stack(1), image()), file, "lacks 1", "blocks.1/skip.0")
    refuses(lambda: al.load(file, lambda: Stack(3), image()), file, "blocks.2.conv1.weight", "and 5 more")
    refuses(lambda: al.load(file, Wider, image()), file, "head.weight", "(4, 4, 3, 3)", "(4, 4, 5, 5)")
