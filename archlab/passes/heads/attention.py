"""torch's attention with fewer heads than its stream has room for, which torch's own function takes no weights of."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODEL_CODE = True  # a part of the models it is put into: see `capture.frames`


class FewerHeads(nn.MultiheadAttention):
    """An ``nn.MultiheadAttention`` some of whose heads are gone, with the rows and columns of its weights.

    Arguments and results are those of its base. A mask for each head may be one for all that there were, of which those
    that are left take theirs, or have as many heads as are left. Where none was to stay, it is `silent`: the one that
    is left is multiplied with zero.
    """

    silent = False
    heads: tuple[int, ...] = ()  # those that are left, by their numbers among all
    heads_before = 0  # how many there were

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As of the base."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal says of which kind attn_mask is: give that too")
        batched = query.dim() == 3
        # 1. Everything as (batch, position, channel), and then (batch, head, position, channel).
        given = [x if batched else x.unsqueeze(0) for x in (query, key, value)]
        given = given if self.batch_first or not batched else [x.transpose(0, 1) for x in given]
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = weights if self.in_proj_weight is None else self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip(given, weights, biases, strict=True))
        extra = 0
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([x, b.expand(len(x), 1, -1)], 1) for x, b in ((k, self.bias_k), (v, self.bias_v)))
            extra += 1
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            extra += 1
        q, k, v = (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))
        mask = self._mask(attn_mask, key_padding_mask, q, extra)
        # 2. Each head's share of the values.
        dropout, shares = self.dropout if self.training else 0.0, None
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
            shares = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
            out = shares @ v
            shares = shares.mean(1) if average_attn_weights else shares
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        # 3. Together again, in the layout that was given.
        out = out * 0 if self.silent else out
        out = F.linear(out.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if not batched:
            return out.squeeze(0), None if shares is None else shares.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), shares

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, extra: int) -> Tensor | None:
        """What is added to the scores; nothing for the `extra` keys behind those given."""
        found = []
        if attn_mask is not None:
            found.append(_added(attn_mask if attn_mask.dim() == 2 else self._by_head(attn_mask, len(q)), q))
        if padding is not None:
            padding = padding if padding.dim() == 2 else padding.unsqueeze(0)
            found.append(_added(padding, q)[:, None, None, :])
        return F.pad(sum(found[1:], found[0]), (0, extra)) if found else None

    def _by_head(self, mask: Tensor, batch: int) -> Tensor:
        """A mask for each head as (batch, head that is left, query, key)."""
        if len(mask) == batch * self.heads_before:
            return mask.unflatten(0, (batch, self.heads_before))[:, list(self.heads)]
        if len(mask) == batch * self.num_heads:
            return mask.unflatten(0, (batch, self.num_heads))
        raise RuntimeError(
            f"attn_mask of shape {tuple(mask.shape)} is not one for each of {batch} sequences and each head: of "
            f"{self.heads_before} heads {self.num_heads} are left"
        )


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, float("-inf"))


def use_fewer_heads_(model: nn.Module, kept: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, FewerHeads]:
    """Let torch's attentions of `model` compute with the heads that their weights have, in place; those by path.

    `kept`: which positions of each dimension of each tensor were kept, as in a `Resizing`.
    """
    found: dict[str, FewerHeads] = {}
    for path, module in model.named_modules():
        columns = kept.get(f"{path}.out_proj.weight" if path else "out_proj.weight", {}).get("1")
        if columns is None or not isinstance(module, nn.MultiheadAttention):
            continue
        left = [column // module.head_dim for column in columns[:: module.head_dim]]
        if type(module) is nn.MultiheadAttention:
            module.__class__ = FewerHeads
            module._qkv_same_embed_dim = False  # by which torch's layers around it know that they cannot fuse it
            assert isinstance(module, FewerHeads)
            module.heads = tuple(range(module.embed_dim // module.head_dim))
            module.heads_before = len(module.heads)
            found[path] = module
        if isinstance(module, FewerHeads):
            module.heads = tuple(module.heads[head] for head in left)
    return found
