"""What the list of sites says of each: what it delivers, which others are the same removal, where it is."""

import sys

import pytest
import torch
from torch import nn

import archlab as al


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.b(self.a(x).relu())


class Nested(nn.Module):
    """Blocks in lists within lists, all called by one forward, whose last add cannot be traced."""

    def __init__(self, stages: int = 1, gates: int = 2):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleDict({"gates": nn.ModuleList(Residual() for _ in range(gates))}) for _ in range(stages)
        )
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        for stage in self.stages:
            for gate in stage["gates"]:
                x = gate(x)
        if float(x.detach().sum()) > 1e9:
            return x
        return x + self.last(x)


def test_a_branch_that_is_only_bypassed_promises_nothing():
    net, x = Nested(), torch.randn(2, 4)
    (branch,) = al.sites(net, x, kinds="branch", where="branch.*")
    assert branch.how == "intercepted" and (branch.params, branch.macs) == (0, 0)
    assert "nothing is freed" in branch.reason
    thin = al.remove(net, x, kinds="branch", where=branch.id)
    assert sum(p.numel() for p in thin.parameters()) == sum(p.numel() for p in net.parameters())


def test_the_same_removal_is_marked():
    sites = al.sites(Nested(), torch.randn(2, 4))
    same = {site.id: site.same_as for site in sites if site.same_as}
    assert same == {
        "block.0": "stages.0.gates.0/branch.0",
        "block.1": "stages.0.gates.1/branch.0",
    }
    assert list(sites.frame()["same_as"]) == [site.same_as for site in sites]
    assert "= branch.0" in repr(sites) and "2 with the same removal" in repr(sites)


def test_the_table_says_which_module_a_block_is():
    sites = al.sites(Nested(), torch.randn(2, 4))
    modules = sites.frame().set_index("site")["module"]
    assert modules["block.1"] == "stages.0.gates.1" and modules["skip.0"] == ""
    table = repr(sites).splitlines()[: len(sites) + 1]
    assert [line.split("  ")[0] for line in table if "  block  " in line] == ["block.0 (gates.0)", "block.1 (gates.1)"]
    assert all(len(line) <= 100 for line in table)


def test_the_work_for_many_sites_grows_with_their_number():
    """Counted in calls of functions, of Python's and of C's: seconds depend on what else runs."""

    def calls(blocks: int) -> int:
        net, count = nn.Sequential(*[Residual() for _ in range(blocks)]), 0

        def tick(frame, event, about):
            nonlocal count
            count += event in ("call", "c_call")

        al.sites(net, torch.randn(1, 4))  # what is done once only is not counted
        sys.setprofile(tick)
        try:
            al.sites(net, torch.randn(1, 4))
        finally:
            sys.setprofile(None)
        return count

    assert calls(160) < 4.4 * calls(40)


def test_an_example_without_data_has_the_same_sites_and_the_same_cost():
    net, x = nn.Sequential(Residual(), Residual()), torch.randn(2, 4)
    there = x.to("meta")
    assert al.sites(net, there).frame().equals(al.sites(net, x).frame())
    assert al.cost(net, there).frame().equals(al.cost(net, x).frame())


def test_a_model_that_needs_data_says_so():
    class Asks(nn.Module):
        def forward(self, x):
            return torch.relu(x) if x.sum() > 0 else x

    for look in (al.sites, al.cost):
        with pytest.raises(RuntimeError, match="meta") as caught:
            look(Asks(), torch.zeros(2, device="meta"))
        assert "raised in the model itself (Asks)" in caught.value.__notes__[0]


class Levels(nn.Module):
    """One line of code for a sum of two ways and, in the next turn, for a residual add."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        for turn in range(2):
            y = self.a(x)
            x = y + torch.relu(self.b(y if turn else x))
        return x


def test_a_line_that_is_a_join_in_one_turn_and_a_branch_in_another_is_one_site():
    net, example = Levels().eval(), torch.randn(2, 4)
    found = [site for site in al.sites(net, example) if site.op == "add" and site.target.dropped == (1,)]
    assert [(site.kind.value, site.calls) for site in found] == [("join", 2)]
    thin = al.remove(net, example, kinds="join")
    assert torch.equal(thin(example), net.a(net.a(example)))


class Crossing(nn.Module):
    """One line of code for the sums of two ways, the lighter of which is now the one and now the other operand."""

    def __init__(self, shared: bool):
        super().__init__()
        self.light = nn.ModuleList([nn.Linear(4, 4)] * 2 if shared else [nn.Linear(4, 4), nn.Linear(4, 4)])
        self.heavy = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def forward(self, x):
        for turn in range(2):
            ways = self.light[turn](x), self.heavy(x)
            x = ways[turn] + ways[1 - turn]
        return x


def test_a_line_whose_turns_have_weights_of_their_own_has_a_join_for_each_with_its_lighter_operand():
    net, example = Crossing(shared=False).eval(), torch.randn(2, 4)
    joins = al.sites(net, example, kinds="join")
    assert [(site.calls, site.target.dropped) for site in joins] == [(1, (0,)), (1, (1,))]
    assert torch.equal(al.remove(net, example, kinds="join")(example), net.heavy(net.heavy(example)))


def test_a_line_whose_turns_are_alike_has_one_join_at_the_first_one_s_lighter_operand():
    net, example = Crossing(shared=True).eval(), torch.randn(2, 4)
    assert [(site.calls, site.target.dropped) for site in al.sites(net, example, kinds="join")] == [(2, (0,))]
    assert torch.equal(al.remove(net, example, kinds="join")(example), net.light[1](net.heavy(example)))
