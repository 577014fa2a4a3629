"""`archlab scores` and `archlab remove`: a model and its task by name, files out, and what was wrong in one line."""

import sys

import pandas as pd
import pytest
import torch

import archlab as al
from tests.removal.nets import TASK, blocks

JOB = """
from torch import nn
from tests.removal.nets import TASK, blocks

def job(seed=0):
    print("running")
    return blocks(seed), TASK

ready = blocks(), TASK
model_alone = blocks()
def no_task(): return blocks()
def wrong_task(): return blocks(), {"loss": 1}
def three(): return blocks(), TASK, None
number = 3
"""
QUICK = ("--set", "soft_steps=40", "--set", "lr_omega=0.1", "--set", "push_steps=2", "--set", "tune_steps=2")
BRANCHES = ("--kinds", "branch")


@pytest.fixture
def archlab(archlab, here, monkeypatch):
    (here / "myjob.py").write_text(JOB)
    yield archlab
    sys.modules.pop("myjob", None)


def test_scores_prints_the_cheapest_first_and_what_the_untouched_model_has(archlab):
    said = archlab("scores", "myjob:job", *BRANCHES)
    assert said.lines()[0][:4] == ["site", "kind", "params", "MACs"] and "loss_per_saving" in said.lines()[0]
    assert [line[0] for line in said.lines()[1:5]][-1] == "blocks.3/branch.0"
    assert said.out.splitlines()[-1].startswith("4 sites; the untouched model has task_loss 0.1")
    assert "running" in said.err and "running" not in said.out


def test_scores_as_json_csv_and_files(archlab, here):
    words = ("scores", "myjob:ready", *BRANCHES, "--folder", "kept", "--sort", "delta_fit")
    rows = archlab(*words, "--csv", "--out", "scores.tex").csv()
    assert rows["delta_fit"].is_monotonic_decreasing, "the best first"
    largest = archlab(*words[:-1], "macs", "--csv").csv()["macs"]
    assert largest.is_monotonic_decreasing and largest.nunique() > 1, "of what is saved more is better"
    told = archlab(*words, "--json", "--out", "scores.csv").json()
    assert [row["site"] for row in told["scores"]] == list(rows["site"]) and told["untouched"]["fit"] > 0.9
    assert (here / "scores.tex").read_text().startswith(r"\begin{tabular}") and (here / "kept/scores").is_dir()
    assert list(pd.read_csv(here / "scores.csv")["site"]) == list(rows["site"])


@pytest.mark.parametrize("method", ["learned", "greedy"])
def test_remove_writes_the_thin_model_a_page_and_tables(archlab, here, method):
    options = QUICK if method == "learned" else ("--set", "tune_steps=2")
    words = ("remove", "myjob:job", *BRANCHES, "--budget", "sites=0.5", "--method", method, *options, "--out", "thin")
    said = archlab(*words)
    assert said.out.startswith("2 of 4 sites went; ") and "| tuned " in said.out
    assert {file.name for file in (here / "thin").iterdir()} >= {
        "thin.safetensors", "index.html", "table.md", "table.tex", "table.csv", "sites.csv", "checkpoints"
    }  # fmt: skip
    thin = al.load(here / "thin/thin.safetensors", blocks, TASK.example).eval()
    gone = [line.split()[0] for line in said.out.splitlines() if line.startswith("blocks.")]
    assert gone == list(al.recipe(thin).steps[-1].taken)
    before = thin(TASK.example)
    again = archlab(*words)  # from its checkpoints
    assert again.out == said.out
    thin = al.load(here / "thin/thin.safetensors", blocks, TASK.example).eval()
    assert torch.equal(thin(TASK.example), before)


def test_remove_goes_on_where_the_time_limit_came(archlab, here):
    words = ("remove", "myjob:job", *BRANCHES, "--budget", "sites=0.5", *QUICK)
    assert archlab(*words, "--time-limit", "0", status=75).out.startswith("Not finished: ")
    assert not (here / "removal/index.html").exists()
    assert archlab(*words).out.startswith("2 of 4 sites went")
    said = archlab(*words, "--set", "lr=1e-3", status=2, ahead=("λ",))
    assert "this checkpoint belongs to another training" in said.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--budget", "macs=.6", "--at-most-loss", "fit=.1"), "says how much is to go; both are given"),
        ((), "--budget macs=0.6 or --at-most-loss accuracy=0.01 says how much is to go; neither is given"),
        (("--budget", "mac=.6"), "a measure in budget must be one of 'macs', 'params'"),
        (("--budget", "macs=1.5"), "budget['macs'] must be the share that may stay, above 0 and below 1, got 1.5"),
        (("--budget", "macs=half"), "budget['macs'] must be a finite number above 0, got 'half'"),
        (("--budget", "macs"), "--budget 'macs': write name=value, as macs=0.6"),
        (("--budget", "macs=1e-9"), "budget['macs'] of 1e-09 cannot be met"),
        (("--at-most-loss", "acc=.1"), "task.quality gives no such value, but error, fit"),
        (("--budget", "macs=.6", "--set", "soft_step=3"), "has no option 'soft_step'"),
        (("--budget", "macs=.6", "--set", "lr=fast"), "lr must be a finite number above 0, got 'fast'"),
        (("--budget", "macs=.6", "--set", "folder=here"), "--set folder: say it by an option of the command"),
        (("--budget", "macs=.6", "--kinds", "blok"), "kind 'blok' is unknown"),
        (("--budget", "macs=.6", "--where", "head*"), "where='head*' matches no site"),
        (("--budget", "macs=.6", "--method", "best"), "'best'"),
        (("--budget", "macs=.6", "--time-limit", "-1"), "'--time-limit'"),
    ],
)
def test_what_remove_cannot_do_is_said_in_one_line(archlab, words, reason):
    kinds = () if "--kinds" in words else BRANCHES
    assert reason in archlab("remove", "myjob:ready", *kinds, *words, status=2).err


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ("myjob:no_task", "myjob:no_task() is of type Blocks, not the model and its task: return (model, al.Task"),
        ("myjob:wrong_task", "myjob:wrong_task(): the task is of type dict: return (model, al.Task"),
        ("myjob:three", "myjob:three() is a tuple of others, not the model and its task"),
        ("myjob:model_alone", "myjob:model_alone() raises TypeError"),
        ("myjob:number", "myjob:number is of type int: name a function that returns the model and its task"),
        ("myjob", "'myjob' names no factory"),
    ],
)
def test_what_is_no_model_with_its_task(archlab, job, reason):
    assert reason in archlab("scores", job, status=2).err


def test_what_scores_cannot_do_is_said_before_anything_is_measured(archlab):
    assert "--sort 'delta_psnr': there is no such column; there are " in (
        archlab("scores", "myjob:ready", "--sort", "delta_psnr", status=2).err
    )
    assert "--sort 'latency_saved_ms'" in archlab("scores", "myjob:job", "--sort", "latency_saved_ms", status=2).err
    assert "--out scores.doc: name a file that ends in .csv" in (
        archlab("scores", "myjob:job", "--out", "scores.doc", status=2).err
    )


def test_help_has_an_example_of_each(archlab):
    for command, option in (("scores", "--sort"), ("remove", "--budget")):
        said = archlab(command, "--help").out
        assert f"archlab {command} studies.guides.denoiser:trained" in said and option in said
