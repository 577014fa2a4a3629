"""What is found, folded, deepened and narrowed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import archlab as al

from ..families import family, seeded
from .judge import Calls, equal, shaken


def depth_of_a_language_model() -> str:
    """17. Other depths of a Llama, with its caches."""
    net, example = seeded(family("transformers.llama"))
    deep = al.scale_depth(net, example, span="model.layers", count=6, init="preserve")
    assert deep.config.num_hidden_layers == 6, f"the config says {deep.config.num_hidden_layers}"  # type: ignore[union-attr]
    return equal(deep(**example).logits, net(**example).logits, "six layers for two")


def norms_of_other_names() -> str:
    """18. Convolutions followed by SyncBatchNorm or FrozenBatchNorm2d fold."""
    from torchvision.ops import FrozenBatchNorm2d

    x = torch.randn(1, 3, 6, 6)
    for norm in (nn.SyncBatchNorm, FrozenBatchNorm2d):
        net = shaken(nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU()))
        equal(al.fold(net, x)(x), net(x), norm.__name__)
    return "both fold"


def complex_add() -> str:
    """20. A residual add of complex tensors."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.c(x)
        return y + self.d(y)

    net = Calls(forward, c=nn.Linear(4, 4, dtype=torch.cfloat), d=nn.Linear(4, 4, dtype=torch.cfloat))
    x = torch.randn(3, 4, dtype=torch.cfloat)
    return _seen(net, x)


def _seen(net: nn.Module, x: Tensor) -> str:
    found = al.sites(net, x)
    assert len(found) or len(found.skipped_frame()), "neither a site nor skipped with a reason"
    return ", ".join(site.id for site in found) or "; ".join(found.skipped_frame()["reason"])


RESIDUALS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "x - f(x)": lambda x, y, g: x - y,
    "addcmul": lambda x, y, g: torch.addcmul(x, g, y),
    "lerp": lambda x, y, g: torch.lerp(x, y, 0.5),
    "sub(alpha)": lambda x, y, g: torch.sub(x, y, alpha=0.2),
    "mean of a stack": lambda x, y, g: torch.stack((x, y)).mean(0),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "x * (x > 0)": lambda x: x * (x > 0),
    "sin": lambda x: torch.sin(30 * x),
    "square": torch.square,
    "erf": torch.erf,
}


def residuals_spelled_otherwise() -> str:
    """22. Residuals that are no add."""
    for name, ends in RESIDUALS.items():
        net = Calls(
            lambda self, x, ends=ends: ends(x, self.b(x), self.g), b=nn.Linear(4, 4), g=nn.Parameter(torch.ones(4))
        )
        try:
            _seen(net, torch.randn(2, 4))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
    return f"each of {len(RESIDUALS)} is seen"


def activations_spelled_otherwise() -> str:
    """23. Non-linearities that are no op of that name."""
    for name, bend in ACTIVATIONS.items():
        net = Calls(lambda self, x, bend=bend: bend(self.b(x)), b=nn.Linear(4, 4))
        try:
            _seen(net, torch.randn(2, 4))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
    return f"each of {len(ACTIVATIONS)} is seen"


class C2f(nn.Module):
    """YOLOv8's block: halves of a chunk, then a growing concatenation."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        half = outputs // 2
        self.cv1 = nn.Conv2d(inputs, 2 * half, 1)
        self.m = nn.ModuleList(nn.Conv2d(half, half, 3, padding=1) for _ in range(2))
        self.cv2 = nn.Conv2d(4 * half, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        parts.extend(m(parts[-1]) for m in self.m)
        return self.cv2(torch.cat(parts, 1))


def width_through_chunk_and_cat() -> str:
    """24. Half the width of YOLOv8's C2f."""
    net, x = nn.Sequential(nn.Conv2d(3, 16, 3), C2f(16, 16), nn.Conv2d(16, 2, 1)), torch.randn(1, 3, 8, 8)
    half = al.scale_width(net, x, ratio=0.5, init="prune")
    assert half(x).shape == net(x).shape, f"the output has shape {tuple(half(x).shape)}"
    widths = [p.shape[0] for p in half.parameters() if p.dim() == 4]
    assert widths == [8, 8, 4, 4, 8, 2], f"widths {widths}"
    return f"widths {widths}"


def head_at_two_sizes() -> str:
    """26. A head that several scales share folds."""
    head = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    net = shaken(Calls(lambda self, a, b: (self.h(a), self.h(b)), h=head))
    example = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3)
    folded = al.fold(net, example)
    for made, wanted in zip(folded(*example), net(*example), strict=True):
        equal(made, wanted, "a scale")
    return "both scales: equal"
