"""Multiply-adds of every op of torch that multiplies and sums, each against a count made by hand."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

import archlab as al
from archlab.capture.recorder import capture


def r(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


class Does(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


OPS = {
    "mm": (torch.mm, (r(2, 3), r(3, 5)), 30),
    "bmm": (torch.bmm, (r(4, 2, 3), r(4, 3, 5)), 120),
    "matmul": (torch.matmul, (r(4, 2, 3), r(3, 5)), 120),
    "matrix-vector": (torch.matmul, (r(2, 3), r(3)), 6),
    "batch-vector": (torch.matmul, (r(4, 2, 3), r(3)), 24),
    "mv": (torch.mv, (r(2, 3), r(3)), 6),
    "dot": (torch.dot, (r(3), r(3)), 3),
    "vdot": (torch.vdot, (r(3), r(3)), 3),
    "vecdot": (torch.linalg.vecdot, (r(4, 3), r(3)), 12),
    "inner": (torch.inner, (r(2, 3), r(5, 3)), 30),
    "outer": (torch.outer, (r(2), r(3)), 6),
    "ger": (torch.ger, (r(2), r(3)), 6),
    "addmm": (torch.addmm, (r(5), r(2, 3), r(3, 5)), 30),
    "addmm_": (Does(lambda a, b, c: a.clone().addmm_(b, c)), (r(2, 5), r(2, 3), r(3, 5)), 30),
    "addmv": (torch.addmv, (r(2), r(2, 3), r(3)), 6),
    "addr": (torch.addr, (r(2, 3), r(2), r(3)), 6),
    "addbmm": (torch.addbmm, (r(2, 5), r(4, 2, 3), r(4, 3, 5)), 120),
    "baddbmm": (torch.baddbmm, (r(4, 2, 5), r(4, 2, 3), r(4, 3, 5)), 120),
    "tensordot": (torch.tensordot, (r(2, 3, 4), r(3, 4, 5)), 2 * 12 * 5),
    "einsum": (Does(lambda a, b: torch.einsum("bij,bkj->bik", a, b)), (r(4, 2, 3), r(4, 5, 3)), 120),
    "multi_dot": (Does(lambda *m: torch.linalg.multi_dot(m)), (r(2, 3), r(3, 5), r(5, 4)), 30 + 40),
    "matrix_power": (Does(lambda a: torch.linalg.matrix_power(a, 3)), (r(4, 4),), 2 * 64),
    "bilinear": (F.bilinear, (r(5, 7), r(5, 8), r(3, 7, 8)), 5 * 3 * (7 * 8 + 8)),
    "nn.Bilinear": (nn.Bilinear(8, 8, 3), (r(5, 8), r(5, 8)), 5 * 3 * (64 + 8)),
    "cdist": (torch.cdist, (r(4, 3), r(5, 3)), 60),
    "cdist, large": (torch.cdist, (r(30, 3), r(40, 3)), 3600),
    "conv1d": (nn.Conv1d(2, 6, 4), (r(1, 2, 10),), 7 * 6 * 2 * 4),
    "conv3d": (nn.Conv3d(2, 3, 2), (r(1, 2, 3, 3, 3),), 8 * 3 * 2 * 8),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 2), (r(1, 4, 5),), 5 * 4 * 6 * 2),
    "conv_transpose2d, groups": (nn.ConvTranspose2d(4, 6, 2, groups=2), (r(1, 4, 5, 5),), 25 * 4 * 3 * 4),
    "conv_tbc": (torch.conv_tbc, (r(7, 2, 3), r(4, 3, 5), r(5)), 4 * 2 * 5 * 4 * 3),
    "linear of a vector": (nn.Linear(3, 5), (r(3),), 15),
    "attention": (F.scaled_dot_product_attention, (r(1, 2, 6, 4), r(1, 2, 5, 4), r(1, 2, 5, 3)), 2 * 6 * 5 * (4 + 3)),
    "LSTM": (nn.LSTM(3, 4, 2, bidirectional=True), (r(7, 2, 3),), 14 * 2 * (16 * (3 + 4) + 16 * (8 + 4))),
    "LSTM, projected": (nn.LSTM(3, 4, proj_size=2), (r(7, 2, 3),), 14 * (16 * (3 + 2) + 2 * 4)),
    "GRU": (nn.GRU(3, 4, batch_first=True, bias=False), (r(2, 7, 3),), 14 * 12 * (3 + 4)),
    "GRU, unbatched": (nn.GRU(3, 4), (r(7, 3),), 7 * 12 * (3 + 4)),
    "RNN": (nn.RNN(3, 4, nonlinearity="relu"), (r(7, 2, 3),), 14 * 4 * (3 + 4)),
    "LSTMCell": (nn.LSTMCell(3, 4), (r(2, 3),), 2 * 16 * (3 + 4)),
    "GRUCell": (nn.GRUCell(3, 4, bias=False), (r(2, 3),), 2 * 12 * (3 + 4)),
    "RNNCell": (nn.RNNCell(3, 4), (r(3),), 4 * (3 + 4)),
}  # fmt: skip
TOKENS = 2 * 6  # two sentences of six tokens of width 8: their projections, and each token with each, twice
OPS["MultiheadAttention"] = (
    nn.MultiheadAttention(8, 2, batch_first=True),
    (r(2, 6, 8),) * 3,
    TOKENS * (4 * 64 + 2 * 6 * 8),
)
OPS["TransformerEncoderLayer"] = (
    nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (r(2, 6, 8),), TOKENS * (4 * 64 + 2 * 6 * 8 + 2 * 8 * 16)
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", OPS)
def test_a_product_costs_what_a_count_by_hand_gives_on_meta_and_in_a_real_run(name):
    function, example, macs = OPS[name]
    net = (function if isinstance(function, nn.Module) else Does(function)).eval()
    found = al.cost(net, example)
    assert (found.macs, found.how, found.unknown) == (macs, "meta", {})
    assert sum(op.macs for op in capture(net, example).ops) == macs
    with torch.inference_mode():  # composed ops reach a dispatch mode as one
        assert sum(op.macs for op in capture(net, example).ops) == macs


def scripted(part, example):
    """TorchScript, of which torch says at each use that it is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(part)


def traced(part, example):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(part, example, check_trace=False)


@pytest.mark.parametrize("made", [scripted, traced])
@pytest.mark.parametrize("name", ["nn.Bilinear", "conv1d", "LSTM", "GRUCell"])
def test_a_scripted_or_traced_part_costs_what_it_costs_in_python(name, made):
    net, example, macs = OPS[name]
    part = made(nn.Sequential(net) if len(example) == 1 else net, example)
    assert al.cost(Does(part), example).macs == macs
    record = capture(Does(part), example)
    assert sum(op.macs for op in record.ops) == macs and any(op.scripted for op in record.ops)


def test_the_fused_kernel_of_a_scripted_transformer_counts():
    net, example, macs = OPS["TransformerEncoderLayer"]
    assert al.cost(Does(scripted(net.eval(), example)), example).macs == macs


def attention(q, k, v):
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v + v


def test_a_scripted_function_is_counted_in_its_module_and_holds_no_site():
    function = scripted(attention, None)
    net, x = nn.Sequential(nn.Linear(4, 4), Does(lambda x: function(x, x, x))), r(1, 5, 4)
    assert list(al.cost(net, x).by_module()["macs"]) == [280, 80, 200]
    found = al.sites(net, x)
    assert not len(found)
    assert set(found.skipped_frame()["reason"]) == {"a scripted part runs it, whose code stays as it is"}


def test_deformable_convolution():
    ops = pytest.importorskip("torchvision.ops")
    example = (r(1, 4, 6, 6), r(1, 18, 6, 6), r(8, 4, 3, 3))
    assert al.cost(Does(lambda x, o, w: ops.deform_conv2d(x, o, w, padding=1)), example).macs == 36 * 8 * 36


def test_packed_sequences_count_their_own_lengths():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(3, 4)

        def forward(self, a, b):
            return self.layer(pack_sequence([a, b]))[0].data

    net = Packed()
    assert sum(op.macs for op in capture(net, (r(5, 3), r(2, 3))).ops) == 7 * 12 * (3 + 4)
    assert al.cost(net, (r(5, 3), r(2, 3))).macs == 7 * 12 * (3 + 4)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_matrices_count_their_entries():
    matrix = torch.eye(4)
    for sparse in (matrix.to_sparse(), matrix.to_sparse_csr()):
        assert al.cost(Does(lambda x, m=sparse: m @ x), r(4, 5)).macs == 4 * 5
        assert al.cost(Does(lambda x, m=sparse: torch.sparse.mm(m, x)), r(4, 5)).macs == 4 * 5


def test_nested_tensors_count_what_they_hold():
    nested = torch.nested.nested_tensor([r(3, 4), r(5, 4)], layout=torch.jagged)
    found = al.cost(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nested)
    assert (found.macs, found.activations) == (8 * 24, 2 * 8 * 6)


@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:torch.ao")
def test_quantized_layers_count():
    net = torch.ao.nn.quantized.Linear(8, 3)
    x = torch.quantize_per_tensor(r(5, 8), 0.1, 0, torch.quint8)
    assert sum(op.macs for op in capture(net, x).ops) == 5 * 8 * 3


def test_what_multiplies_and_has_no_formula_is_named_beside_the_total():
    @torch.library.custom_op("archlab_test::squared", mutates_args=())
    def squared(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    squared.register_fake(torch.empty_like)
    net = nn.Sequential(
        nn.Linear(4, 4), Does(lambda x: torch.linalg.inv(torch.fft.fft(squared(x)).real + x)), nn.ReLU()
    )
    found = al.cost(net, torch.eye(4))
    assert found.macs == 64
    assert found.unknown == {"archlab_test::squared": 1, "_fft_r2c": 1, "linalg_inv_ex": 1}
    assert "not in it    archlab_test::squared x1, _fft_r2c x1, linalg_inv_ex x1: no formula" in repr(found)
    assert found.frame().loc[0, "unknown"] == "archlab_test::squared x1, _fft_r2c x1, linalg_inv_ex x1"
    assert "archlab_test::squared" not in found.uncounted
    assert "64 MACs, without those of archlab_test::squared, _fft_r2c, linalg_inv_ex: no formula" in repr(
        al.sites(net, torch.eye(4))
    )


def test_one_number_in_cost_sites_and_recipe():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Does(nn.LSTM(3, 4)), Does(lambda pair: pair[0]))
    x, macs = r(7, 2, 3), 14 * 9 + 14 * 16 * 7
    assert al.cost(net, x).macs == macs
    assert f"{macs:,} MACs" in repr(al.sites(net, x))
    step = al.recipe(al.remove(net, x, kinds="activation")).steps[-1]
    assert step.before["macs"] == step.after["macs"] == macs


def test_a_recurrent_layer_costs_one_op_however_long_the_sequence(monkeypatch):
    net = Does(nn.GRU(3, 4))
    assert [op.name for op in capture(net, r(300, 1, 3)).ops] == ["zeros", "gru"]
    issued = []
    monkeypatch.setattr("archlab.capture.macs.counter.flop_registry", Asked(issued))
    al.cost(net, r(300, 1, 3))
    assert len(issued) < 10  # not twenty a step


class Asked(dict):
    """A table that notes what is looked up in it."""

    def __init__(self, issued: list):
        super().__init__()
        self.issued = issued

    def get(self, key, default=None):
        self.issued.append(key)
        return default


def test_a_cell_of_the_wrong_width_is_refused_by_torch():
    with pytest.raises(RuntimeError, match=r"size|shape"):
        al.cost(Does(torch.gru_cell), (r(2, 5), r(2, 4), r(12, 3), r(12, 4)))


@pytest.mark.parametrize("model", ["mobilenet_v3_small", "swin_t"])
def test_torchs_own_counter_agrees(model):
    models = pytest.importorskip("torchvision.models")
    net, x = getattr(models, model)().eval(), torch.zeros(1, 3, 224, 224)
    with torch.device("meta"):
        twin = getattr(models, model)().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(x.to("meta"))
    assert al.cost(net, x).macs == counter.get_total_flops() // 2
