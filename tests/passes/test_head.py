"""Heads of attentions as sites: blended with zero, and cut out of the layers around them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
from archlab.passes.heads.attention import FewerHeads


class Fused(nn.Module):
    """As timm's: one layer for queries, keys and values, and numbers in the code."""

    def __init__(self, heads=4, fused=True):
        super().__init__()
        self.num_heads, self.head_dim, self.fused = heads, 3, fused
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * self.head_dim**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class Grouped(nn.Module):
    """As Llama's: two queries share a key, which the code repeats or torch does."""

    def __init__(self, repeated):
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(12, 12), nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(12, 12)
        self.num_heads, self.num_key_value_heads, self.repeated = 4, 2, repeated

    def forward(self, x):
        shape = (*x.shape[:2], -1, 3)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.repeated:
            b, h, n, d = k.shape
            k, v = (t[:, :, None].expand(b, h, 2, n, d).reshape(b, 2 * h, n, d) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=not self.repeated)
        return self.o(y.transpose(1, 2).flatten(2))


class Torch(nn.Module):
    def __init__(self, mask=None, padding=None, weights=False, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, **{"batch_first": True} | options)
        self.mask, self.padding, self.weights = mask, padding, weights
        self.read = nn.Linear(12, 2)

    def forward(self, x):
        y, shares = self.attention(
            x, x, x, key_padding_mask=self.padding, attn_mask=self.mask, need_weights=self.weights,
            average_attn_weights=False,
        )  # fmt: skip
        return self.read(y) if shares is None else self.read(y) + shares.sum() * 0


def x(*shape):
    return torch.randn(*(shape or (2, 5, 12)), dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def layer():
    return nn.TransformerEncoderLayer(12, 4, 16, dropout=0.0, batch_first=True)


CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)
PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
EACH = torch.randn(8, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))  # a mask for each head
SOME = (EACH > 0.5).index_fill(2, torch.tensor([0]), False)
NETS = {
    "fused": (Fused(), x(), 4), "spelled": (Fused(fused=False), x(), 4), "repeated": (Grouped(True), x(), 2),
    "grouped": (Grouped(False), x(), 2), "torch": (Torch(), x(), 4), "weights": (Torch(weights=True), x(), 4),
    "mask": (Torch(CAUSAL), x(), 4), "padding": (Torch(CAUSAL, PADDING, dropout=0.0), x(), 4),
    "float mask": (Torch(CAUSAL.double() * -9), x(), 4), "extra": (Torch(add_bias_kv=True, add_zero_attn=True), x(), 4),
    "extra and padding": (Torch(CAUSAL, PADDING, add_bias_kv=True, weights=True), x(), 4),
    "no bias": (Torch(bias=False), x(), 4), "time first": (Torch(batch_first=False), x(5, 2, 12), 4),
    "other widths": (Torch(kdim=12, vdim=12), x(), 4), "one sequence": (Torch(), x(5, 12), 4),
    "a mask a head": (Torch(EACH), x(), 4), "of one sequence": (Torch(EACH[:4], weights=True), x(5, 12), 4),
    "a mask a head and padding": (Torch(SOME, PADDING, batch_first=False), x(5, 2, 12), 4),
    "encoder layer": (layer(), x(), 4),
    "encoder": (nn.TransformerEncoder(layer(), 1, enable_nested_tensor=False), x(), 4),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_a_head_is_blended_and_cut(name):
    net, example, count = NETS[name]
    for training in (False, True):
        net = net.double().train(training)
        sites = al.sites(net, example, kinds="head")
        assert len(sites) == count and all(site.how in ("local", "intercepted") for site in sites)
        soft = al.switch(net, example, kinds="head")
        gone = [sites[1].id] if count == 2 else [sites[0].id, sites[2].id]
        thin = al.remove(net, example, kinds="head", where=gone)
        al.set_omegas_(soft, dict.fromkeys(gone, 1.0))
        step = al.recipe(thin).steps[-1]
        assert "zeros" not in step.checked and set(step.how.values()) == {"local"}
        freed = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in thin.parameters())
        assert freed == sum(site.params for site in sites if site.id in gone)
        assert step.before["macs"] - step.after["macs"] == sum(site.macs for site in sites if site.id in gone)
        assert torch.allclose(thin(example), soft(example), atol=1e-12)
        with torch.no_grad():
            assert torch.allclose(thin(example), soft(example), atol=1e-12)  # no fused layer takes it for a whole one


def test_omega_scales_the_head_and_gets_its_gradient():
    net = Fused().double()
    soft = al.switch(net, x(), kinds="head")
    al.set_omegas_(soft, {"head.1": 0.25})
    plain = net.qkv(x()).reshape(2, 5, 3, 4, 3).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(*plain)
    wanted = net.proj((y * torch.tensor([1, 0.75, 1, 1]).view(4, 1, 1)).transpose(1, 2).reshape(2, 5, 12))
    assert torch.allclose(soft(x()), wanted, atol=1e-12)
    soft(x()).square().sum().backward()
    assert all(omega.grad is not None for omega in al.omega_parameters(soft))


def test_what_is_left_runs_at_other_lengths_and_says_how_many_heads_it_has(tmp_path):
    for net, attribute in ((Fused(), "num_heads"), (Grouped(True), "num_key_value_heads"), (Torch(), "")):
        net = net.double()
        thin = al.remove(net, x(), kinds="head", where="*head.0")
        assert thin(x(3, 9, 12)).shape[:2] == (3, 9)
        assert (
            not attribute or getattr(thin, attribute) == NETS["fused" if attribute == "num_heads" else "grouped"][2] - 1
        )
        al.save(thin, tmp_path / "thin.safetensors")
        torch.manual_seed(1)
        again = al.load(
            tmp_path / "thin.safetensors", lambda net=net: type(net)(*[True][: type(net) is Grouped]).double(), x()
        )
        assert torch.equal(again(x()), thin(x()))


class Given(Torch):
    """The mask is given, and weights are told."""

    def forward(self, x, mask):
        y, shares = self.attention(x, x, x, attn_mask=mask, need_weights=True, average_attn_weights=self.weights)
        return self.read(y), shares


def test_of_a_mask_for_each_head_the_heads_that_are_left_take_theirs():
    """Whether it is for all heads that there were, or for those that are left; weights that are told have these."""
    net = Given(weights=False).double().eval()
    thin = al.remove(net, (x(), EACH), kinds="head", where=["*head.0", "*head.2"])
    soft = al.switch(net, (x(), EACH), kinds="head")
    al.set_omegas_(soft, {"attention/head.0": 1.0, "attention/head.2": 1.0})
    assert thin.attention.out_proj.in_features == 6
    for batch in (1, 2):  # with one sequence a mask of two rows too many would be spread over two
        mask = EACH[: 4 * batch]
        whole, shares = soft(x()[:batch], mask)
        for given in (mask, mask.unflatten(0, (batch, 4))[:, [1, 3]].flatten(0, 1)):
            out, told = thin(x()[:batch], given)
            assert torch.allclose(out, whole, atol=1e-12) and torch.allclose(told, shares[:, [1, 3]], atol=1e-12)
    with pytest.raises(RuntimeError, match=r"attn_mask of shape .* of 4 heads 2 are left"):
        thin(x(), EACH[:6])
    again = al.apply(al.recipe(thin), net, (x(), EACH))
    assert torch.equal(again(x(), EACH)[0], thin(x(), EACH)[0])


def test_a_mean_over_heads_that_is_told_keeps_them_all():
    net = Given(weights=True).double().eval()
    thin = al.remove(net, (x(), CAUSAL), kinds="head", where="*head.1")
    soft = al.switch(net, (x(), CAUSAL), kinds="head", where="*head.1")
    al.set_omegas_(soft, 1.0)
    assert all(map(torch.allclose, thin(x(), CAUSAL), soft(x(), CAUSAL)))
    assert "with fewer channels the model is another" in al.recipe(thin).steps[-1].checked


def test_heads_are_removed_again_and_after_learning():
    net = Torch().double()
    thin = al.remove(net, x(), kinds="head", where="*head.0")
    assert type(thin.attention) is FewerHeads and thin.attention.num_heads == 3
    assert len(al.sites(thin, x(), kinds="head")) == 3
    thinner = al.remove(thin, x(), kinds="head", where="*head.1")
    assert thinner.attention.out_proj.weight.shape == (12, 6)
    soft = al.switch(Fused().double(), x(), kinds="head")
    al.set_omegas_(soft, {"head.3": 0.9})
    assert al.discard(soft).qkv.out_features == 27


def test_what_cannot_be_cut_is_multiplied_with_zero_and_the_step_says_why():
    class Normed(Fused):
        """A norm over all heads before the projection: without one it is another."""

        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(12)

        def forward(self, x):
            q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, 3).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return self.proj(self.norm(y))

    class Own(nn.MultiheadAttention):
        pass

    own = Torch()
    own.attention.__class__ = Own
    for net, where, reason in (
        (Normed(), "*head.1", "sees its heads together"), (own, "*head.1", "class of its own"),
        (Fused(), None, "one must stay"), (Torch(), None, "one must stay"), (layer(), None, "one must stay"),
    ):  # fmt: skip
        net = net.double()
        thin = al.remove(net, x(), kinds="head", where=where)
        if where is not None:  # neither promised nor delivered
            (site,) = al.sites(net, x(), kinds="head", where=where)
            assert (site.params, site.macs) == (0, 0) and reason in site.reason
            assert al.recipe(thin).steps[-1].before == al.recipe(thin).steps[-1].after
        soft = al.switch(net, x(), kinds="head", where=where)
        al.set_omegas_(soft, 1.0)
        assert torch.allclose(thin(x()), soft(x()), atol=1e-12)
        with torch.no_grad():
            assert torch.allclose(thin.eval()(x()), soft.eval()(x()), atol=1e-12)
        step = al.recipe(thin).steps[-1]
        assert reason in step.checked
        assert "must stay" not in reason or (
            step.checked.count("zeros") == 1 and step.after["macs"] < step.before["macs"]
        )


def test_some_removed_and_some_frozen():
    soft = al.switch(Fused().double(), x(), kinds="head")
    al.set_omegas_(soft, {"head.0": 1.0, "head.2": 0.5})
    thin = al.discard(soft, keep="freeze")
    assert torch.allclose(thin(x()), soft(x()), atol=1e-12)
    assert "is frozen" in al.recipe(thin).steps[-1].checked


def test_a_bias_for_each_head_goes_along_and_shared_ones_keep_it():
    class Biased(Fused):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.rand(4, 1, 1))

        def forward(self, x, bias=None):
            q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, 3).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.table if bias is None else bias)
            return self.proj(y.transpose(1, 2).flatten(2))

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Biased(), Biased()

        def forward(self, x):
            return self.b(self.a(x), self.a.table)

    assert al.remove(Biased().double(), x(), kinds="head", where="head.1").table.shape == (3, 1, 1)
    thin = al.remove(Two().double(), x(), kinds="head", where="a/head.1")
    assert "coupled with the heads of b" in al.recipe(thin).steps[-1].checked


def test_heads_are_neither_listed_nor_taken_but_by_name():
    assert "head" not in [site.kind for site in al.sites(Fused().double(), x())]


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_a_language_model_generates_with_its_cache(family):
    transformers = pytest.importorskip("transformers")
    options = {
        "Llama": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                  "intermediate_size": 16},
        "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 4},
    }[family]  # fmt: skip
    config = getattr(transformers, f"{family}Config")(vocab_size=20, bos_token_id=0, eos_token_id=19, **options)
    torch.manual_seed(0)
    net = getattr(transformers, f"{family}ForCausalLM" if family == "Llama" else "GPT2LMHeadModel")(config).eval()
    ids = torch.randint(0, 19, (1, 6), generator=torch.Generator().manual_seed(0))
    first = al.sites(net, {"input_ids": ids}, kinds="head")[1]
    thin = al.remove(net, {"input_ids": ids}, kinds="head", where=first.id)
    told = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(thin.generate(ids, **told), thin.generate(ids, **told, use_cache=False))


SCORES = {
    "masked": lambda q, k, v: (q @ k.transpose(-2, -1)).masked_fill(BEHIND, -1e9).softmax(-1) @ v,
    "where": lambda q, k, v: torch.where(BEHIND, -1e9, q @ k.transpose(-2, -1)).softmax(-1) @ v,
    "einsum": lambda q, k, v: torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1) @ v,
    "normalized": lambda q, k, v: F.scaled_dot_product_attention(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v),
    "repeated": lambda q, k, v: F.scaled_dot_product_attention(q, k.repeat_interleave(1, 1), v.repeat_interleave(1, 1)),
}
BEHIND = torch.ones(6, 6, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("how", SCORES)
def test_what_goes_with_a_head_is_counted_through_what_lies_before_its_scores(how):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads, self.q, self.k, self.v = 4, nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 16)
            self.out = nn.Linear(16, 8)

        def forward(self, x):
            batch, length, _ = x.shape
            q = self.q(x).view(batch, length, self.heads, -1).transpose(1, 2)
            k = self.k(x).view(batch, length, self.heads, -1).transpose(1, 2)
            v = self.v(x).view(batch, length, self.heads, -1).transpose(1, 2)
            return self.out(SCORES[how](q, k, v).transpose(1, 2).reshape(batch, length, -1))

    net, x = Attention(), torch.randn(2, 6, 8)
    site = al.sites(net, x, kinds="head")[0]
    thin = al.remove(net, x, kinds="head", where=site.id)
    whole, left = al.cost(net, x), al.cost(thin, x)
    assert (site.params, site.macs) == (whole.params - left.params, whole.macs - left.macs) == (140, 2112)
