"""Ways to train faster: each is what it says, and the report compares it on the same samples."""

import pandas as pd
import pytest
import torch

from studies.motion.data.generator import Batch
from studies.motion.network.models import Config, MagnificationNet
from studies.motion.train import faster, training

TINY = Config(width=4, encoder_blocks=(1, 1, 1), decoder_blocks=1)


def batch() -> Batch:
    draw = torch.Generator().manual_seed(0)
    a, b, clean, target = (torch.rand(2, 3, 16, 16, generator=draw) * 2 - 1 for _ in range(4))
    return Batch(a, b, clean, target, torch.tensor([3.0, 5.0]))


def test_a_weighted_regulariser_is_the_loss_with_its_terms_so_often():
    net, given = MagnificationNet(TINY), batch()
    whole, image = training.loss_and_image(net, given)
    own = (image - given.target).abs().mean()
    for times in (0, 1, 4):
        torch.testing.assert_close(faster.weighted_loss(net, (given, times)), own + times * (whole - own))


@pytest.mark.parametrize("shape", [(8, 40), (40, 8)])
def test_an_orthogonal_update_keeps_no_direction_small(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.logspace(-1, 1, shape[1])
    )
    values = torch.linalg.svdvals(faster.orthogonal(matrix))
    assert 0.4 < values.min() and values.max() < 1.3 < torch.linalg.svdvals(matrix).max()


def test_muon_moves_convolutions_between_channels_by_its_own_update_and_others_as_adam():
    nets = [MagnificationNet(TINY) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [made(net.parameters(), lr=0.01) for made, net in zip((faster.AveragedAdam, faster.AveragedMuon), nets,
                                                                      strict=True)]  # fmt: skip
    for _ in range(2):
        for net, optimizer in zip(nets, optimizers, strict=True):
            net.zero_grad()
            for parameter in net.parameters():
                parameter.grad = torch.ones_like(parameter) * torch.arange(parameter.numel()).view_as(parameter)
            optimizer.step()
    moved = [dict(net.named_parameters()) for net in nets]
    same = {name: torch.equal(moved[0][name], moved[1][name]) for name in moved[0]}
    assert same["encoder.conv1.weight"] and same["decoder.conv2.weight"] and same["decoder.conv1.bias"]
    assert not same["manipulator.conv1.weight"]
    assert all("mean" in optimizers[1].state[p] for p in nets[1].parameters())


def test_the_report_compares_on_the_same_samples(tmp_path):
    ssims = [0.5, 0.6, 0.9]
    made = [{"row": "pace", "paces_s": {name: 0.1 for name in (*faster.WAYS, "compiled")}, "compiling_s": 80.0}]
    for number, name in enumerate(faster.WAYS):
        own = [value + number / 100 for value in ssims]
        made.append({"row": name, "step_s": 0.1, "steps": 20, "ssims": own, "ssim": sum(own) / 3, "lpips": 0.1,
                     "judged": 3, "precision": "bf16"})  # fmt: skip
    rows = pd.DataFrame(made).assign(seed=0, seconds=1.0)
    rows.attrs["conditions"] = {"preset": "cpu", "data": None, "seeds": 1, "wall_s": 1.0, "device": "CPU", "torch": "2",
                                "commit": "abc"}  # fmt: skip
    faster.report(rows, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "+0.0100 [+0.0100, +0.0100]" in text and "after 80 seconds of compiling" in text
