"""Merge-aware removal: the plan is the best there is, what it promises is measured, and what is made is merged."""

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archlab as al
import archlab.removal.budget
import archlab.removal.merge.savings
from archlab.removal.merge.plan import MOST, plans
from archlab.removal.merge.runs import Merge, Run, find_runs
from archlab.removal.probe.loss import Probe
from archlab.training.task import Task


class Chain(nn.Module):
    """Convolutions that are cheaper as one at its narrow places; a norm, a functional activation."""

    def __init__(self):
        super().__init__()
        self.head, self.norm, self.act = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.body, self.neck, self.tail = (
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 3, 1),
            nn.Conv2d(3, 2, 3, padding=1),
        )

    def forward(self, x):
        x = self.act(self.norm(self.head(x)))
        return self.tail(torch.tanh(self.neck(F.relu(self.body(x)))))


def chain() -> Chain:
    torch.manual_seed(0)
    net = Chain()
    nn.init.normal_(net.norm.running_mean, std=0.1)
    return net


def batch(step: int):
    x = torch.randn(2, 2, 12, 12, generator=torch.Generator().manual_seed(step))
    return x, x.flip(1)


def loss(net, data):
    return F.mse_loss(net(data[0]), data[1])


def quality(net):
    return {"mse": loss(net.eval(), batch(10**6)).item()}


TASK = Task(batch(0)[0], batch, loss, quality, measures={"mse": "lower"})
QUICK = dict(tune_steps=3, lr=1e-3, progress=False)
SITES = ["activation.0", "activation.1", "activation.2"]


def merged_by_hand(gone) -> nn.Module:
    """The network without these activations, with as much merged as can be."""
    net = chain().eval()
    if gone:
        net = al.remove(net, TASK.example, kinds="activation", where=lambda site: site.id in gone)
    for each in (al.hoist_padding, al.fold):
        try:
            net = each(net, TASK.example)
        except ValueError:
            continue
    return net


@pytest.fixture(scope="module")
def measured() -> dict[tuple, tuple[float, float]]:
    """Of every set of activations, the multiply-adds that are left and by how much the loss rises without each of its
    groups that one merge takes, by hand."""
    probe, whole = Probe(TASK, 8), al.cost(chain(), TASK.example).macs

    def level(gone):
        net = chain().eval()
        return probe.loss(
            al.remove(net, TASK.example, kinds="activation", where=lambda s: s.id in gone) if gone else net
        )

    found, before = {}, level(())
    groups = {group: level(group) - before for group in [*map(tuple, ([s] for s in SITES)), *_neighbours()]}
    for number in range(len(SITES) + 1):
        for gone in itertools.combinations(SITES, number):
            rise = sum(groups[group] for group in _grouped(gone))
            found[gone] = al.cost(merged_by_hand(gone), TASK.example).macs / whole, rise
    return found


def _neighbours():
    return [tuple(SITES[a:b]) for a in range(3) for b in range(a + 2, 4)]


def _grouped(gone):
    numbers = [SITES.index(site) for site in gone]
    groups = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    return [tuple(SITES[n] for _, n in group) for _, group in groups]


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_no_set_of_activations_meets_the_budget_and_matters_less(measured, share):
    removal = al.remove_to_merge(chain(), TASK, budget={"macs": share}, **QUICK)
    gone = tuple(removal.decisions.loc[removal.decisions["removed"], "site"])
    left, rise = measured[gone]
    assert removal.left["macs"] == pytest.approx(left) and left <= share
    costs = removal.costs.set_index("model")["macs"]
    assert costs["thin"] / costs["original"] == pytest.approx(left)
    assert rise <= min(r for macs, r in measured.values() if macs <= share) + 1e-9


def test_what_was_tuned_is_merged_exactly_and_can_be_loaded(tmp_path):
    removal = al.remove_to_merge(chain(), TASK, budget={"macs": 0.4}, evaluate=True, **QUICK)
    values = removal.qualities.set_index("phase")["mse"]
    assert list(values.index) == ["original", "discarded", "tuned"]
    assert quality(removal.model)["mse"] == pytest.approx(values["tuned"], rel=1e-5)
    assert [step.name for step in al.recipe(removal.model).steps] == ["discard", "hoist_padding", "fold"]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in removal.model.modules())
    al.save(removal.model, tmp_path / "thin.safetensors")
    x = TASK.example
    again = al.load(tmp_path / "thin.safetensors", lambda: chain().eval(), x)
    torch.testing.assert_close(again(x), removal.model(x))
    assert "remove_to_merge" in removal.report(tmp_path / "page").read_text()


def test_qualities_may_fall_by_so_much():
    with pytest.warns(UserWarning, match="can go within"):
        few = al.remove_to_merge(chain(), TASK, at_most_loss={"mse": 1e-9}, **QUICK)
    many = al.remove_to_merge(chain(), TASK, at_most_loss={"mse": 1e3}, measure="params", score="taylor", **QUICK)
    assert few.decisions["removed"].sum() < many.decisions["removed"].sum() == 3
    params = many.costs.set_index("model")["params"]
    assert params["thin"] < params["original"] / 2


def test_milliseconds_are_measured(monkeypatch):
    monkeypatch.setattr(archlab.removal.budget, "LATENCY_S", 0.05)
    monkeypatch.setattr(archlab.removal.merge.savings, "LATENCY_S", 0.05)
    net, size = nn.Sequential(nn.Conv2d(32, 256, 1), nn.ReLU(), nn.Conv2d(256, 32, 1)), (4, 32, 48, 48)
    task = Task(torch.randn(size), lambda step: torch.randn(size), lambda n, x: n(x).mean(), quality)
    removal = al.remove_to_merge(net, task, budget={"latency_ms": 0.8}, **QUICK)
    assert removal.left["latency_ms"] < 0.8 and removal.settings["merged"] == ["0 + 2"]


def test_it_goes_on_in_its_folder(tmp_path, monkeypatch):
    options = QUICK | dict(budget={"macs": 0.4}, folder=tmp_path)
    cut = al.remove_to_merge(chain(), TASK, **options, time_limit_s=0)
    assert not cut.finished and any(isinstance(module, nn.BatchNorm2d) for module in cut.model.modules()), "not merged"
    monkeypatch.setattr(Probe, "loss", None)  # what was scored is kept
    again = al.remove_to_merge(chain(), TASK, **options)
    assert again.finished and again.decisions.equals(cut.decisions)


def test_where_nothing_can_be_merged_it_says_so():
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1))
    task = replace(TASK, loss=lambda net, data: net(data[0]).square().mean(), quality=lambda net: {"none": 0.0})
    with pytest.raises(ValueError, match="no activation of the 1 has layers around it that would be cheaper as one"):
        al.remove_to_merge(net, task, at_most_loss={"none": 1.0}, **QUICK)


def test_what_lies_between_layers():
    """Two activations in a row go together; what is read twice, or made by other code, ends a run."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))

        def forward(self, x):
            a, b, c, d, e, f = self.layers
            x = b(torch.tanh(F.relu(a(x))))
            y = F.relu(c(F.relu(x)))
            return f(e(d(y).abs().cumsum(0)).relu()) + y

    sites = {"activation.0", "activation.1", "activation.2", "activation.3", "activation.4"}
    runs = find_runs(Net().eval(), torch.randn(2, 4), sites, lambda layer, before, after: 1.0)
    assert {run.layers: [merge.gone for merge in run.merges if merge.gone] for run in runs} == {
        ("layers.0", "layers.1", "layers.2"): [
            ("activation.0", "activation.1"), ("activation.0", "activation.1", "activation.2"), ("activation.2",)
        ],
        ("layers.4", "layers.5"): [("activation.4",)],
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_that_of_all_ways_to_merge(seed):
    draw = random.Random(seed)
    runs, matters = [], {}
    for r in range(2):
        length = draw.randint(1, 6)
        merges = [Merge(n, n, draw.randint(1, 9), ()) for n in range(length)]
        for first in range(length):
            for last in range(first + 1, length):
                gone = tuple(f"{r}.{n}" for n in range(first, last))
                matters[gone] = draw.randint(-1, 9)
                if draw.random() < 0.7:
                    merges.append(Merge(first, last, draw.randint(1, 12), gone))
        runs.append(Run(tuple(map(str, range(length))), tuple(merges)))
    every = [[]]
    for run in runs:
        every = [[*before, *way] for before in every for way in _ways(run, 0)]
    points = {(sum(m.cost for m in way), sum(matters[m.gone] for m in way if m.gone)) for way in every}
    best = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    front = plans(runs, matters.__getitem__)
    assert {(plan.cost, plan.importance) for plan in front} == best
    assert [plan.cost for plan in front] == sorted((plan.cost for plan in front), reverse=True)
    for plan in front:
        assert plan.importance == sum(matters[merge.gone] for _, merge in plan.merges)


def _ways(run, start):
    if start == len(run.layers):
        return [[]]
    return [[m, *rest] for m in run.merges if m.first == start for rest in _ways(run, m.last + 1)]


def test_of_very_many_plans_the_best_for_each_cost_are_kept():
    runs, matters = [], {}
    for r in range(14):
        matters[f"{r}",] = 1.7**r
        runs.append(Run(("a", "b"), (Merge(0, 0, 2.0**r, ()), Merge(1, 1, 2.0**r, ()), Merge(0, 1, 2.0**r, (f"{r}",)))))
    front = plans(runs, matters.__getitem__)
    assert len(front) <= MOST and front[0].importance == 0 and front[-1].cost == 2**14 - 1
    assert all(a.cost > b.cost and a.importance < b.importance for a, b in itertools.pairwise(front))


def test_a_merge_that_makes_the_loss_nan_is_the_last_to_be_chosen():
    class Logarithm(Chain):
        """The logarithm of what a ReLU keeps above 0."""

        def forward(self, x):
            x = self.act(self.norm(self.head(x)))
            return self.tail(torch.tanh(self.neck(torch.log(F.relu(self.body(x)) + 1e-3))))

    torch.manual_seed(0)
    removal = al.remove_to_merge(Logarithm(), TASK, budget={"macs": 0.8}, **QUICK)
    assert "activation.1" not in removal.decisions.query("removed")["site"].tolist()
    assert math.isfinite(quality(removal.model)["mse"])
