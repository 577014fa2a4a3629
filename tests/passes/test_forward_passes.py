"""How often a pass runs the model: one recorded run is handed along, not made again."""

import torch
from torch import nn

import archlab as al


class Plain(nn.Module):
    """A chain that can be thinned and merged; counts the runs of all its copies."""

    runs = 0

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3)
        )

    def forward(self, x):
        Plain.runs += not isinstance(x, torch.fx.Proxy)
        return self.body(x)


def runs(of) -> int:
    Plain.runs = 0
    of()
    return Plain.runs


def test_passes_run_a_plain_model_a_few_times_only():
    net, x = Plain().eval(), torch.randn(1, 3, 16, 16)
    assert runs(lambda: al.sites(net, x)) <= 2
    assert runs(lambda: al.switch(net, x, kinds="activation")) <= 3
    assert runs(lambda: al.switch(net, x, kinds="activation", granularity="channel")) <= 3
    assert runs(lambda: al.remove(net, x, kinds="activation")) <= 4
    assert runs(lambda: al.fold(net, x)) <= 8
    upsampled = nn.Sequential(Plain(), nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 3)).eval()
    assert runs(lambda: al.fold_upsampling(upsampled, x)) <= 6
    assert runs(lambda: al.scale_resolution(net, x, span="body.0")) <= 4
    soft = al.switch(net, x, kinds="activation")
    al.set_omegas_(soft, 1.0)
    assert runs(lambda: al.discard(soft)) <= 3
