"""What generated code leaves behind: nothing, once the model that it is part of is gone."""

import gc
import linecache

import torch
from torch import nn

import archlab as al
from archlab.capture.location import ORIGINS


def test_code_of_models_that_are_gone_is_forgotten():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(2, 4)
    held = []
    for _ in range(3):
        al.remove(net, x, kinds="activation")
        al.switch(net, x, kinds="activation")
        gc.collect()
        held.append((len(ORIGINS), sum(name.startswith("<archlab") for name in linecache.cache)))
    assert held[0] == held[-1]


def test_calls_leave_no_objects_behind():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    x = torch.randn(2, 4)
    held = []
    for _ in range(8):
        for call in (al.sites, al.cost, al.fold):
            call(net, x)
        al.switch(net, x, kinds="activation")
        al.remove(net, x, kinds="activation")
        gc.collect()
        held.append(len(gc.get_objects()))
    assert held[-1] - held[3] <= 8, held  # objects, of 20 calls; 36 a call stayed once
