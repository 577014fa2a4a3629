"""A DataLoader as a task: each batch depends on the seed and the step alone, whatever was made before and where."""

import copy
import itertools
import math
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)
from torch.utils.data.distributed import DistributedSampler

import archlab as al
from archlab.training import fit

COUNT = 10
X = torch.arange(float(COUNT))[:, None]
PLAIN = TensorDataset(X, 2 * X)


class Noisy(Dataset):
    """Draws from every global generator for each item, as augmentations do; counts what it loads."""

    def __init__(self):
        self.loaded = 0

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.loaded += 1
        drawn = torch.tensor([random.random(), np.random.rand()], dtype=torch.float32)
        return X[index] + torch.rand(1), drawn


class Exact(Noisy):
    def __getitem__(self, index):
        return X[index], X[index]


class Stream(IterableDataset):
    """Items in order with noise, dealt out to workers; of one epoch more than of the next."""

    def __init__(self, length=7, fewer=0):
        self.length, self.fewer, self.epoch = length, fewer, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(first, self.length - self.fewer * self.epoch, every):
            yield torch.tensor([100.0 * self.epoch + index]) + 0.5 * torch.rand(1), torch.zeros(2)


class Numbered(Sampler):
    """Of no length, with a generator of its own."""

    def __init__(self, length=COUNT):
        self.length, self.rng = length, np.random.default_rng(0)

    def __iter__(self):
        return iter(self.rng.permutation(self.length).tolist())


class Sized(Numbered):
    def __len__(self):
        return COUNT


class FromGlobals(Sized):
    def __iter__(self):
        return iter(random.sample(range(COUNT), COUNT))


class Order:
    """An iterable that is no Sampler, with a generator of its own."""

    def __init__(self, rng):
        self.held = {"rng": rng}

    def __len__(self):
        return COUNT

    def __iter__(self):
        rng = self.held["rng"]
        if isinstance(rng, torch.Generator):
            return iter(torch.randperm(COUNT, generator=rng).tolist())
        order = list(range(COUNT))
        rng.shuffle(order)
        return iter(order)


class Augmented(Exact):
    """Draws for each item from generators of its own and of its transforms."""

    def __init__(self):
        super().__init__()
        self.rng, self.transforms = np.random.default_rng(0), [Jitter(torch.Generator()), Jitter(random.Random(0))]

    def __getitem__(self, index):
        x = X[index] + self.rng.random()
        return sum((jitter() for jitter in self.transforms), x), X[index]


class Jitter:
    def __init__(self, rng):
        self.rng = rng

    def __call__(self):
        return torch.rand(1, generator=self.rng) if isinstance(self.rng, torch.Generator) else self.rng.random()


class DrawnStream(Stream):
    """Shuffles with a generator of its own."""

    def __init__(self):
        super().__init__()
        self.rng = random.Random(0)

    def __iter__(self):
        return iter((torch.full((1,), self.rng.random()), torch.zeros(2)) for _ in range(self.length))


class Pairs(BatchSampler):
    """A batch sampler of one's own, by epoch."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 5

    def __iter__(self):
        return iter([[(i + self.epoch) % COUNT, (i + 1 + self.epoch) % COUNT] for i in range(0, COUNT, 2)])


def loss(model, batch):
    return nn.functional.mse_loss(model(batch[0]), batch[0] * 2)


def quality(model):
    return {"error": 0.0}


def task_of(loader, **options):
    return al.Task.from_loader(loader, loss=loss, evaluate=quality, **options)


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


SHUFFLED = {
    "shuffle": lambda: DataLoader(Noisy(), batch_size=3, shuffle=True),
    "drop_last": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, drop_last=True),
    "generator": lambda: DataLoader(Noisy(), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "weighted": lambda: DataLoader(Noisy(), batch_size=3, sampler=WeightedRandomSampler(torch.ones(COUNT), COUNT)),
    "subset": lambda: DataLoader(Noisy(), batch_size=3, sampler=SubsetRandomSampler(range(2, 9))),
    "replacement": lambda: DataLoader(Noisy(), batch_size=3, sampler=RandomSampler(PLAIN, True, num_samples=100)),
    "distributed": lambda: DataLoader(Noisy(), batch_size=2, sampler=DistributedSampler(PLAIN, 2, 1)),
    "own generator": lambda: DataLoader(Noisy(), batch_size=3, sampler=Sized()),
    "global generators": lambda: DataLoader(Noisy(), batch_size=3, sampler=FromGlobals()),
    "nested": lambda: DataLoader(Noisy(), batch_sampler=BatchSampler(Sized(), 3, False)),
    "distributed, nested": lambda: DataLoader(
        Noisy(), batch_sampler=BatchSampler(DistributedSampler(PLAIN, 2, 1), 2, False)
    ),
    "no sampler": lambda: DataLoader(Noisy(), batch_size=3, sampler=Order(np.random.RandomState(0))),
    "no sampler, nested": lambda: DataLoader(Noisy(), batch_sampler=BatchSampler(Order(torch.Generator()), 3, False)),
    "no sampler, python": lambda: DataLoader(Noisy(), batch_size=3, sampler=Order(random.Random(0))),
    "dataset": lambda: DataLoader(Augmented(), batch_size=3, shuffle=True),
    "dataset, nested": lambda: DataLoader(Subset(ConcatDataset([Augmented()]), range(7)), batch_size=3, shuffle=True),
    "unbatched": lambda: DataLoader(Noisy(), batch_size=None, shuffle=True),
}


@pytest.mark.parametrize("make", SHUFFLED.values(), ids=SHUFFLED)
def test_a_batch_hangs_on_the_seed_and_the_step_alone(make):
    first, again, other = task_of(make()), task_of(make()), task_of(make(), seed=1)
    torch.manual_seed(99)  # of no account
    made = [first.batches(step) for step in range(9)]
    assert all(same(again.batches(step), made[step]) for step in (8, 3, 4, 0, 3))
    assert not any(same(other.batches(step), made[step]) for step in range(9))


@pytest.mark.parametrize("make", SHUFFLED.values(), ids=SHUFFLED)
def test_epochs_differ_and_each_has_the_batches_of_the_loader(make):
    loader = make()
    if plain := isinstance(loader.dataset, Noisy):
        loader.dataset.__class__ = Exact
    batches = task_of(loader).batches
    epochs = [[batches(step)[0].flatten().tolist() for step in range(e * len(loader), (e + 1) * len(loader))]
              for e in range(2)]  # fmt: skip
    assert [len(batch) for batch in epochs[0]] == [batch[0].numel() for batch in loader]
    assert epochs[0] != epochs[1]
    if type(getattr(loader.batch_sampler, "sampler", None)) is RandomSampler and plain and not loader.drop_last:
        seen = sorted(itertools.chain(*epochs[0]))
        assert seen == list(range(COUNT)) or loader.batch_sampler.sampler.replacement


def test_the_trainings_own_random_numbers_are_left_alone():
    batches = task_of(DataLoader(Noisy(), batch_size=3, sampler=FromGlobals())).batches
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    batches(5)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_a_later_batch_is_made_without_those_before():
    data = Noisy()
    batches = task_of(DataLoader(data, batch_size=3, shuffle=True), example=X).batches
    batches(1001)
    assert data.loaded == 3


def test_the_same_batches_with_any_number_of_workers():
    alone = task_of(DataLoader(Noisy(), batch_size=3, shuffle=True)).batches
    beside = task_of(DataLoader(Noisy(), batch_size=3, shuffle=True, num_workers=2)).batches
    for step in (0, 1, 2, 3, 4, 9, 10, 2):
        assert same(alone(step), beside(step))


def test_batch_samplers_of_ones_own_are_iterated_by_epoch():
    batches = task_of(DataLoader(PLAIN, batch_sampler=Pairs())).batches
    assert [batches(step)[0].flatten().tolist() for step in (4, 5, 6)] == [[8, 9], [1, 2], [3, 4]]


def test_datasets_are_asked_for_a_whole_batch_where_they_can_give_it():
    class AtOnce(Noisy):
        def __getitems__(self, indices):
            return [X[index] + 100 for index in indices]

    batches = task_of(DataLoader(AtOnce(), batch_size=4, collate_fn=torch.stack)).batches
    assert batches(0).flatten().tolist() == [100, 101, 102, 103]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_iterated_anew_each_epoch_and_skipped_to_the_step(workers):
    def made():
        return task_of(DataLoader(Stream(fewer=2), batch_size=2, num_workers=workers), example=X).batches

    first, again = made(), made()
    steps = range(6) if workers else range(9)  # epochs of 4, 3 and 2 batches
    seen = [first(step) for step in steps]
    if not workers:
        whole = [[int(value) for value in batch[0]] for batch in seen]
        assert whole == [[0, 1], [2, 3], [4, 5], [6], [100, 101], [102, 103], [104], [200, 201], [202]]
    order = (5, 1, 2, 4) if workers else (8, 3, 4, 0, 7, 7)
    assert all(same(again(step), seen[step]) for step in order)
    assert not same(task_of(DataLoader(Stream(fewer=2), batch_size=2), seed=1).batches(0), seen[0])


def test_a_stream_with_a_generator_of_its_own_is_the_same_again():
    first, again, other = (task_of(DataLoader(DrawnStream(), batch_size=3), seed=seed) for seed in (0, 0, 1))
    made = [first.batches(step) for step in range(6)]
    assert all(same(again.batches(step), made[step]) for step in (5, 1, 4))
    assert not any(same(other.batches(step), made[step]) for step in range(6))
    assert not same(made[0], made[3])  # of the next epoch


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    def trained(folder, limit=None):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        task = task_of(DataLoader(Noisy(), batch_size=3, shuffle=True))
        went = fit(net, task, steps=9, lr=1e-2, folder=folder, time_limit_s=limit, progress=False)
        return net.state_dict(), went

    whole, _ = trained(None)
    for _ in range(9):
        cut, went = trained(tmp_path, limit=0)
    assert went.finished
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_checkpoint_of_another_seed_is_refused(tmp_path):
    def trained(seed):
        torch.manual_seed(0)
        task = task_of(DataLoader(PLAIN, batch_size=3), seed=seed)
        fit(nn.Linear(1, 1), task, steps=2, folder=tmp_path, progress=False)

    trained(0)
    with pytest.raises(ValueError, match="seed"):
        trained(1)


@pytest.mark.parametrize("work", [copy.deepcopy, lambda task: pickle.loads(pickle.dumps(task))])
def test_a_task_of_a_loader_is_copied_and_pickled(work):
    task = task_of(DataLoader(PLAIN, batch_size=3, shuffle=True))
    task.batches(1)
    assert same(work(task).batches(2), task.batches(2))


def test_the_example_is_what_runs_the_model():
    def example(data, **options):
        return task_of(DataLoader(data, batch_size=2, **options)).example

    rows = [{"ids": X[i], "labels": i} for i in range(4)]
    assert torch.equal(example(PLAIN), X[:2])
    assert torch.equal(example(X), X[:2])
    assert list(example(rows)) == ["ids"]
    with pytest.raises(TypeError, match="example=a tensor"):
        example(["a", "b"])
    assert task_of(DataLoader(["a", "b"], batch_size=2), example=X).example is X


def test_measures_and_settings_are_the_tasks():
    task = task_of(DataLoader(PLAIN), measures={"error": "lower"}, settings={"data": "x"}, seed=4)
    assert (task.measures, task.settings) == ({"error": "lower"}, {"seed": 4, "data": "x"})
    with pytest.raises(TypeError, match="settings"):
        task_of(DataLoader(PLAIN), settings=["x"])


class OwnIteration(DataLoader):
    def __iter__(self):
        return super().__iter__()


@pytest.mark.parametrize(
    ("loader", "error", "words"),
    [
        ([1, 2], TypeError, "DataLoader"),
        (OwnIteration(PLAIN), TypeError, "__iter__"),
        (DataLoader(PLAIN, sampler=Numbered()), ValueError, "length"),
        (DataLoader(PLAIN, batch_size=32, drop_last=True), ValueError, "drop_last=True"),
        (DataLoader(PLAIN, sampler=Sized(7)), ValueError, "gives 7 in epoch 0"),
        (DataLoader(PLAIN, sampler=Sized(12)), ValueError, "gives more in epoch 0"),
        (DataLoader(Stream(0)), ValueError, "none in epoch 0"),
    ],
)
def test_a_loader_that_gives_no_batch_of_each_step_is_refused_with_the_reason(loader, error, words):
    with pytest.raises(error, match=words):
        task_of(loader)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (0.5, TypeError), ("0", TypeError)])
def test_a_seed_is_a_whole_number(seed, error):
    with pytest.raises(error, match="seed must be"):
        task_of(DataLoader(PLAIN), seed=seed)


def test_prefetching_threads_are_refused_as_they_would_draw_for_the_training():
    task = task_of(DataLoader(Noisy(), batch_size=3))
    with pytest.raises(ValueError, match="num_workers"):
        fit(nn.Linear(1, 1), task, steps=2, prefetch=2, progress=False)


def test_what_fails_once_is_made_at_the_next_try():
    data = Noisy()
    batches = task_of(DataLoader(data, batch_size=3, sampler=SequentialSampler(data)), example=X).batches
    good = batches(1)
    data.__class__ = Failing
    with pytest.raises(OSError):
        batches(1)
    data.__class__ = Noisy
    assert same(batches(1), good)


class Failing(Noisy):
    def __getitem__(self, index):
        raise OSError("not there")


def test_learned_removal_takes_a_loader():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    task = task_of(DataLoader(PLAIN, batch_size=4, shuffle=True), measures={"error": "lower"})
    options = dict(kinds="activation", soft_steps=30, push_steps=5, tune_steps=5, lr_omega=0.1, progress=False)
    runs = [al.learn_to_remove(net, task, lam=0.1, **options) for _ in range(2)]
    assert runs[0].history.equals(runs[1].history)
    assert math.isfinite(runs[0].history["loss"].iloc[-1])


def test_a_task_prints_what_it_is_made_of_and_no_values():
    task = al.Task(torch.zeros(1, 3), len, lambda net, batch: batch, lambda net: {}, {"error": "lower"}, {"crop": 24})
    assert repr(task).splitlines() == [
        "Task",
        "  example  a torch.Tensor of torch.float32 and shape (1, 3)",
        "  batches  len",
        "  loss     test_a_task_prints_what_it_is_made_of_and_no_values.<locals>.<lambda>",
        "  quality  test_a_task_prints_what_it_is_made_of_and_no_values.<locals>.<lambda>",
        "  measures error (lower is better)",
        "  settings {'crop': 24}",
    ]
