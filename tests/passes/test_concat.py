"""Operands of concatenations: blended to zeros, and removed with the channels that later layers read them with."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al


class UNet(nn.Module):
    """Two levels; what lies between the first concatenation and its convolution is given, and so is the skip's own."""

    def __init__(self, dims=2, between=None, skip=None):
        super().__init__()
        conv, up = ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d))[dims - 1]
        self.e1, self.e2, self.middle = conv(3, 4, 3, padding=1), conv(4, 8, 3, padding=1), conv(8, 16, 3, padding=1)
        self.u2, self.u1 = up(16, 8, 2, 2), up(8, 4, 2, 2)
        self.d2, self.d1 = conv(16, 8, 3, padding=1), conv(8, 2, 3, padding=1)
        self.between, self.skip = between or nn.Identity(), skip or nn.Identity()
        self.pool = (nn.MaxPool1d, nn.MaxPool2d)[dims - 1](2)

    def forward(self, x):
        a = F.relu(self.e1(x))
        b = F.relu(self.e2(self.pool(a)))
        y = self.u2(F.relu(self.middle(self.pool(b))))
        y = F.relu(self.d2(self.between(torch.cat([b, y], dim=1))))
        return self.d1(torch.cat((self.u1(y), self.skip(a)), 1))


class Growing(nn.Module):
    """A DenseNet: each layer reads the outputs of all before it."""

    def __init__(self, norm):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.norms = nn.ModuleList([norm(4 + 2 * k) for k in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(4 + 2 * k, 2, 3, padding=1) for k in range(3)])
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        found = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            found.append(conv(F.relu(norm(torch.cat(found, 1)))))
        return self.head(torch.cat(found, 1).mean((2, 3)))


class Reader(nn.Module):
    """``read([f(x), x])``: one concatenation of 4 and 4 channels."""

    def __init__(self, *read, forward=None):
        super().__init__()
        self.f, self.read, self.code = nn.Conv2d(4, 4, 1), nn.Sequential(*read), forward

    def forward(self, x):
        y = torch.cat([torch.tanh(self.f(x)), x], dim=1)
        return self.read(y if self.code is None else self.code(y))


class Silu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


def image(dims=2, side=8):
    return torch.randn(2, 3, *[side] * dims, generator=torch.Generator().manual_seed(0))


def features():
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def removed(net, x, **options):
    """`net` without its concatenations' operands; as if these were zeros, also after a replay, and in training."""
    net = net.double().eval()
    x = x.double()
    thin = al.remove(net, x, kinds="concat", **options)
    soft = al.switch(net, x, kinds="concat", **options)
    assert torch.equal(soft(x), net(x))
    al.set_omegas_(soft, 1.0)
    again = al.apply(al.Recipe.from_json(al.recipe(thin).to_json()), net, x)
    for mode in (False, True):
        wanted = soft.train(mode)(x)
        assert torch.allclose(thin.train(mode)(x), wanted, atol=1e-12)
        assert torch.allclose(again.train(mode)(x), wanted, atol=1e-12)
    learned = al.discard(soft.eval())
    assert sum(p.numel() for p in learned.parameters()) == sum(p.numel() for p in thin.parameters())
    return thin, al.recipe(thin).steps[-1]


@pytest.mark.parametrize("dims", [1, 2])
def test_long_skips_go_with_the_channels_that_read_them(dims):
    thin, step = removed(UNet(dims), image(dims))
    assert (thin.d2.in_channels, thin.d1.in_channels) == (8, 4)
    assert thin.d2.weight.shape[1] == 8 and "zeros" not in step.checked
    assert thin(image(dims, 12).double()).shape[-1] == 12


def test_gradients_of_what_stays_are_those_with_zeros():
    net, x = UNet().double(), image().double()
    soft, thin = al.switch(net, x, kinds="concat"), al.remove(net, x, kinds="concat")
    al.set_omegas_(soft, 1.0)
    soft(x).square().sum().backward()
    thin(x).square().sum().backward()
    assert torch.allclose(thin.d1.weight.grad, soft.d1.weight.grad[:, :4])
    assert torch.allclose(thin.d2.weight.grad, soft.d2.weight.grad[:, 8:])
    assert torch.allclose(thin.e1.weight.grad, soft.e1.weight.grad)


def test_layers_of_the_skip_itself_go_and_are_counted():
    net, x = UNet(skip=nn.Conv2d(4, 4, 3, padding=1)), image()
    site = al.sites(net, x, kinds="concat")[-1]
    assert site.params == 4 * 4 * 9 + 4 + 2 * 4 * 9
    thin, _ = removed(net, x, where=site.id)
    assert sum(p.numel() for p in thin.skip.parameters()) == 0 and thin.d2.in_channels == 16


BETWEEN = {
    "activation": nn.LeakyReLU(), "spelled": Silu(), "instance norm": nn.InstanceNorm2d(16), "dropout": nn.Dropout2d(),
    "depthwise": nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
}  # fmt: skip


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_what_makes_zeros_of_zeros_is_passed(between):
    drawn = isinstance(between, nn.Dropout2d)
    net = UNet(between=nn.Dropout2d(0.0) if drawn else between)
    thin, step = removed(net, image())
    assert thin.d2.in_channels == 8 and "zeros" not in step.checked


STAYS = {
    "batch norm": nn.BatchNorm2d(16), "group norm": nn.GroupNorm(2, 16), "sigmoid": nn.Sigmoid(),
    "softmax": nn.Softmax(1), "depthwise with a bias": nn.Conv2d(16, 16, 1, groups=16),
}  # fmt: skip


@pytest.mark.parametrize("between", STAYS.values(), ids=STAYS)
def test_elsewhere_zeros_stand_for_it_and_the_step_says_why(between):
    thin, step = removed(UNet(between=between), image())
    assert (thin.d2.in_channels, thin.d1.in_channels) == (16, 4)
    assert "zeros stand for concat.0, as" in step.checked and "concat.1" not in step.checked
    assert not any(site.kind == "concat" for site in al.sites(thin, image().double()))


READERS = {
    "linear": Reader(nn.Flatten(), nn.Linear(8 * 36, 5)),
    "groups that do not match": Reader(nn.Conv2d(8, 4, 1, groups=2)),
    "transposed": Reader(nn.ConvTranspose2d(8, 4, 2, 2)),
    "pixel shuffle": Reader(nn.PixelShuffle(2), nn.Conv2d(2, 3, 1)),
    "nested": Reader(nn.Conv2d(12, 3, 1), forward=lambda y: torch.cat([y, y[:, :4]], 1)),
    "several": Reader(nn.Conv2d(8, 2, 1), forward=lambda y: F.relu(y) * y),
    "pooled": Reader(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    "mean of channels": Reader(nn.Conv2d(8, 2, 1), forward=lambda y: y + y.mean(1, keepdim=True)),
    "split": Reader(nn.Conv2d(4, 2, 1), forward=lambda y: y.chunk(2, 1)[0] + y.chunk(2, 1)[1]),
    "counted by the code": Reader(nn.Conv2d(8, 2, 1), forward=lambda y: y / y.shape[1]),
    "constant": Reader(nn.Conv2d(8, 2, 1), forward=lambda y: y.view(2, 8, 6, 6) + 1),
}  # fmt: skip
CUT = {"linear", "transposed", "several", "pooled"}


@pytest.mark.parametrize("name", READERS)
def test_readers(name):
    _, step = removed(READERS[name], features())
    assert ("zeros" not in step.checked) == (name in CUT), step.checked


def test_channels_may_be_the_last_dimension():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.read = nn.Linear(4, 6), nn.Linear(10, 2)

        def forward(self, x):
            return self.read(torch.cat((x, F.gelu(self.f(x))), -1))

    thin, _ = removed(Tokens(), torch.randn(2, 5, 4))
    assert thin.read.in_features == 6


def test_a_dense_network_loses_several_operands_of_one_concatenation():
    net, x = Growing(nn.Identity), image()
    assert len(al.sites(net, x, kinds="concat")) == 6
    thin, step = removed(net, x)
    assert [conv.in_channels for conv in thin.convs] == [4, 2, 2] and thin.head.in_features == 2
    assert "zeros" not in step.checked


def test_a_norm_with_a_bias_keeps_the_channels_of_a_dense_network():
    thin, step = removed(Growing(nn.BatchNorm2d), image())
    assert [conv.in_channels for conv in thin.convs] == [4, 6, 8] and thin.head.in_features == 2
    assert "a norm or an offset" in step.checked


class Gated(nn.Module):
    """Two concatenations, one within an operand of the other; channels are scaled by what is computed of them."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(9, 6, 1)
        self.squeeze, self.widen, self.head = nn.Conv2d(15, 3, 1), nn.Conv2d(3, 15, 1), nn.Conv2d(15, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, F.relu(self.a(x))], 1)
        x = torch.cat([x, F.relu(self.b(x))], 1)
        return self.head(x * torch.sigmoid(self.widen(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))))


COUNTED = {
    "long skips": UNet(skip=nn.Conv2d(4, 4, 3, padding=1)), "a norm between": UNet(between=nn.BatchNorm2d(16)),
    "depthwise": UNet(between=nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)), "dense": Growing(nn.Identity),
    "nested": Gated(),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_sites_say_what_goes_with_an_operand(name):
    """Parameters and MACs are what `cost` finds gone, also of the layers that read its channels."""
    net, x = COUNTED[name].eval(), image()
    before, found = al.cost(net, x), al.sites(net, x, kinds="concat")
    assert len(found) >= 2 and any(site.macs for site in found)
    for site in found:
        after = al.cost(al.remove(net, x, kinds="concat", where=site.id), x)
        assert (site.params, site.macs) == (before.params - after.params, before.macs - after.macs), site.id


def test_some_removed_some_frozen_at_one_concatenation():
    net, x = Growing(nn.Identity).double().eval(), image().double()
    soft = al.switch(net, x, kinds="concat")
    al.set_omegas_(soft, {"concat.3": 1.0, "concat.4": 0.25})
    thin = al.discard(soft, keep="freeze")
    assert thin.head.in_features == 6
    assert torch.allclose(thin(x), soft(x), atol=1e-12)


def test_a_container_that_cannot_be_traced():
    class Branching(Reader):
        def forward(self, x):
            y = torch.cat([self.f(x), x], dim=1)
            return self.read(y if x.sum() > -1e9 else -y)

    site = al.sites(Branching(nn.Conv2d(8, 2, 1)), features(), kinds="concat")[0]
    assert site.how == "intercepted"
    thin, _ = removed(Branching(nn.Conv2d(8, 2, 1)), features())
    assert thin.read[0].in_channels == 4


def test_a_module_that_concatenates():
    class Concat(nn.Module):
        def __init__(self):
            super().__init__()
            self.d = 1

        def forward(self, xs):
            return torch.cat(xs, self.d)

    class Net(Reader):
        def __init__(self):
            super().__init__(nn.Conv2d(8, 2, 1))
            self.concat = Concat()

        def forward(self, x):
            return self.read(self.concat([self.f(x), x]))

    thin, _ = removed(Net(), features())
    assert thin.read[0].in_channels == 4


def test_what_is_changed_in_place_afterwards_is_no_alias():
    def forward(y):
        y.mul_(2)
        return y

    class Net(Reader):
        def forward(self, x):
            z = torch.tanh(self.f(x))
            y = forward(torch.cat([z, x], dim=1))
            return self.read(y) + z.sum()

    removed(Net(nn.Conv2d(8, 2, 1)), features())


def test_concats_are_taken_only_by_name():
    net, x = UNet(), image()
    with pytest.raises(ValueError, match="2 concat"):
        al.remove(net, x, kinds="skip")


class Refining(nn.Module):
    """RAFT's update: first the flow is the shorter way round to the concatenation, then the features are."""

    def __init__(self):
        super().__init__()
        self.stem, self.flow, self.both = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)
        self.features = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))

    def forward(self, x):
        flow = x = self.stem(x)
        for _ in range(3):
            flow = self.both(torch.cat([self.features(x), self.flow(flow)], 1))
        return flow


def test_a_loop_whose_turns_differ_in_what_is_shorter_keeps_an_operand():
    net, example = Refining().eval(), torch.randn(1, 3, 5, 5)
    found = al.sites(net, example, kinds="concat")
    assert [site.target.dropped for site in found] == [(1,)]
    reasons = list(found.skipped_frame()["reason"])
    assert "the other operands are the shorter way round in another run of this line" in reasons
    thin = al.remove(net, example, kinds="concat")
    y = x = net.stem(example)
    for _ in range(3):
        y = F.conv2d(net.features(x), net.both.weight[:, :4], net.both.bias)
    assert torch.allclose(thin(example), y, atol=1e-6)
