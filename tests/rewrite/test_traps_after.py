"""Traps that wait after surgery, one test each: precision, copies, files, processes, hooks, random states."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import archlab as al
from tests.contracts.zoo import ZOO, conv, image
from tests.rewrite.traps import assert_near, both, switched

ROOT = Path(__file__).resolve().parents[2]

# --- gradients and precision -----------------------------------------------------------------------


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


def test_what_was_removed_of_a_transformer_layer_is_not_missed_with_a_mask():
    """Whether a layer can run as one kernel depends on the weights of its parts."""
    net, x = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(), torch.randn(2, 3, 4)
    thin = al.remove(net, x, kinds="norm", where="norm.0")
    mask = torch.tensor([[False, False, True], [False, False, False]])
    y = x + net.self_attn(x, x, x, key_padding_mask=mask, need_weights=False)[0]
    assert_near(thin(x, src_key_padding_mask=mask), net.norm2(y + net.linear2(F.relu(net.linear1(y)))))


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


# --- copies, files, processes ----------------------------------------------------------------------


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
        "import sys, torch, archlab as al; from tests.contracts.zoo import GPT, ZOO\n"
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


def test_what_is_intercepted_is_so_in_a_compiled_model_too():
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return torch.relu(self.a(x)) if x.sum() < 1e9 else x

    net, x = Untraceable(), torch.randn(2, 4)
    soft = switched(net, x)
    assert al.recipe(soft).steps[-1].how == {"activation.0": "intercepted"}
    assert torch.equal(torch.compile(soft, backend="eager")(x), net.a(x))


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


# --- what stands in the way ------------------------------------------------------------------------


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


def test_no_global_hook_or_mode_stays_behind():
    net, x = ZOO["encoder_layer"].build(), ZOO["encoder_layer"].example()
    fast = torch.backends.mha.get_fastpath_enabled()
    al.remove(net, x, kinds="activation")
    hooks = vars(nn.modules.module)
    assert not [name for name in hooks if name.startswith("_global_") and "hooks" in name and hooks[name]]
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_model_that_differs_from_itself_from_run_to_run():
    noise = torch.Generator().manual_seed(0)

    class Trembles(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv()

        def forward(self, x):
            return F.relu(self.a(x)) + 1e-6 * torch.randn(x.shape, generator=noise)

    soft = al.switch(Trembles(), image(), kinds="activation")
    assert "differs from itself" in al.recipe(soft).steps[-1].checked


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


def test_what_was_removed_under_autocast_is_counted_on_meta_and_runs_in_other_dtypes():
    net, x = ZOO["attention"].build(), ZOO["attention"].example()
    with torch.autocast("cpu", torch.bfloat16):
        thin = al.remove(net, x, kinds="skip")
        assert next(site.target.recast for site in al.sites(net, x, kinds="skip")) == (torch.float32, True)
        assert thin(x).dtype is net(x).dtype
    assert al.cost(thin, x).how == "meta"
    assert thin.to(torch.bfloat16)(x.to(torch.bfloat16)).dtype is torch.bfloat16
