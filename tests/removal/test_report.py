"""The page of a removal and of a trade-off: what went, curves that name their sites, settings and conditions."""

import pandas as pd
import pytest

import archlab as al

from ..report.pages import read
from .nets import TASK, blocks

LEARNED = dict(kinds="branch", soft_steps=40, push_steps=4, tune_steps=4, lr=1e-3, lr_omega=0.1, progress=False)
GREEDY = dict(kinds="branch", tune_steps=4, progress=False)
HALF = {"sites": 0.5}


@pytest.fixture(scope="module")
def learned():
    return al.learn_to_remove(blocks(), TASK, **LEARNED, budget=HALF, evaluate=True)


def test_costs_and_what_each_site_saves(learned):
    whole, thin = (al.cost(model, TASK.example) for model in (blocks(), learned.model))
    assert learned.costs.to_dict("records") == [
        {"model": "original", "params": whole.params, "macs": whole.macs},
        {"model": "thin", "params": thin.params, "macs": thin.macs},
    ]
    gone = learned.decisions[learned.decisions["removed"]]
    assert whole.macs - gone["macs"].sum() == thin.macs and whole.params - gone["params"].sum() == thin.params
    assert list(learned.decisions)[:5] == ["site", "kind", "module", "params", "macs"]


def test_the_page_of_a_learned_removal(learned, tmp_path):
    page = read(learned.report(tmp_path))
    assert "Blocks without 2 of 4 sites" in page.text and "2 of 4 sites went; " in page.text
    for site, gone, omega in learned.decisions[["site", "removed", "omega"]].itertuples(index=False):
        name = f"{site}: {'removed' if gone else 'stays'}, ω = {omega:.2g}"
        assert page.titles.count(name) == 2, "of its line and of its dot"
    for told in ("soft_steps", "learn_to_remove", "sites 0.5", al.__version__, "training", "threads"):
        assert told in page.text
    assert [phase in page.text for phase in learned.qualities["phase"]] == [True] * 5
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "sites.csv", keep_default_na=False), learned.decisions)
    assert r"\begin{tabular}" in (tmp_path / "table.tex").read_text()


def test_the_page_of_a_greedy_removal_says_in_which_order(tmp_path):
    removal = al.remove_greedily(blocks(), TASK, **GREEDY, budget=HALF)
    page = read(removal.report(tmp_path))
    gone = removal.decisions[removal.decisions["removed"]].sort_values("order")
    assert [title.split(":")[0] for title in page.titles[1:]] == [f"{n}. {s}" for n, s in enumerate(gone["site"], 1)]
    assert "ask for it with evaluate=True" in page.text and "remove_greedily" in page.text


def test_pages_of_nothing_removed_and_of_what_is_not_finished(tmp_path):
    removal = al.learn_to_remove(blocks(), TASK, **LEARNED, lam=0, tau=1.0)
    page = read(removal.report(tmp_path / "none"))
    assert "No site was removed." in page.text and "100.0% of the multiply-adds" in page.text
    removal = al.learn_to_remove(blocks(), TASK, **LEARNED, budget=HALF, time_limit_s=0, evaluate=True)
    assert list(removal.costs["model"]) == ["original"] and "Not finished" in repr(removal)
    assert "Not finished" in read(removal.report(tmp_path / "unfinished")).text


def test_what_cannot_go_together_is_on_the_page(tmp_path):
    removal = al.remove_at_random(blocks(), TASK, **GREEDY | dict(kinds="all"), budget={"macs": 0.8})
    page = read(removal.report(tmp_path))
    resolved = removal.settings["resolved"]
    assert f"Left out, as it cannot go together with others ({len(resolved)})" in page.text
    assert all(site in page.text for site in resolved)


def test_a_folder_that_is_a_file(learned, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="which is a file"):
        learned.report(tmp_path / "taken")
