"""Several processes that train one model: shares of batches, and what fails in one of them."""

import copy
import importlib.util
import threading
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch

from archlab.experiments import launch
from archlab.training import together

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
        with nullcontext() if error is None else pytest.raises(ValueError, match=error):
            together.check_same_weights(each)


@NEEDS_ACCELERATE
def test_what_fails_in_a_process_is_raised():
    """That several train as one does, the guide to a loop of one's own shows."""

    def work():
        raise ArithmeticError("no good")

    with pytest.raises(RuntimeError, match="launch: process 0 failed: ArithmeticError: no good"):
        launch(work, processes=1, cpu=True)


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
