"""Budgets of MACs and parameters on ten networks, four of them by others: met, and by no more than the last site."""

import pytest
import timm
import torch
from torchvision.models import MobileNetV2, SwinTransformer

from archlab import cost, remove, remove_greedily
from archlab.capture.example import run_example, tensors_in
from archlab.training.task import Task

from ..contracts.zoo import ZOO, image

TIMM = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "num_classes": 4}
BY_OTHERS = {
    "mobilenet": lambda: MobileNetV2(4, inverted_residual_setting=[[1, 8, 3, 1], [3, 16, 3, 2]]),
    "swin": lambda: SwinTransformer([4, 4], 8, [2, 1], [2, 2], [4, 4], num_classes=4),
    "vit": lambda: timm.models.VisionTransformer(**TIMM, depth=2, num_heads=2),
    "mixer": lambda: timm.models.MlpMixer(**TIMM, num_blocks=2),
}


@pytest.mark.parametrize(
    ("name", "kind", "budget", "rescore"),
    [
        ("mobilenet", "branch", {"macs": 0.9}, False), ("swin", "block", {"params": 0.6}, False),
        ("vit", "branch", {"macs": 0.5}, True), ("mixer", "block", {"params": 0.7}, False),
        ("edsr", "block", {"macs": 0.6}, True), ("gpt", "branch", {"params": 0.6}, False),
        ("motion", "branch", {"macs": 0.7}, False), ("stack", "branch", {"params": 0.5}, True),
        ("encoder_layer", "branch", {"macs": 0.7}, False), ("shared_block", "block", {"macs": 0.7}, False),
    ],
)  # fmt: skip
def test_a_budget_is_met_by_no_more_than_the_last_site(name, kind, budget, rescore):
    """What is left is what `cost` measures, and without the last site to go it is over the budget."""
    torch.manual_seed(0)
    net = BY_OTHERS[name]().eval() if name in BY_OTHERS else ZOO[name].build(torch.float32)
    x = image(3, 16, 2) if name in BY_OTHERS else ZOO[name].example()
    task = Task(x, lambda step: x, lambda net, x: tensors_in(run_example(net, x))[0].square().mean(), lambda net: {})
    options = {"calibration": 1, "tune_steps": 0, "progress": False}
    removal = remove_greedily(net, task, kinds=kind, budget=budget, rescore=rescore, **options)
    gone = removal.decisions[removal.decisions["removed"]].sort_values("order")["site"].tolist()
    ((measure, share),) = budget.items()
    assert removal.left[measure] == left(measure, removal.model, net, x) <= share
    assert not gone[:-1] or left(measure, remove(net, x, kinds=kind, where=gone[:-1]), net, x) > share


def left(measure, thin, net, x) -> float:
    there, whole = (getattr(cost(model, x), measure) for model in (thin, net))
    return there / whole
