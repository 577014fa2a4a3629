"""Small networks whose sites are known by hand, each with one thing about it that breaks naive surgery.

An `Entry` is a factory, an example and the expected number of sites of each kind, counted by
reading the code of the network (the comment beside an entry says how). Kinds that are not named
are not asserted. Real networks are in `zoo_real.py`.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

WIDTH = 4


@dataclass(frozen=True)
class Entry:
    """One network of the zoo. The flags say what the *original* can do; a pass must not lose it."""

    factory: Callable[[], nn.Module]
    example: Callable[[], Any]
    sites: dict[str, int] = field(default_factory=dict)
    doubles: bool = True  # runs in float64
    compiles: bool = True  # torch.compile(fullgraph=True)
    exports: bool = True  # torch.export
    halves: bool = True  # runs in bfloat16
    trains: bool = True  # its example runs in training mode
    steady: bool = (
        True  # rounding changes its output by rounding only: it counts nothing, and amplifies little when thin
    )
    rounds: bool = False  # what stays lies otherwise in memory than the sum did: later kernels round otherwise in bf16

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A fresh model in evaluation mode; the same weights each time."""
        torch.manual_seed(0)
        return jitter_(self.factory().to(dtype)).eval()


def jitter_(model: nn.Module) -> nn.Module:
    """Normalisation layers away from the identity, zero-initialised scales away from zero: nothing hides."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() <= 1 and p.is_floating_point():
                p.add_(0.1 * torch.rand(p.shape, generator=generator).to(p.dtype))
            elif p.is_floating_point() and not p.any():  # a classifier that starts at zero says the same of everything
                p.add_(0.1 * torch.randn(p.shape, generator=generator).to(p.dtype))
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.add_(0.1 * torch.rand(b.shape, generator=generator).to(b.dtype))
    return model


def image(channels: int = WIDTH, side: int = 8, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(7))


def conv(channels_in: int = WIDTH, channels_out: int = WIDTH, kernel: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, **options)


# --- where an activation can stand ------------------------------------------------------------


class Modules(nn.Module):
    """Activations as modules of their own."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(), nn.ReLU(), conv(), nn.GELU(), conv())

    def forward(self, x):
        return self.body(x)


class Functional(nn.Module):
    """Activations as functions and as a method."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(), conv(), conv(), conv()

    def forward(self, x):
        x = F.relu(self.a(x))
        x = torch.tanh(self.b(x))
        x = self.c(x).relu()
        return self.d(F.silu(x))


class InPlace(nn.Module):
    """The four spellings of a ReLU that overwrites its input."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = conv(), conv(), conv(), conv(), conv()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.act(self.a(x))
        x = F.relu(self.b(x), inplace=True)
        x = self.c(x)
        F.relu_(x)
        x = self.d(x).relu_()
        return self.e(x)


class PreActivation(nn.Module):
    """An in-place activation whose *input* is read again afterwards, through the overwritten tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.a(x)
        return x + self.b(self.act(x))


class SharedActivation(nn.Module):
    """One activation module called twice in one forward: two sites."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(), conv(), conv()
        self.activation = nn.ReLU()

    def forward(self, x):
        return self.c(self.activation(self.b(self.activation(self.a(x)))))


class Chained(nn.Module):
    """Two activations in one expression."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x):
        return self.b(torch.tanh(F.softplus(self.a(x))))


class Gates(nn.Module):
    """A squeeze-and-excitation gate, a gated unit and an attention softmax: gates, off by default; one SiLU inside."""

    def __init__(self):
        super().__init__()
        self.stem, self.squeeze, self.excite = conv(), conv(kernel=1), conv(kernel=1)
        self.pair, self.mix = conv(WIDTH, 2 * WIDTH), conv()

    def forward(self, x):
        x = self.stem(x)
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        value, gate = self.pair(x).chunk(2, dim=1)
        x = value * F.silu(gate)
        flat = self.mix(x).flatten(2)
        scores = (flat.transpose(1, 2) @ flat).softmax(-1)
        return (flat @ scores).reshape(x.shape)


# --- where an add can stand -------------------------------------------------------------------


class Adds(nn.Module):
    """Six spellings of a residual add."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(conv() for _ in range(7))

    def forward(self, x):
        a, b, c, d, e, f, g = self.layers
        x = x + a(x)
        x = torch.add(x, b(x))
        x = x.add(c(x))
        x = operator.add(d(x), x)
        y = e(x)
        y += x
        z = f(y)
        z.add_(y)
        return g(z)


class OneLine(nn.Module):
    """Two adds, and two activations, on one source line."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(), conv(), conv()

    def forward(self, x):
        return self.c((h := x + F.relu(self.a(x))) + F.relu(self.b(h)))


class Broadcast(nn.Module):
    """An add whose one operand is broadcast: no site, and said so."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x):
        x = self.a(x)
        return self.b(F.relu(x + x.mean((2, 3), keepdim=True)))


class NoSkip(nn.Module):
    """Adds that are no skip: a number, a parameter, and two branches of one tensor (a join)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(), conv(), conv()
        self.offset = nn.Parameter(torch.ones(1, WIDTH, 8, 8))

    def forward(self, x):
        x = self.a(x) + 1.0 + self.offset
        return self.b(x) + self.c(x)


class Projection(nn.Module):
    """A residual block with a projection shortcut."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(stride=2), conv()
        self.norm = nn.BatchNorm2d(WIDTH)
        self.shortcut = nn.Conv2d(WIDTH, WIDTH, 1, stride=2)

    def forward(self, x):
        return self.norm(self.b(F.relu(self.a(x)))) + self.shortcut(x)


class Residual(nn.Module):
    """conv, ReLU, conv, plus the input."""

    def __init__(self, channels: int = WIDTH, inplace: bool = False):
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels), conv(channels, channels)
        self.activation = nn.ReLU(inplace=inplace)

    def forward(self, x):
        return x + self.conv2(self.activation(self.conv1(x)))


class Stack(nn.Module):
    """Residual blocks in a Sequential, which is no block itself."""

    def __init__(self, blocks: int = 2, norm: bool = False):
        super().__init__()
        self.head, self.tail = conv(), conv()
        self.norm = nn.BatchNorm2d(WIDTH) if norm else nn.Identity()
        self.blocks = nn.Sequential(*(Residual(inplace=i % 2 == 1) for i in range(blocks)))

    def forward(self, x):
        return self.tail(self.blocks(self.norm(self.head(x))))


# --- whole architectures ----------------------------------------------------------------------


class EDSRBlock(nn.Module):
    def __init__(self, channels: int, res_scale: float):
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels), nn.ReLU(True), conv(channels, channels))
        self.res_scale = res_scale

    def forward(self, x):
        res = self.body(x).mul(self.res_scale)
        res += x
        return res


class EDSR(nn.Module):
    """Enhanced deep super-resolution (Lim et al. 2017): long skip, scaled residuals, PixelShuffle tail."""

    def __init__(self, blocks: int = 3, channels: int = 8, scale: int = 2):
        super().__init__()
        self.head = nn.Sequential(conv(3, channels))
        body = [EDSRBlock(channels, 0.1) for _ in range(blocks)]
        self.body = nn.Sequential(*body, conv(channels, channels))
        self.tail = nn.Sequential(conv(channels, channels * scale**2), nn.PixelShuffle(scale), conv(channels, 3))

    def forward(self, x):
        x = self.head(x)
        res = self.body(x)
        res += x
        return self.tail(res)


class DoubleConv(nn.Module):
    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv1, self.norm1 = conv(channels_in, channels_out), nn.BatchNorm2d(channels_out)
        self.conv2, self.norm2 = conv(channels_out, channels_out), nn.BatchNorm2d(channels_out)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    """Concatenation skips: listed, never removable."""

    def __init__(self):
        super().__init__()
        self.enter, self.down, self.bottom = DoubleConv(3, 4), DoubleConv(4, 8), DoubleConv(8, 8)
        self.up1, self.up2 = nn.ConvTranspose2d(8, 8, 2, stride=2), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.merge1, self.merge2 = DoubleConv(16, 8), DoubleConv(8, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = self.enter(x)
        b = self.down(F.max_pool2d(a, 2))
        x = self.bottom(F.max_pool2d(b, 2))
        x = self.merge1(torch.cat([b, self.up1(x)], dim=1))
        x = self.merge2(torch.cat([a, self.up2(x)], dim=1))
        return self.head(x)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class MLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc, self.proj = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return self.proj(F.gelu(self.fc(x)))


class GPTBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Pre-norm causal transformer with tied input and output embeddings."""

    def __init__(self, vocabulary: int = 11, width: int = 16, blocks: int = 2):
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(12, width)
        self.blocks = nn.ModuleList(GPTBlock(width, 2) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens):
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Siamese(nn.Module):
    """An encoder that runs twice: one site each, calls = 2."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = Residual(), conv()

    def forward(self, a, b):
        return self.head(self.encoder(a) - self.encoder(b))


class Motion(nn.Module):
    """Encoder, manipulator, decoder, and a gain: the magnification network in small."""

    def __init__(self):
        super().__init__()
        self.stem, self.encoder = conv(3, WIDTH), Residual()
        self.motion, self.merge = conv(), conv()
        self.decoder, self.tail = Residual(), conv(WIDTH, 3)

    def encode(self, frame):
        return self.encoder(F.relu(self.stem(frame)))

    def forward(self, frame_a, frame_b, factor: float):
        a, b = self.encode(frame_a), self.encode(frame_b)
        x = b + self.merge(F.relu(self.motion(b - a)) * factor)
        return self.tail(self.decoder(x))


# --- control flow -----------------------------------------------------------------------------


class Branches(nn.Module):
    """The path depends on the data."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x):
        y = self.a(x)
        y = F.relu(y) if x.sum() > 0 else torch.tanh(y)
        return x + self.b(y)


class Unrolled(nn.Module):
    """A loop in one forward, each turn with the same weights: one site a line, called once a turn."""

    def __init__(self, turns: int = 3):
        super().__init__()
        self.step, self.turns = conv(), turns

    def forward(self, x):
        for _ in range(self.turns):
            x = x + F.relu(self.step(x))
        return x


class SharedBlock(nn.Module):
    """A loop over one module: its inner sites are one each, called three times."""

    def __init__(self):
        super().__init__()
        self.block, self.tail = Residual(), conv()

    def forward(self, x):
        for _ in range(3):
            x = self.block(x)
        return self.tail(x)


class Updates(nn.Module):
    """``range(n)`` with n an argument, as RAFT's number of updates."""

    def __init__(self):
        super().__init__()
        self.step, self.tail = conv(), conv()

    def forward(self, x, updates: int = 2):
        for _ in range(updates):
            x = x + F.relu(self.step(x))
        return self.tail(x)


class Trained(nn.Module):
    """Training adds an auxiliary path and changes the output's structure."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.auxiliary = Residual(), conv(), conv()

    def forward(self, x):
        x = F.relu(self.body(x))
        if self.training:
            return self.head(x), self.auxiliary(F.relu(x))
        return self.head(x)


class Masked(nn.Module):
    """An optional tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x, mask=None):
        y = F.relu(self.a(x))
        if mask is not None:
            y = y * mask
        return x + self.b(y)


class Checked(nn.Module):
    """Checks its input's type and shape with Python."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x):
        if not isinstance(x, Tensor):
            raise TypeError(f"expected a tensor, got {type(x).__name__}")
        batch, channels, height, width = x.shape
        if height % 2 or int(width) % 2:
            raise ValueError("sides must be even")
        x = x + self.b(F.relu(self.a(x)))
        return x.view(batch, channels, height * width)


class Methods(nn.Module):
    """Sites that belong to methods other than forward."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(), conv(), conv()
        self.act = nn.ReLU()

    def encode(self, x):
        return x + self.act(self.a(x))

    def forward_features(self, x):
        return x + F.gelu(self.b(self.encode(x)))

    def forward(self, x):
        return self.head(self.forward_features(x))


# --- inputs and outputs -----------------------------------------------------------------------


class Keywords(nn.Module):
    """Keyword-only inputs, one of them a number."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, *, image, guide, strength: float = 1.0):
        return image + strength * self.b(F.relu(self.a(image - guide)))


class DictOutput(nn.Module):
    """A dict out, with a nested list."""

    def __init__(self):
        super().__init__()
        self.body, self.head = Residual(), conv(WIDTH, 2)

    def forward(self, x):
        x = self.body(x)
        return {"map": self.head(x), "features": [x, F.relu(x)]}


class TupleOutput(nn.Module):
    """A container that returns a tuple to another container."""

    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x):
            return F.relu(self.a(x)), x + self.b(x)

    def __init__(self):
        super().__init__()
        self.split, self.tail = self.Split(), conv(2 * WIDTH, WIDTH)

    def forward(self, x):
        left, right = self.split(x)
        return self.tail(torch.cat([left, right], dim=1)), left


class Detached(nn.Module):
    """One activation that no gradient can reach."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x):
        with torch.no_grad():
            weight = torch.tanh(x.mean())
        return self.b(F.relu(self.a(x))) * weight


# --- aliasing ---------------------------------------------------------------------------------


class MutatesInput(nn.Module):
    """A container that changes the tensor it was given; the caller reads it afterwards."""

    class Increment(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv()

        def forward(self, v):
            v += 1
            return F.relu(self.a(v))

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.tail = conv(), self.Increment(), conv()

    def forward(self, x):
        v = self.stem(x)
        y = self.inner(v)
        return self.tail(v + y)


class Aliasing(nn.Module):
    """``out *= a`` on what was a block's fresh output, and is the caller's own tensor once the block is gone."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.tail = conv(), Residual(), conv()

    def forward(self, x):
        x = self.stem(x)
        out = self.block(x)
        out *= 0.5
        return self.tail(torch.cat([out, x], dim=1)[:, :WIDTH] * x)


class Tied(nn.Module):
    """Two layers on one weight, and a weight that is not contiguous."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.c.weight = nn.Parameter(torch.randn(6, 6).t())

    def forward(self, x):
        return self.c(x + F.relu(self.b(F.relu(self.a(x)))))


class SelfAttention(nn.Module):
    """nn.MultiheadAttention in a residual: its fused path skips the module's Python."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.fc(F.gelu(x))


def encoder_layer() -> nn.Module:
    """torch's own transformer layers; one fused kernel each in evaluation without gradients."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def tokens() -> Tensor:
    return torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(7))


def sequence(width: int = 8) -> Tensor:
    return torch.randn(2, 5, width, generator=torch.Generator().manual_seed(7))


def pair() -> tuple[Tensor, Tensor]:
    return image(), image().flip(0)


def frames() -> tuple[Tensor, Tensor, float]:
    return image(3), image(3).flip(0), 10.0


def _counts(activation=0, skip=0, block=0, join=0, gate=0, concat=0) -> dict[str, int]:
    """Every skip's add is a branch site as well."""
    return {
        "activation": activation, "skip": skip, "branch": skip, "block": block, "join": join, "gate": gate,
        "concat": concat,
    }  # fmt: skip


ZOO: dict[str, Entry] = {
    "modules": Entry(Modules, image, _counts(activation=2)),
    "functional": Entry(Functional, image, _counts(activation=4)),
    "inplace": Entry(InPlace, image, _counts(activation=4)),
    "preactivation": Entry(PreActivation, image, _counts(activation=1, skip=1)),
    "shared_activation": Entry(SharedActivation, image, _counts(activation=2)),
    "chained": Entry(Chained, image, _counts(activation=2)),
    # sigmoid and SiLU multiply a map, softmax is one by nature; the ReLU in the squeeze path stays an activation
    "gates": Entry(Gates, image, _counts(activation=1, gate=3)),
    "adds": Entry(Adds, image, _counts(skip=6)),
    "one_line": Entry(OneLine, image, _counts(activation=2, skip=2)),
    "broadcast": Entry(Broadcast, image, _counts(activation=1)),
    "no_skip": Entry(NoSkip, image, _counts(join=1)),
    "projection": Entry(Projection, image, _counts(activation=1, join=1)),
    "stack": Entry(lambda: Stack(2, norm=True), image, _counts(activation=2, skip=2, block=2)),
    "edsr": Entry(EDSR, lambda: image(3), _counts(activation=3, skip=4, block=3)),
    "unet": Entry(UNet, lambda: image(3), _counts(activation=10, block=1, concat=2)),  # only `bottom` keeps its shape
    # a block, an attention and an MLP each; the embeddings' sum is no skip
    "gpt": Entry(GPT, tokens, _counts(activation=2, skip=4, block=6)),
    "siamese": Entry(Siamese, pair, _counts(activation=1, skip=1, block=2)),
    # in `forward`: stem ReLU by two calls of `encode`, motion ReLU, two calls of the encoder; inside: two ReLUs
    "motion": Entry(Motion, frames, _counts(activation=5, skip=3, block=3)),
    "branches": Entry(Branches, lambda: image().abs(), _counts(activation=1, skip=1), compiles=False, exports=False),
    "unrolled": Entry(Unrolled, image, _counts(activation=1, skip=1)),
    # calls of one module in a loop are one block site, and one site each of what is inside
    "shared_block": Entry(SharedBlock, image, _counts(activation=1, skip=1, block=1)),
    "updates": Entry(Updates, lambda: (image(), 4), _counts(activation=1, skip=1)),
    "trained": Entry(Trained, image, _counts(activation=2, skip=1, block=1)),
    "masked": Entry(Masked, lambda: {"x": image(), "mask": (image() > 0).float()}, _counts(activation=1, skip=1)),
    "unmasked": Entry(Masked, image, _counts(activation=1, skip=1)),
    "checked": Entry(Checked, image, _counts(activation=1, skip=1)),
    "methods": Entry(Methods, image, _counts(activation=2, skip=2)),
    "keywords": Entry(
        Keywords, lambda: {"image": image(), "guide": image().flip(0), "strength": 0.5}, _counts(activation=1, skip=1)
    ),
    "dict_output": Entry(DictOutput, image, _counts(activation=2, skip=1, block=1)),
    "tuple_output": Entry(TupleOutput, image, _counts(activation=1, skip=1)),
    "detached": Entry(Detached, image, {"activation": 1, "skip": 0, "branch": 0, "block": 0, "join": 0}),
    # the inner module changes the caller's tensor and returns another: no identity could stand for that
    "mutates_input": Entry(MutatesInput, image, _counts(activation=1, skip=1)),
    "aliasing": Entry(Aliasing, image, {"activation": 1, "skip": 1, "branch": 1, "block": 1, "join": 0}),
    "tied": Entry(Tied, lambda: sequence(6), _counts(activation=2, skip=1)),
    "attention": Entry(SelfAttention, sequence, _counts(activation=1, skip=1), rounds=True),
    # a Stack again, but one flat generated forward that calls the layers inside its blocks
    "fx_graph": Entry(lambda: fx.symbolic_trace(Stack(2)), image, _counts(activation=2, skip=2)),
    # F.relu in each layer and two residual adds; the layers are blocks
    "encoder_layer": Entry(encoder_layer, sequence, _counts(activation=2, skip=4, block=2)),
}
