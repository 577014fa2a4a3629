"""Traps of what a model remembers from call to call in things that are no modules: it goes on doing so."""

from collections import OrderedDict, deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.contracts.zoo import image
from tests.rewrite.traps import both

from ..contracts.zoo import Residual


class Memory:
    """An object that holds others."""

    def __init__(self):
        self.seen, self.inner = 0.0, SimpleNamespace(turns=[0.0])

    def count(self):
        self.seen += 1.0
        self.inner.turns.append(self.seen)
        return self.inner.turns[-1]


def of_object(memory):
    return memory.count()


def of_namespace(memory):
    memory.seen += 1.0
    return memory.seen


def of_deque(memory):
    memory.append(memory[-1] + 1.0)
    return memory[-1]


def of_set(memory):
    memory.add(len(memory))
    return float(len(memory) - 1)


def of_ordered(memory):
    memory["seen"] = memory.get("seen", 0.0) + 1.0
    return memory["seen"]


WAYS = {
    of_object: Memory, of_namespace: lambda: SimpleNamespace(seen=0.0), of_deque: lambda: deque([0.0], maxlen=2),
    of_set: lambda: {0}, of_ordered: OrderedDict,
}  # fmt: skip


class Counts(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way, self.memory, self.block = way, (WAYS[way](),), Residual()

    def forward(self, x):
        return self.block(torch.relu(x)) * self.way(self.memory[0])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_a_call_remembers_in_an_object_the_next_one_knows(way):
    net, x = Counts(way).eval(), image()
    for made in both(net, x):
        first, second, third = (made(x) for _ in range(3))
        torch.testing.assert_close(second, 2 * first)
        torch.testing.assert_close(third, 3 * first)
