"""Norms over channels that scale and shift each by itself: what stands for a norm while channels are compared."""

from torch import Tensor, nn

MODEL_CODE = True  # of the models that these layers are put into: see `capture.frames`


class EachGroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        if not self.affine:
            return input
        shape = (1, -1, *[1] * (input.dim() - 2))
        return input * self.weight.reshape(shape) + self.bias.reshape(shape)


class EachLayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        input = input if self.weight is None else input * self.weight
        return input if self.bias is None else input + self.bias


# A norm over channels, and what stands for it.
EACH: dict[type, type] = {nn.GroupNorm: EachGroupNorm, nn.LayerNorm: EachLayerNorm}
