"""The network is the one whose weights are given; another's weights are refused by name."""

import doctest

import pytest
import torch

from archlab import sites
from studies.classify import images, models
from studies.classify.models import CifarResNet, load_resnet


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def write(state, folder):
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.mark.parametrize("module", [models, images])
def test_examples_give_what_stands_under_them(module):
    assert doctest.testmod(module) == (0, 1)


@pytest.mark.parametrize("blocks, millions", [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85), (18, 1.7)])
def test_sizes_are_those_of_he_et_al_table_6(blocks, millions):
    assert parameters(CifarResNet(blocks)) / 1e6 == pytest.approx(millions, abs=0.05)


def test_option_b_adds_two_projections_with_their_norms():
    assert parameters(CifarResNet(shortcut="B")) - parameters(CifarResNet()) == 16 * 32 + 64 + 32 * 64 + 128


def test_shortcut_a_keeps_every_other_pixel_between_zeros():
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    y = CifarResNet(1, width=2).layer2[0].shortcut(x)
    assert y.shape == (1, 4, 2, 2)
    assert torch.equal(y[0, 1:3], x[0, :, ::2, ::2]) and not y[0, [0, 3]].any()


def test_sites_of_resnet20():
    found = sites(CifarResNet(), torch.zeros(1, 3, 32, 32)).frame()
    assert found["kind"].value_counts().to_dict() == {"activation": 19, "skip": 7, "branch": 7, "block": 7, "join": 2}


@pytest.mark.parametrize("options", [{}, {"blocks": 2, "width": 4, "classes": 3, "shortcut": "B"}])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_tell_the_network(tmp_path, options, wrapped):
    net = CifarResNet(**options).eval()
    state = net.state_dict()
    if wrapped:  # as nn.DataParallel and many training scripts write them, and without the counters of today
        state = {f"module.{name}": value for name, value in state.items() if "num_batches" not in name}
        state = {"state_dict": state, "epoch": 3}
    loaded = load_resnet(write(state, tmp_path))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), net(x)) and not loaded.training


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    alien = torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict()
    with pytest.raises(ValueError, match=r"weights\.pth: not the state dict of a CIFAR ResNet.*0\.weight, 0\.bias"):
        load_resnet(write(alien, tmp_path))


@pytest.mark.parametrize("name", ["layer2.1.conv2.weight", "bn1.running_mean"])
def test_a_missing_a_misshaped_and_an_unknown_weight_are_named(tmp_path, name):
    state = CifarResNet().state_dict()
    lost = {key: value for key, value in state.items() if key != name}
    with pytest.raises(ValueError, match=f"{name} is missing"):
        load_resnet(write(lost, tmp_path))
    with pytest.raises(ValueError, match=rf"{name} is \(1, 5\)"):
        load_resnet(write({**state, name: torch.zeros(1, 5)}, tmp_path))
    with pytest.raises(ValueError, match=r"extra\.weight is"):
        load_resnet(write({**state, "extra.weight": torch.zeros(1)}, tmp_path))


@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_a_file_that_holds_no_weights(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth: not a file of weights"):
        load_resnet(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="holds a list that is no state dict"):
        load_resnet(write([1, 2], tmp_path))


def test_shortcut_must_be_a_or_b():
    with pytest.raises(ValueError, match="'A' or 'B', got 'C'"):
        CifarResNet(shortcut="C")
