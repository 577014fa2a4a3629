"""Traps of tracing, one test each: what a trace bakes in or loses, against what is computed here by hand."""

import functools
import operator
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al
from tests.contracts import zoo
from tests.contracts.zoo import ZOO, Residual, conv, image
from tests.rewrite.traps import assert_near, both, switched


@pytest.mark.parametrize("seen", [True, False], ids=["captured with", "captured without"])
def test_mask_is_not_none(seen):
    net, x, mask = ZOO["masked"].build(), image(), (image() > 0).float()
    for made in both(net, (x, mask) if seen else x, kinds="skip"):
        assert_near(made(x), net.b(F.relu(net.a(x))))
        assert_near(made(x, mask), net.b(F.relu(net.a(x)) * mask))
        assert_near(made(x, mask=mask), net.b(F.relu(net.a(x)) * mask))


def test_isinstance_of_a_tensor_and_shape_checks():
    net, x = ZOO["checked"].build(), image()
    for made in both(net, x):
        assert_near(made(x), (x + net.b(net.a(x))).flatten(2))
        wide = image(side=12, batch=3)
        assert_near(made(wide), (wide + net.b(net.a(wide))).flatten(2))
        with pytest.raises(ValueError, match="even"):
            made(image(side=7))
        with pytest.raises(TypeError, match="expected a tensor"):
            made("no tensor")


class Starts(nn.Module):
    """Begins with tensors of the input's size, type and device."""

    def __init__(self):
        super().__init__()
        self.a = conv()

    def forward(self, x):
        state = torch.zeros(x.shape[0], 1, *x.shape[2:], dtype=x.dtype, device=x.device)
        state = state + torch.eye(x.shape[-1], device=x.device, dtype=x.dtype).sum(0)
        steps = torch.arange(x.size(-1), device=x.device)
        return F.relu(self.a(x) + state) + torch.full((len(x), 1, 1, 1), 2.0) + steps + torch.tensor(x.shape[0])


def test_tensors_made_of_an_inputs_size_type_and_device():
    net, x = Starts(), image()
    assert [site.how for site in al.sites(net, x)] == ["local"]
    for made in both(net, x):
        for batch in (x, image(batch=3), image().double()):
            wanted = net.to(batch.dtype).a(batch) + 1
            assert_near(made.to(batch.dtype)(batch), wanted + 2 + torch.arange(8) + len(batch))
    assert type(torch.zeros).__name__ == "builtin_function_or_method", "torch's own functions are back"


class Asks(nn.Module):
    """Decides by the shape, the type and the numbers it is given."""

    def __init__(self):
        super().__init__()
        self.a = conv()

    def forward(self, x, scale=2.0):
        y = self.a(x)
        if x.shape[-1] % 2:
            y = y + 1
        if scale > 3:
            y = y * scale
        if x.dtype == torch.float64 and isinstance(x.size(1), int):
            y = y * 3
        for i in range(x.shape[0]):
            y = y + i
        for side in x.shape:
            y = y + side
        return F.relu(y) + len(x)


def test_what_is_asked_of_the_inputs_is_a_condition_of_the_graph():
    net, x = Asks(), image()
    soft = al.switch(net, x, kinds="activation")
    assert set(al.recipe(soft).steps[-1].how.values()) == {"local"}
    for shape in (tuple(x.shape), (1, *x.shape[1:]), (5, x.shape[1], 7, 9)):
        for scale in (2.0, 5.0):
            given = torch.randn(shape)
            assert torch.equal(soft(given, scale), net(given, scale))
    given = image().double()
    assert torch.equal(soft.double()(given), net.double()(given))


def test_there_is_an_end_to_the_graphs_of_one_method(monkeypatch):
    monkeypatch.setattr("archlab.rewrite.override.MOST_GRAPHS", 2)
    net = Asks()
    soft = al.switch(net, image(), kinds="activation")
    al.set_omegas_(soft, 0.5)
    for batch in (1, 3, 4, 5):
        x = image(batch=batch)
        assert_near(soft(x), net(x) - 0.5 * F.relu(-net.a(x) - batch * (batch - 1) / 2 - sum(x.shape)))


class Sometimes(nn.Module):
    """One way it is called cannot be traced; its activation is a module, called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = conv(), conv(), nn.ReLU()

    def forward(self, x, double=False):
        x = self.act(self.a(x))
        if double and x.sum() != 0:
            x = x * 2
        return self.act(self.b(x))


def test_a_call_that_cannot_be_traced_has_its_sites_too():
    net, x = Sometimes(), image()
    for made in both(net, x, where="activation.1"):
        assert_near(made(x), net.b(F.relu(net.a(x))))
        assert_near(made(x, double=True), net.b(2 * F.relu(net.a(x))))
        assert not vars(made.act).get("forward")


class Fails(nn.Module):
    """Switches gradients off, and fails in there for a negative input."""

    def forward(self, x):
        with torch.no_grad():
            weight = torch.linalg.cholesky(x.mean().reshape(1, 1))
        return F.relu(x) + weight


def test_gradients_are_on_again_after_a_failure_where_they_were_off():
    soft = al.switch(Fails(), image().abs(), kinds="activation")
    assert set(al.recipe(soft).steps[-1].how.values()) == {"local"}
    with pytest.raises(RuntimeError):
        soft(-image().abs())
    assert torch.is_grad_enabled()
    x = image().abs().requires_grad_()
    assert torch.autograd.grad(soft(x).sum(), x)[0].any()
    with torch.no_grad():
        assert not soft(x).requires_grad


def test_the_training_flag_is_not_baked_in():
    net, x = ZOO["trained"].build(), image()
    for made in both(net, x, where="activation.*"):
        y = net.body(x)
        assert_near(made.eval()(x), net.head(y))
        made.train()
        head, auxiliary = made(x)
        assert_near(head, net.head(y))
        assert_near(auxiliary, net.auxiliary(F.relu(y)))  # this ReLU was not in the run that was captured


def test_captured_at_factor_10_called_at_20():
    net, (a, b, _) = ZOO["motion"].build(), ZOO["motion"].example()
    for made in both(net, (a, b, 10.0), where="decoder*"):
        for factor in (10.0, 20.0, torch.tensor(3.0), 7):
            texture = net.encode(b) + net.merge(F.relu(net.motion(net.encode(b) - net.encode(a))) * factor)
            decoded = texture + net.decoder.conv2(net.decoder.conv1(texture))
            assert_near(made(a, b, factor), net.tail(decoded))


def test_range_n_is_not_baked_in():
    """RAFT captured with 4 updates and called with 2 and 8: the line is switched however often it is passed."""
    net, x = ZOO["updates"].build(), image()
    for made in both(net, (x, 4)):
        for updates in (2, 4, 8):
            y = x
            for _ in range(updates):
                y = y + net.step(y)
            assert_near(made(x, updates), net.tail(y))


def test_an_attribute_set_later_is_honoured():
    net, x = ZOO["unrolled"].build(), image()
    for made in both(net, x):
        made.turns = 2
        y = x
        for _ in range(2):
            y = y + net.step(y)
        assert_near(made(x), y)


def test_the_path_that_was_not_captured_still_works():
    net, x = ZOO["branches"].build(), image().abs()
    for made in both(net, x):
        assert_near(made(x), x + net.b(net.a(x)))
        assert_near(made(-x), -x + net.b(torch.tanh(net.a(-x))))


def test_a_module_called_with_different_arguments():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.masked, self.tail = zoo.Masked(), conv()

        def forward(self, x, mask):
            x = self.masked(x)
            x = self.masked(F.avg_pool2d(x, 2), mask=mask)
            return self.tail(self.masked(x, None))

    net, x, mask = Twice(), image(), (image(side=4) > 0).float()

    def masked(y, m=1.0):
        return y + net.masked.b(net.masked.a(y) * m)

    for made in both(net, (x, mask)):
        assert_near(made(x, mask), net.tail(masked(masked(F.avg_pool2d(masked(x), 2), mask))))


def test_methods_other_than_forward():
    net, x = ZOO["methods"].build(), image()
    for made in both(net, x):
        encoded = x + net.a(x)
        assert_near(made(x), net.head(x + net.b(encoded)))
    example = al.Call(lambda m, y: m.encode(y), x)
    soft = switched(net, example)
    assert list(al.omegas(soft)["omega"]) == [1.0]
    assert_near(soft.encode(x), x + net.a(x))


def test_forward_is_decorated():
    class Decorated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        @torch.no_grad()
        def features(self, x):
            return F.relu(self.a(x))

        @torch.autocast("cpu", enabled=False)
        def forward(self, x):
            return self.b(F.relu(self.features(x) - 0.1))

    net, x = Decorated(), image()
    for made in both(net, x):
        assert_near(made(x), net.b(net.a(x) - 0.1))
        assert not made.features(x).requires_grad
        with torch.autocast("cpu", torch.bfloat16):
            assert made(x).dtype == torch.float32


@pytest.mark.parametrize(
    "inner", [torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)], ids=["no_grad", "autocast"]
)
def test_a_context_inside_forward_is_entered_and_left(inner):
    class Context(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x):
            with inner():
                x = F.relu(self.a(x))
            return self.b(F.gelu(x).float())

    net, x = Context(), image()
    soft = al.switch(net, x, kinds="activation")
    made = soft(x)
    assert torch.equal(made, net(x))
    made.sum().backward()
    net(x).sum().backward()
    for name, p in net.named_parameters():
        twin = dict(soft.named_parameters())[name].grad
        assert (twin is None) == (p.grad is None) and (twin is None or torch.equal(twin, p.grad)), name


class Box(OrderedDict):
    """A dict of a class of its own, as Hugging Face's outputs are: items by name and by number."""

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


@dataclass
class Record(Box):
    features: Tensor
    other: Tensor | None = None

    def __post_init__(self):
        self["features"] = self.features


@pytest.mark.parametrize("make", [OrderedDict, Record, Box], ids=["OrderedDict", "dataclass", "other class"])
def test_a_container_that_returns_a_dict_of_its_own_class(make):
    """A traced graph that returned a plain dict broke every reader of a Hugging Face model's output."""

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv()

        def forward(self, x):
            return make(features=F.relu(self.a(x)))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.b = Inner(), conv()

        def forward(self, x):
            made = self.inner(x)
            return self.b(F.gelu(made["features" if make is OrderedDict else 0]))

    net, x = Outer(), image()
    for made in both(net, x):
        assert type(made.inner(x)) is make
        assert_near(made(x), net.b(net.inner.a(x)))


class Wrapping(nn.Module):
    """Every subclass gets its forward wrapped, generated ones too (Hugging Face's layers, for checkpointing)."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        forward = cls.forward

        def wrapped(self, *args, **kwargs):
            return forward(self, *args, **kwargs)

        cls.forward = wrapped


class Cache:
    """An object that is handed through, as a transformer's cache; code that looks into it cannot be traced."""

    filled = False


def test_an_object_is_handed_on_but_not_looked_into():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv()

        def forward(self, x, cache):
            return F.gelu(self.a(x)) if cache is None or cache.filled else F.relu(self.a(x))

    class Hander(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader, self.b = Reader(), conv()

        def forward(self, x, cache=None):
            assert cache is None or isinstance(cache, Cache | str)
            return x + self.b(self.reader(x, cache))

    net, x, full = Hander(), image(), Cache()
    full.filled = True
    how = {site.id: site.told for site in al.sites(net, (x, Cache()))}
    assert how["skip.0"] == "local" and how["reader/activation.0"] == "intercepted: it looks into a Cache"
    for made in both(net, (x, Cache()), kinds="skip"):
        assert_near(made(x, Cache()), net.b(F.relu(net.reader.a(x))))
        for cache in (None, full):
            assert_near(made(x, cache), net.b(F.gelu(net.reader.a(x))))
    with pytest.raises(AssertionError):
        made(x, 3)


def test_a_base_class_that_wraps_forward():
    class Layer(Wrapping):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x, cache):
            assert not cache.filled
            return self.b(torch.relu(self.a(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.tail = Layer(), conv()

        def forward(self, x):
            return self.tail(self.layer(x, Cache()))

    net, x = Net(), image()
    assert al.sites(net, x)[0].how.startswith("intercepted")
    for made in both(net, x):
        assert_near(made(x), net.tail(net.layer.b(net.layer.a(x))))


def test_a_child_that_is_a_site_and_has_sites_of_the_same_name():
    class Layer(nn.Module):
        def __init__(self, inner: nn.Module):
            super().__init__()
            self.inner, self.a = inner, conv()

        def forward(self, x, cache):
            assert not cache.filled
            return self.a(self.inner(x, cache) if isinstance(self.inner, Layer) else self.inner(x))

    net, x = Layer(Layer(Layer(Residual()))), image()
    soft = al.switch(net, (x, Cache()), kinds="block")
    assert list(al.omegas(soft)["site"]) == ["inner.inner/block.0", "inner/block.0", "block.0"]
    inner = net.inner
    al.set_omegas_(soft, {"inner.inner/block.0": 1.0})
    assert_near(soft(x, Cache()), net.a(inner.a(inner.inner.a(x))))
    al.set_omegas_(soft, {"inner.inner/block.0": 0.0, "inner/block.0": 1.0})
    assert_near(soft(x, Cache()), net.a(inner.a(x)))
    al.set_omegas_(soft, 1.0)
    for made in (soft, al.discard(soft)):
        assert_near(made(x, Cache()), net.a(x))


@pytest.mark.parametrize("outer", ["traced", "not traced"])
def test_a_second_pass_finds_what_a_first_one_froze(outer):
    """Frozen sites are blends that stay: no later pass takes them for sites, or loses them."""

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = conv(), conv(), nn.ReLU()

        def forward(self, x):
            return x + self.b(self.act(self.a(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.tail = Inner(), conv()

        def forward(self, x, cache):
            assert outer == "traced" or not cache.filled
            return self.tail(torch.tanh(self.inner(x)))

    net, given = Net(), (image(), Cache())
    x, inner = given[0], net.inner
    soft = al.switch(net, given, kinds=("activation", "block"))
    al.set_omegas_(soft, {"inner/activation.0": 0.25, "activation.0": 0.5, "block.0": 0.75})
    frozen = al.discard(soft, tau=0.9, keep="freeze")
    assert_near(frozen(*given), soft(*given))

    def act(y):
        return 0.75 * F.relu(y) + 0.25 * y

    def twice(block):
        z = 0.25 * block + 0.75 * x
        return net.tail(0.5 * torch.tanh(z) + 0.5 * z)

    assert_near(frozen(*given), twice(x + inner.b(act(inner.a(x)))))
    assert not any(site.id.startswith("inner/activation") for site in al.sites(frozen, given))
    for made in both(frozen, given, kinds="skip"):
        assert_near(made(*given), twice(inner.b(act(inner.a(x)))))
    again = al.apply(al.recipe(al.remove(frozen, given, kinds="skip")), net, given)
    assert_near(again(*given), twice(inner.b(act(inner.a(x)))))


def test_a_forward_that_is_set_on_the_instance_is_refused():
    net, x = ZOO["stack"].build(), image()
    block = net.blocks[0]
    block.forward = functools.partial(Residual.forward, block)
    assert [s.how.partition(":")[0] for s in al.sites(net, x, kinds="skip")] == ["refused", "local"]
    with pytest.raises(ValueError, match=r"blocks\.0/skip\.0 cannot be rewritten.*'forward' of its own.*where"):
        al.switch(net, x, kinds="skip")
    assert_near(
        al.remove(net, x, kinds="skip", where="blocks.1/*")(x),
        al.remove(ZOO["stack"].build(), x, kinds="skip", where="blocks.1/*")(x),
    )


class Warm(nn.Module):
    """Adds and an activation by C functions, which CPython specialises once a line has run a few times."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = operator.add(self.conv(x), x)
        return torch.relu(torch.add(x, self.conv(x)))


@pytest.mark.parametrize("runs_before", [0, 1, 50])
def test_code_that_has_run_often_is_found_as_code_that_has_not(runs_before):
    x = torch.randn(1, 3, 8, 8)
    for _ in range(runs_before):
        Warm()(x)
    for _ in range(3):  # reading it runs it as well
        net = Warm()
        thin = al.remove(net, x, kinds=["skip", "activation"])
        assert len(al.recipe(thin).steps[-1].taken) == 3
        assert torch.equal(thin(x), net.conv(net.conv(x)))
