"""What a notebook and a terminal show of what archlab returns: names of modules may hold anything."""

import pandas as pd
import pytest
import torch
from torch import nn

import archlab as al

from .report.pages import Page

HOSTILE = "<b>$x$\x1b[2J"
SHOWN = "<b>$x$\\x1b[2J"


class Net(nn.Module):
    """A block with such a name."""

    def __init__(self):
        super().__init__()
        self.add_module(HOSTILE, nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))

    def forward(self, x):
        return x + self._modules[HOSTILE](x)


X = torch.ones(2, 4)
TASK = al.Task(X, lambda step: X, lambda net, x: (net(x) - 1).square().mean(), lambda net: {HOSTILE: 1.0})


@pytest.fixture(scope="module")
def returned():
    """By name, what archlab returns and prints as a table."""
    torch.manual_seed(0)
    net, frame = Net(), pd.DataFrame({HOSTILE: [HOSTILE]})
    options = dict(kinds=["activation", "branch"], budget={"sites": 0.4}, tune_steps=0, progress=False, evaluate=True)
    removal = al.remove_at_random(net, TASK, **options)
    return {
        "sites": al.sites(net, X), "speed": al.speed({HOSTILE: net}, X, seconds=0.01), "table": al.table(frame),
        "removal": removal, "recipe": al.recipe(al.remove(net, X, kinds="activation")), "cost": al.cost(net, X),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["sites", "speed", "table", "removal", "cost", "recipe"])
def test_names_do_not_steer_a_terminal(returned, name):
    assert "\x1b" not in repr(returned[name])
    if name not in ("cost", "recipe"):  # these name kinds of op, and count the sites
        assert r"\x1b[2J" in repr(returned[name])


@pytest.mark.parametrize("name", ["sites", "speed", "table", "removal", "cost"])
def test_a_notebook_shows_a_table_that_takes_names_for_text(returned, name):
    page = Page(returned[name]._repr_html_())
    assert page.tags["table"] == 1 and "b" not in page.tags
    assert name == "cost" or SHOWN in page.text
    assert "mathjax_ignore" in returned[name]._repr_html_()


def test_a_notebook_shows_what_is_printed(returned):
    sites, cost, speed = (Page(returned[name]._repr_html_()).text for name in ("sites", "cost", "speed"))
    assert "3 sites: 1 activation, 1 skip, 1 branch" in sites and "local" in sites
    assert all(line.split("  ")[0].strip() in cost for line in repr(returned["cost"]).splitlines())
    assert "batch 2" in speed and "median [ms]" in speed


def test_a_recipe_of_a_hostile_class_and_an_op_of_such_a_name():
    recipe = al.Recipe(HOSTILE, (al.Step(name="discard", options={}, checked=HOSTILE),))
    assert "\x1b" not in repr(recipe) and r"\x1b[2J" in repr(recipe)
    cost = al.Cost(1, 2, 3, 4, "macs", f"one real run: on meta it raises {HOSTILE}", {}, {HOSTILE: 2}, pd.DataFrame())
    assert "\x1b" not in repr(cost) and repr(cost).count(r"\x1b[2J") == 2
    assert Page(cost._repr_html_()).text.count(SHOWN) == 2


def test_a_notebook_shows_the_first_of_many_sites():
    net = nn.Sequential(*(nn.ReLU() for _ in range(150)))
    page = Page(al.sites(net, X)._repr_html_())
    assert page.tags["tr"] == 101 and "… 50 more: .frame() has them all" in page.text and "150 sites" in page.text


def test_frames_are_shown_by_pandas_which_escapes_them(returned):
    html = al.scores(Net(), TASK, kinds="activation", progress=False)._repr_html_()
    assert "<b>" not in html and "&lt;b&gt;" in html
