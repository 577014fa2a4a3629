"""fold and scale_width over the zoo: the same function again, or a refusal in words; the input untouched."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import archlab as al
from archlab.capture.example import moved, run_example, tensors_in
from archlab.rewrite.rewrite import CannotRewrite

from .zoo import ZOO, Entry
from .zoo_real import CLASSIFICATION, REAL

SMALL_REAL = {name: REAL[name] for name in ("magnification", *CLASSIFICATION)}
PASSES = {
    "fold": lambda net, example: al.fold(net, example),
    "wider": lambda net, example: al.scale_width(net, example, ratio=2, init="preserve"),
}


@pytest.fixture(scope="module", params=[pytest.param(e, id=name) for name, e in (ZOO | SMALL_REAL).items()])
def entry(request) -> Entry:
    return request.param


def outputs(net: nn.Module, example: Any) -> list[torch.Tensor]:
    torch.manual_seed(3)
    with torch.no_grad():
        return tensors_in(run_example(copy.deepcopy(net), example))


@pytest.mark.parametrize("name", PASSES)
def test_the_same_function_or_a_refusal_in_words(entry, name, tmp_path):
    dtype = torch.float64 if entry.doubles else torch.float32
    net, example = entry.build(dtype), moved(entry.example(), dtype=dtype)
    state, classes = copy.deepcopy(net.state_dict()), [type(m) for m in net.modules()]
    try:
        made = PASSES[name](net, example)
    except (ValueError, CannotRewrite) as error:
        assert len(str(error)) > 20, "the reason is missing"
        made = None
    assert [type(m) for m in net.modules()] == classes
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    if made is None:
        return
    tolerance = 1e-9 if entry.doubles else 1e-3
    for found, wanted in zip(outputs(made, example), outputs(net, example), strict=True):
        assert found.shape == wanted.shape
        scale = max(1.0, float(wanted.double().abs().max())) if wanted.numel() else 1.0
        assert torch.allclose(found.double(), wanted.double(), rtol=0, atol=tolerance * scale, equal_nan=True)
    step = al.recipe(made).steps[-1]
    assert step.taken and step.equality == "exact"
    storages = {t.untyped_storage().data_ptr() for t in net.state_dict().values() if t.numel()}
    assert not storages & {t.untyped_storage().data_ptr() for t in made.state_dict().values() if t.numel()}
    # Read again by a factory whose network is in training, as every factory's is: the recipe knows its mode.
    al.save(made, tmp_path / "made.safetensors")
    again = al.load(tmp_path / "made.safetensors", lambda: entry.factory().to(dtype), example)
    modes = {path: module.training for path, module in made.named_modules()}
    for path, module in again.named_modules():
        module.training = modes[path]
    for found, wanted in zip(outputs(again, example), outputs(made, example), strict=True):
        assert torch.equal(found, wanted) or torch.allclose(found.double(), wanted.double(), rtol=1e-6, equal_nan=True)
