"""Known traps, one test each: what goes wrong in naive surgery, against what is computed here by hand."""

import copy
import functools
import inspect
import operator
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import archlab as al
from archlab.capture import run
from tests import zoo
from tests.zoo import ZOO, Residual, conv, image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _modes_are_left_as_they_were():
    yield
    left = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    torch.set_grad_enabled(True)
    assert left == (True, False), "gradients or autocast are switched otherwise than before"


def switched(model: nn.Module, example, kinds="activation", omega: float = 1.0, where=None) -> nn.Module:
    soft = al.switch(model, example, kinds=kinds, where=where)
    al.set_omegas_(soft, omega)
    return soft


def both(model: nn.Module, example, kinds="activation", where=None) -> tuple[nn.Module, nn.Module]:
    """The model with its sites switched off, and with its sites removed: every trap is laid for both."""
    return switched(model, example, kinds, where=where), al.remove(model, example, kinds=kinds, where=where)


def assert_near(actual: Tensor, wanted: Tensor, relative: float = 1e-5) -> None:
    assert actual.shape == wanted.shape
    difference, scale = (actual - wanted).abs().max().item(), wanted.abs().max().item()
    assert difference <= relative * scale, f"off by {difference:.3g} at {scale:.3g}"


# --- in-place ops and aliasing ------------------------------------------------------------------


def test_in_place_relu_is_really_blended():
    """Blending ``relu_(x)`` with x after the fact blends the ReLU with itself."""
    net, x = ZOO["inplace"].build(), image()
    linear = net.e(net.d(net.c(net.b(net.a(x)))))
    for made in both(net, x):
        assert_near(made(x), linear)
    half = switched(net, x, omega=0.5)

    def act(y: Tensor) -> Tensor:
        return 0.5 * y + 0.5 * F.relu(y)

    assert_near(half(x), net.e(act(net.d(act(net.c(act(net.b(act(net.a(x))))))))))


def test_the_overwritten_input_of_an_in_place_relu_is_read_again():
    net, x = ZOO["preactivation"].build(), image()
    y = net.a(x)
    half = switched(net, x, omega=0.5)(x)
    for made in both(net, x):
        assert_near(made(x), y + net.b(y))
    mixed = 0.5 * y + 0.5 * F.relu(y)
    assert_near(half, mixed + net.b(mixed))


def test_an_input_changed_in_place_is_still_changed():
    """fx makes ``v += 1`` a new tensor; the caller then reads the old one."""
    net, x = ZOO["mutates_input"].build(), image()
    v = net.stem(x) + 1
    for made in both(net, x):
        assert_near(made(x), net.tail(v + net.inner.a(v)))


def test_a_block_that_works_in_place_on_its_input():
    class AddsInPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv()

        def forward(self, x):
            x += F.relu(self.a(x))
            return x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block, self.tail = conv(), AddsInPlace(), conv()

        def forward(self, x):
            y = self.stem(x)
            z = self.block(y)
            return self.tail(y * z)

    net, x = Net(), image()
    y = net.stem(x)
    for made in both(net, x, kinds="block"):
        assert_near(made(x), net.tail(y * y))
    half = y + 0.5 * F.relu(net.block.a(y))
    assert_near(switched(net, x, kinds="block", omega=0.5)(x), net.tail(half * half))
    for made in both(net, x, kinds="skip"):
        step = F.relu(net.block.a(y))
        assert_near(made(x), net.tail(step * step))


def test_out_times_a_does_not_reach_the_input_of_a_removed_block():
    net, x = ZOO["aliasing"].build(), image()
    stem = net.stem(x)
    for made in both(net, x, kinds="block"):
        assert_near(made(x), net.tail(0.5 * stem * stem))
        before = x.clone()
        made(x)
        assert torch.equal(x, before)


def test_removing_everything_does_not_change_the_callers_tensor():
    class InPlaceOnInput(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.tail = Residual(), conv()

        def forward(self, x):
            return self.tail(self.block(x).mul_(2))

    net, x = InPlaceOnInput(), image()
    before = x.clone()
    for made in both(net, x, kinds="block"):
        assert_near(made(x), net.tail(2 * before))
        assert torch.equal(x, before), "the block became an identity, and mul_ changed the caller's input"


# --- one op, several places ---------------------------------------------------------------------


def test_a_shared_activation_is_switched_call_by_call():
    net, x = ZOO["shared_activation"].build(), image()
    ids = [s.id for s in al.sites(net, x)]
    first = al.remove(net, x, kinds="activation", where=ids[0])
    second = al.remove(net, x, kinds="activation", where=ids[1])
    assert_near(first(x), net.c(F.relu(net.b(net.a(x)))))
    assert_near(second(x), net.c(net.b(F.relu(net.a(x)))))


def test_two_adds_on_one_source_line():
    net, x = ZOO["one_line"].build(), image()
    skips = [s.id for s in al.sites(net, x) if s.kind == "skip"]
    h = F.relu(net.a(x))
    for made in both(net, x, kinds="skip", where=skips[0]):
        assert_near(made(x), net.c(h + F.relu(net.b(h))))
    h = x + F.relu(net.a(x))
    for made in both(net, x, kinds="skip", where=skips[1]):
        assert_near(made(x), net.c(F.relu(net.b(h))))


def test_two_instances_of_one_class_keep_apart():
    net, x = ZOO["stack"].build(), image()
    one = al.remove(net, x, kinds="activation", where="blocks.0/*")
    assert isinstance(one.blocks[0], Residual) and type(one.blocks[1]) is Residual
    y = net.norm(net.head(x))
    y = y + net.blocks[0].conv2(net.blocks[0].conv1(y))
    assert_near(one(x), net.tail(net.blocks[1](y)))
    assert torch.equal(Residual.forward(net.blocks[0], y), net.blocks[0](y)), "the class itself was changed"


def test_activations_in_lambdas_comprehensions_and_helpers():
    def helper(y):
        return F.relu(y)

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(conv() for _ in range(2))
            self.tail = conv()
            self.act = torch.tanh

        def forward(self, x):
            parts = [F.gelu(layer(x)) for layer in self.layers]
            double = lambda y: 2 * F.silu(y)  # noqa: E731
            return self.tail(helper(sum(parts)) + double(x) + self.act(x))

    net, x = Hidden(), image()
    assert sorted(s.op for s in al.sites(net, x) if s.kind == "activation") == ["gelu", "gelu", "relu", "silu", "tanh"]
    for made in both(net, x):
        assert_near(made(x), net.tail(net.layers[0](x) + net.layers[1](x) + 2 * x + x))


@pytest.mark.parametrize("kind", ["skip", "branch"])
def test_a_switched_add_has_the_layout_of_its_first_operand(kind):
    """MaxViT: with the operands in the other order, the sum's layout made a later kernel round otherwise."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv()

        def forward(self, x):
            y = self.a(x).to(memory_format=torch.channels_last)
            return (y + x).relu(), (x + y).relu()

    net, x = Mixed(), image()
    soft = al.switch(net, x, kinds=kind)
    assert [t.stride() for t in soft(x)] == [t.stride() for t in net(x)]


@pytest.mark.parametrize(("entry", "kind"), [("gates", "gate"), ("projection", "join")])
def test_gates_and_joins_are_taken_only_by_name(entry, kind):
    net, x = ZOO[entry].build(), ZOO[entry].example()
    assert any(site.kind == kind for site in al.sites(net, x))
    others = [k for k in al.KINDS if k not in (kind, "branch")]
    assert all(f"/{kind}." not in f"/{site}" for site in al.omegas(al.switch(net, x, kinds=others))["site"])
    with pytest.raises(ValueError, match="no site of kind activation"):
        al.switch(net, x, kinds="activation", where=f"{kind}.*")
    for function in (al.sensitivity, al.learn_to_remove):
        kinds = inspect.signature(function).parameters["kinds"].default
        assert kinds is inspect.Parameter.empty or kind not in kinds
    assert list(al.omegas(al.switch(net, x, kinds=kind))["kind"].unique()) == [kind]


# --- what a trace bakes in ------------------------------------------------------------------------


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
    """RAFT captured with 4 updates and called with 8: the turns that were seen are switched, the others are not."""
    net, x = ZOO["updates"].build(), image()
    for made in both(net, (x, 4)):
        for updates in (2, 4, 8):
            y = x
            for turn in range(updates):
                step = net.step(y)
                y = y + (step if turn < 4 else F.relu(step))
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
    """An object that is handed through, as a transformer's cache: its reader cannot be traced."""


def test_a_base_class_that_wraps_forward():
    class Layer(Wrapping):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x, cache):
            assert isinstance(cache, Cache)
            return self.b(F.relu(self.a(x)))

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


# --- gradients and precision ----------------------------------------------------------------------


def test_omega_stays_in_float32():
    net, x = ZOO["stack"].build(), image()
    soft = switched(net, x, omega=0.25)
    soft = copy.deepcopy(soft).to(torch.bfloat16)
    assert all(omega.dtype == torch.float32 for omega in al.omega_parameters(soft))
    assert soft(x.bfloat16()).dtype == torch.bfloat16


def test_fused_attention_does_not_pass_the_switches_by():
    """In evaluation without gradients torch runs a whole transformer layer as one kernel."""
    net, x = ZOO["encoder_layer"].build(), ZOO["encoder_layer"].example()
    layer = net.layers[0]

    def layer_without_relu(layer, y):
        y = layer.norm1(y + layer.self_attn(y, y, y, need_weights=False)[0])
        return layer.norm2(y + layer.linear2(layer.linear1(y)))

    assert layer.activation is F.relu
    for made in both(net, x):
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                wanted = layer_without_relu(net.layers[1], layer_without_relu(layer, x))
                assert_near(made(x), wanted)
    soft = al.switch(net, x, kinds="activation")
    with torch.no_grad():
        assert_near(soft(x), net(x))


def test_inference_mode_and_functional_calls():
    net, x = ZOO["stack"].build(), image()
    soft = switched(net, x, kinds=("activation", "skip"), omega=0.5)
    wanted = soft(x)
    with torch.inference_mode():
        assert torch.equal(soft(x), wanted)
    parameters = {name: p.detach().clone() for name, p in soft.named_parameters()}
    assert torch.equal(torch.func.functional_call(soft, parameters, (x,)), wanted)
    gradients = torch.func.grad(lambda p: torch.func.functional_call(soft, p, (x,)).sum())(parameters)
    assert gradients.keys() == parameters.keys()
    assert all(g.isfinite().all() for g in gradients.values())


# --- copies, files, processes ---------------------------------------------------------------------


def test_tied_and_non_contiguous_weights_in_safetensors(tmp_path):
    entry = ZOO["tied"]
    net, x = entry.build(), entry.example()
    thin = al.remove(net, x, kinds="skip")
    al.save(thin, tmp_path / "thin")
    again = al.load(tmp_path / "thin", entry.build, x)
    assert torch.equal(again(x), thin(x))
    assert again.a.weight is again.b.weight, "the tie is lost"


def test_a_thinned_model_is_rebuilt_in_another_process(tmp_path):
    entry = ZOO["gpt"]
    net, x = entry.build(), entry.example()
    thin = al.remove(net, x, kinds=("activation", "block"), where=["blocks.0.mlp/*", "blocks.1.attention"])
    al.save(thin, tmp_path / "thin")
    torch.save(thin(x), tmp_path / "output.pt")
    code = (
        "import sys, torch, archlab as al; from tests.zoo import GPT, ZOO\n"
        "folder, x = sys.argv[1], ZOO['gpt'].example()\n"
        "net = al.load(folder + '/thin', GPT, x).eval()\n"
        "assert torch.equal(net(x), torch.load(folder + '/output.pt')), 'another output'\n"
        "print('same')\n"
    )
    settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, env=settings
    )
    assert done.stdout.strip() == "same", done.stderr


@pytest.mark.parametrize("kinds", ["activation", "skip", "block"])
def test_pickling_works_or_says_what_to_do(kinds):
    """`torch.save(model)` and spawned processes pickle; an injected class cannot be found by name."""
    net, x = ZOO["stack"].build(), image()
    for made in both(net, x, kinds=kinds):
        try:
            text = pickle.dumps(made)
        except Exception as error:
            assert "al.save" in str(error) or "archlab.save" in str(error), str(error)
        else:
            assert torch.equal(pickle.loads(text)(x), made(x))


def test_deepcopies_have_omegas_of_their_own():
    net, x = ZOO["stack"].build(), image()
    soft = al.switch(net, x, kinds="skip")
    twin = copy.deepcopy(soft)
    al.set_omegas_(twin, 1.0)
    assert list(al.omegas(soft)["omega"]) == [0.0, 0.0] and list(al.omegas(twin)["omega"]) == [1.0, 1.0]
    assert torch.equal(soft(x), net(x)) and not torch.equal(twin(x), net(x))
    assert torch.equal(al.discard(twin)(x), twin(x))


def test_a_compiled_model_is_refused_and_a_switched_one_compiles():
    net, x = ZOO["stack"].build(), image()
    torch._dynamo.reset()
    with pytest.raises(TypeError, match="_orig_mod"):
        al.switch(torch.compile(net, backend="eager"), x, kinds="skip")
    soft = al.switch(net, x, kinds=("activation", "skip"))
    compiled = torch.compile(soft, backend="eager", fullgraph=True)
    compiled(x).sum().backward()
    assert all(omega.grad is not None for omega in al.omega_parameters(compiled))
    al.set_omegas_(compiled, 1.0)
    assert_near(compiled(x), al.remove(net, x, kinds=("activation", "skip"))(x))
    assert_near(al.discard(compiled)(x), compiled(x))


def test_a_ddp_wrapped_model_is_refused_and_a_switched_one_is_wrapped(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        net, x = ZOO["stack"].build(), image()
        with pytest.raises(TypeError, match="DistributedDataParallel"):
            al.sites(DistributedDataParallel(net), x)
        soft = al.switch(net, x, kinds=("activation", "skip"))
        wrapped = DistributedDataParallel(soft)
        (wrapped(x).mean() + al.penalty(wrapped)).backward()
        assert all(omega.grad is not None for omega in al.omega_parameters(wrapped))
        al.set_omegas_(wrapped, 1.0)
        assert_near(al.discard(wrapped)(x), wrapped(x))
    finally:
        torch.distributed.destroy_process_group()


# --- what stands in the way -------------------------------------------------------------------------


def test_hooks_survive():
    net, x = ZOO["stack"].build(), image()
    net.blocks[0].register_forward_hook(lambda module, given, made: made + 1)
    net.blocks[1].activation.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    y = net.norm(net.head(x))
    y = y + net.blocks[0].conv2(net.blocks[0].conv1(y)) + 1
    y = y + net.blocks[1].conv2(2 * net.blocks[1].conv1(y))
    soft = al.switch(net, x, kinds="activation")
    assert torch.equal(soft(x), net(x))
    al.set_omegas_(soft, {s: 1.0 for s in al.omegas(soft)["site"] if s.startswith("blocks.0/")})
    blocks = net.blocks
    z = net.norm(net.head(x))
    z = z + blocks[0].conv2(blocks[0].conv1(z)) + 1
    assert_near(soft(x), net.tail(blocks[1](z)))


def test_a_model_that_keeps_tensors_of_its_last_run():
    """RAFT keeps its correlation pyramid, LeViT its biases: tensors with a graph, which deepcopy refuses."""

    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()
            self.last = {}

        def forward(self, x):
            self.last["features"] = self.a(x)
            return self.b(F.relu(self.last["features"]))

    net, x = Keeps(), image()
    net(x)
    kept = net.last["features"]
    for made in both(net, x):
        assert_near(made(x), net.b(net.a(x)))
    assert net.last["features"] is kept, "the input model was run"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_site_inside_a_scripted_module_is_refused_with_a_reason():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.tail = torch.jit.script(Residual()), conv()

        def forward(self, x):
            return self.tail(F.relu(self.inner(x)))

    net, x = Outer(), image()
    sites = al.sites(net, x)
    assert [s.id for s in sites if s.kind == "activation"] == ["activation.0"], "only the ReLU outside can be seen"
    assert any("script" in left.reason for left in sites.left), sites.left_frame()
    with pytest.raises(ValueError, match="inner"):
        al.remove(net, x, kinds="activation", where="inner*")


def test_an_example_that_the_model_cannot_run_is_the_models_own_error():
    net = ZOO["stack"].build()
    with pytest.raises(RuntimeError, match="channels"):
        al.sites(net, image(3))
    assert run(net, image()).shape == image().shape


def test_no_global_hook_or_mode_stays_behind():
    from torch.nn.modules import module

    net, x = ZOO["encoder_layer"].build(), ZOO["encoder_layer"].example()
    fast = torch.backends.mha.get_fastpath_enabled()
    al.remove(net, x, kinds="activation")
    assert not module._has_any_global_hook()
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_model_that_differs_from_itself_from_run_to_run():
    class Trembles(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.generator = conv(), torch.Generator().manual_seed(0)

        def __deepcopy__(self, memo):  # generators cannot be copied
            new = copy.copy(self)
            new._modules = copy.deepcopy(self._modules, memo)
            return new

        def forward(self, x):
            return F.relu(self.a(x)) + 1e-6 * torch.randn(x.shape, generator=self.generator)

    soft = al.switch(Trembles(), image(), kinds="activation")
    assert "differs from itself" in al.recipe(soft).steps[-1].equality


def test_the_random_state_is_left_alone():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x):
            return self.b(F.relu(F.dropout(self.a(x), 0.5, self.training)))

    net, x = Noisy().train(), image()
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    soft = al.switch(net, x, kinds="activation")
    thin = al.discard(switched(net, x))
    assert torch.equal(torch.rand(3), wanted)
    torch.manual_seed(4)
    noisy = net(x)
    torch.manual_seed(4)
    assert torch.equal(soft(x), noisy)
    torch.manual_seed(4)
    assert_near(thin(x), net.b(F.dropout(net.a(x), 0.5) if torch.manual_seed(4) else x))


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
