"""scale_width: what is asked for, what is refused with which reason, and which channels stay."""

import copy
import math

import pytest
import torch
from torch import nn

import archlab as al
from archlab.passes.width.resize import Resizing, resize_

from .test_width_networks import IMAGE, Attention, code, conv, noise, options_of

# --- norms, and what copies would change ------------------------------------------------------------


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8), nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1))])
def test_a_norm_lets_whole_multiples_through(norm):
    net, x = nn.Sequential(nn.Linear(5, 8), norm, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), noise(2, 5)
    assert al.scale_width(net, x, ratio=2, init="preserve")[4].in_features == 12
    soft = isinstance(norm, nn.Sequential)
    assert al.scale_width(net, x, ratio=2, init="preserve")[0].out_features == 16
    some = al.scale_width(net, x, ratio=1.5, init="preserve")
    assert (some[0].out_features, some[4].in_features) == (12 if soft else 8, 9)
    assert "softmax" if soft else "whole multiple" in str(al.recipe(some).steps[-1].skipped)
    assert al.scale_width(net, x, ratio=0.5)[0].out_features == 4


def test_groups_of_a_norm_stay():
    net = nn.Sequential(conv(4, 8), nn.GroupNorm(2, 8), conv(8, 3)).eval()
    thin = al.scale_width(net, IMAGE, ratio=0.5)
    assert (thin[1].num_groups, thin[1].num_channels) == (2, 4)
    with pytest.raises(ValueError, match="multiple of 2"):
        al.scale_width(net, IMAGE, widths={"0": 3})


def test_copies_of_a_channel_are_read_unevenly():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    wide = al.scale_width(net, torch.zeros(1, 4), ratio=2, init="preserve")
    assert not torch.allclose(wide[2].weight[:, :3], wide[2].weight[:, 3:])


# --- what is asked for ------------------------------------------------------------------------------


def test_pruned_channels_are_the_most_important_as_they_were():
    net = nn.Sequential(conv(4, 8), nn.ReLU(), conv(8, 3))
    with torch.no_grad():
        net[0].weight[[0, 3, 6]] *= 100
    thin = al.scale_width(net, IMAGE, widths={"0": 3}, init="prune", importance="l1")
    assert torch.equal(thin[0].weight, net[0].weight[[0, 3, 6]])
    assert torch.equal(thin[2].weight, net[2].weight[:, [0, 3, 6]])
    assert options_of(thin)["tensors"]["0.weight"] == {"0": [0, 3, 6]}
    mine = al.scale_width(net, IMAGE, widths={"0": 1}, init="prune", importance=lambda w: -w["0.bias:0"][:, 0].abs())
    assert torch.equal(mine[0].bias, net[0].bias[[int(net[0].bias.abs().argmin())]])


@pytest.mark.parametrize("importance", ["l1", "l2", "bn-scale"])
def test_importance_is_that_of_torch_pruning(importance):
    import torch_pruning as tp

    torch.manual_seed(1)
    net = nn.Sequential(conv(4, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 3)).eval()
    with torch.no_grad():
        net[1].weight.copy_(noise(8))
    layers = ["0"] if importance == "bn-scale" else ["0", "3"]
    thin = al.scale_width(net, IMAGE, ratio=0.5, init="prune", importance=importance, where=layers)
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=IMAGE)
    score = {
        "l1": tp.importance.GroupMagnitudeImportance(p=1), "l2": tp.importance.GroupMagnitudeImportance(p=2),
        "bn-scale": tp.importance.BNScaleImportance(),
    }[importance]  # fmt: skip
    for layer in layers:
        conv_ = net[int(layer)]
        group = graph.get_pruning_group(conv_, tp.prune_conv_out_channels, list(range(conv_.out_channels)))
        best = score(group).argsort(descending=True)[: conv_.out_channels // 2].sort().values
        assert options_of(thin)["tensors"][f"{layer}.weight"]["0"] == best.tolist()


def test_an_importance_must_score_every_channel():
    net = nn.Sequential(conv(4, 8), conv(8, 3))
    with pytest.raises(ValueError, match="gives no score for each of the 8 channels"):
        al.scale_width(net, IMAGE, ratio=0.5, init="prune", importance="bn-scale")
    with pytest.raises(ValueError, match="importance must be one of l1, l2"):
        al.scale_width(net, IMAGE, ratio=0.5, init="prune", importance="size")


def test_widths_by_pattern_and_rounding():
    net = nn.Sequential(conv(4, 20), conv(20, 20), conv(20, 3))
    made = al.scale_width(net, IMAGE, widths={"0": 7, "1": 12})
    assert (made[0].out_channels, made[1].out_channels, made[2].out_channels) == (7, 12, 3)
    made = al.scale_width(net, IMAGE, ratio=0.5, where="1", round_to=8)
    assert (made[0].out_channels, made[1].out_channels) == (20, 8)
    made = al.scale_width(net, IMAGE, ratio=0.5, where=lambda path: path == "0")
    assert (made[0].out_channels, made[1].out_channels) == (10, 20)
    with pytest.raises(ValueError, match="'9' matches no layer with weights; there are 0, 1, 2"):
        al.scale_width(net, IMAGE, ratio=0.5, where="9")
    heads = nn.Sequential(nn.Linear(5, 16), Attention("packed"), nn.Linear(16, 3))
    assert al.scale_width(heads, noise(1, 6, 5), ratio=0.3, round_to=8)[0].out_features == 8


def test_where_is_a_filter_and_require_a_demand():
    net = nn.Sequential(conv(4, 8), conv(8, 8), conv(8, 3))
    thin = al.scale_width(net, IMAGE, ratio=0.5, where=["1", "2"])
    assert (thin[0].out_channels, thin[1].out_channels) == (8, 4)
    assert al.recipe(thin).steps[-1].skipped == {"2": "makes the channels of the output"}
    with pytest.raises(ValueError, match="2 cannot change: makes the channels of the output"):
        al.scale_width(net, IMAGE, ratio=0.5, require="2")
    with pytest.raises(ValueError, match=r"no layer can change.*2: makes the channels of the output"):
        al.scale_width(net, IMAGE, ratio=0.5, where="2")
    both = al.scale_width(net, IMAGE, ratio=0.5, where="0", require="1")
    assert (both[0].out_channels, both[1].out_channels) == (4, 4)


def test_what_was_asked_for_and_cannot_change_is_an_error():
    net = nn.Sequential(conv(4, 8), conv(8, 8), conv(8, 3))
    for glob, reason in (("2", "makes the channels of the output"), ("9", "matches no")):
        with pytest.raises(ValueError, match=reason):
            al.scale_width(net, IMAGE, widths={glob: 4})
    with pytest.raises(ValueError, match="give a ratio or widths"):
        al.scale_width(net, IMAGE)
    with pytest.raises(ValueError, match="nothing would change"):
        al.scale_width(net, IMAGE, ratio=1.0)
    with pytest.raises(ValueError, match="multiple of 4"):
        al.scale_width(nn.Sequential(conv(4, 8), conv(8, 8, groups=4), conv(8, 3)), IMAGE, widths={"0": 6})
    with pytest.raises(ValueError, match="makes fewer channels"):
        al.scale_width(net, IMAGE, ratio=2, init="prune")
    for wrong in (0, -1, math.nan, math.inf, True, "2"):
        with pytest.raises((ValueError, TypeError), match="the ratio of '0' must be a finite number above 0"):
            al.scale_width(net, IMAGE, ratio={"0": wrong})
    summed = nn.Sequential(conv(4, 8), conv(8, 8))
    together = code(lambda s, x: s.c(s.a(x) + s.b(x)), a=conv(4, 8), b=conv(4, 8), c=conv(8, 3))
    with pytest.raises(ValueError, match="b is to have 6 channels by 'b' and 4 by 'a', as they are coupled"):
        al.scale_width(together, IMAGE, widths={"a": 4, "b": 6})
    with pytest.raises(ValueError, match="1 cannot change"):
        al.scale_width(summed, IMAGE, ratio={"1": 0.5})


def test_reasons_name_what_layers_are_coupled_with():
    net = code(lambda s, x: x + s.b(s.a(x).relu()), a=conv(4, 8), b=conv(8, 4))
    thin = al.scale_width(net, IMAGE, ratio=0.5)
    assert al.recipe(thin).steps[-1].skipped == {"b": "is coupled with the input itself, or with a constant"}
    net = code(lambda s, x: s.c(x) + s.b(s.a(x).relu()), a=conv(4, 8), b=conv(8, 4), c=conv(4, 4))
    thin = al.scale_width(net, IMAGE, ratio=0.5)
    assert al.recipe(thin).steps[-1].skipped["b"] == "makes the channels of the output; coupled with c"
    unknown = code(lambda s, x: s.c(torch.linalg.qr(s.a(x))[0]) + s.d(s.b(x)), a=conv(4, 8), b=conv(4, 8), c=conv(8, 3),
                   d=conv(8, 3))  # fmt: skip
    thin = al.scale_width(unknown, IMAGE, ratio=0.5)
    assert (thin.a.out_channels, thin.b.out_channels) == (8, 4)
    assert "goes through linalg_qr" in al.recipe(thin).steps[-1].skipped["a"]


def test_a_recipe_of_other_positions_or_numbers_is_refused():
    net = nn.Sequential(conv(4, 8), conv(8, 3))
    for wrong in (
        Resizing({"0.weight": {"0": [9]}}), Resizing({"0.weight": {"7": [0]}}), Resizing({"9.weight": {"0": [0]}}),
        Resizing({"0.weight": {"0": []}}), Resizing({}, numbers={"0": {"padding_mode": 1}}),
        Resizing({}, numbers={"0": {"in_channels": -1}}), Resizing({}, numbers={"0": {"training": 1}}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="scale_width"):
            resize_(copy.deepcopy(net), wrong, "prune")


def test_sizes_that_hang_on_values_may_differ():
    found = code(lambda s, x: (y := s.b(s.a(x).relu()))[y[:, 0] > y[:, 1]], a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    x = noise(40, 5)
    made = [al.scale_width(found, x, ratio=ratio) for ratio in (0.5, 1.5, 2)]
    assert [net.a.out_features for net in made] == [4, 12, 16]
    assert len({net(x).shape for net in (found, *made)}) > 1


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.body, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x):
            return self.head(torch.relu(self.body(self.words(x))))

    narrow = al.scale_width(Tied(), torch.randint(20, (2, 5)), ratio=0.5, init="prune")
    assert narrow.head.weight is narrow.words.weight and sum(p.numel() for p in narrow.parameters()) == 100


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_a_weight_in_length_and_direction_is_fresh_in_both():
    whole = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(2, 8, 3)), nn.ReLU(), nn.Conv1d(8, 2, 1))
    narrow = al.scale_width(whole, torch.randn(1, 2, 9), ratio=0.5, init="fresh")
    first, (length, direction) = narrow[0], (whole[0].weight_g[:4], whole[0].weight_v[:4])
    assert first.weight_v.shape == direction.shape and not torch.isclose(first.weight_v, direction).any()
    assert not torch.isclose(first.weight_g, length).any()
    torch.testing.assert_close(first.weight_g.flatten(), first.weight_v.flatten(1).norm(dim=1))


class Auxiliary(nn.Module):
    """Heads of which training calls one, and with `only` evaluation another one."""

    def __init__(self, only=False):
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.last = nn.Linear(8, 3) if only else None

    def forward(self, x):
        x = torch.relu(self.body(x))
        if self.training:
            return self.head(x), self.aux(x)
        return self.head(x) if self.last is None else self.last(x)


@pytest.mark.parametrize("training", [True, False])
def test_a_head_that_training_alone_calls_follows(training):
    net = Auxiliary().train(training)
    narrow = al.scale_width(net, noise(2, 6), ratio=0.5)
    assert narrow.aux.in_features == narrow.head.in_features == 4
    assert narrow.training is net.training is training
    assert [out.shape[1] for out in narrow.train()(noise(2, 6))] == [3, 3]
    again = al.apply(al.recipe(narrow), Auxiliary().eval(), noise(2, 6))
    assert again.aux.in_features == 4 and not again.training


def test_a_head_that_training_alone_calls_is_as_it_was_where_the_function_is_kept():
    net, x = Auxiliary().eval(), noise(2, 6)
    wide = al.scale_width(net, x, ratio=2, init="preserve")
    assert wide.aux.in_features == 16 and not net.training
    for training in (False, True):
        torch.testing.assert_close(wide.train(training)(noise(5, 6)), net.train(training)(noise(5, 6)))


@pytest.mark.parametrize("training, mode", [(True, "evaluation"), (False, "training")])
def test_heads_of_both_modes_that_no_one_run_calls_are_refused(training, mode):
    with pytest.raises(ValueError, match=f"not run in {mode} any more: .*called in {mode} alone"):
        al.scale_width(Auxiliary(only=True).train(training), noise(2, 6), ratio=0.5)
