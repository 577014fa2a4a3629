"""Whose code a frame runs: every file of archlab is its own, whatever its name; layers put into models are models'."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
from archlab.capture.frames import asks_for_a_model, is_plumbing
from archlab.capture.recorder import capture
from archlab.passes.resolution import layers as stages
from tests.contracts.zoo import conv, image

PACKAGE = Path(al.__file__).parent


def frame_of(filename: str, **scope):
    """A frame that runs code of the file `filename`."""
    scope["current"] = sys._getframe
    exec(compile("def here():\n    return current()", filename, "exec"), scope)
    return scope["here"]()


@pytest.mark.parametrize("name", ["capture.py", "passes/new/deeper/still.py", "a_file_that_nobody_listed.py"])
def test_every_file_of_archlab_is_its_own(name):
    frame = frame_of(str(PACKAGE / name))
    assert is_plumbing(frame) and not asks_for_a_model(frame)


def test_files_whose_layers_are_put_into_models_and_files_beside_archlab_are_models():
    for frame in (frame_of(str(PACKAGE / "layers.py"), MODEL_CODE=True), frame_of(str(PACKAGE) + "_extras/net.py")):
        assert not is_plumbing(frame) and asks_for_a_model(frame)


def test_torch_stands_between_but_its_layers_are_a_models_code():
    assert is_plumbing(frame_of(F.__file__)) and not asks_for_a_model(frame_of(F.__file__))
    assert not is_plumbing(frame_of(nn.modules.activation.__file__))


class Numpy(nn.Module):
    """Cannot be traced, whose activation is found through a helper of archlab's that no list names."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()
        scope = {"relu": torch.relu}
        exec(compile("def helper(x):\n    return relu(x)", str(PACKAGE / "no_list_names_me.py"), "exec"), scope)
        self.helper = scope["helper"]

    def forward(self, x):
        y = self.helper(self.a(x))
        if y.detach().numpy().sum() > 1e9:
            y = y + 1
        return self.b(y)


def test_passes_compose_on_an_untraceable_model_whatever_archlabs_files_are_called():
    net, x = Numpy(), image()
    (site,) = al.sites(net, x, kinds="activation")
    assert site.how.startswith("intercepted")
    assert len(site.target.location.stack) == 1, "the helper's frame is no part of the location"


def test_what_an_inserted_layer_asks_of_its_input_is_seen():
    layer = stages.Finer(stages.UpStage("bilinear", 4, 2, 3, "zeros", None))
    record = capture(layer, al.Call(lambda net, x: net(F.relu(x), x), image()))
    assert record.asked, "its shape is asked for, so nothing may be merged across it unseen"
