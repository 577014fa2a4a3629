"""A switch a channel of each activation: blended, discarded, written and replayed; and where it is refused."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
from archlab.removal.budget import AMOUNTS

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Activations of all forms: a module in place, a function, a composed one, one of vectors; and one of an inner code
    that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(6)
        self.second, self.third, self.last = nn.Conv2d(6, 5, 3), Asking(), nn.Linear(5, 4)

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        x = F.gelu(self.second(x))
        x = self.third(x)
        x = x * torch.sigmoid(1.7 * x)
        return self.last(F.relu(x.mean((2, 3))))


class Asking(nn.Module):
    """Its code asks for values, so that it is intercepted."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(5, 5, 1)

    def forward(self, x):
        x = self.layer(x)
        return torch.tanh(x) if float(x.detach().abs().sum()) >= 0 else x


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


KEPT = {
    "activation.0": [0, 2, 5], "activation.3": [1], "third/activation.0": [0, 1, 2, 4], "activation.2": [3, 4]
}  # fmt: skip


@pytest.fixture(scope="module")
def soft():
    """All channels of the GELU go, and of the others all but `KEPT`."""
    made = al.switch(net(), X, kinds="activation", granularity="channel")
    al.set_omegas_(made, 1.0)
    al.set_omegas_(made, {f"{site}[{channel}]": 0.0 for site, kept in KEPT.items() for channel in kept})
    return made


@pytest.fixture(scope="module")
def thin(soft):
    return al.discard(soft)


def test_each_channel_has_a_switch(soft):
    found = al.omegas(soft)
    assert list(found) == ["site", "channel", "kind", "omega"]
    assert found.groupby("site")["omega"].size().to_dict() == {
        "activation.0": 6, "activation.1": 5, "activation.2": 5, "activation.3": 5, "third/activation.0": 5
    }  # fmt: skip
    assert al.penalty(soft).item() == pytest.approx(10 / 26)
    kept = found[found["omega"] == 0].groupby("site")["channel"].apply(list).to_dict()
    assert kept == KEPT


def test_the_blend_is_that_of_each_channel_and_every_omega_gets_its_gradient():
    layer = nn.Conv2d(3, 4, 1)
    soft = al.switch(nn.Sequential(layer, nn.ReLU()), X, kinds="activation", granularity="channel")
    values = torch.tensor([0.0, 0.25, 0.5, 1.0])
    al.set_omegas_(soft, {"activation.0": values})
    omega = al.omega_parameters(soft)[0]
    x = layer(X)
    by_hand = torch.stack([(1 - w) * x[:, k].relu() + w * x[:, k] for k, w in enumerate(values)], 1)
    torch.testing.assert_close(soft(X), by_hand)
    soft(X).sum().backward()
    torch.testing.assert_close(omega.grad, (x - x.relu()).sum((0, 2, 3)))
    al.project_(soft)
    torch.testing.assert_close(soft(X[0]), by_hand[0])  # without a batch: the channels are counted from the last


def test_what_is_left_of_a_site_works_on_its_channels_alone(soft, thin):
    assert torch.equal(thin(X), soft(X))
    sizes = sorted(site.shape for site in al.sites(thin, X, kinds="activation"))
    assert sizes == [(2, 1, 4, 4), (2, 2), (2, 3, 6, 6), (2, 4, 4, 4)]
    assert AMOUNTS["activations"](thin, X) == 2 * (16 + 2 + 3 * 36 + 4 * 16)
    assert not any("omega" in name for name, _ in thin.named_parameters())
    assert thin.state_dict().keys() == net().state_dict().keys()


def test_gradients_in_double_and_copies(soft, thin):
    x = X.double().requires_grad_()
    gradients = []
    for model in (soft, thin):
        model = copy.deepcopy(model).double()
        (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_the_recipe_makes_it_again_and_a_file_gives_it_back(thin, tmp_path):
    options = al.recipe(thin).steps[-1].options
    assert options["removed"] == ["activation.1"]
    assert {site: part["kept"] for site, part in options["channels"].items()} == KEPT
    assert options["channels"]["activation.2"]["dim"] == -1 and options["channels"]["activation.0"]["dim"] == -3
    assert torch.equal(al.apply(al.recipe(thin), net(), X)(X), thin(X))
    al.save(thin, tmp_path / "thin.safetensors")
    assert torch.equal(al.load(tmp_path / "thin.safetensors", Net, X).eval()(X), thin(X))


def test_a_switched_model_is_replayed_with_its_channels(soft):
    again = al.apply(al.recipe(soft), net(), X)
    assert al.omegas(again)["channel"].tolist() == al.omegas(soft)["channel"].tolist()
    again.load_state_dict(soft.state_dict())
    assert torch.equal(again(X), soft(X))


def test_what_works_in_part_is_not_switched_again(thin):
    assert {site.told for site in al.sites(thin, X, kinds="activation")} == {
        "refused: an earlier pass froze it or left it some channels, or the other operand of its add is chosen"
    }
    with pytest.raises(ValueError, match="left it some channels"):
        al.switch(thin, X, kinds="activation")


class Mixer(nn.Module):
    """Layers over positions and over channels: which of both an activation's are is not known."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Linear(3, 4), nn.Linear(6, 5)

    def forward(self, x):
        return F.gelu(self.mix(self.embed(x).transpose(1, 2))).mean()


@pytest.mark.parametrize(
    ("model", "x", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU(4)), X, "it works with 1.weight of shape 4, .* a number a channel"),
        (
            Mixer(),
            torch.randn(2, 6, 3),
            "of the dimensions of its 2x4x5 layers make -2 and -1, so that it is not known",
        ),
        (nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(108, 2)), X, "layers make none"),
    ],
)
def test_where_channels_are_not_known_or_have_weights_it_says_so(model, x, reason):
    with pytest.raises(ValueError, match=rf"activation.0 cannot have a switch a channel: .*{reason}.*where"):
        al.switch(model, x, kinds="activation", granularity="channel")


def test_other_kinds_have_no_channels(soft):
    for kinds in ("block", ["activation", "skip"]):
        with pytest.raises(ValueError, match="goes with kinds='activation' alone; got kinds="):
            al.switch(net(), X, kinds=kinds, granularity="channel")
    with pytest.raises(ValueError, match="keep='freeze' goes with a switch a site"):
        al.discard(soft, keep="freeze")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"activation.0": [0.5, 1]}, "omega of activation.0 must be a number, or 6 of them, one a channel"),
        ({"activation.0": [0, 0, 0, 0, 0, 2]}, "omega of activation.0 must be a number from 0 to 1, got 2"),
        ({"activation.0[1]": 1.5}, r"omega of activation.0\[1\] must be a number from 0 to 1"),
    ],
)
def test_what_omegas_cannot_be(soft, value, said):
    before = al.omegas(soft)
    with pytest.raises(ValueError, match=said):
        al.set_omegas_(soft, value)
    with pytest.raises(KeyError, match=r"activation.0\[6\].* has no switch"):
        al.set_omegas_(soft, {"activation.0[6]": 1.0})
    assert before.equals(al.omegas(soft))


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        ({"activation.0": {"dim": -3, "kept": [0, 9]}}, "some of its 6 channels, in their order"),
        ({"activation.0": {"dim": 1, "kept": [0]}}, "a dimension of its 2x6x6x6, from -1 down"),
        ({"activation.0": [0]}, "an object of dim and kept"),
        ({"norm.0": {"dim": -3, "kept": [0]}}, "a dict of dimensions by activation"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(thin, channels, said):
    made = al.recipe(thin)
    broken = replace(made.steps[-1], options=made.steps[-1].options | {"channels": channels})
    with pytest.raises(ValueError, match=said):
        al.apply(replace(made, steps=(*made.steps[:-1], broken)), net(), X)
