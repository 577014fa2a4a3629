"""Residuals and activations, however they are spelled: switched at 0 they are the original, removed they are the
network that somebody would have written without them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al
from studies.coverage.witness import overlooked, witness


class Net(nn.Module):
    """`of(x, f(x), gate)` of a linear layer's output x, with a layer behind it."""

    def __init__(self, of, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body, self.head = (nn.Linear(4, 4, dtype=dtype) for _ in range(3))
        self.gate = nn.Parameter(torch.randn(4, dtype=dtype))
        self.of = of

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.of(x, self.body(x), self.gate))


class Activated(Net):
    def forward(self, x):
        return self.head(self.of(self.body(x)))


def given(dtype=torch.float64) -> Tensor:
    return torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)


def written(net: Net, of) -> Net:
    """The same network with another function in it."""
    other = copy.deepcopy(net)
    other.of = of
    return other


def same(net: nn.Module, other: nn.Module, x: Tensor, tolerance: float = 1e-12) -> None:
    """Equal outputs, and equal gradients of the parameters that both have."""
    results = []
    for model in (net, other):
        model = copy.deepcopy(model)
        out = model(x)
        out.abs().sum().backward()
        results.append((out, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (a, found), (b, wanted) = results
    assert (a - b).abs().max() <= tolerance
    names = found.keys() & wanted.keys()
    assert len(names) >= 4
    for name in names:
        assert (found[name] - wanted[name]).abs().max() <= tolerance, name


def both_ends(net: Net, x: Tensor, kind: str, expected) -> None:
    """At 0 the switched network is the original, at 1 the expected one, which the removed one is too."""
    kind, where = (None, kind) if "." in kind else (kind, None)
    kinds = kind or where.partition(".")[0]
    soft = al.switch(net, x, kinds=kinds, where=where)
    assert torch.equal(soft(x), net(x))
    same(soft, net, x)
    al.set_omegas_(soft, 1.0)
    same(soft, written(net, expected), x)
    thin = al.remove(net, x, kinds=kinds, where=where)
    same(thin, written(net, expected), x)
    half = al.switch(net, x, kinds=kinds, where=where)
    al.set_omegas_(half, 0.5)
    half(x).abs().sum().backward()
    assert all(omega.grad is not None and omega.grad != 0 for omega in al.omega_parameters(half))


def into(x, y):
    x = x.clone()
    x -= y
    return x


# what is written, what it is without the skip, what it is without the branch
RESIDUALS = {
    "x - f": (lambda x, y, g: x - y, lambda x, y, g: -y, lambda x, y, g: x),
    "f - x": (lambda x, y, g: y - x, lambda x, y, g: y, lambda x, y, g: -x),
    "sub scaled": (lambda x, y, g: torch.sub(x, y, alpha=0.2), lambda x, y, g: -0.2 * y, lambda x, y, g: x),
    "add scaled": (lambda x, y, g: x.add(y, alpha=0.2), lambda x, y, g: 0.2 * y, lambda x, y, g: x),
    "rsub": (lambda x, y, g: torch.rsub(y, x), lambda x, y, g: -y, lambda x, y, g: x),
    "in place": (lambda x, y, g: x.clone().add_(y), lambda x, y, g: y, lambda x, y, g: x),
    "subtracted in place": (lambda x, y, g: into(x, y), lambda x, y, g: -y, lambda x, y, g: x),
    "addcmul": (lambda x, y, g: torch.addcmul(x, g, y), lambda x, y, g: g * y, lambda x, y, g: x),
    "addcmul value": (lambda x, y, g: x.addcmul(y, g, value=2), lambda x, y, g: 2 * g * y, lambda x, y, g: x),
    "addcdiv": (lambda x, y, g: torch.addcdiv(x, y, g), lambda x, y, g: y / g, lambda x, y, g: x),
    "lerp": (lambda x, y, g: torch.lerp(x, y, 0.3), lambda x, y, g: 0.3 * y, lambda x, y, g: 0.7 * x),
    "lerp tensor": (lambda x, y, g: torch.lerp(x, y, g), lambda x, y, g: g * y, lambda x, y, g: (1 - g) * x),
    "sum()": (lambda x, y, g: sum((x, y)), lambda x, y, g: y, lambda x, y, g: x),
    "sum of a stack": (lambda x, y, g: torch.stack((x, y)).sum(0), lambda x, y, g: y, lambda x, y, g: x),
    "mean of a stack": (lambda x, y, g: torch.stack([x, y], -1).mean(-1), lambda x, y, g: y / 2, lambda x, y, g: x / 2),
    "einsum of a stack": (
        lambda x, y, g: torch.einsum("sij,s->ij", torch.stack((x, y)), g[:2]),
        lambda x, y, g: g[1] * y,
        lambda x, y, g: g[0] * x,
    ),
    "addmm": (
        lambda x, y, g: torch.addmm(x, y, y.T @ y, beta=0.5),
        lambda x, y, g: y @ (y.T @ y),
        lambda x, y, g: x * 0.5,
    ),
    "baddbmm": (
        lambda x, y, g: torch.baddbmm(x[None], y[None], (y.T @ y)[None], alpha=2)[0],
        lambda x, y, g: 2 * y @ (y.T @ y),
        lambda x, y, g: x,
    ),
    "a copy": (lambda x, y, g: x.clone() + y, lambda x, y, g: y, lambda x, y, g: x),
}


@pytest.mark.parametrize("name", RESIDUALS)
@pytest.mark.parametrize("kind", ["skip", "branch"])
def test_a_residual(name, kind):
    of, without_skip, without_branch = RESIDUALS[name]
    net = Net(of)
    both_ends(net, given(), kind, without_skip if kind == "skip" else without_branch)
    gone = "stem" if kind == "skip" else "body"
    if kind == "branch":
        assert not list(al.remove(net, given(), kinds="branch").get_submodule(gone).parameters())


SEEN = {name: spelled for name, spelled in RESIDUALS.items() if "stack" not in name and name not in ("addmm", "sum()")}


@pytest.mark.parametrize("name", SEEN)
def test_the_autograd_graph_shows_the_same_residuals(name):
    net, x = Net(SEEN[name][0]), given()
    seen = witness(net, x)
    if name not in ("a copy", "baddbmm", "in place", "subtracted in place"):  # autograd sees a copy as another value
        assert sum(seen.values()) == 1
    assert not overlooked(seen, al.sites(net, x))


def test_complex_residuals():
    net, x = Net(lambda x, y, g: x + y, torch.complex128), given(torch.complex128)
    assert [site.kind for site in al.sites(net, x)] == ["skip", "branch"]
    both_ends(net, x, "skip", lambda x, y, g: y)
    both_ends(net, x, "branch", lambda x, y, g: x)


def test_three_in_a_stack():
    net = Net(lambda x, y, g: torch.stack((x, y, y * g)).sum(0))
    sites = al.sites(net, given())
    assert [site.kind for site in sites if site.op == "stack"] == ["skip", "skip", "branch"]


def test_a_stack_that_is_not_summed_is_skipped_with_the_reason():
    net = Net(lambda x, y, g: torch.stack((x, y)).amax(0))
    assert not len(al.sites(net, given()))
    assert "not summed up" in al.sites(net, given()).skipped[0].reason


ACTIVATIONS = {
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp in place": lambda x: (x * 1).clamp_(0, 1),
    "maximum": lambda x: torch.maximum(x, torch.zeros((), dtype=x.dtype)),
    "maximum of zeros": lambda x: torch.maximum(torch.zeros_like(x), x),
    "max": lambda x: torch.max(x, 0.1 * x),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "where zero": lambda x: torch.where(x > 0, x, 0.0),
    "mask": lambda x: x * (x > 0),
    "float mask": lambda x: (x > 0).to(x.dtype) * x,
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "sin": lambda x: torch.sin(30 * x),
    "square": torch.square,
    "pow": lambda x: x**2,
    "times itself": lambda x: x * x,
    "abs": lambda x: abs(x),
    "erf": torch.erf,
    "softplus": lambda x: torch.log1p(torch.exp(x)),
    "softplus of logaddexp": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "gaussian": lambda x: torch.exp(-(x**2)),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "silu": lambda x: x * torch.sigmoid(x),
    "silu by division": lambda x: x / (1 + torch.exp(-x)),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "tanh gelu": lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044 * x**3))),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "mish by hand": lambda x: x * torch.tanh(torch.log1p(x.exp())),
    "hard swish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "snake": lambda x: x + torch.sin(x) ** 2,
}
INNER = {"tanh gelu": ["add", "add", "tanh"], "mish": ["softplus", "tanh"]}  # what is known and lies inside


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation(name):
    net = Activated(ACTIVATIONS[name])
    sites = al.sites(net, given(), kinds="activation")
    if name == "snake":
        return both_ends(net, given(), "activation", lambda x: x + x)
    (site,) = sites
    assert site.shape == (2, 4) and site.how == "local"
    if name in INNER:  # without it there would be no activation left, but x ** 4, say
        parts = [skipped.op for skipped in sites.skipped if "a part of an activation" in skipped.reason]
        assert parts == INNER[name] and len(al.sites(net, given())) == 1
    both_ends(net, given(), site.id, lambda x: x)


def test_what_is_added_to_an_activation_of_itself_is_a_residual():
    class Residual(nn.Module):
        def forward(self, x):
            return x + torch.relu(x)

    assert {site.kind for site in al.sites(Residual(), given())} == {"activation", "skip", "branch"}


def test_the_parts_of_a_module_that_is_an_activation_are_no_sites():
    class Square(nn.Module):
        def forward(self, x):
            return torch.relu(x) ** 2

    sites = al.sites(nn.Sequential(nn.Linear(4, 4), Square()).double(), given())
    assert [(site.id, site.op) for site in sites] == [("activation.0", "Square")]
    assert [(skipped.op, skipped.path) for skipped in sites.skipped] == [("relu", "1")]


def not_taken(net: nn.Module, x: Tensor) -> list[str]:
    return [skipped.reason for skipped in al.sites(net, x).skipped]


@pytest.mark.parametrize(
    "norm",
    [
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda x: x / (x * x).mean(-1, keepdim=True).sqrt(),
        lambda x: (x - x.mean(-1, keepdim=True)) / ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True).sqrt(),
        lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
        lambda x: x / x.abs().sum(-1, keepdim=True).clamp_min(1e-6),
    ],
)
def test_the_parts_of_a_norm_are_no_activations(norm):
    net = Activated(norm)
    assert not len(al.sites(net, given(), kinds=None))
    assert {"norm", "statistic", "off zero"} & {word for reason in not_taken(net, given()) for word in reason.split()}


def test_a_causal_mask_and_an_encoding_are_no_activations():
    class Masks(Net):
        def forward(self, x):
            mask = torch.ones(2, 4, dtype=torch.bool).tril()
            time = torch.arange(4, dtype=x.dtype)
            return self.head(self.body(x).masked_fill(~mask, 0) * torch.sin(time) + torch.cos(self.gate))

    sites = al.sites(Masks(None), given())
    assert not [site for site in sites if site.kind == "activation"]
    assert "it works on a parameter, not on data" in [skipped.reason for skipped in sites.skipped]


def test_ids_of_what_was_known_before_stay():
    net = Activated(lambda x: F.relu(x.clamp(min=-1)).tanh())
    assert {site.op: site.id for site in al.sites(net, given())} == {
        "clamp": "activation.2",
        "relu": "activation.0",
        "tanh": "activation.1",
    }


@pytest.mark.parametrize("name", ["x - f", "addcmul", "lerp", "sub scaled"])
def test_a_residual_in_an_exported_graph(name):
    net, x = Net(RESIDUALS[name][0]), given()
    exported = torch.export.export(net, (x,)).module()
    assert [site.kind for site in al.sites(exported, x)] == ["skip", "branch"]
    thin = al.remove(exported, x, kinds="branch")
    assert (thin(x) - written(net, RESIDUALS[name][2])(x)).abs().max() < 1e-12
    soft = al.switch(exported, x, kinds="skip")
    al.set_omegas_(soft, 1.0)
    assert (soft(x) - written(net, RESIDUALS[name][1])(x)).abs().max() < 1e-12
