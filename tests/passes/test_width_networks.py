"""scale_width: channels are followed through whatever a forward does with them, on small networks of every kind."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archlab as al

IMAGE = torch.zeros(2, 4, 16, 16)


def conv(into: int = 4, out: int = 4, kernel: int = 3, **options) -> nn.Module:
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, **options)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(noise(*shape))


def params(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def options_of(made: nn.Module) -> dict:
    return {key: value for key, value in al.recipe(made).steps[-1].options.items() if key != "init"}


def without_what_went(net: nn.Module, thin: nn.Module) -> nn.Module:
    """`net`, with zeros in all weights of the channels that `thin` does not have: the same function, in another way."""
    whole = copy.deepcopy(net)
    held = dict(whole.named_parameters()) | dict(whole.named_buffers())
    with torch.no_grad():
        for name, dims in options_of(thin)["tensors"].items():
            for dim, kept in dims.items():
                gone = [i for i in range(held[name].shape[int(dim)]) if i not in kept]
                held[name].index_fill_(int(dim), torch.tensor(gone, dtype=torch.long), 0)
    return whole


def assert_replays(made: nn.Module, net: nn.Module, example, folder) -> None:
    again = al.apply(al.Recipe.from_json(al.recipe(made).to_json()), copy.deepcopy(net), example)
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (made, again)]
    assert shapes[0] == shapes[1]
    al.save(made, folder / "made.safetensors")
    loaded = al.load(folder / "made.safetensors", lambda: copy.deepcopy(net), example)
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), loaded.state_dict().values(), strict=True))


def code(forward, **layers) -> nn.Module:
    """A module of a class of its own whose forward is ``forward(self, x)``; numbers are kept as attributes."""
    return type("Net", (nn.Module,), {"__init__": lambda self: _fill(self, layers), "forward": forward})()


def _fill(self, layers: dict) -> None:
    nn.Module.__init__(self)
    for name, layer in layers.items():
        setattr(self, name, layer)


# --- convolutions ----------------------------------------------------------------------------------


class Shortcut(nn.Module):
    """ResNet's option A: every second pixel, and zeros for the new channels."""

    def __init__(self, into: int, out: int):
        super().__init__()
        self.a, self.b, self.more = conv(into, out, stride=2), conv(out, out), (out - into) // 2

    def forward(self, x):
        return self.b(self.a(x).relu()) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))


class Distilled(nn.Module):
    """IMDN's block: after each convolution some channels are set aside; the sizes are kept as numbers."""

    def __init__(self):
        super().__init__()
        self.aside, self.on = 2, 6
        self.a, self.b, self.c = conv(8, 8), conv(6, 8), conv(6, 2)
        self.mix = conv(6, 8, 1)

    def forward(self, x):
        one, y = torch.split(self.a(x).relu(), [self.aside, self.on], 1)
        two, y = torch.split(self.b(y).relu(), (self.aside, self.on), 1)
        return x + self.mix(torch.cat([one, two, self.c(y)], 1))


class Grown(nn.Module):
    """YOLOv8's C2f."""

    def __init__(self):
        super().__init__()
        self.cv1, self.m, self.cv2 = conv(8, 8, 1), nn.ModuleList([conv(4, 4), conv(4, 4)]), conv(16, 8, 1)

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.both, self.mix = conv(4, 8), conv(4, 3)

    def forward(self, x):
        a, b = self.both(x).chunk(2, 1)
        return self.mix(a * b.sigmoid())


class Shuffle(nn.Module):
    """ShuffleNet's unit, shuffled by hand."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(4, 4), conv(4, 4, groups=4)

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        y = torch.cat([left, self.b(self.a(right))], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w)


class Gate(nn.Module):
    """One map that gates all channels (spatial attention), and one number a channel (squeeze and excitation)."""

    def __init__(self):
        super().__init__()
        self.space, self.squeeze, self.excite = conv(8, 1), nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x):
        s = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return x * self.space(x).sigmoid() * s[:, :, None, None]


def between(*middle: nn.Module, out: int = 8) -> nn.Module:
    return nn.Sequential(conv(4, 8), *middle, conv(out, 3))


def images() -> dict[str, nn.Module]:
    joined = code(
        lambda s, x: s.mix(torch.cat([s.a(x), s.b(x).relu()], 1)), a=conv(4, 8), b=conv(4, 4), mix=conv(12, 3)
    )
    doubled = code(lambda s, x: s.b(torch.cat([y := s.a(x), -y], 1)), a=conv(4, 8), b=conv(16, 3))
    uneven = code(
        lambda s, x: s.first((p := s.both(x).split(s.sizes, 1))[0]) + s.second(p[1]),
        both=conv(4, 12), first=conv(8, 3), second=conv(4, 3), sizes=[8, 4],
    )  # fmt: skip
    tied = between(conv(8, 8), conv(8, 8))
    tied[2].weight = tied[1].weight
    return {
        "plain": nn.Sequential(
            conv(4, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), conv(8, 8), nn.PReLU(8), conv(8, 3)
        ),
        "grouped": nn.Sequential(conv(4, 8), conv(8, 16, groups=4), nn.ReLU(), conv(16, 16, groups=16), conv(16, 3)),
        "transposed": between(nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2), nn.ReLU()),
        "flat": nn.Sequential(conv(4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 256, 6), nn.ReLU(), nn.Linear(6, 2)),
        "joined": joined, "doubled": doubled, "uneven": uneven, "halved": Halved(), "tied": tied,
        "shortcut": nn.Sequential(conv(4, 8), Shortcut(8, 16), Shortcut(16, 24), conv(24, 3)),
        "distilled": between(Distilled(), Distilled()), "grown": between(Grown()), "shuffle": between(Shuffle()),
        "gate": between(Gate()), "glu": between(conv(8, 16), nn.GLU(dim=1)),
        "pixel_shuffle": nn.Sequential(conv(4, 16), nn.PixelShuffle(2), conv(4, 8), nn.PixelUnshuffle(2), conv(32, 3)),
        "channel_shuffle": between(nn.ChannelShuffle(2)),
        "weight_norm": between(nn.utils.parametrizations.weight_norm(conv(8, 8))),
        "unfold": code(lambda s, x: s.b(F.unfold(s.a(x), 3).mT).mT, a=conv(4, 8), b=nn.Linear(72, 3)),
        "einsum": code(lambda s, x: torch.einsum("nchw,oc->nohw", s.a(x), s.w), a=conv(4, 8), w=weight(3, 8)),
        "scaled": code(lambda s, x: s.b(s.a(x) * s.gamma), a=conv(4, 8), b=conv(8, 3), gamma=weight(8, 1, 1)),
    }  # fmt: skip


@pytest.mark.parametrize("name", images())
def test_wider_is_the_same_function_and_narrower_that_of_the_channels_that_stay(name, tmp_path):
    net, example = images()[name].double().eval(), noise(*IMAGE.shape).double()
    before = copy.deepcopy(net.state_dict())
    wide = al.scale_width(net, example, ratio=2, init="preserve")
    assert params(wide) > params(net)
    assert "with its gradients, in float64" in al.recipe(wide).steps[-1].checked
    assert torch.allclose(wide(example), net(example), atol=1e-10)
    assert_replays(wide, net, example, tmp_path)
    thin = al.scale_width(net, example, ratio=0.5, init="prune")
    assert params(thin) < params(net)
    if name not in ("gate", "weight_norm"):  # a statistic over channels, and what is normalised by others
        assert torch.allclose(thin(example), without_what_went(net, thin)(example), atol=1e-10)
    for ratio in (0.5, 1.5):
        fresh = al.scale_width(net, example, ratio=ratio)
        assert fresh(example).shape == net(example).shape
        assert (params(fresh) > params(net)) == (ratio > 1)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


# --- sequences -------------------------------------------------------------------------------------


class Attention(nn.Module):
    """`how` the heads are told: "packed" by numbers and a fused layer, "kept" as numbers, "asked" of the shapes."""

    def __init__(self, how: str, width: int = 16, heads: int = 4):
        super().__init__()
        self.how, self.heads, self.head_dim, self.scale = how, heads, width // heads, (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, t, _ = x.shape
        if self.how == "packed":
            q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        elif self.how == "kept":
            q, k, v = (y.view(n, t, -1, self.head_dim).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        else:
            q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).tensor_split(3, -1))
        if self.how == "added":
            q, k = q.flatten(0, 1), k.flatten(0, 1)
            a = torch.baddbmm(x.new_zeros(1, t, t), batch1=q, batch2=k.mT, alpha=self.scale).unflatten(0, (n, -1))
        else:
            a = (q * self.scale) @ k.mT
        y = a.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, -1))


class SharedKeys(nn.Module):
    """Two heads of keys for four of queries, with rotary angles."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(16, 16)
        self.head_dim, self.groups = 4, 2
        self.register_buffer("frequency", torch.tensor([1.0, 0.1]))

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        angle = torch.outer(torch.arange(t).to(x), self.frequency)
        angle = torch.cat([angle, angle], -1)
        q, k = (y * angle.cos() + torch.cat([-y.chunk(2, -1)[1], y.chunk(2, -1)[0]], -1) * angle.sin() for y in (q, k))
        k, v = (y[:, :, None].expand(-1, -1, self.groups, -1, -1).reshape(n, -1, t, self.head_dim) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.o(y.transpose(1, 2).reshape(n, t, -1))


class Tokens(nn.Module):
    """Embedded tokens with a class token and positions, some layers, and a head tied to the embedding."""

    def __init__(self, middle: nn.Module, width: int = 16):
        super().__init__()
        self.embed, self.middle = nn.Embedding(11, width), middle
        self.token, self.place = nn.Parameter(noise(1, 1, width)), nn.Parameter(noise(1, 7, width))

    def forward(self, x):
        y = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1) + self.place
        return self.middle(y)[:, 0] @ self.embed.weight.T


class Last(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class Stepped(nn.Module):
    """A cell in a loop."""

    def __init__(self):
        super().__init__()
        self.cell, self.up = nn.GRUCell(16, 12), nn.Linear(12, 16)

    def forward(self, x):
        h, made = x.new_zeros(len(x), self.cell.hidden_size), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            made.append(self.up(h))
        return torch.stack(made, 1)


def sequences() -> dict[str, nn.Module]:
    mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    return {
        "packed": Attention("packed"), "kept": Attention("kept"), "asked": Attention("asked"),
        "added": Attention("added"),
        "shared_keys": SharedKeys(), "mlp": mlp, "stepped": Stepped(),
        "gru": nn.Sequential(Last(nn.GRU(16, 12, 2, bidirectional=True, batch_first=True)), nn.Linear(24, 16)),
        "lstm": nn.Sequential(Last(nn.LSTM(16, 12, batch_first=True)), nn.Linear(12, 16)),
    }  # fmt: skip


@pytest.mark.parametrize("name", sequences())
def test_layers_for_sequences_change_as_well(name, tmp_path):
    net = nn.Sequential(nn.Linear(5, 16), sequences()[name], nn.Linear(16, 3)).double().eval()
    example = noise(2, 6, 5).double()
    thin = al.scale_width(net, example, ratio=0.5, init="prune")
    assert not [why for why in al.recipe(thin).steps[-1].skipped.values() if "output" not in why]
    assert torch.allclose(thin(example), without_what_went(net, thin)(example), atol=1e-10)
    assert_replays(thin, net, example, tmp_path)
    wide = al.scale_width(net, example, ratio=2, init="preserve")
    assert torch.allclose(wide(example), net(example), atol=1e-10)
    assert params(al.scale_width(net, example, ratio=1.5)) > params(net)
    longer = noise(2, 9, 5).double()
    assert torch.allclose(wide(longer), net(longer), atol=1e-10)


@pytest.mark.parametrize("name", ["packed", "mlp"])
def test_tokens_positions_and_a_tied_head_go_with_their_stream(name):
    net, tokens = Tokens(sequences()[name]).double().eval(), torch.arange(12).reshape(2, 6) % 11
    thin = al.scale_width(net, tokens, ratio=0.5, init="prune")
    assert (thin.embed.embedding_dim, thin.token.shape[-1], thin.place.shape) == (8, 8, (1, 7, 8))
    assert torch.allclose(thin(tokens), without_what_went(net, thin)(tokens), atol=1e-10)
    wide = al.scale_width(net, tokens, ratio=2, init="preserve")  # one weight makes and reads the stream: it stays
    assert wide.embed.embedding_dim == 16
    assert "both made and read" in al.recipe(wide).steps[-1].skipped["embed"]
    assert torch.allclose(wide(tokens), net(tokens), atol=1e-10)


def test_numbers_that_forward_reads_follow():
    net = nn.Sequential(nn.Linear(5, 16), Attention("packed"), nn.Linear(16, 3))
    thin = al.scale_width(net, noise(2, 6, 5), ratio=0.5)
    assert (thin[1].heads, thin[1].head_dim) == (4, 2)
    assert (net[1].heads, net[1].head_dim) == (4, 4)
    block = nn.Sequential(
        nn.Linear(5, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)
    ).eval()
    thin = al.scale_width(block, noise(1, 6, 5), ratio=0.5)
    assert (thin[1].self_attn.embed_dim, thin[1].self_attn.head_dim, thin[1].linear1.out_features) == (4, 2, 8)


def test_a_number_in_the_code_that_cannot_change_keeps_its_layers_alone():
    net = code(lambda s, x: s.b(s.a(x).view(-1, 2, 4).flatten(1)) + s.d(s.c(x)), a=nn.Linear(5, 8), b=nn.Linear(8, 3),
               c=nn.Linear(5, 8), d=nn.Linear(8, 3))  # fmt: skip
    thin = al.scale_width(net, noise(2, 5), ratio=0.5)
    assert (thin.a.out_features, thin.c.out_features) == (8, 4)
    assert "number in the code" in al.recipe(thin).steps[-1].skipped["a"]
    with pytest.raises(ValueError, match="a cannot change: is given by a number in the code"):
        al.scale_width(net, noise(2, 5), ratio=0.5, require="a")
    taken = code(lambda s, x: s.b(s.a(x)[:, 2:6]), a=nn.Linear(5, 8), b=nn.Linear(4, 3))
    with pytest.raises(ValueError, match="no layer can change"):
        al.scale_width(taken, noise(2, 5), ratio=0.5)
