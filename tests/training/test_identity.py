"""A folder is of one training: another network, task or option is refused, and what is no checkpoint is named."""

import functools
import json
import os
import threading
import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from archlab.files import sweep_abandoned, whole_file
from archlab.removal import learn_to_remove
from archlab.training.checkpoint import FILE, BadCheckpoint, CheckpointMismatch, load_checkpoint, save_checkpoint
from archlab.training.fit import fit
from archlab.training.identity import fingerprint, is_same
from archlab.training.kept import kept_of
from archlab.training.optimization import constant
from archlab.training.task import Task


def net(seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 4), activation(), nn.BatchNorm1d(4), nn.Linear(4, 1))


class Functional(nn.Module):
    """No module tells which activation it has."""

    def __init__(self, activation):
        super().__init__()
        self.layers = net()
        self.activation = activation

    def forward(self, x):
        return self.layers[3](self.activation(self.layers[0](x)))


def batch(step: int, *, shift: float = 0.0):
    return torch.randn(16, 2, generator=torch.Generator().manual_seed(step)) + shift


def loss_to(goal: float):
    return lambda model, x: (model(x) - goal).square().mean()


TASK = Task(batch(0), batch, loss_to(1.0), lambda model: {"error": model(batch(99)).mean().item()})
OPTIONS = dict(steps=4, lr=1e-2, progress=False)
REMOVAL = dict(
    kinds="activation", soft_steps=4, push_steps=2, tune_steps=2, lr_omega=1.0, evaluate=True, progress=False
)

OTHERS = {
    "weights": (net(1), TASK, "it began with other weights \\(0.weight differs"),
    "one weight": (net(), TASK, "it began with other weights \\(3.bias differs"),
    "activation": (net(0, nn.Tanh), TASK, "module 1 is ReLU\\(\\) in the checkpoint and Tanh\\(\\) here"),
    "data": (net(), replace(TASK, batches=functools.partial(batch, shift=0.1)), "its first batch was another"),
    "shape": (net(), replace(TASK, batches=lambda step: batch(step)[:8]), "its first batch was another"),
    "order": (net(), replace(TASK, batches=lambda step: batch(step).flip(0)), "its first batch was another"),
    "goal": (net(), replace(TASK, loss=loss_to(-1.0)), "task.loss is another function"),
    "loss": (net(), replace(TASK, loss=lambda model, x: (model(x) - 1).abs().mean()), "task.loss is another function"),
    "settings": (net(), replace(TASK, settings={"crop": 9}), r"task.settings\['crop'\] is absent in .* and 9 here"),
}
with torch.no_grad():
    OTHERS["one weight"][0][3].bias += 0.1


@pytest.mark.parametrize(("model", "task", "said"), OTHERS.values(), ids=OTHERS)
def test_another_networks_or_tasks_folder_is_refused_and_left_as_it_is(tmp_path, model, task, said):
    fit(net(), TASK, **OPTIONS, folder=tmp_path / "fit")
    learn_to_remove(net(), TASK, **REMOVAL, folder=tmp_path / "removal")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    with pytest.raises(CheckpointMismatch, match=f"{said}.*Use another folder, or delete this one to start again"):
        fit(model, task, **OPTIONS, folder=tmp_path / "fit")
    with pytest.raises(CheckpointMismatch):
        learn_to_remove(model, task, **REMOVAL, folder=tmp_path / "removal")
    assert [path.read_bytes() for path in files] == before


def test_an_activation_that_no_module_names_is_told_by_its_site(tmp_path):
    learn_to_remove(Functional(torch.relu), TASK, **REMOVAL, folder=tmp_path)
    with pytest.raises(CheckpointMismatch, match=r"settings\['sites'\] is .*relu.* in the checkpoint and .*tanh"):
        learn_to_remove(Functional(torch.tanh), TASK, **REMOVAL, folder=tmp_path)


def norm(model):
    return sum(p.abs().sum() for p in model.parameters())


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"penalty": lambda model: model[0].bias.sum()}, {"penalty": lambda model: model[3].bias.sum()}),
        ({"schedule": constant}, {"schedule": lambda step: 1.0 if step < 37 else 0.1}),
        (
            {"groups": lambda model: [{"params": model[0].parameters()}, {"params": model[3].parameters()}]},
            {"groups": lambda model: [{"params": model[3].parameters()}, {"params": model[0].parameters()}]},
        ),
        ({"penalty": norm, "penalty_weight": lambda step: 0.0}, {"penalty": norm, "penalty_weight": lambda step: 9.0}),
    ],
    ids=["penalty", "schedule", "groups", "penalty_weight"],
)
def test_other_options_are_refused(tmp_path, before, now):
    options = OPTIONS | {"steps": 40}
    fit(net(), TASK, **options, folder=tmp_path, **before)
    with pytest.raises(CheckpointMismatch):
        fit(net(), TASK, **options, folder=tmp_path, **now)


def test_a_setting_with_the_name_of_the_removals_own_is_refused():
    with pytest.raises(ValueError, match="settings: 'keep' is one of learn_to_remove's own"):
        learn_to_remove(net(), TASK, **REMOVAL, settings={"keep": 3})


def test_long_values_are_shown_where_they_differ(tmp_path):
    names = [f"layer{index}" for index in range(200)]
    fit(net(), TASK, **OPTIONS, folder=tmp_path, settings={"layers": names})
    names[150] = "other"
    with pytest.raises(CheckpointMismatch, match=r"….*layer150.* and ….*other") as caught:
        fit(net(), TASK, **OPTIONS, folder=tmp_path, settings={"layers": names})
    assert len(caught.value.what) < 300


def test_what_rounds_otherwise_draws_at_random_or_logs_is_gone_on_with(tmp_path):
    """As another machine would, batches that draw from a global generator do, and a loss that notes its values."""
    seen, count = [], 0

    def logs(model, x):
        nonlocal count
        count += 1
        seen.append(count)
        return (model(x) - 1.0).square().mean()

    def task(off: float) -> Task:
        return replace(TASK, batches=lambda step: (batch(step) + torch.rand(16, 2)) * (1 + off), loss=logs)

    model = net()
    for off in (0.0, 3e-7):
        assert not fit(model, task(off), **OPTIONS, folder=tmp_path, time_limit_s=0.0).finished
    again = net()
    with torch.no_grad():
        again[0].weight *= 1 + 3e-7
    assert fit(again, task(0.0), **OPTIONS, folder=tmp_path).finished


def test_knowing_a_training_by_its_first_batch_changes_no_number(tmp_path):
    """Not even of batches and losses that draw from the global generators."""
    task = replace(
        TASK, batches=lambda step: torch.randn(16, 2), loss=lambda m, x: m(x + torch.rand(1)).square().mean()
    )
    states = []
    for folder in (None, tmp_path):
        torch.manual_seed(5)
        model = net()
        fit(model, task, **OPTIONS, folder=folder)
        states.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*states)


def test_where_a_function_stands_and_what_it_says_of_itself_do_not_count():
    def first(a, b=2.0):
        """Says one thing."""
        return a * b  # because

    def second(a, b=2.0):
        """Says another."""

        return a * b

    def third(a, b=3.0):
        return a * b

    assert is_same(fingerprint(first), fingerprint(second)) and not is_same(fingerprint(first), fingerprint(third))


@dataclass
class Pair:
    image: torch.Tensor
    label: int


VALUES = [
    None, 1, 1.0, True, "1", b"1", [1], (1,), {"a": 1}, {"a": 2}, {1, 2}, torch.ones(2), torch.ones(2, 1),
    torch.ones(2).double(), torch.ones(2).bfloat16(), torch.ones(2).to(torch.complex64), torch.tensor([1, 2]),
    torch.tensor([2, 1]), torch.tensor(float("nan")), torch.tensor(float("inf")), torch.eye(2).to_sparse(),
    np.zeros(2), np.array([1, 2]), np.array(["a", "b"]), np.array([None, {}]), Pair(torch.ones(1), 1),
    Pair(torch.ones(1), 2), Pair(torch.zeros(1), 1), functools.partial(batch, 1), functools.partial(batch, 2),
    lambda x: x in {"a", "b"}, lambda x: x in {"a", "c"}, batch, torch.relu, object(),
]  # fmt: skip


def test_a_fingerprint_tells_values_apart_and_json_keeps_it():
    prints = [fingerprint(value) for value in VALUES]
    for i, one in enumerate(prints):
        assert [is_same(one, json.loads(json.dumps(other))) for other in prints] == [i == j for j in range(len(prints))]
    around: list = []
    around.append(around)
    assert is_same(fingerprint(around), fingerprint(around))


NOTEBOOK = """
SCALE, DATA, LIMITS, SEEN, COUNT = 2.0, [torch.ones(3)], {"low": 0.5}, [], 0

def helper(x):
    return x * SCALE

def first(x):
    return DATA[0] + helper(x) + LIMITS["low"]

def logs(x):
    global COUNT
    COUNT += 1
    SEEN.append(x)

class Judge:
    def __init__(self, data):
        self.data, self.calls, self.around = data, 0, self
    def __call__(self, x):
        self.calls += 1
        return self.second(x)
    def second(self, x):
        return x - self.data[0]

judge, criterion, teacher = Judge([torch.ones(2)]), nn.CrossEntropyLoss(), nn.Linear(1, 1).eval().requires_grad_(False)
nn.init.ones_(teacher.weight), nn.init.ones_(teacher.bias)

def distilled(x):
    return teacher(x) + criterion(x, x)
"""
CHANGES = {  # by function, what changes it and what does not
    "first": (["SCALE = 3.0", "DATA = [torch.zeros(3)]", "LIMITS = {'low': 0.6}", "def helper(x): return x / SCALE"],
              ["SEEN.append(1)", "OTHER = 3"]),
    "logs": ([], ["SEEN.append(1)", "COUNT = 7"]),
    "judge": (["judge.data = [torch.zeros(2)]", "Judge.second = lambda self, x: x"], ["judge.calls = 7"]),
    "judge.second": (["judge.data = [torch.zeros(2)]"], ["judge.calls = 7"]),
    "distilled": (["nn.init.zeros_(teacher.weight)", "criterion = nn.CrossEntropyLoss(label_smoothing=0.1)"], []),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_function_reaches_of_the_users_own_code_is_part_of_it(name):
    """Globals, helpers and objects; not what it counts or logs."""

    def known(*changes: str):
        space = {"torch": torch, "nn": nn, "__name__": "__main__"}
        for code in (NOTEBOOK, *changes):
            exec(compile(code, "notebook", "exec"), space)
        return fingerprint(eval(name, space))

    different, same = CHANGES[name]
    assert is_same(known(), known())
    assert [change for change in different if is_same(known(), known(change))] == []
    assert [change for change in same if not is_same(known(), known(change))] == []


class Normalized(nn.Module):
    def __init__(self, mean: float = 0.0, scale: float = 1.0):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.scale, self.calls, self.layers = scale, 0, net()

    def forward(self, x):
        self.calls += 1
        return self.layers((x - self.mean) * self.scale)


@pytest.mark.parametrize(("options", "said"), [({"mean": 1.0}, "mean differs"), ({"scale": 2.0}, "scale=1.0")])
def test_what_no_state_dict_of_a_network_tells_is_seen(tmp_path, options, said):
    first = Normalized().eval()
    kept_of(tmp_path, first, TASK, {})
    first(batch(0))
    kept_of(tmp_path, first, TASK, {})
    with pytest.raises(CheckpointMismatch, match=said):
        kept_of(tmp_path, Normalized(**options).eval(), TASK, {})


class Centred(nn.Module):
    """What it subtracts follows what it sees in training, and is in no state dict."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(2), persistent=False)
        self.layers = net()

    def forward(self, x):
        if self.training:
            self.seen = 0.5 * self.seen + 0.5 * x.detach().mean(0)
        return self.layers(x - self.seen)


def test_buffers_that_are_in_no_state_dict_are_gone_on_with(tmp_path):
    whole, cut = Centred(), Centred()
    fit(whole, TASK, **OPTIONS)
    for _ in range(5):
        cut = Centred()
        if fit(cut, TASK, **OPTIONS, folder=tmp_path, time_limit_s=0.0).finished:
            break
    assert torch.equal(cut.seen, whole.seen) and cut.seen.any()
    assert all(torch.equal(a, b) for a, b in zip(cut.parameters(), whole.parameters(), strict=True))


def edited(folder, **parts) -> None:
    saved = load_checkpoint(folder)
    assert saved is not None
    save_checkpoint(folder, {name: value for name, value in (saved | parts).items() if value is not None})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"step": 10**9}, "it is of step 1000000000 of 4"),
        ({"step": -1}, "it is of step -1 of 4"),
        ({"step": "2"}, "its 'step' is str"),
        ({"step": None}, "its 'step' is absent"),
        ({"rows": []}, "it is of step 1 of 4, with a history of 0"),
        ({"seconds": float("nan")}, "it took nan seconds"),
        ({"start": None}, "its 'start' is absent"),
        ({"start": {}}, "its 'start' is not complete"),
        ({"model": None}, "its 'model' is absent"),
        ({"optimizer": {}}, "it cannot be put back"),
        ({"random": {"torch": torch.zeros(3)}}, "it cannot be put back"),
    ],
)
def test_a_checkpoint_that_cannot_be_is_refused(tmp_path, parts, said):
    fit(net(), TASK, **OPTIONS, folder=tmp_path, time_limit_s=0.0)
    edited(tmp_path, **parts)
    model = net()
    with pytest.raises(BadCheckpoint, match=f"{said}.*delete it to start again"):
        fit(model, TASK, **OPTIONS, folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), net().state_dict().values(), strict=True))


def test_weights_that_are_not_finite_or_of_another_shape_are_refused(tmp_path):
    fit(net(), TASK, **OPTIONS, folder=tmp_path)
    state = load_checkpoint(tmp_path)["model"]
    edited(tmp_path, model=state | {"0.bias": torch.full((4,), float("nan"))})
    with pytest.raises(BadCheckpoint, match=r"0\.bias is not finite"):
        fit(net(), TASK, **OPTIONS, folder=tmp_path)
    edited(tmp_path, model=state | {"0.bias": torch.zeros(5)})
    with pytest.raises(CheckpointMismatch, match=r"0.bias is float32\(5,\) in the checkpoint and float32\(4,\) here"):
        fit(net(), TASK, **OPTIONS, folder=tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, make):
    make(tmp_path / FILE)
    with pytest.raises(BadCheckpoint, match="it is no regular file"):
        fit(net(), TASK, **OPTIONS, folder=tmp_path)


def test_another_programs_checkpoint_is_named(tmp_path):
    for content in ([1, 2], {"state_dict": net().state_dict()}, net().state_dict()):
        torch.save(content, tmp_path / FILE)
        with pytest.raises(BadCheckpoint, match=r"it holds a list|is absent"):
            fit(net(), TASK, **OPTIONS, folder=tmp_path)


def test_a_checkpoint_is_written_without_a_copy_in_memory(tmp_path):
    content = {"model": torch.zeros(4_000_000)}
    tracemalloc.start()
    save_checkpoint(tmp_path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6 < content["model"].nbytes


def test_two_savers_leave_each_others_half_written_files_alone(tmp_path):
    with whole_file(tmp_path / FILE) as file:
        file.write(b"half")
        save_checkpoint(tmp_path, {"step": 1})
        file.write(b" and half")
    assert (tmp_path / FILE).read_bytes() == b"half and half" and len(list(tmp_path.iterdir())) == 1
    failed = []

    def saves(number: int) -> None:
        try:
            for _ in range(20):
                save_checkpoint(tmp_path, {"step": number, "model": torch.full((1000,), number)})
        except OSError as error:
            failed.append(error)

    savers = [threading.Thread(target=saves, args=(number,)) for number in range(4)]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    saved = load_checkpoint(tmp_path)
    assert not failed and saved is not None and bool((saved["model"] == saved["step"]).all())
    sweep_abandoned(tmp_path / FILE)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_full_disk_is_named_and_the_checkpoint_before_stays(tmp_path):
    resource = pytest.importorskip("resource")
    save_checkpoint(tmp_path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{tmp_path / FILE}'"):
            save_checkpoint(tmp_path, {"model": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(tmp_path) == {"step": 1} and [path.name for path in tmp_path.iterdir()] == [FILE]
