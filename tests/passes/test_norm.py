"""Normalisation layers as sites: found by what they compute, blended with the identity, and removed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al


class Around(nn.Module):
    """A norm of 4 channels between two layers that mix channels, which are the last dimension or the second."""

    def __init__(self, norm, last=False):
        super().__init__()
        self.a, self.b = (nn.Linear(4, 4), nn.Linear(4, 3)) if last else (nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1))
        self.norm = norm

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))))


class RMS(nn.Module):
    """As Llama spells it."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.weight, self.dtype = nn.Parameter(torch.rand(4)), dtype

    def forward(self, x):
        y = x.to(self.dtype)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * y.to(x.dtype)


class Spelled(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(4))
        self.compute = compute

    def forward(self, x):
        return self.compute(x, self.weight, self.bias)


def divided(x, w, b):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.std(-1, unbiased=False, keepdim=True) + 1e-6) * w + b


def by_variance(x, w, b):
    var, mean = torch.var_mean(x, -1, keepdim=True)
    return torch.addcmul(b, (x - mean).div_(torch.sqrt(var + 1e-6)), w)


def response(x, w, b):
    size = x.norm(p=2, dim=1, keepdim=True)
    return w * (x * (size / (size.mean(-1, keepdim=True) + 1e-6))) + b + x


class Moved(nn.LayerNorm):
    def forward(self, x):
        y = x.permute(0, 2, 3, 1)
        return F.layer_norm(y, self.normalized_shape, self.weight, self.bias).permute(0, 3, 1, 2)


class WithActivation(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: norm and activation in one module."""

    def __init__(self):
        super().__init__(4)
        self.act = nn.SiLU()

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        return self.act(
            F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1)
        )


class Borrowed(nn.Module):
    """Calls the function itself, with the parameters of a layer that is not called."""

    def __init__(self):
        super().__init__()
        self.inner = nn.LayerNorm(4)

    def forward(self, x):
        return F.layer_norm(torch.tanh(x), (4,), self.inner.weight, self.inner.bias)


def image():
    return torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def sequence():
    return torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


MAPS = {
    "batch": nn.BatchNorm2d(4), "momentum by count": nn.BatchNorm2d(4, momentum=None),
    "no statistics": nn.BatchNorm2d(4, track_running_stats=False), "sync": nn.SyncBatchNorm(4),
    "instance": nn.InstanceNorm2d(4, affine=True), "group": nn.GroupNorm(2, 4), "response": nn.LocalResponseNorm(2),
    "moved": Moved(4), "with activation": WithActivation(),
}  # fmt: skip
SEQUENCES = {
    "layer": nn.LayerNorm(4), "rms": nn.RMSNorm(4), "llama": RMS(), "divided": Spelled(divided),
    "by variance": Spelled(by_variance), "global response": Spelled(response), "borrowed": Borrowed(),
    "lengths": Spelled(lambda x, w, b: F.normalize(x, dim=-1) * w * 2 + b),
}  # fmt: skip
NETS = {name: (Around(norm), image()) for name, norm in MAPS.items()}
NETS |= {name: (Around(norm, last=True), sequence()) for name, norm in SEQUENCES.items()}


@pytest.mark.parametrize("name", NETS)
def test_a_norm_is_blended_and_removed_with_its_parameters(name):
    net, x = NETS[name]
    for training in (False, True)[: 1 if name == "sync" else 2]:
        net = net.double().train(training)
        (site,) = al.sites(net, x, kinds="norm")
        assert site.how == "local" and site.params == sum(p.numel() for p in net.norm.parameters())
        soft, thin = al.switch(net, x, kinds="norm"), al.remove(net, x, kinds="norm")
        al.set_omegas_(soft, 1.0)
        made = [soft(x), thin(x)]
        assert torch.equal(*made)
        for out in made:
            out.square().sum().backward()
        for path, p in thin.named_parameters():
            assert torch.allclose(p.grad, soft.get_parameter(path).grad, rtol=1e-12), path
        assert not list(thin.norm.parameters())
        assert "running_mean" not in dict(thin.norm.named_buffers())
        with pytest.raises(ValueError, match="no site of kind norm"):
            al.sites(al.discard(soft), x, kinds="norm")


@pytest.mark.parametrize("training", [False, True])
def test_at_zero_nothing_changes_not_even_the_statistics(training):
    net, x = Around(nn.BatchNorm2d(4)).double().train(training), image()
    soft = al.switch(net, x, kinds="norm")
    assert torch.equal(soft(x), net(x))
    assert torch.equal(soft.norm.running_var, net.norm.running_var)


def test_what_does_more_or_less_than_a_norm_is_none():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(-1, keepdim=True)

    class Shares(nn.Module):
        def forward(self, x):
            return x.exp() / x.exp().sum(-1, keepdim=True)

    class Squeezed(nn.Module):
        def forward(self, x):
            return x * x.mean(-1, keepdim=True)

    class Rectified(nn.Module):
        def forward(self, x):
            return F.layer_norm(x, (4,)).clamp(min=0)

    class Inverse(nn.Module):
        def forward(self, x):
            return x.std(-1, keepdim=True) / x

    class Two(nn.Module):
        def forward(self, x, scale=None):
            return F.layer_norm(x, (4,)) * scale

    for inner in (Centred(), Shares(), Squeezed(), Inverse(), nn.Softmax(-1), nn.PReLU()):
        with pytest.raises(ValueError, match="no site of kind norm"):
            al.sites(Around(inner, last=True).double(), sequence(), kinds="norm")
    (site,) = al.sites(Around(Rectified(), last=True).double(), sequence(), kinds="norm")
    assert site.path == "norm" and site.module is None  # the function alone; the clamp is an activation

    class Conditioned(Around):
        def forward(self, x):
            return self.norm(self.a(x), self.b.bias[:1])

    (site,) = al.sites(Conditioned(Two(), last=True).double(), sequence(), kinds="norm")
    assert site.path == "norm"


def test_a_norm_of_weights_is_none():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = F.batch_norm(self.weight.reshape(1, 4, -1), None, None, training=True).reshape_as(self.weight)
            return F.conv2d(x, weight, self.bias)

    with pytest.raises(ValueError, match="works on a parameter, not on data"):
        al.sites(Around(Standardised(4, 4, 1)).double(), image(), kinds="norm")


def test_a_norm_that_changes_the_dtype_says_so():
    net, x = Around(RMS(torch.float32), last=True).bfloat16(), sequence().bfloat16()
    net.norm.float()
    net.b.float()
    with pytest.raises(ValueError, match=r"it changes the dtype, torch\.bfloat16 to torch\.float32"):
        al.sites(net, x, kinds="norm")


def test_under_autocast_what_stays_has_the_dtype_that_the_norm_gave():
    net, x = Around(nn.LayerNorm(4), last=True), sequence().float()
    with torch.autocast("cpu", torch.bfloat16):
        thin = al.remove(net, x, kinds="norm")
        assert thin(x).dtype == net(x).dtype


def test_a_module_called_twice_is_two_sites_and_keeps_its_parameters_for_the_other():
    class Shared(Around):
        def forward(self, x):
            return self.b(self.norm(torch.tanh(self.norm(self.a(x)))))

    net, x = Shared(nn.LayerNorm(4), last=True).double(), sequence()
    first, second = al.sites(net, x, kinds="norm")
    assert (first.params, second.params) == (0, 0)
    thin = al.remove(net, x, kinds="norm", where=first.id)
    assert thin.norm.weight is not None and len(al.sites(thin, x, kinds="norm")) == 1


def test_norms_are_neither_listed_nor_taken_but_by_name():
    wrapped = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4)), nn.ReLU()).double()
    listed = al.sites(wrapped, sequence())
    assert [site.kind for site in listed] == ["activation"] and not listed.skipped
    assert "norm" not in [site.kind for site in al.sites(wrapped, sequence(), where="*")]
    with pytest.raises(ValueError, match=r"no site of kind skip.*1 norm"):
        al.remove(wrapped, sequence(), kinds="skip")


def test_a_block_that_is_one_norm_names_the_block_as_the_same_removal():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.LayerNorm(4)

        def forward(self, x):
            return self.inner(x)

    net = Around(Wrapper(), last=True).double()
    (block,) = al.sites(net, sequence(), kinds="block")
    (norm,) = al.sites(net, sequence(), kinds="norm")
    assert block.same_as == "" and norm.same_as == block.id


def test_a_container_that_cannot_be_traced_and_a_recipe():
    class Branching(Around):
        def forward(self, x):
            y = F.layer_norm(self.a(x), (4,), self.norm.weight)
            return self.b(y if x.sum() > -1e9 else -y)

    net, x = Branching(nn.LayerNorm(4), last=True).double(), sequence()
    (site,) = al.sites(net, x, kinds="norm")
    assert site.how == "intercepted"
    thin = al.remove(net, x, kinds="norm")
    again = al.apply(al.Recipe.from_json(al.recipe(thin).to_json()), net, x)
    assert torch.equal(again(x), thin(x)) and torch.equal(thin(x), net.b(net.a(x)))
