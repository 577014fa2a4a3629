"""Networks by passes cost less than the proposed one, and keep the blocks that matter most."""

import pytest
import torch

import archlab as al
from studies.motion.evaluate.costs import costs
from studies.motion.figures import by_passes
from studies.motion.network.models import ResidualBlock, baseline, proposed


@pytest.fixture(scope="module")
def task():
    """To give the second frame back, which takes few blocks."""
    a, b = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def loss(net, batch):
        return (net(*batch, 1.0) - batch[1]).abs().mean()

    return al.Task((a, b, 1.0), lambda step: (a, b), loss, lambda net: {"loss": float(loss(net, (a, b)).detach())})


@pytest.mark.parametrize("name", by_passes.MADE)
def test_it_costs_less_than_the_proposed_network(name, task, monkeypatch):
    monkeypatch.setattr(by_passes, "SCORED", 1)
    width, blocks = by_passes.MADE[name]
    net = by_passes.made(width, blocks, task)
    assert costs(net)["flops_g"] < costs(proposed())["flops_g"]
    assert net.config.width == width and not any(isinstance(m, ResidualBlock) for m in net.encoder.modules())
    left = [path for path, m in net.decoder.blocks.named_children() if isinstance(m, ResidualBlock)]
    assert len(left) == blocks
    if blocks < 9:
        scored = al.scores(baseline(pretrained=True), task, kinds="block", where="decoder*", batches=1, progress=False)
        dear = scored.sort_values("delta_task_loss")["module"].tail(blocks)
        assert set(left) == {module.rpartition(".")[2] for module in dear}
