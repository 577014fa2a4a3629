"""fold and hoist_padding: what is merged, what is left and why, and that nothing else changes."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al
from archlab.capture.recorder import capture
from archlab.passes.fold.chains import find_chains
from archlab.passes.fold.linear import NotExact, then
from archlab.passes.fold.plan import by_macs, plan_chains

IMAGE = torch.zeros(2, 4, 12, 12)


def conv(into: int = 4, out: int = 4, kernel: int = 3, **options) -> nn.Module:
    return nn.Conv2d(into, out, kernel, **options)


def norm(channels: int = 4) -> nn.Module:
    made = nn.BatchNorm2d(channels).eval()
    for tensor in (made.weight, made.bias, made.running_mean, made.running_var):
        tensor.data.uniform_(0.5, 1.5)
    return made


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def assert_equal(folded: nn.Module, net: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        assert torch.allclose(folded(*inputs), net(*inputs), atol=1e-5), "the folded model differs"


def layers_of(net: nn.Module) -> list[str]:
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.BatchNorm2d)
    return [name for name, module in net.named_modules() if isinstance(module, kinds)]


class Repeated(nn.Module):
    """RepVGG's training form: three branches of one input, the last a norm alone."""

    def __init__(self):
        super().__init__()
        self.wide, self.wide_norm = conv(padding=1, bias=False), norm()
        self.point, self.point_norm = conv(kernel=1, bias=False), norm()
        self.norm, self.act = norm(), nn.ReLU()

    def forward(self, x):
        return self.act(self.wide_norm(self.wide(x)) + self.point_norm(self.point(x)) + self.norm(x))


class Scaled(nn.Module):
    """A convolution whose channels a parameter scales, called for two inputs, across containers."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Identity(), conv())
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.shift = nn.Parameter(torch.rand(1, 4, 1, 1))
        self.last = conv(kernel=1)

    def one(self, x):
        return self.last(self.inner(x) * self.scale + self.shift)

    def forward(self, x, y, factor=1.0):
        return self.one(x) + factor * F.relu(self.one(y))


class Fanned(nn.Module):
    """A narrow layer behind a wide one, read by two others."""

    def __init__(self, middle: int):
        super().__init__()
        self.stem, self.left, self.right = conv(4, middle, 1), conv(middle, 2), conv(middle, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.left(x).relu().mean() + self.right(x).relu().mean()


def test_norms_go_into_the_convolutions_of_any_network():
    net = nn.Sequential(conv(), norm(), nn.ReLU(), norm(), conv(), norm())
    folded = al.fold(net, IMAGE)
    assert layers_of(folded) == ["0", "4"]
    assert_equal(folded, net, noise(1, 4, 9, 11))
    step = al.recipe(folded).steps[-1]
    assert step.equality.startswith("exact")
    assert step.taken == ("0", "1", "3", "4", "5")


def test_a_repvgg_block_becomes_one_convolution():
    net = Repeated().eval()
    folded = al.fold(net, IMAGE)
    assert layers_of(folded) == ["wide"]
    assert capture(folded, IMAGE).ops[-1].name == "relu"
    assert_equal(folded, net, noise(2, 4, 7, 9))


def test_scales_and_shifts_by_parameters_merge_across_containers_for_every_call():
    net = Scaled()
    folded = al.fold(net, (IMAGE, IMAGE + 1))
    assert layers_of(folded) == ["last"]
    assert not {"scale", "shift"} & {name for name, _ in folded.named_parameters()}
    assert_equal(folded, net, noise(1, 4, 8, 8), noise(1, 4, 8, 8))


def test_an_argument_of_the_model_is_no_constant():
    net = nn.ModuleDict({"a": conv(), "b": conv()})

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = net

        def forward(self, x, factor):
            return self.parts["b"](factor * self.parts["a"](x))

    with pytest.raises(ValueError, match="nothing to fold"):
        al.fold(Net(), (IMAGE, 10.0))


def test_a_layer_that_several_read_goes_into_each_where_that_is_cheaper():
    wide, narrow = Fanned(64), Fanned(1)
    folded = al.fold(wide, IMAGE)
    assert layers_of(folded) == ["left", "right"]
    assert_equal(folded, wide, noise(1, 4, 8, 8))
    with pytest.raises(ValueError, match="instead of"):
        al.fold(narrow, IMAGE)


def test_a_skip_goes_into_its_convolution():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(padding=1)

        def forward(self, x):
            return x + self.conv(x)

    net = Net()
    folded = al.fold(net, IMAGE)
    assert [op.name for op in capture(folded, IMAGE).ops] == ["conv2d"]
    assert_equal(folded, net, noise(1, 4, 8, 8))


def test_what_would_cost_more_or_is_not_exact_is_left_and_named():
    with pytest.raises(ValueError, match="both are padded"):
        al.fold(nn.Sequential(conv(padding=1), conv(padding=1)), IMAGE)
    net = nn.Sequential(conv(), conv(), nn.ReLU(), conv(), norm())
    step = al.recipe(al.fold(net, IMAGE)).steps[-1]
    assert "instead of" in step.skipped["1"]
    with pytest.raises(ValueError, match="by the batch"):
        al.fold(nn.Sequential(conv(), nn.BatchNorm2d(4)), IMAGE)


def test_tied_weights_and_other_readers_are_left():
    tied = nn.Sequential(conv(4, 4, 1), conv(4, 4, 1), nn.ReLU(), conv(4, 4, 1))
    tied[3].weight = tied[0].weight
    with pytest.raises(ValueError, match="another module's as well"):
        al.fold(tied, IMAGE)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(kernel=1), conv(kernel=1)

        def forward(self, x):
            x = self.a(x)
            return self.b(x), x.relu()

    with pytest.raises(ValueError, match="nothing to fold among 2 linear layers: no two of them follow"):
        al.fold(Net(), IMAGE)


def test_the_cost_decides():
    net = nn.Sequential(conv(), conv())
    few = al.fold(net, IMAGE, cost=lambda layer, shape: 1.0)
    assert layers_of(few) == ["1"]
    assert_equal(few, net, noise(1, 4, 9, 9))
    timed = al.fold(nn.Sequential(conv(4, 64, 1), conv(64, 4, 1)), IMAGE, cost="latency")
    assert layers_of(timed) == ["1"]
    with pytest.raises(ValueError, match="cost must be"):
        al.fold(net, IMAGE, cost="flops")  # type: ignore[arg-type]


def test_a_layer_that_is_priced_has_ordinary_weights():
    """Memory that nobody has written may hold numbers that are slow to multiply."""
    found = []

    def price(layer, shape):
        found.extend(float(p.abs().max()) for p in layer.parameters())
        return 1.0

    chain = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 3, 1), nn.Conv2d(3, 4, 1))
    al.fold(chain, torch.randn(1, 2, 5, 5), cost=price)
    assert found and all(1e-3 < largest < 1e3 for largest in found)


def test_where_narrows_what_is_merged():
    net = nn.Sequential(nn.Sequential(conv(), norm()), nn.ReLU(), nn.Sequential(conv(), norm()))
    assert layers_of(al.fold(net, IMAGE, where="0.*")) == ["0.0", "2.0", "2.1"]
    with pytest.raises(ValueError, match=r"where='9\*'"):
        al.fold(net, IMAGE, where="9*")


@pytest.mark.parametrize("seed", range(12))
def test_the_plan_is_the_cheapest_of_all(seed):
    """Against trying every way to cut a chain."""
    draw = torch.Generator().manual_seed(seed)

    def pick(*values):
        return values[int(torch.randint(len(values), (1,), generator=draw))]

    widths = [pick(1, 2, 8, 16) for _ in range(6)]
    net = nn.Sequential(*(conv(a, b, pick(1, 3), stride=pick(1, 1, 2)) for a, b in itertools.pairwise(widths)))
    example = torch.zeros(1, widths[0], 40, 40)
    chains = find_chains(net, capture(net, example))
    links = list(chains.links.values())

    def price(part: tuple) -> float:
        layer = part[0].layer
        for link in part[1:]:
            layer = then(layer, link.layer)
        return by_macs(layer, part[0].in_shape, part[-1].out_shape)

    best = float("inf")
    for cuts in itertools.product([False, True], repeat=len(links) - 1):
        parts, part = [], [links[0]]
        for link, cut in zip(links[1:], cuts, strict=True):
            if cut:
                parts.append(tuple(part))
                part = []
            part.append(link)
        best = min(best, sum(price(p) for p in [*parts, tuple(part)]))
    merged, _ = plan_chains(chains, by_macs)
    inside = {link for segment in merged for link in segment.links}
    found = sum(price(segment.links) for segment in merged) + sum(price((k,)) for k in links if k not in inside)
    assert found == best


def test_padding_is_hoisted_where_the_merge_would_pay_and_the_ring_is_named():
    net = nn.Sequential(
        conv(3, 16, 7, padding=3, padding_mode="reflect"), conv(16, 32, stride=2, padding=1, padding_mode="reflect")
    )
    example = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="both are padded"):
        al.fold(net, example)
    hoisted = al.hoist_padding(net, example)
    assert (hoisted[0].padding, hoisted[1].padding) == ((4, 4), (0, 0))
    step = al.recipe(hoisted).steps[-1]
    assert step.how == {"1": "its output has changed in a ring of 1 pixels"}
    assert step.checked == "equal outside a ring of 1 pixels of the model's output"
    x = noise(1, 3, 32, 32)
    with torch.no_grad():
        difference = (hoisted(x) - net(x)).abs().amax(dim=(0, 1))
    assert difference[1:-1, 1:-1].max() < 1e-5 < difference[0].max()
    folded = al.fold(hoisted, example)
    assert layers_of(folded) == ["1"]
    assert folded[1].kernel_size == (9, 9)
    with pytest.raises(ValueError, match="no padding is in the way"):
        al.hoist_padding(nn.Sequential(conv(padding=1), conv(padding=1)), IMAGE)


def test_the_input_is_untouched_and_the_recipe_does_it_again():
    net = nn.Sequential(conv(padding=1), norm(), nn.ReLU(), conv(), norm())
    before = copy.deepcopy(net.state_dict())
    folded = al.fold(net, IMAGE)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    own = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    assert not own & {t.untyped_storage().data_ptr() for t in folded.state_dict().values()}
    again = al.apply(al.Recipe.from_json(al.recipe(folded).to_json()), net, IMAGE)
    assert_equal(again, folded, noise(1, 4, 8, 8))
    x = noise(1, 4, 8, 8)
    assert torch.equal(torch.compile(folded, fullgraph=True, backend="eager")(x), folded(x))


def test_other_precisions_are_checked_in_float64():
    net = nn.Sequential(conv(), norm()).bfloat16()
    folded = al.fold(net, IMAGE.bfloat16())
    assert folded[0].weight.dtype is torch.bfloat16
    assert al.recipe(folded).steps[-1].equality.startswith("exact")


def test_folding_after_removal_and_removal_after_folding():
    net = nn.Sequential(conv(4, 32, 1), nn.ReLU(), conv(32, 4, 1), nn.ReLU(), conv())
    thin = al.remove(net, IMAGE, kinds="activation", where="*.0")
    folded = al.fold(thin, IMAGE)
    assert layers_of(folded) == ["2", "4"]
    last = al.remove(folded, IMAGE, kinds="activation")
    assert [step.name for step in al.recipe(last).steps] == ["discard", "fold", "discard"]
    again = al.apply(al.recipe(last), net, IMAGE)
    assert_equal(again, last, noise(1, 4, 8, 8))


def test_a_switched_model_is_refused():
    soft = al.switch(nn.Sequential(conv(), nn.ReLU()), IMAGE, kinds="activation")
    with pytest.raises(ValueError, match=r"discard\(\) them first"):
        al.fold(soft, IMAGE)


def test_a_plan_needs_layers_that_fit():
    with pytest.raises(NotExact, match="channels"):
        chains = find_chains(
            nn.Sequential(conv(4, 5), conv(5, 4)), capture(nn.Sequential(conv(4, 5), conv(5, 4)), IMAGE)
        )
        then(chains.links["0"].layer, chains.links["0"].layer)


def test_a_parameter_that_only_removed_ops_read_may_be_missing_in_a_later_trace():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(4, 1, 1))
            self.conv = conv(kernel=1)

        def forward(self, x):
            x = x if x.shape[-1] > 10 else x + 1  # another graph for a smaller picture
            return self.conv(x) * self.scale

    net = Net()
    folded = al.fold(net, IMAGE)
    assert folded.scale is None
    assert_equal(folded, net, noise(1, 4, 8, 8))


# --- what may not be merged, and what must not depend on the weights -----------------------------------


class Between(nn.Module):
    """Two convolutions that could be one, and something that looks at what lies between."""

    def __init__(self, look, *, between: nn.Module | None = None):
        super().__init__()
        self.a, self.between, self.b = conv(4, 8, 1), between or nn.Identity(), conv(8, 4, 1)
        self.look = look

    def forward(self, x):
        h = self.between(self.a(x))
        self.look(self, h)
        return self.b(h)


LOOKS = {
    "its shape": lambda net, h: h.reshape(h.shape),
    "what it holds": lambda net, h: h.mean().item(),
    "the layer's attributes": lambda net, h: net.a.weight.dtype,
}


@pytest.mark.parametrize("look", LOOKS)
def test_what_code_looks_at_stays(look):
    net = Between(LOOKS[look])
    with pytest.raises(ValueError, match="nothing to fold"):
        al.fold(net, IMAGE)


def test_dropout_and_hooks_stand_between():
    with pytest.raises(ValueError, match="nothing to fold"):
        al.fold(Between(lambda net, h: None, between=nn.Dropout(0.5)).eval(), IMAGE)
    assert al.fold(Between(lambda net, h: None, between=nn.Dropout(0.0)).eval(), IMAGE)
    hooked = Between(lambda net, h: None)
    hooked.between.register_forward_hook(lambda *args: None)
    with pytest.raises(ValueError, match="nothing to fold"):
        al.fold(hooked, IMAGE)


def test_layers_that_are_called_from_a_list_are_left():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(4, 8, 1), conv(8, 4, 1)
            self.all = [self.a, self.b]

        def forward(self, x):
            for layer in self.all:
                x = layer(x)
            return x

    with pytest.raises(ValueError, match="called in another way than by its name"):
        al.fold(Listed(), IMAGE)


def test_one_chain_that_cannot_be_merged_does_not_keep_others_from_it():
    net = nn.Sequential(conv(4, 8, 1), conv(8, 4, 1), nn.ReLU(), Between(LOOKS["the layer's attributes"]))
    folded = al.fold(net, IMAGE)
    assert layers_of(folded) == ["1", "3.a", "3.b"]
    assert "not merged" in al.recipe(folded).steps[-1].skipped["3.a"]


def test_weights_too_large_for_their_dtype_are_not_merged():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).half()
    for layer in net:
        nn.init.constant_(layer.weight, 300.0)
    with pytest.raises(ValueError, match=r"too large for torch\.float16"):
        al.fold(net, torch.zeros(1, 4).half())


def test_the_structure_does_not_hang_on_the_weights(tmp_path):
    def fresh() -> nn.Module:
        return nn.Sequential(conv(bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval()

    trained = fresh()
    trained[1].running_mean += 1
    folded = al.fold(trained, IMAGE)
    al.save(folded, tmp_path / "folded.safetensors")
    again = al.load(tmp_path / "folded.safetensors", fresh, IMAGE).eval()
    x = noise(1, 4, 8, 8)
    assert torch.equal(again(x), folded(x))
    zero = conv(padding=1)
    nn.init.zeros_(zero.bias)
    assert (
        al.hoist_padding(nn.Sequential(zero, conv(padding=1)), IMAGE, cost=lambda layer, shape: 1.0)[0].bias is not None
    )


def test_layers_of_other_layouts_do_not_merge():
    tokens = torch.zeros(2, 8, 8)
    with pytest.raises(ValueError, match="the last dimension of its input, the other on the second"):
        al.fold(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval(), tokens)
    assert al.fold(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval(), tokens[0], cost="latency")


def test_padding_that_several_would_need_differently_is_not_hoisted():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(4, 16, padding=1), conv(16, 1, padding=1), conv(16, 1)

        def forward(self, x):
            x = self.a(x)
            return self.b(x), self.c(x)

    with pytest.raises(ValueError, match="another one than that of its neighbour"):
        al.hoist_padding(Forked(), IMAGE, cost=lambda layer, shape: 1.0)


def test_the_parameter_may_stand_on_either_side_and_the_add_be_in_place():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.g, self.a, self.b = nn.Parameter(torch.rand(4, 1, 1)), conv(padding=1), conv(kernel=1)

        def forward(self, x):
            y = self.g * self.a(x)
            y += self.b(x)
            return y

    net = Net()
    folded = al.fold(net, IMAGE)
    assert [op.name for op in capture(folded, IMAGE).ops] == ["conv2d"]
    assert_equal(folded, net, noise(1, 4, 8, 8))


def test_a_deep_stack_is_planned_and_a_bad_cost_is_named():
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(90)))
    folded = al.fold(net, torch.zeros(1, 2))
    assert layers_of(folded) == ["89"]
    with pytest.raises(ValueError, match=r"what cost gives for .* must be a finite number, got nan"):
        al.fold(nn.Sequential(conv(), conv()), IMAGE, cost=lambda layer, shape: float("nan"))


def test_a_round_that_fails_in_part_is_done_in_part_and_replays():
    class Skip(nn.Module):
        def __init__(self, odd: bool):
            super().__init__()
            self.odd, self.conv, self.point = odd, conv(padding=1), conv(kernel=1)

        def forward(self, x):
            if self.odd and float(x.sum()) > 1e9:  # cannot be traced: it decides by what it computes
                return x
            return (x + self.conv(x)) * 2 + self.point(x)

    net = nn.Sequential(Skip(False), nn.ReLU(), Skip(True), nn.ReLU(), Skip(False))
    folded = al.fold(net, IMAGE)
    adds = [op.execution.module for op in capture(folded, IMAGE).ops if op.name == "add"]
    assert sorted(adds) == ["0", "2", "2", "4"], "the middle one keeps both of its adds"
    assert "cannot be traced" in al.recipe(folded).steps[-1].skipped["2.conv"]
    assert_equal(folded, net, noise(1, 4, 8, 8))
    again = al.apply(al.Recipe.from_json(al.recipe(folded).to_json()), net, IMAGE)
    assert_equal(again, net, noise(1, 4, 8, 8))
