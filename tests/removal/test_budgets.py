"""Budgets of MACs and parameters on networks nobody here designed: met, and by no more than the last site."""

import pytest
import timm
import torch
from torchvision.models import MobileNetV2, SwinTransformer

from archlab import cost, remove, remove_greedily
from archlab.training.task import Task

from ..contracts.zoo import image

TIMM = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "num_classes": 4}
NETS = {  # how it is made, and the kind of its sites
    "mobilenet": (lambda: MobileNetV2(4, inverted_residual_setting=[[1, 8, 3, 1], [3, 16, 3, 2]]), "branch"),
    "swin": (lambda: SwinTransformer([4, 4], 8, [2, 1], [2, 2], [4, 4], num_classes=4), "block"),
    "vit": (lambda: timm.models.VisionTransformer(**TIMM, depth=2, num_heads=2), "branch"),
    "mixer": (lambda: timm.models.MlpMixer(**TIMM, num_blocks=2), "block"),
}
X = image(3, 16, 2)
TASK = Task(X, lambda step: X, lambda net, x: net(x).square().mean(), lambda net: {})


@pytest.mark.parametrize(
    ("name", "budget", "rescore"),
    [
        ("mobilenet", {"macs": 0.9}, False), ("swin", {"params": 0.6}, False),
        ("vit", {"macs": 0.5}, True), ("mixer", {"params": 0.7}, False),
    ],
)  # fmt: skip
def test_a_budget_is_met_by_no_more_than_the_last_site(name, budget, rescore):
    """What is left is what `cost` measures, and without the last site to go it is over the budget."""
    make, kind = NETS[name]
    torch.manual_seed(0)
    net = make().eval()
    options = {"calibration": 1, "tune_steps": 0, "progress": False}
    removal = remove_greedily(net, TASK, kinds=kind, budget=budget, rescore=rescore, **options)
    gone = removal.decisions[removal.decisions["removed"]].sort_values("order")["site"].tolist()
    ((measure, share),) = budget.items()
    assert removal.left[measure] == left(measure, removal.model, net) <= share
    assert not gone[:-1] or left(measure, remove(net, X, kinds=kind, where=gone[:-1]), net) > share


def left(measure, thin, net) -> float:
    there, whole = (getattr(cost(model, X), measure) for model in (thin, net))
    return there / whole
