"""What a record calls the ops of a graph that torch traced: as the model's own code would have."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import archlab as al
from archlab.capture.functions import ATEN, function_of
from archlab.capture.recorder import capture

X = torch.randn(1, 3, 6, 6)


class Mixed(nn.Module):
    """Convolution, norms and activations, one of them in place, with a skip and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.rows, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        h = F.silu(self.norm(self.conv(x)), inplace=True)
        h = (h + F.gelu(h)).flatten(2).transpose(1, 2)
        return self.linear(self.rows(h).softmax(-1)).sigmoid() * 2


def exported(net: nn.Module) -> nn.Module:
    return torch.export.export(net, (X,)).module()


def made(net: nn.Module) -> nn.Module:
    return make_fx(net)(X)


@pytest.mark.parametrize("traced", [exported, made])
@pytest.mark.parametrize("convention", ["macs", "paper"])
def test_a_traced_graph_costs_what_the_module_costs(traced, convention):
    net = Mixed().eval()
    assert al.cost(traced(net), X, convention=convention).macs == al.cost(net, X, convention=convention).macs > 0


@pytest.mark.parametrize("traced", [exported, made])
def test_the_ops_of_a_traced_graph_bear_the_names_of_functions(traced):
    net = Mixed().eval()
    alike = {"batch_norm", "silu", "gelu", "layer_norm", "softmax", "sigmoid", "mul"}
    for model in (net, traced(net)):
        names = {op.name for op in capture(model, X).ops}
        assert alike <= names and not [name for name in names if "." in name]


@pytest.mark.parametrize(
    "op, function",
    [
        (torch.ops.aten.add.Tensor, torch.add),
        (torch.ops.aten.add_.Tensor, torch.Tensor.add_),
        (torch.ops.aten.relu_.default, F.relu_),
        (torch.ops.aten.silu_.default, F.silu),
        (torch.ops.aten._softmax.default, F.softmax),
        (torch.ops.aten.hardtanh, F.hardtanh),
        (torch.ops.aten.special_expit.default, torch.special.expit),
        (torch.ops.aten.linalg_inv.default, torch.linalg.inv),
        (torch.ops.prims.mul.default, torch.mul),
        (torch.ops.aten.slice.Tensor, torch.ops.aten.slice),
        (F.relu, F.relu),
    ],
)
def test_the_function_of_an_op(op, function):
    assert function_of(op) is function


def test_every_op_that_aten_calls_otherwise_is_one_of_aten():
    unknown = [name for name in ATEN if not hasattr(torch.ops.aten, name)]
    assert set(unknown) <= {"_fused_rms_norm"}  # of later versions of torch
