"""fold_upsampling: nearest upsampling and the convolution behind it are one, border and gradients included."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SIDES = (6, 5, 4)
# factor, then a convolution's kernel, padding, dilation, groups, its mode and the number of dimensions
EXACT = [
    (2, 3, 1, 1, 1, "zeros", 2),
    (2, 3, 1, 1, 1, "reflect", 2),
    (2, 3, 0, 1, 1, "zeros", 2),
    (2, (3, 5), (1, 2), 1, 2, "replicate", 2),
    (2, 7, 3, 1, 1, "circular", 2),
    (3, 5, 2, 1, 1, "reflect", 1),
    (2, 4, 1, 1, 4, "zeros", 1),
    (4, 3, 2, 2, 1, "zeros", 2),
    (2, 3, 1, 1, 1, "replicate", 3),
    (4, 3, 1, 1, 1, "circular", 1),
]


def upsampled(factor: int, kernel, padding, dilation: int, groups: int, mode: str, dims: int) -> nn.Module:
    options = {"padding": padding, "dilation": dilation, "groups": groups, "padding_mode": mode}
    up = nn.Upsample(scale_factor=factor, mode="nearest")
    return nn.Sequential(up, CONVOLUTIONS[dims - 1](4, 8, kernel, **options)).double()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).double()


def gradient(net: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (net(x) ** 2).sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_values_and_gradients_are_the_same_to_the_border(case):
    net, x = upsampled(*case), noise(2, 4, *SIDES[: case[-1]])
    folded = al.fold_upsampling(net, x)
    assert not any(isinstance(m, nn.Upsample) for m in folded.modules())
    assert torch.allclose(folded(x), net(x), rtol=0, atol=1e-12)
    assert torch.allclose(gradient(folded, x), gradient(net, x), rtol=0, atol=1e-11)
    assert al.cost(folded, x).macs < al.cost(net, x).macs
    larger = noise(1, 4, *(side + 3 for side in x.shape[2:]))
    assert torch.allclose(folded(larger), net(larger), rtol=0, atol=1e-12), "on another size"


class Decoder(nn.Module):
    """Upsampling in code: once read by two convolutions, once by two calls of one, once for good."""

    def __init__(self):
        super().__init__()
        self.left, self.right = (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect") for _ in range(2))
        self.shared, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        up = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.left(up).relu() + self.right(up)
        for _ in range(2):
            x = F.max_pool2d(self.shared(F.interpolate(x, scale_factor=2)), 2)
        return F.interpolate(self.last(x), scale_factor=2)


IMAGE = noise(1, 4, 6, 7).float()


@pytest.fixture(scope="module")
def folded() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    net = Decoder()
    return net, al.fold_upsampling(net, IMAGE)


def test_upsampling_in_code_goes_with_all_that_read_it(folded):
    net, made = folded
    step = al.recipe(made).steps[-1]
    assert step.taken == ("left", "right", "shared")
    assert step.equality == "exact"
    assert "in float64" in step.checked
    assert step.skipped == {"interpolate.3": "its output is looked at by more than a convolution"}
    assert torch.allclose(made(IMAGE), net(IMAGE), atol=1e-6)
    assert isinstance(net.left, nn.Conv2d), "the model itself was changed"


def test_a_recipe_replays_it(folded):
    net, made = folded
    steps = al.Recipe.from_json(al.recipe(made).to_json())
    again = al.apply(steps, net, IMAGE)
    assert torch.equal(again(IMAGE), made(IMAGE))
    fresh = al.apply(steps, Decoder(), IMAGE)
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh(IMAGE), made(IMAGE))


def test_it_keeps_channels_last(folded):
    net, _ = folded
    net = Decoder().to(memory_format=torch.channels_last)
    made = al.fold_upsampling(net, IMAGE, where="shared")
    assert made.shared.conv.weight.is_contiguous(memory_format=torch.channels_last)
    x = IMAGE.contiguous(memory_format=torch.channels_last)
    assert made.shared.conv(x).is_contiguous(memory_format=torch.channels_last)


def test_one_of_two_readers_is_not_enough():
    with pytest.raises(ValueError, match="left: right, which reads the same map, is not folded"):
        al.fold_upsampling(Decoder(), IMAGE, where="left")


def test_it_runs_where_the_model_has_its_own_precision_only():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = upsampled(*EXACT[0]).bfloat16()

        def forward(self, x):
            return self.body(x.bfloat16())

    made = al.fold_upsampling(Cast(), IMAGE)
    assert "float64" not in al.recipe(made).steps[-1].checked


class Code(nn.Module):
    """A convolution of what `up` makes of the input."""

    def __init__(self, up, **options):
        super().__init__()
        self.up, self.conv = up, nn.Conv2d(4, 4, **{"kernel_size": 3, "padding": 1} | options)

    def forward(self, x, *given):
        return self.conv(self.up(x, *given))


def looked_at(x):
    x = F.interpolate(x, scale_factor=2)
    return x if x.shape[-1] > 3 else x + 1


def twice(x):
    return F.interpolate(x, scale_factor=2)


REFUSED = {
    "mirrors 2 positions": (Code(twice, kernel_size=5, padding=2, padding_mode="reflect"), ()),
    "has a stride": (Code(twice, stride=2), ()),
    "covers as many positions": (Code(twice, kernel_size=1, padding=0), ()),
    "interpolates (bilinear)": (Code(nn.Upsample(scale_factor=2, mode="bilinear")), ()),
    "to a size": (Code(lambda x: F.interpolate(x, size=(12, 14))), ()),
    "no whole number": (Code(lambda x: F.interpolate(x, scale_factor=1.5)), ()),
    "not by one factor": (Code(lambda x: F.interpolate(x, scale_factor=(2, 3))), ()),
    "the call gives its factor": (Code(lambda x, n: F.interpolate(x, scale_factor=n)), (2,)),
    "looked at": (Code(looked_at), ()),
    "relu, which is no plain convolution": (Code(lambda x: twice(x).relu()), ()),
    "changed in place": (Code(lambda x: twice(x).add_(1)), ()),
    "The example runs no nearest upsampling": (Code(lambda x: x), ()),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_not_the_same_is_refused_with_the_reason(why):
    net, given = REFUSED[why]
    with pytest.raises(ValueError, match="no upsampling to fold") as caught:
        al.fold_upsampling(net, (IMAGE, *given))
    assert why in str(caught.value)


def test_a_module_that_upsamples_for_others_too_stays():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.conv = nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(self.up(x)) + self.up(x)

    with pytest.raises(ValueError, match="add, which is no plain convolution, reads its output"):
        al.fold_upsampling(Net(), IMAGE)


def test_a_convolution_of_other_maps_too_is_left():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(twice(self.conv(x)))

    with pytest.raises(ValueError, match="also reads a map that is not upsampled"):
        al.fold_upsampling(Net(), IMAGE)
