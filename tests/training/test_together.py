"""Several processes that train one model: shares of batches, and what fails in one of them."""

import contextlib
import copy
import importlib.util
import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import archlab as al
from archlab.experiments import launch
from archlab.experiments.live import launch as launching
from archlab.experiments.live.pickled import pickled
from archlab.experiments.live.pool import computing
from archlab.training import fit, together
from archlab.training.checkpoint import load_checkpoint

NEEDS_ACCELERATE = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed: pip install 'archlab[test]'"
)


@dataclass(frozen=True)
class Pair:
    x: torch.Tensor
    name: str


@pytest.fixture
def second_of_three(monkeypatch):
    monkeypatch.setattr(together, "process_count", lambda: 3)
    monkeypatch.setattr(together.distributed, "get_rank", lambda: 1)


def test_a_share_is_every_third_of_each_tensor_and_all_else_whole(second_of_three):
    x = torch.arange(6)
    batch = {"pair": Pair(x, "name"), "list": [x, (x[:, None], 7)], "scale": torch.tensor(2.0)}
    share = together.share_of(batch)
    assert share["pair"].x.tolist() == share["list"][0].tolist() == [1, 4] and share["pair"].name == "name"
    assert share["list"][1][0].tolist() == [[1], [4]] and share["list"][1][1] == 7 and share["scale"] == 2
    assert batch["pair"].x is x and batch["list"][0] is x, "the batch itself stays as it is"


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        ((torch.zeros(6), torch.zeros(3)), "must be of one length, got 3 and 6; put what all need"),
        (torch.zeros(4, 3), "a batch of 4 cannot be shared out evenly to 3 processes"),
    ],
)
def test_what_cannot_be_shared_out_evenly_is_refused(batch, error, second_of_three):
    with pytest.raises(ValueError, match=error):
        together.share_of(batch)


def test_in_one_process_a_batch_is_whole():
    batch = [torch.zeros(5), torch.zeros(3)]
    assert together.share_of(batch) is batch


def test_processes_that_begin_with_other_weights_are_refused(monkeypatch):
    """The other process is the second model: what it tells is reduced with what the first does."""
    told = []
    monkeypatch.setattr(together, "process_count", lambda: 2)
    monkeypatch.setattr(together.distributed, "all_reduce", lambda tensor, op: told.append(tensor.clone()))
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)).to(torch.bfloat16)
    net.register_parameter("scale", torch.nn.Parameter(torch.tensor(1.0)))
    together.check_same_weights(net)
    other = copy.deepcopy(net)
    other.scale.data.neg_()
    for each, error in ((net, None), (other, r"model: .* 1 of 5 parameters, the first 'scale'; build .* same seed")):
        monkeypatch.setattr(
            together.distributed, "all_reduce", lambda tensor, op: tensor.copy_(torch.maximum(tensor, told[0]))
        )
        with contextlib.nullcontext() if error is None else pytest.raises(ValueError, match=error):
            together.check_same_weights(each)


class Stopped(Exception):
    pass


@NEEDS_ACCELERATE
def test_what_was_stopped_goes_on_to_the_same_weights_and_a_process_that_is_killed_ends_the_others(tmp_path):
    """In one call, as each starts processes. That several train as one does, the guide to a loop of one's own shows."""

    def train(name, at_step_7=lambda: None):
        def after_step(net, step):
            if step == 7:
                at_step_7()

        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 1))
        task = al.Task(
            torch.zeros(2, 4),
            batches=lambda step: torch.randn(6, 4, generator=torch.Generator().manual_seed(step)),
            loss=lambda net, x: net(x).square().mean(),
            quality=lambda net: {},
        )
        fit(net, task, steps=12, folder=tmp_path / name, save_every=5, after_step=after_step, progress=False)

    def stop():
        raise Stopped

    def kill():
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        train("undisturbed")
        with contextlib.suppress(Stopped):
            train("stopped", stop)
        assert load_checkpoint(tmp_path / "stopped")["step"] == 5
        train("stopped")
        train("killed", kill)

    with pytest.raises(RuntimeError, match=r"launch: process 1 killed by signal 9; the others have ended .* goes on"):
        launch(work, processes=2, cpu=True)
    undisturbed, stopped, killed = (load_checkpoint(tmp_path / name) for name in ("undisturbed", "stopped", "killed"))
    assert killed["step"] == 5 and killed["rows"] == undisturbed["rows"][:5]
    assert stopped["step"] == 12 and stopped["rows"] == undisturbed["rows"]
    assert all(torch.equal(value, stopped["model"][name]) for name, value in undisturbed["model"].items())


@pytest.mark.parametrize(
    ("statuses", "errors", "said"),
    [
        ({0: 1, 1: -9}, [0], "process 1 killed by signal 9; the others have ended for it"),
        ({0: -15, 1: 3}, [], "process 1 failed: it ended the program, with status 3; the others"),
        ({0: -15, 1: -15}, [], "process 0 killed by signal 15; the others"),
        ({0: 1, 1: -15}, [0], "process 0 failed: ArithmeticError: no good"),
        ({0: 1, 1: 1}, [1, 0], "process 1 failed: ArithmeticError: no good"),
    ],
)
def test_the_process_that_ended_first_is_named(statuses, errors, said, tmp_path):
    """torch's launcher ends the others by SIGTERM, and some fail before, as they wait for the one that is gone."""
    for time, rank in enumerate(errors):
        path = tmp_path / f"error-{rank}.txt"
        path.write_text(f"process {rank} failed: ArithmeticError: no good")
        os.utime(path, (time, time))
    launching.tell_who_died(tmp_path, statuses)
    assert launching.told_in(tmp_path).startswith(said)


@NEEDS_ACCELERATE
def test_what_fails_in_a_process_is_told(tmp_path, monkeypatch):
    def work():
        raise ArithmeticError("no good")

    content = pickled("launch", (computing(), True, work), {}, remedy="")
    (tmp_path / "work.pickle").write_bytes(content)
    monkeypatch.setattr("accelerate.PartialState", lambda cpu: None)
    monkeypatch.setattr("sys.argv", ["", str(tmp_path), str(os.getppid())])
    monkeypatch.setattr(launching, "die_with", lambda parent: None)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ArithmeticError):
        launching.take_part()
    assert launching.told_in(tmp_path) == "process 1 failed: ArithmeticError: no good"


@NEEDS_ACCELERATE
def test_bad_calls_of_launch(monkeypatch):
    lock = threading.Lock()
    with pytest.raises(TypeError, match="'lock', used in work, a lock, cannot be pickled"):
        launch(lambda: lock, processes=2)
    with pytest.raises(ValueError, match="launch: processes must be a whole number of at least 1, got 0"):
        launch(lambda: None, processes=0)
    with pytest.raises(TypeError, match="launch: cpu must be True or False, got 'yes'"):
        launch(lambda: None, processes=1, cpu="yes")
    monkeypatch.setattr("archlab.experiments.live.launch.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'archlab\[accelerate\]'"):
        launch(lambda: None, processes=2)


def learned_by(rank: int, folder: str) -> None:
    """One of two processes whose shares of a batch disagree on whether a site can go: what it decided, in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        target = net(x) + 0.1 * torch.randn(16, 1, generator=torch.Generator().manual_seed(1))
        target[1::2] = nn.Sequential(net[0], net[2])(x[1::2])
    task = al.Task(x, lambda step: (x, target), lambda net, b: (net(b[0]) - b[1]).square().mean(), lambda net: {})
    removal = al.learn_to_remove(net, task, kinds="activation", lam=0.1, lr=1e-9, soft_steps=100, lr_omega=0.03,
                                 push_steps=2, tune_steps=0, progress=False)  # fmt: skip
    Path(folder, f"{rank}.json").write_text(removal.decisions[["omega", "removed"]].to_json())
    torch.distributed.destroy_process_group()


def test_processes_learn_one_switch_and_decide_alike(tmp_path):
    torch.multiprocessing.spawn(learned_by, (str(tmp_path),), nprocs=2)
    first, second = ((tmp_path / f"{rank}.json").read_text() for rank in range(2))
    assert first == second and json.loads(first)["omega"]["0"] > 0.1
