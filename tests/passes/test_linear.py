"""Composing and adding linear layers, against running them: the exactness table of the design, and random pairs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from archlab.passes.fold.linear import Layer, NotExact, identity, plus, then
from archlab.passes.fold.modules import layer_of, module_of, why_not_linear

MODES = ("zeros", "reflect", "replicate", "circular")
CHANNELS = 8


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def norm() -> nn.Module:
    made = nn.BatchNorm2d(CHANNELS).double().eval()
    for tensor in (made.weight, made.bias, made.running_mean, made.running_var):
        tensor.data.uniform_(0.5, 1.5)
    return made


def conv(into: int = CHANNELS, out: int = CHANNELS, kernel: int = 3, **options) -> nn.Module:
    return nn.Conv2d(into, out, kernel, **options).double()


def merged(*layers: nn.Module) -> nn.Module:
    made = layer_of(layers[0])
    for layer in layers[1:]:
        made = then(made, layer_of(layer))
    return module_of(made, noise(1))


def assert_same(one: nn.Module, *layers: nn.Module, x: Tensor | None = None) -> None:
    """`one` and `layers` after each other say the same everywhere, at sizes that divide by 2 and at others."""
    for side in (12, 12) if x is not None else (12, 13):
        given = noise(2, CHANNELS, side, side) if x is None else x
        wanted = given
        with torch.no_grad():
            for layer in layers:
                wanted = layer(wanted)
            found = one(given)
        assert found.shape == wanted.shape
        assert torch.allclose(found, wanted, rtol=0, atol=1e-10 * float(wanted.abs().max()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("first", [{"padding": 1}, {"padding": 2, "stride": 2}, {"padding": 2, "dilation": 2}])
@pytest.mark.parametrize("second", [{"kernel": 3}, {"kernel": 1}, {"kernel": 3, "stride": 2, "dilation": 2}])
def test_an_unpadded_second_convolution_is_exact_everywhere(mode, first, second):
    layers = conv(padding_mode=mode, **first), conv(**second)
    assert_same(merged(*layers), *layers)


@pytest.mark.parametrize("mode", MODES)
def test_a_pointwise_first_commutes_with_every_padding_but_zeros_after_a_bias(mode):
    for bias in (False, True):
        layers = conv(kernel=1, bias=bias), conv(padding=1, padding_mode=mode)
        if bias and mode == "zeros":
            with pytest.raises(NotExact, match="a bias before zero padding"):
                merged(*layers)
        else:
            assert_same(merged(*layers), *layers)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
def test_two_padded_convolutions_are_refused_and_their_interior_would_be_exact(mode):
    layers = conv(padding=1, padding_mode=mode), conv(padding=1, padding_mode=mode)
    with pytest.raises(NotExact, match="both are padded"):
        merged(*layers)
    one = module_of(then(*(layer_of(layer) for layer in layers), hoist=True), noise(1))
    x = noise(1, CHANNELS, 12, 12)
    with torch.no_grad():
        difference = (one(x) - layers[1](layers[0](x))).abs().amax(dim=(0, 1))
    assert difference[1:-1, 1:-1].max() < 1e-12
    assert difference[0].max() > 1e-3, "the ring of one pixel should differ"


def test_circular_padding_is_exact_behind_what_keeps_the_period():
    layers = conv(padding=1, padding_mode="circular"), conv(padding=1, padding_mode="circular")
    assert_same(merged(*layers), *layers)
    with pytest.raises(NotExact, match="circular"):
        merged(conv(padding=2, padding_mode="circular"), layers[1])


def test_a_stride_keeps_the_period_only_where_it_divides_the_size_and_is_refused():
    layers = conv(padding=1, stride=2, padding_mode="circular"), conv(padding=1, padding_mode="circular")
    with pytest.raises(NotExact, match="at every size"):
        merged(*layers)
    one = module_of(then(*(layer_of(layer) for layer in layers), hoist=True), noise(1))
    assert_same(one, *layers, x=noise(1, CHANNELS, 12, 12))
    x = noise(1, CHANNELS, 13, 13)
    with torch.no_grad():
        assert (one(x) - layers[1](layers[0](x))).abs().max() > 1e-3


def test_norms_merge_behind_a_convolution_and_before_an_unpadded_or_reflecting_one():
    for layers in (
        (conv(padding=1, groups=4), norm()),
        (norm(), conv()),
        (norm(), conv(padding=1, padding_mode="reflect", groups=2)),
        (nn.ConvTranspose2d(CHANNELS, CHANNELS, 4, 2, 1, groups=2).double(), norm()),
    ):
        assert_same(merged(*layers), *layers)
    with pytest.raises(NotExact, match="zero padding"):
        merged(norm(), conv(padding=1))
    with pytest.raises(NotExact, match="transposed"):
        merged(norm(), nn.ConvTranspose2d(CHANNELS, 4, 3).double())


def test_groups_merge_into_the_largest_that_both_have():
    for first, second, groups in ((4, 2, 2), (8, 8, 8), (8, 2, 2), (1, 4, 1), (4, 4, 4)):
        layers = conv(groups=first, padding=1), conv(groups=second)
        one = merged(*layers)
        assert one.groups == groups
        assert_same(one, *layers)


def test_dilations_stay_where_both_have_them():
    one = merged(conv(dilation=2), conv(dilation=2))
    assert (one.kernel_size, one.dilation) == ((5, 5), (2, 2))
    one = merged(conv(kernel=1), conv(dilation=3))
    assert (one.kernel_size, one.dilation) == ((3, 3), (3, 3))


def test_transposed_convolutions_merge_with_pointwise_ones_and_with_unpadded_ones_behind():
    up = nn.ConvTranspose2d(CHANNELS, CHANNELS, 4, 2, 1, output_padding=1, dilation=2, groups=2).double()
    for layers in ((up, conv(kernel=1)), (up, conv(dilation=2)), (conv(kernel=1, bias=False, groups=4), up)):
        assert_same(merged(*layers), *layers)
    for layers in ((conv(), up), (conv(kernel=1), up), (up, conv(padding=1)), (up, conv(stride=2)), (up, up)):
        with pytest.raises(NotExact, match="transposed"):
            merged(*layers)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_any_number_of_dimensions(dims):
    kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    layers = kinds[dims](4, 5, 3, 2, 1).double(), kinds[dims](5, 3, 2).double()
    assert_same(merged(*layers), *layers, x=noise(2, 4, *(9,) * dims))


def test_linear_layers_multiply():
    layers = nn.Linear(6, 5).double(), nn.Linear(5, 7, bias=False).double()
    assert_same(merged(*layers), *layers, x=noise(2, 3, 6))


@pytest.mark.parametrize("other", [None, {"kernel": 1}, {"kernel": 5, "padding": 2}, {"dilation": 2, "padding": 2}])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_sum_of_layers_is_a_layer(other, groups):
    first = conv(padding=1, groups=groups)
    second = None if other is None else conv(**other)
    layer = plus(layer_of(first), identity(CHANNELS, 2) if second is None else layer_of(second))
    one, x = module_of(layer, noise(1)), noise(1, CHANNELS, 9, 10)
    with torch.no_grad():
        assert torch.allclose(one(x), first(x) + (x if second is None else second(x)), atol=1e-12)


def test_sums_that_are_no_layer_are_refused():
    for other in (conv(stride=2, padding=1), conv(padding=2), conv(kernel=5, padding=2, padding_mode="reflect")):
        with pytest.raises(NotExact):
            plus(layer_of(conv(padding=1)), layer_of(other))


def test_the_paper_s_stem():
    """7x7, 3x3 of stride 2, 3x3: one 13x13 of stride 2, whose padding, all done at first, is half of that."""
    chain = [conv(3, 16, 7, padding=3), conv(16, 32, 3, stride=2, padding=1), conv(32, 32, 3, padding=1)]
    layer = layer_of(chain[0])
    for one in chain[1:]:
        layer = then(layer, layer_of(one), hoist=True)
    assert (layer.kernel, layer.stride, layer.padding) == ((13, 13), (2, 2), (6, 6))


def test_what_is_no_plain_layer_is_named():
    class Own(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).abs()

    hooked = conv()
    hooked.register_forward_hook(lambda *args: None)
    assert why_not_linear(nn.ReLU()) == ""
    assert why_not_linear(conv()) is None
    assert "in its own way" in str(why_not_linear(Own(2, 2, 1)))
    assert "hooks" in str(why_not_linear(hooked))
    assert "other parameters" in str(why_not_linear(nn.utils.parametrizations.weight_norm(conv())))
    assert "by the batch" in str(why_not_linear(nn.BatchNorm2d(4)))
    assert "both sides" in str(why_not_linear(nn.Conv2d(4, 4, 2, padding="same")))


def settings_of_a_convolution(into: int):
    divisors = [g for g in (1, 2, 4) if into % g == 0]
    return st.fixed_dictionaries(
        {
            "out": st.sampled_from([4, 8]), "kernel": st.integers(1, 3), "stride": st.integers(1, 2),
            "padding": st.integers(0, 2), "dilation": st.integers(1, 2), "groups": st.sampled_from(divisors),
            "bias": st.booleans(), "padding_mode": st.sampled_from(MODES),
        }
    )  # fmt: skip


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_random_chains_are_exact_or_refused(data):
    """Any chain of two to four layers: merged it equals the chain to 1e-10 in float64, or a reason is given."""
    layers, width = [], CHANNELS
    for _ in range(data.draw(st.integers(2, 4))):
        options = data.draw(settings_of_a_convolution(width))
        layers.append(conv(width, options.pop("out"), **options))
        width = layers[-1].out_channels
    x = noise(1, CHANNELS, 72, 80)
    with torch.no_grad():
        wanted = nn.Sequential(*layers)(x)
    try:
        one = merged(*layers)
    except NotExact as reason:
        assert str(reason)
        return
    with torch.no_grad():
        found = one(x)
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, rtol=0, atol=1e-10 * max(1.0, float(wanted.abs().max())))


def test_nearest_up_sampling_and_a_convolution_are_one_transposed_convolution():
    """Four 2 x 2 convolutions, one for each phase: 9/4 fewer multiply-adds, exact with the right padding."""
    second, x = conv(padding=1), noise(1, CHANNELS, 6, 7)
    ones = torch.ones(CHANNELS, 1, 2, 2, dtype=torch.float64)
    nearest = Layer("transposed", 2, ones, None, (2, 2), (0, 0), (1, 1), (0, 0), "zeros", CHANNELS)
    unpadded = replace(layer_of(second), padding=(0, 0))
    inner = then(nearest, unpadded)
    whole = replace(inner, padding=tuple(p - 1 for p in inner.padding))
    assert (whole.kernel, whole.stride, whole.padding) == ((4, 4), (2, 2), (1, 1))
    with torch.no_grad():
        up = nn.functional.interpolate(x, scale_factor=2.0)
        assert torch.allclose(module_of(whole, ones)(x), second(up), atol=1e-12)
    positions = x.shape[2] * x.shape[3]
    assert unpadded.macs(4 * positions, 4 * positions) / whole.macs(positions, 4 * positions) == 9 / 4
