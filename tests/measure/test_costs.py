"""Costs against counts made by hand, the published table, and fvcore."""

import gc
import sys
import time
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
from archlab.capture.recorder import capture
from studies.motion.network.models import ResidualBlock, baseline

STREAM_SIZE = 384


def magnifying(frame: torch.Tensor, shape: torch.Tensor) -> al.Call:
    """One streamed frame, as the paper counts: one encoder pass."""
    return al.Call(lambda net, f, s: net.stream(f, s, 10.0), frame, shape)


def stream(height: int = STREAM_SIZE, width: int = STREAM_SIZE) -> al.Call:
    return magnifying(torch.zeros(1, 3, height, width), torch.zeros(1, 32, height // 2, width // 2))


class Attention(nn.Module):
    """Softmax attention of two heads, the projections left out: q, k and v are one input."""

    def forward(self, x):
        heads = x.unflatten(-1, (2, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)


class Times(nn.Module):
    def forward(self, a, b):
        return a @ b


class Halving(nn.Module):
    """Halves its input until it is small: how often depends on the data."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        while x.abs().max() > 1:
            x = self.layer(x) * 0 + x / 2
        return x


# --- multiply-adds ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, example, macs, extra",
    [
        # out pixels x out channels x in channels x kernel; a bias adds out pixels x out channels
        (nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10), 100 * 8 * 3 * 9, 800),
        (nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.zeros(2, 3, 10, 10), 2 * 100 * 8 * 3 * 9, 0),
        (nn.Conv2d(4, 8, 5, stride=2), torch.zeros(1, 4, 11, 9), 4 * 3 * 8 * 4 * 25, 96),
        (nn.Conv2d(4, 8, 3, groups=2), torch.zeros(1, 4, 6, 6), 16 * 8 * 2 * 9, 128),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), torch.zeros(1, 4, 6, 6), 36 * 4 * 9, 144),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), torch.zeros(1, 4, 6, 6), 36 * 4 * 4 * 9, 144),
        (nn.Conv1d(2, 6, 4), torch.zeros(1, 2, 10), 7 * 6 * 2 * 4, 42),
        # each input pixel meets the whole kernel
        (nn.ConvTranspose2d(4, 6, 2, stride=2), torch.zeros(1, 4, 5, 5), 25 * 4 * 6 * 4, 600),
        (nn.Linear(5, 7), torch.zeros(3, 5), 3 * 5 * 7, 21),
        (nn.Linear(5, 7, bias=False), torch.zeros(2, 3, 5), 6 * 5 * 7, 0),
        (Times(), (torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)), 2 * 3 * 4 * 5, 0),
        # two heads of 4 channels, 6 tokens: q times k, then times v
        (Attention(), torch.zeros(1, 6, 8), 2 * 2 * 6 * 6 * 4, 0),
        (nn.ReLU(), torch.zeros(2, 7), 0, 14),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)), torch.zeros(2, 3), 18, 12),
        (nn.Sequential(nn.GELU(), nn.MaxPool1d(2)), torch.zeros(1, 2, 4), 0, 0),
    ],
)  # fmt: skip
def test_counts_made_by_hand(model, example, macs, extra):
    assert al.cost(model, example).macs == macs
    counted = al.cost(model, example, convention="paper")
    assert counted.macs == macs + extra
    assert counted.how == "meta"


def test_a_shared_layer_counts_each_time_and_its_parameters_once():
    layer = nn.Linear(4, 4)
    found = al.cost(nn.Sequential(layer, nn.Tanh(), layer), torch.zeros(1, 4))
    assert (found.macs, found.params) == (32, 20)


@pytest.mark.parametrize(
    "part, blocks, params, paper_g, macs_g",
    [
        ("", 0, 966_979, 41.3, 41.196),
        ("encoder", 7, 837_507, 37.6, 37.459),
        ("manipulator", 1, 948_483, 40.6, 40.516),
        ("decoder", 6, 523_843, 25.0, 24.888),
    ],
)
def test_the_published_table(part, blocks, params, paper_g, macs_g):
    net, example = baseline(), stream()
    if part:
        named = [path for path, m in net.named_modules() if isinstance(m, ResidualBlock) and path.startswith(part)]
        small = magnifying(torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 16, 16))
        net = al.remove(net, small, kinds="block", where=named[:blocks])
    found = al.cost(net, example, convention="paper")
    assert found.params == params
    assert round(found.macs / 1e9, 1) == paper_g
    assert round(al.cost(net, example).macs / 1e9, 3) == macs_g


def test_unknown_convention():
    with pytest.raises(ValueError, match=r"convention must be one of 'macs', 'paper', got 'flops'"):
        al.cost(nn.ReLU(), torch.zeros(1), convention="flops")  # type: ignore[arg-type]


# --- by module -------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", ["macs", "paper"])
def test_modules_sum_to_the_total(convention):
    net = baseline()
    found = al.cost(net, stream(64, 64), convention=convention)
    rows = found.by_module().set_index("module")
    assert (rows.loc["", "macs"], rows.loc["", "activations"]) == (found.macs, found.activations)
    assert rows.loc["", "params"] == found.params
    first = found.by_module(depth=1)
    assert list(first["module"]) == ["", "encoder", "manipulator", "decoder"]
    assert first["macs"][1:].sum() == found.macs
    assert first["macs_share"][1:].sum() == pytest.approx(1)
    each = rows.loc[[f"decoder.blocks.{number}" for number in range(9)], "macs"]
    assert each.nunique() == 1 and each.sum() == rows.loc["decoder.blocks", "macs"]


def test_activations_are_the_elements_written():
    # 8 from the layer, 8 from the activation in place; a view writes nothing
    found = al.cost(nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Unflatten(1, (2, 4))), torch.zeros(1, 4))
    assert found.activations == 16


# --- memory ----------------------------------------------------------------------------------------

UNIT = 4 * 1000  # bytes of a float32 map of 1000 elements


class Long(nn.Module):
    """A skip over two layers: input, a, relu(a), b and their sum, each one map."""

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, x):
        a = torch.tanh(x)
        b = F.relu(a * 2, inplace=self.inplace)
        b = torch.sin(b)
        return a + b


@pytest.mark.parametrize(
    "model, maps",
    [
        (nn.Tanh(), 2),  # the example and the result
        (nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Tanh()), 3),  # the example is the caller's: alive to the end
        (nn.Sequential(nn.Tanh(), nn.ReLU(inplace=True), nn.Tanh()), 3),
        (nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Tanh()), 3),  # a view keeps what it looks at
        (Long(), 4),  # example, a, and two neighbours on the way from a to b
        (Long(inplace=True), 4),
        (nn.ReLU(inplace=True), 1),
    ],
)
def test_peak_memory_by_hand(model, maps):
    assert al.cost(model, torch.zeros(10, 100)).peak_bytes == maps * UNIT


def test_peak_memory_counts_parameters_buffers_and_dtype():
    net = nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10)).eval()
    params, buffers = 110 + 20, 20 + 2  # the count of batches is one int64
    assert al.cost(net, torch.zeros(5, 10)).peak_bytes == 4 * (params + buffers + 3 * 50)
    half = al.cost(nn.Tanh().bfloat16(), torch.zeros(1000, dtype=torch.bfloat16))
    assert half.peak_bytes == 2 * 2 * 1000


# --- without running, or with one run -----------------------------------------------------------------


def test_how_names_the_reason_of_a_real_run():
    example = torch.full((2, 4), 7.0)  # 7, 3.5, 1.75, 0.875: three times
    found = al.cost(Halving(), example)
    assert found.how.startswith("one real run: on meta it raises ")
    assert found.macs == 3 * 2 * 16
    assert example.eq(7).all()


def test_a_recorded_run_keeps_nothing_for_a_backward():
    made, saved = [], []

    class Notes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            y = torch.tanh(self.layer(x))
            made.append(weakref.ref(y))
            return y * 2

    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        record = capture(Notes(), torch.randn(2, 4))
    assert [op.name for op in record.ops] == ["linear", "tanh", "mul"] and all(op.grad for op in record.ops)
    assert not saved
    gc.collect()
    assert made[0]() is None, "the record holds a tensor of its run"


def test_the_model_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    al.cost(net, torch.randn(8, 4))
    al.fvcore_cost(net, torch.randn(8, 4))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad and p.device.type == "cpu" for p in net.parameters())


class Cache:
    def __init__(self):
        self.keys = torch.zeros(1, 0, 4)


class Remembering(nn.Module):
    """Appends to an object that it is given."""

    def forward(self, x, cache):
        cache.keys = torch.cat([cache.keys, x], 1)
        return x @ cache.keys.mT


def test_an_object_in_the_example_is_left_as_it_was():
    net, example = Remembering(), (torch.zeros(1, 1, 4), Cache())
    found = [al.cost(net, example) for _ in range(2)]
    assert [(cost.macs, cost.how) for cost in found] == [(4, "meta")] * 2 and example[1].keys.shape[1] == 0
    with pytest.raises(ValueError, match=r"Remembering changes what it is given: .*\(1, 0, 4\).*al\.Call"):
        al.speed(net, example, seconds=0.01)


def test_in_inference_mode_costs_and_sites_are_the_same():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), torch.zeros(1, 3)
    with torch.inference_mode():
        inside = al.cost(net, x), [site.id for site in al.sites(net, x)]
        thin = al.remove(net, x, kinds="activation")
    outside = al.cost(net, x), [site.id for site in al.sites(net, x)]
    assert [(cost.activations, cost.macs) for cost, _ in (inside, outside)] == [(10, 20)] * 2
    assert inside[1] == outside[1] == ["activation.0"]
    thin(x).sum().backward()  # of no tensors of inference mode
    assert all(p.grad is not None for p in thin.parameters())


class Written(nn.Module):
    """nn.MultiheadAttention by parts; copies that change the layout alone, and the mean over heads, are left out."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, -1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Asked(nn.Module):
    def __init__(self, width, heads, weights):
        super().__init__()
        self.attention, self.weights = nn.MultiheadAttention(width, heads, batch_first=True), weights

    def forward(self, x):
        return self.attention(x, x, x, need_weights=self.weights, average_attn_weights=False)[0]


def test_attention_as_one_call_costs_what_its_parts_do():
    x, tokens = torch.zeros(2, 5, 8), 2 * 5 * 8
    written, asked, fused = (al.cost(net, x, "paper") for net in (Written(8, 4), *(Asked(8, 4, w) for w in (1, 0))))
    scores = 2 * 4 * 5 * 5
    assert written.macs == asked.macs == fused.macs
    assert written.activations - tokens == asked.activations - scores  # its copy, and the other's weights
    assert fused.activations == 5 * tokens  # projections, what attends to the values, the output
    assert asked.peak_bytes >= written.peak_bytes > fused.peak_bytes


def test_attention_to_others_is_counted_by_its_own_sizes():
    asking, asked, scores, mean = 5 * 2 * 8, 7 * 2 * 8, 2 * 2 * 5 * 7, 2 * 5 * 7
    net = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    example = torch.zeros(5, 2, 8), torch.zeros(7, 2, 4), torch.zeros(7, 2, 6)
    counted, paper = (al.cost(net, example, convention) for convention in ("macs", "paper"))
    assert counted.activations == 3 * asking + 2 * asked + 2 * scores + asking + mean
    assert paper.macs - counted.macs == 2 * asking + 2 * asked


def test_full_hd_costs_no_forward_pass_of_that_size():
    net, example = baseline(), stream(1080, 1920)
    al.cost(net, stream(32, 32))  # imports
    begun = time.process_time()
    found = al.cost(net, example)
    seconds = time.process_time() - begun
    assert found.macs == pytest.approx(al.cost(net, stream()).macs * 1080 * 1920 / 384**2, rel=1e-6)
    assert seconds < 2, f"{seconds:.2f} s: a forward pass of this size takes ten times as long"


# --- the second opinion -----------------------------------------------------------------------------


def test_fvcore_agrees_and_lists_what_it_did_not_count():
    net, example = baseline(), stream(32, 32)
    opinion = al.fvcore_cost(net, example)
    upsampled = 32 * 16 * 16 + 64 * 32 * 32  # fvcore counts one for each element of these
    assert opinion.macs == al.cost(net, example).macs + upsampled
    assert {"aten::add", "aten::sub", "aten::mul"} <= opinion.uncounted.keys()
    assert opinion.uncounted["aten::add"] == 7 + 1 + 9 + 1  # blocks, and the manipulator's outer skip


def test_fvcore_counts_nothing_for_attention():
    opinion = al.fvcore_cost(Attention(), torch.zeros(1, 6, 8))
    assert opinion.macs == 0
    assert "aten::scaled_dot_product_attention" in opinion.uncounted


@pytest.mark.parametrize(
    "example", [(torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)), {"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 4, 5)}]
)
def test_fvcore_takes_any_example(example):
    assert al.fvcore_cost(Times(), example).macs == 120


def test_without_fvcore_the_second_opinion_names_the_extra_and_costs_are_counted(monkeypatch):
    monkeypatch.setitem(sys.modules, "fvcore", None)
    monkeypatch.delitem(sys.modules, "fvcore.nn", raising=False)
    net, x = nn.Linear(3, 2), torch.zeros(4, 3)
    with pytest.raises(ModuleNotFoundError, match=r"fvcore_cost needs fvcore, .*: pip install 'archlab\[fvcore\]'"):
        al.fvcore_cost(net, x)
    assert al.cost(net, x).macs == 24
