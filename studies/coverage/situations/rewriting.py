"""What a rewritten module computes."""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al

from .judge import Calls, equal, shaken


def attribute_of_a_tensor() -> str:
    """01. An op's argument is an attribute of a tensor (.T)."""
    a, head = nn.Linear(4, 4), nn.Linear(4, 2)
    net = Calls(lambda self, x: self.head(F.relu((self.a(x) @ x.T).T) @ x), a=a, head=head)
    x = torch.randn(3, 4)
    thin = al.remove(net, x, kinds="activation")
    return equal(thin(x), head((a(x) @ x.T).T @ x), "the removed activation")


@dataclass
class Encoded:
    """Half of a nested output."""

    hidden: Tensor


@dataclass
class Output:
    """An output inside an output."""

    encoded: Encoded
    y: Tensor


def _conv_norm() -> dict[str, nn.Module]:
    return {"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "last": nn.Conv2d(4, 2, 1)}


def output_inside_an_output() -> str:
    """02. Fold where an output lies in an object inside an object."""

    def forward(self: Any, x: Tensor) -> Output:
        hidden = self.conv(x)
        return Output(Encoded(hidden), self.last(F.relu(self.norm(hidden))))

    net, x = shaken(Calls(forward, **_conv_norm())), torch.randn(1, 3, 6, 6)
    return equal(al.fold(net, x)(x).encoded.hidden, net(x).encoded.hidden, "the hidden output")


def feature_kept_on_the_module() -> str:
    """03. Fold where forward keeps a feature on its module."""

    def forward(self: Any, x: Tensor) -> Tensor:
        self.feature = self.conv(x)
        return self.last(F.relu(self.norm(self.feature)))

    net, x = shaken(Calls(forward, **_conv_norm())), torch.randn(1, 3, 6, 6)
    folded = al.fold(net, x)
    net(x)
    folded(x)
    return equal(cast(Tensor, folded.feature), cast(Tensor, net.feature), "the kept feature")


def weights_that_a_run_changes() -> str:
    """04. Looking at a model whose forward changes its weights (Embedding with max_norm)."""
    words = nn.Embedding(10, 4, max_norm=1.0)
    before = words.weight.detach().clone()
    al.sites(nn.Sequential(words, nn.Linear(4, 4), nn.ReLU()), torch.arange(10)[None])
    return equal(words.weight, before, "the caller's weights", 0.0)


class Closures(nn.Module):
    """Its layers are reached through lambdas that hold the module itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.ops = {"a": lambda x: F.relu(self.a(x)), "b": lambda x: torch.tanh(self.b(x))}

    def forward(self, x: Tensor) -> Tensor:
        return self.ops["a"](x) + self.ops["b"](x)


def closures_over_the_module() -> str:
    """05. A module keeps lambdas over itself."""
    net, x = Closures(), torch.randn(2, 8)
    thin = al.remove(net, x, kinds="activation", where="*.0")
    for parameter in thin.parameters():
        parameter.data.zero_()
    return equal(thin(x), torch.zeros(2, 8), "the output once all weights of the thin model are 0", 0.0)


def hooks_that_write_outside() -> str:
    """06. Hooks write features to a dict that the model reads."""
    kept: dict[int, Any] = {}

    def forward(self: Any, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(F.gelu(self.kept[0] + self.kept[2]))

    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda module, args, out, index=index: kept.__setitem__(index, out))
    net = Calls(forward, layers=layers, head=nn.Linear(8, 2), kept=kept)
    thin = al.remove(net, torch.randn(2, 8), kinds="activation")
    one, other = thin(torch.randn(2, 8)), thin(torch.randn(2, 8))
    assert not torch.equal(one, other), "the thin model gives one output for two inputs"
    return "the thin model reads its own features"


class Sign(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def backward_of_a_function() -> str:
    """10. A torch.autograd.Function inside a rewritten container keeps its backward."""
    inner = Calls(lambda self, x: self.c(Sign.apply(F.hardtanh(x))), c=nn.Linear(4, 4))
    net, x = nn.Sequential(nn.Linear(4, 4), inner), torch.randn(3, 4)
    soft = al.switch(net, x, kinds="activation")
    for model in (net, soft):
        model(x).square().sum().backward()
    return equal(soft[0].weight.grad, net[0].weight.grad, "the gradient before the Function")  # type: ignore[index]


def module_under_two_names() -> str:
    """11. A removed module is registered under two names."""
    stem, block = nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.block(x)

    net = Calls(forward, stem=stem, block=block, features=nn.Sequential(stem, block))
    x = torch.randn(1, 4, 6, 6)
    promised = next(site.params for site in al.sites(net, x) if site.kind == "branch")
    before, after = (sum(p.numel() for p in m.parameters()) for m in (net, al.remove(net, x, kinds="branch")))
    assert after == before - promised, f"{promised} parameters were to go, {before - after} did"
    return "what was promised goes"


class Res(nn.Module):
    """Takes an embedding too."""

    def __init__(self):
        super().__init__()
        self.l, self.e = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return x + F.silu(self.l(x) + self.e(e))


def dispatch_by_type() -> str:
    """12. A container asks ``type(child) is Class``."""

    def forward(self: Any, x: Tensor, e: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, e) if type(layer) is Res else layer(x)
        return x

    net = Calls(forward, layers=nn.ModuleList([Res(), nn.Sequential(nn.Linear(8, 8), nn.GELU()), Res()]))
    example = torch.randn(2, 8), torch.randn(2, 4)
    soft = al.switch(net, example, kinds="activation")
    return equal(soft(*example), net(*example), "the switched model at ω = 0", 0.0)


def compiled_inside() -> str:
    """13. A compiled module inside the model."""
    inner = torch.compile(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), backend="eager")
    head, x = nn.Linear(8, 2), torch.randn(4, 8)
    net = Calls(lambda self, x: self.head(F.gelu(self.enc(x))), enc=inner, head=head).eval()
    thin = al.remove(net, x, kinds="activation", where="activation*")
    return equal(thin(x), head(inner(x)), "the activation outside, removed")


def hook_that_changes_an_output() -> str:
    """27. A hook changes the output of a removed activation."""
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(2, 4)

    def doubled(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out * 2

    net[1].register_forward_hook(doubled)
    thin = al.remove(net, x, kinds="activation")
    return equal(thin(x), net[2](2 * net[0](x)), "the hook goes on")
